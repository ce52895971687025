"""Checks: what cannot be done gets one HeadstartError, and the model stays bit for bit as it was."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from headstart.api import MethodLike
from headstart.conformance.models import Reference, Ticking, images, stack
from headstart.conformance.runs import (
    attempt,
    build,
    contract,
    needs_convolution,
    needs_data,
    refused,
    run,
    writes_stem,
)
from headstart.conformance.state import Snapshot, require, require_equal, weights_of


@contract
def nan_batch(method: MethodLike) -> None:
    """One NaN in the batch."""
    x = images()
    x[3, 1, 2, 2] = float("nan")
    refused(method, build(Reference), x, "1 NaN", "(16, 3, 9, 9)")


@contract
def infinite_batch(method: MethodLike) -> None:
    """Infinite values in the batch."""
    x = images()
    x[0], x[1] = float("inf"), float("-inf")
    refused(method, build(Reference), x, "infinite", "(16, 3, 9, 9)")


@contract
def constant_batch(method: MethodLike) -> None:
    """A batch of one value, or of one image throughout: refused by what works from data, no matter otherwise."""
    for x in (torch.full((16, 3, 9, 9), 0.7), torch.zeros(16, 3, 9, 9), images(1).expand(16, -1, -1, -1)):
        if needs_data(method):
            refused(method, build(Reference), x, "constant", "(16, 3, 9, 9)")
        else:
            run(method, build(Reference), x)


@contract
def tiny_batch(method: MethodLike) -> None:
    """One, two or five samples: it works, or says that they are too few."""
    for samples in (1, 2, 5):
        attempt(method, build(Reference), images(samples))


class _Nothing(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


@contract
def empty_data(method: MethodLike) -> None:
    """Nothing in the tensor, pair, dict, list, loader, stream or data set."""
    none = images(0)
    empty: list[object] = [none, (none, torch.zeros(0)), {"x": none}, [], (), {}, iter(()), TensorDataset(none)]
    empty += [DataLoader(_Nothing()), DataLoader(TensorDataset(images(3)), batch_size=8, drop_last=True)]
    for data in empty:
        refused(method, build(Reference), data)


@contract
def unknown_data(method: MethodLike) -> None:
    """Data of a kind that is not understood, or that holds no tensor."""
    refused(method, build(Reference), object(), "object")
    for data in (3, "images.pt", [None], {"x": "y"}, [["a"]]):
        refused(method, build(Reference), data)


@contract
def small_images(method: MethodLike) -> None:
    """Images smaller than the kernel."""
    model = build(lambda: stack(nn.Conv2d(3, 6, 5), nn.Conv2d(6, 4, 1)))
    refused(method, model, images(size=4), "layer '0'", "(16, 3, 4, 4)")
    attempt(method, build(lambda: stack(nn.Conv2d(3, 6, 5, padding=4), nn.Conv2d(6, 4, 1))), images(size=4))


@contract
def wrong_channels(method: MethodLike) -> None:
    """Images of two channels for a model of three."""
    refused(method, build(Reference), images(channels=2), "'stem'", "(16, 2, 9, 9)", "(8, 3, 3, 3)")


@contract
def no_convolution(method: MethodLike) -> None:
    """A model of linear layers, for a method that writes convolutions; others work."""
    model = build(lambda: stack(nn.Linear(6, 8), nn.Linear(8, 4)))
    data = images(32, 6, 1).flatten(1)
    if needs_convolution(method):
        refused(method, model, data, "convolution", "Linear")
    else:
        run(method, model, data)


@contract
def no_weight_layer(method: MethodLike) -> None:
    """A model without any weight layer, and one whose forward calls none."""
    refused(method, nn.Sequential(nn.ReLU()), images())

    class Idle(Reference):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    refused(method, build(Idle), images())


@contract
def not_a_module(method: MethodLike) -> None:
    """A function, a class, a list of parameters."""
    for model in (lambda x: x, Reference, list(build(Reference).parameters()), None):
        refused(method, model, images(), "Module")


@contract
def meta_model(method: MethodLike) -> None:
    """Parameters without storage."""
    with torch.device("meta"):
        model = stack(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3))
    refused(method, model, images(), "meta", "hs.materialize(model")


def _wrapped(cls: type[nn.Module], attribute: str = "module") -> nn.Module:
    """An instance of a wrapper as far as its type and child go, without a process group."""
    wrapper = cls.__new__(cls)
    nn.Module.__init__(wrapper)
    wrapper._modules[attribute] = build(Reference)
    return wrapper


@contract
def distributed_model(method: MethodLike) -> None:
    """A model inside DistributedDataParallel, as a whole and as a part."""
    model = _wrapped(nn.parallel.DistributedDataParallel)
    refused(method, model, images(), "DistributedDataParallel", "module")
    refused(method, nn.Sequential(model), images(), "DistributedDataParallel")


@contract
def data_parallel_model(method: MethodLike) -> None:
    """A model inside DataParallel."""
    refused(method, nn.DataParallel(build(Reference)), images(), "DataParallel", "module")


@contract
def sharded_model(method: MethodLike) -> None:
    """A model inside a class called FullyShardedDataParallel, or of FSDP's second generation."""
    for name in ("FullyShardedDataParallel", "FSDPModule"):
        cls = type(name, (Reference,), {})
        refused(method, build(cls), images(), name)


@functools.cache
def _quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that its quantization moves
        linear = torch.ao.nn.quantized.dynamic.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


@contract
def quantized_model(method: MethodLike) -> None:
    """A model with a quantized layer."""
    refused(method, _quantized(), images(), "quantized")


@functools.cache
def _scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that TorchScript ages
        scripted: nn.Module = torch.jit.script(stack(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    return scripted


@contract
def scripted_model(method: MethodLike) -> None:
    """A TorchScript model."""
    refused(method, _scripted(), images(), "script")


def _break_everywhere(method: MethodLike, exception: type[BaseException]) -> Iterator[BaseException]:
    """Raise at the first, second, ... step of the passes until a call gets through; yield what came out."""
    for moment in range(100):
        model, left = build(Ticking), moment

        def tick() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise exception("in the middle")

        model.tick = tick  # type: ignore[method-assign]
        before = Snapshot(model)
        try:
            run(method, model, images())
        except (Exception, KeyboardInterrupt) as error:
            before.require_kept()
            yield error
        else:
            return
    raise AssertionError("a hundred passes were not enough")


@contract
def failing_forward(method: MethodLike) -> None:
    """A forward that raises, at any point of it: the model's own error is told and chained."""
    for error in _break_everywhere(method, ValueError):
        if isinstance(error, AssertionError):
            raise error
        require("in the middle" in str(error), f"the model's own error is not told: {error}")
        require(isinstance(error.__cause__, ValueError), "the model's own error is not chained")


@contract
def interrupted(method: MethodLike) -> None:
    """KeyboardInterrupt, at any point of the passes, comes out as it is, and everything is put back."""
    for error in _break_everywhere(method, KeyboardInterrupt):
        if isinstance(error, AssertionError):
            raise error
        require(isinstance(error, KeyboardInterrupt), f"KeyboardInterrupt became {type(error).__name__}")


@contract
def unknown_layers(method: MethodLike) -> None:
    """A pattern that matches no layer; the nearest names are told."""
    refused(method, build(Reference), images(), "'stme'", "'stem'", include="stme")
    refused(method, build(Reference), images(), "'bdy'", "'body'", exclude=["head", "bdy"])


@contract
def few_distinct_patches(method: MethodLike) -> None:
    """With fewer distinct patches than filters, the rest of the filters keep their values, and the report says so."""
    if not (writes_stem(method) and needs_data(method)):
        return
    x = torch.zeros(16, 3, 9, 9)
    x[:8] = torch.linspace(0, 1, 9)  # one slope: all its patches look alike once their mean is gone
    model = build(Reference)
    before = weights_of(model)["stem.weight"]
    report = attempt(method, model, x)
    if report is None or "stem" not in report.changed:
        return
    after = weights_of(model)["stem.weight"]
    kept = int((before == after).flatten(1).all(1).sum())
    rows = {tuple(row) for row in after.flatten(1).tolist()}
    require(len(rows) == len(after), "filters were written twice")
    told = any("keep" in sentence for sentence in report.findings)
    require(kept == 0 or told, f"{kept} filters were kept and the findings do not say so: {report.findings}")


@contract
def repeatable_after_refusal(method: MethodLike) -> None:
    """A refused call leaves nothing behind that changes the next one."""
    a, b = build(Reference), build(Reference)
    refused(method, a, images(channels=2))
    run(method, a, images())
    run(method, b, images())
    require_equal(weights_of(a), weights_of(b), "after a refused call and without one")
