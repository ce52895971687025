"""Every registered method, its presets and combinations of methods keep the contract."""

import pytest

import headstart as hs
from headstart.conformance import CHECKS
from headstart.conformance.runs import needs_convolution, writes_stem
from headstart.engine import registry

from . import trained
from .bend import Bend

VARIANTS = [
    "within-layer:fill=keep",
    "within-layer:before_norm=normalize",
    "within-layer:per=layer,beta=0.1",
    "within-layer:paper",
    "within-layer:kmeans",
    "within-layer:fill=kmeans",
    "within-layer:fill=orthonormal",
    "within-layer:fill=pca,before_norm=normalize",
    "within-layer:fill=zca",
    "within-layer:fill=patches,memory_limit=1",
    "lsuv:fill=keep",
    "lsuv:before_norm=skip,output_layer=keep",
    "prewarm:paper",
    "prewarm:fraction=1,source=patches,norm=filter",
    "whitening:airbench",
    "whitening:fraction=0.5,signs=false",
    "airbench:paper",
    "gabor:paper",
    "gabor:layers=2",
    "dirac:rest=zero,linear=true",
    "residual:fixup",
    "residual:depth",
    "recurrent:chrono",
    "mimetic:control",
    "matched-random:of=gabor",
    "kaiming:mode=fan_out,distribution=uniform",
    "filter-clusters:paper",
    "filter-clusters:draw=gaussian,scale=source,resize=true",
    "filter-clusters:norm=filter,layers=2",
    "covariance:scale=paper",
    "structured-covariance:s0=1,v=0.5,a=0.5,depthwise=false",
    "matched-random:of=filter-clusters",
    "zero-dc-random:of=filter-clusters",
    "balance:paper",
    "balance:almost=leave",
    "calibrate:balance=false",
    "data-dependent:paper",
    "data-dependent:kmeans",
    "data-dependent:output_layer=keep",
    ["prewarm", "within-layer:fill=keep"],
    ["orthogonal", "prewarm", "lsuv:fill=keep"],
    "gabor:paper+within-layer:fill=keep,before_norm=normalize",
]
# Every method is always run with its defaults, and so are these: each has a mechanism that no default has.
ALWAYS = {
    "within-layer:fill=keep",
    "within-layer:before_norm=normalize",
    "within-layer:fill=kmeans",
    "structured-covariance:s0=1,v=0.5,a=0.5,depthwise=false",
    "orthogonal+prewarm+lsuv:fill=keep",
}


def case(name, method):
    """The method under this name, among the slow tests if others cover its mechanism."""
    always = name in ALWAYS or name in hs.list_methods()
    return pytest.param(method, id=name, marks=() if always else pytest.mark.slow)


# These have options without defaults; a variant stands for them.
REQUIRED = {"structured-covariance"}
# These need targets, which the suite's data does not always have: with some that any batch has, in tests/methods.
TARGETED = {"output-prior"}
# These train on targets, which the suite's data does not have: with a training that needs none.
TRAINED = {"smart-init": hs.SmartInit, "warm-start": hs.WarmStart, "shrink-perturb": hs.ShrinkPerturb}
TRAINED_SPECS = [
    *(case(name, cls(fractions=(0.5,), epochs=2, fit=Bend())) for name, cls in TRAINED.items()),
    *(
        case(f"smart-init:{name}", getattr(hs.SmartInit, name)(epochs=1, fit=Bend(), batch_norm="reset"))
        for name in ("paper", "repeated", "restarts")
    ),
]
UNFIT = {
    "unpacked_inputs": "a training of the user's own unpacks its data itself",
    "keeps_hooks": "a user's backward hooks fire, as in any training",
    "datasets": "training is on all of a data set, whatever samples= says",
    **dict.fromkeys(
        ("weight_norm", "weight_norm_hook", "spectral_norm", "spectral_norm_hook", "orthogonal_parametrization"),
        "gradient descent is another in parametrized weights",
    ),
}
# These need trained networks: with ones that are made for each model.
SOURCES = (trained.first, trained.second)
SOURCED = {
    "pretrained": hs.Pretrained(trained.first),
    "pretrained:head=require,strict=1": hs.Pretrained(trained.first, head="require", strict=1.0),
    "weight-selection": hs.WeightSelection(trained.first),
    "weight-selection:head=select,scale=fan-in,blocks=spaced": hs.WeightSelection(
        trained.first, head="select", scale="fan-in", blocks="spaced"
    ),
    "aligned-clusters": hs.AlignedClusters(SOURCES),
    "aligned-clusters:paper": hs.AlignedClusters.paper(models=SOURCES),
    "pretrained+within-layer:fill=keep": [hs.Pretrained(trained.first), hs.WithinLayer(fill="keep")],
}
SOURCED_SPECS = [case(name, method) for name, method in SOURCED.items()]
SPECS = [
    *(
        name
        for name in hs.list_methods()
        if name not in {*REQUIRED, *TARGETED, *TRAINED, *(s.split(":")[0] for s in SOURCED)}
    ),
    *VARIANTS,
]
# These compute from the weights and the data alone.
WITHOUT_RANDOMNESS = {
    "auto",  # on the reference network, which has a norm
    "zero",
    "mimetic",  # and no attention
    "mimetic:control",
    "recurrent",  # the reference network has no recurrent layer
    "recurrent:chrono",
    "residual",
    "residual:fixup",
    "residual:depth",
    "dirac",
    "dirac:rest=zero,linear=true",
    "lsuv:fill=keep",
    "within-layer:fill=keep",
    "calibrate:balance=false",
    "zero-dc-random",
    "zero-dc-random:of=filter-clusters",
    "airbench",  # all of the patches, and as many filters as channels
    "airbench:paper",
    "whitening",  # all patches of so small a batch
    "whitening:airbench",
    "whitening:fraction=0.5,signs=false",
}


def _name(value):
    return value.__name__ if callable(value) else "+".join(value) if isinstance(value, list) else value


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ not in UNFIT], ids=_name)
@pytest.mark.parametrize("method", TRAINED_SPECS)
def test_a_start_by_training_keeps_the_contract(method, check):
    if check.__name__ == "other_seed_differs" and method.source == "all" and method.epochs == 1:
        pytest.skip("one pass over all of the data in batches of all: the order is all that the seed decides")
    check(method)


def test_what_is_not_asked_of_training_exists():
    assert UNFIT.keys() <= {c.__name__ for c in CHECKS}


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ != "other_seed_differs"], ids=_name)
@pytest.mark.parametrize("method", SOURCED_SPECS)
def test_a_start_from_trained_networks_keeps_the_contract(method, check):
    check(method)


@pytest.mark.parametrize("check", CHECKS, ids=_name)
@pytest.mark.parametrize("method", [case(_name(m), m) for m in SPECS])
def test_keeps_the_contract(method, check):
    if check.__name__ == "other_seed_differs" and _name(method) in WITHOUT_RANDOMNESS:
        with pytest.raises(AssertionError, match="same weights"):
            check(method)
    else:
        check(method)


def test_what_is_always_run_exists():
    assert {_name(m) for m in SPECS} >= ALWAYS


def test_presets_are_all_covered():
    presets = {f"{name}:{p}" for name in hs.list_methods() for p in registry.get(name).info.presets}
    covered = {spec.split("+")[0] for spec in VARIANTS if isinstance(spec, str)} | SOURCED.keys()
    covered |= {str(param.id) for param in TRAINED_SPECS}
    assert presets <= covered


def test_all_scopes_are_covered():
    assert {(writes_stem(m), needs_convolution(m)) for m in SPECS} == {(True, True), (False, True), (False, False)}
    assert {name for name in REQUIRED if not any(str(m).startswith(f"{name}:") for m in VARIANTS)} == set()
