"""The suite on methods from outside the package: one that keeps the contract, and ones that break it."""

from dataclasses import dataclass

import pytest
import torch

import headstart as hs
from headstart import conformance
from headstart.engine import registry

ABOUT = {"reference": "none", "scope": "all layers", "needs_data": False, "cost": "none"}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    hs.list_methods()  # the package's own first
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def make(before=None, after=None, name="third-party", **about):
    """Register a method that is made of two functions."""

    @hs.register(name, summary="from a test", **{**ABOUT, **about})
    @dataclass(frozen=True)
    class ThirdParty(hs.Method):
        scale: float = 0.5

        def before(self, visit):
            if before:
                before(self, visit)

        def after(self, visit):
            if after:
                after(self, visit)

    return ThirdParty


def half_normal(method, visit):
    visit.write(method.scale * visit.normal(*visit.layer.shape).abs())


def failing(method):
    """Names of the checks that the method fails."""
    with pytest.raises(AssertionError, match=r"fails [1-9]\d* of \d+ checks") as caught:
        conformance.check(method)
    assert isinstance(caught.value.__cause__, Exception)
    return {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]}


def test_a_conforming_method_passes_by_value_and_by_name():
    cls = make(half_normal)
    conformance.check(cls(scale=0.25))
    conformance.check("third-party:scale=2", skip=["threads_do_not_matter"])
    assert "third-party" in hs.list_methods()


def test_a_method_with_data_passes():
    def unit(method, visit):
        visit.affine(1 / visit.moments.var.sqrt().clamp_min(1e-3))

    conformance.check(make(half_normal, unit, needs_data=True)())


@pytest.mark.slow  # all checks once more
def test_a_deterministic_method_needs_its_one_exception():
    cls = make(lambda method, visit: visit.write(torch.full_like(visit.weight_before, method.scale)))
    assert failing(cls()) == {"other_seed_differs"}
    conformance.check(cls(), skip=["other_seed_differs"])


def test_drawing_from_the_global_generator_is_caught():
    cls = make(lambda method, visit: visit.write(torch.randn(visit.layer.shape).to(visit.weight_before)))
    assert {"adding_a_layer_changes_no_other", "excluding_a_layer_changes_no_other"} <= failing(cls())


def test_flags_that_a_method_sets_are_put_back():
    def sneak(method, visit):
        half_normal(method, visit)
        for p in visit.layer.module.parameters():
            p.requires_grad_(False)

    conformance.check(make(sneak)())


def test_replacing_a_parameter_is_put_back():
    def replace_bias(method, visit):
        half_normal(method, visit)
        visit.layer.module.bias = torch.nn.Parameter(torch.ones(visit.layer.out_channels))

    cls = make(replace_bias)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    biases = [m.bias for m in model]
    hs.initialize(model, method=cls())
    assert all(m.bias is b for m, b in zip(model, biases, strict=True))


def test_using_stale_state_between_calls_is_caught():
    seen = []

    def count(method, visit):
        seen.append(None)
        visit.write(visit.normal(*visit.layer.shape) * len(seen))

    assert "same_seed_same_bits" in failing(make(count)())


def test_a_crash_in_a_method_is_one_clear_error_and_nothing_changes():
    def crash(method, visit):
        half_normal(method, visit)
        if visit.layer.name == "2":
            raise IndexError("in my method")

    cls = make(crash)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3))
    for data in (None, torch.randn(9, 3)):
        error = conformance.runs.refused(cls(), model, data, "third-party", "layer '2'", "IndexError", "in my method")
        assert isinstance(error.__cause__, IndexError)


def test_writing_back_the_weight_before_keeps_the_backup():
    """A later rescale works in place; it must not reach the copy that an error is rolled back from."""

    def back(method, visit):
        visit.write(visit.weight_before)

    def double_then_fail(method, visit):
        visit.affine(torch.tensor(2.0))
        if visit.layer.name == "1":
            raise hs.HeadstartError("stop")

    cls = make(back, double_then_fail, needs_data=True)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    conformance.runs.refused(cls(), model, torch.randn(9, 3), "stop")


def test_overlapping_memory_can_be_written_and_rescaled():
    def expanded(method, visit):
        visit.write(torch.ones(1, 1, dtype=visit.weight_before.dtype).expand(visit.layer.shape))

    cls = make(expanded, lambda method, visit: visit.affine(torch.tensor(3.0)), needs_data=True)
    model = torch.nn.Linear(2, 2)
    hs.initialize(model, torch.randn(9, 2), cls())
    assert model.weight.tolist() == [[3, 3], [3, 3]]


def test_writing_a_frozen_bias_is_refused():
    cls = make(lambda method, visit: visit.write(bias=torch.ones(visit.layer.out_channels)))
    model = torch.nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    conformance.runs.refused(cls(), model, None, "no bias that may be written")
    conformance.runs.refused(cls(), torch.nn.Linear(3, 3, bias=False), None, "no bias that may be written")


def test_a_name_is_given_once():
    make(half_normal)

    @dataclass(frozen=True)
    class Other(hs.Method):
        pass

    with pytest.raises(hs.HeadstartError, match="taken"):
        hs.register("third-party", summary="", **ABOUT)(Other)


def test_unknown_check_names_are_told():
    with pytest.raises(hs.UnknownNameError, match="other_seed_differs"):
        conformance.check("kaiming", skip=["other_seed_differ"])
