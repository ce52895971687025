"""Checks: the same call gives the same bits, and one layer's draw depends on no other's."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from headstart import rng
from headstart.api import MethodLike, apply, compute
from headstart.conformance.models import Branched, Reference, Reordered, images, labels
from headstart.conformance.runs import build, contract, depends_on_other_layers, needs_data, result, run, writes_stem
from headstart.conformance.state import Snapshot, require, require_close, require_equal, same_bits, weights_of
from headstart.results.report import Init


def _scramble(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global state is what must not matter
    random.seed(seed)


@contract
def same_seed_same_bits(method: MethodLike) -> None:
    """The seed alone decides: equal bits for an equal seed, wherever the global random states are."""
    model, x = build(Reference), TensorDataset(images(), labels())
    before = weights_of(model)
    found = []
    for start in (1, 2):
        model.load_state_dict(before)
        with rng.untouched():
            _scramble(start)
            found.append(result(method, model, DataLoader(x, batch_size=8, shuffle=True), seed=5))
    require_equal(found[0], found[1], "two calls with one seed")


@contract
def generator_is_a_seed(method: MethodLike) -> None:
    """A ``torch.Generator`` serves as seed: equal states give equal bits."""
    found = [result(method, build(Reference), images(), seed=torch.Generator().manual_seed(7)) for _ in range(2)]
    require_equal(found[0], found[1], "two calls with equal generators")


@contract
def other_seed_differs(method: MethodLike) -> None:
    """Another seed gives other weights. Skip it for methods without randomness."""
    a, b = (result(method, build(Reference), images(), seed=seed) for seed in (0, 1))
    require(any(not same_bits(a[n], b[n]) for n in a), "seeds 0 and 1 give the same weights")


@contract
def excluding_a_layer_changes_no_other(method: MethodLike) -> None:
    """With a layer excluded, all that ran before it (without data: all others) come out with the same bits."""
    full = result(method, build(Reference), images())
    names = ["head"] if needs_data(method) or writes_stem(method) else ["stem", "body", "head"]
    for name in names:
        model = build(Reference)
        before = weights_of(model)
        part = result(method, model, images(), exclude=name)
        inside = {n for n in part if n.startswith(f"{name}.")}
        require_equal({n: part[n] for n in inside}, before, f"the excluded layer '{name}'")
        if not depends_on_other_layers(method):
            others = {n: v for n, v in part.items() if n not in inside}
            require_equal(others, full, f"layers beside the excluded '{name}'")


@contract
def adding_a_layer_changes_no_other(method: MethodLike) -> None:
    """One more layer, run in the middle on a branch of its own, changes no bit of the others.

    Unless the method couples layers: then all of them are what it is about.
    """
    if depends_on_other_layers(method):
        return
    small, large = build(Reference), build(Branched)
    large.load_state_dict(small.state_dict(), strict=False)
    require_equal(result(method, small, images()), result(method, large, images()), "with and without another layer")


@contract
def execution_order_counts(method: MethodLike) -> None:
    """The order of registration changes nothing: layers are met as data reaches them."""
    a, b = build(Reference), build(Reordered)
    b.load_state_dict(a.state_dict())
    require_equal(result(method, a, images()), result(method, b, images()), "registration in order and in reverse")


@contract
def compute_then_apply_is_initialize(method: MethodLike) -> None:
    """``apply(model, compute(...))`` gives the bits of ``initialize``; ``compute`` leaves the model alone."""
    a, b = build(Reference), build(Reference)
    run(method, a, images())
    before = Snapshot(b)
    init = compute(b, images(), method, seed=0)
    before.require_kept()
    require(set(init.tensors) <= set(b.state_dict()), "compute names tensors that the state dict does not have")
    report = apply(b, init)
    before.require_kept(report.changed, report.statistics, report.other_tensors)
    require_equal(weights_of(a), weights_of(b), "initialize and compute + apply")


@contract
def survives_a_file(method: MethodLike) -> None:
    """``Init.save`` and ``Init.load`` return the same tensors, dtypes and provenance."""
    model = build(Reference)
    init = compute(model, images(), method, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "init.safetensors"
        init.save(path)
        loaded = Init.load(path)
    require(loaded.tensors.keys() == init.tensors.keys(), "other names after loading")
    require_equal(init.tensors, loaded.tensors, "saved and loaded tensors")
    require(loaded.provenance == init.provenance, "the provenance changed in the file")
    apply(model, loaded)
    require_equal(weights_of(model), init.tensors, "the model and the file")


@contract
def threads_do_not_matter(method: MethodLike) -> None:
    """One thread or two: the same bits without data, the same weights to 0.1 % where sums over data round."""
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(result(method, build(Reference), images()))
    finally:
        torch.set_num_threads(threads)
    require_close(found[0], found[1], "one thread and two")
    if not needs_data(method):
        require_equal(found[0], found[1], "one thread and two")
