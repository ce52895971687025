"""Every method on drawn architectures: it works and changes what it says, or is refused and changes nothing."""

import pytest
import torch
from hypothesis import example, given, settings

import headstart as hs
from headstart.conformance.runs import refused, run
from headstart.conformance.state import Snapshot
from headstart.model import guard

from .architectures import PLANS, Plan
from .test_registry import REQUIRED, SOURCED, TARGETED, TRAINED, TRAINED_SPECS

VARIANTS = [
    "within-layer:fill=keep,before_norm=normalize",
    "within-layer:kmeans",
    "lsuv:fill=keep",
    "filter-clusters:resize=true",
    "balance:almost=leave",
    "calibrate:balance=false",
    "data-dependent:kmeans",
]
SPECS = [
    *sorted(set(hs.list_methods()) - REQUIRED - TARGETED - set(TRAINED) - {s.partition(":")[0] for s in SOURCED}),
    *VARIANTS,
    *TRAINED_SPECS[:1],
    *(pytest.param(method, id=name) for name, method in SOURCED.items()),
]
# What was once wrong, and the kinds that a few draws may miss.
KNOWN = (
    Plan(1, ("depthwise", "batch norm", "relu"), "linear", "dataclass"),
    Plan(0, ("older weight norm", "tied", "shared"), "lazy", "named tuple"),
)


def holds(method, plan):
    """Require that a method works on an architecture or refuses it, and whether it worked."""
    model, data = plan.build(), plan.data()
    if guard.is_lazy(model):
        before = Snapshot(model)
        try:
            report = hs.initialize(model, data, method)
        except hs.HeadstartError:
            before.require_kept()
            return False
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        assert not guard.is_lazy(model)
        return bool(report.rows)
    try:
        hs.initialize(plan.build(), data, method)
    except hs.HeadstartError:
        refused(method, model, data)
        return False
    run(method, model, data)
    return True


@pytest.mark.parametrize("method", SPECS)
def test_methods_on_a_few_architectures(method):
    @settings(max_examples=1)
    @example(KNOWN[0])
    @example(KNOWN[1])
    @given(PLANS)
    def check(plan):
        holds(method, plan)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("method", SPECS)
def test_methods_on_many_architectures(method):
    @settings(max_examples=60)
    @given(PLANS)
    def check(plan):
        holds(method, plan)

    check()


@settings(max_examples=6)
@given(PLANS)
def test_diagnosis_and_the_default_take_them_all(plan):
    model, data = plan.build(), plan.data()
    before = Snapshot(model)
    hs.diagnose(model, data)
    before.require_kept()
    spectral = "spectral norm" in plan.blocks  # whose scale cannot be set
    assert holds("auto", plan) or spectral
