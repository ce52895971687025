"""Shared by methods that start from filter banks: open them, and find the entry for a layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.banks import Entry, FilterBank, storage
from headstart.engine.method import Method
from headstart.errors import HeadstartError
from headstart.methods.shared.spatial import depths, is_depthwise, is_spatial, resizing, sizes
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

Banks = str | Path | FilterBank | tuple[str | Path | FilterBank, ...]
DEFAULT = ("cifar10-resnets", "efficientnet-lite0", "cifar100-pairs-resnet18")
"""Dense 3×3, depthwise, and dense 7×7 filters, in the order in which they are searched."""


@dataclass(frozen=True)
class Match:
    """The entry for a layer.

    Attributes:
        entry: The clusters.
        bank: The bank that holds it.
        matrix: Resizes its kernel to the layer's, ``(taps, taps of the entry)``; None if they are the same.
    """

    entry: Entry
    bank: FilterBank
    matrix: Tensor | None = None

    @property
    def words(self) -> str:
        """For the layer's row in the report."""
        resized = "" if self.matrix is None else ", resized"
        form, depth = self.entry.form, f"depth {self.entry.depth:.2g}"
        return f"{form}{resized}, {depth}, {self.bank.title}"


def identity(method: Any) -> str:
    """A method's options, with fingerprints of its banks."""
    return repr(replace(method, bank=tuple(bank.fingerprint for bank in open_banks(method.bank))))


def plain(bank: Banks) -> Banks:
    """The option as it is stored: paths as text, several banks as a tuple."""
    if isinstance(bank, (tuple, list)):
        return tuple(str(b) if isinstance(b, Path) else b for b in bank)
    return str(bank) if isinstance(bank, Path) else bank


def open_banks(bank: Banks) -> tuple[FilterBank, ...]:
    """Load what an option names, in its order.

    Raises:
        HeadstartError: A bank does not exist or is damaged.
    """
    several = bank if isinstance(bank, tuple) else (bank,)
    return tuple(b if isinstance(b, FilterBank) else _opened(str(b)) for b in several)


def _opened(name: str) -> FilterBank:
    file = storage.locate(name).stat()
    return _read(name, (file.st_ino, file.st_size, file.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _read(name: str, state: tuple[int, ...]) -> FilterBank:
    """Read a bank; repeated reads of the same file are served from memory."""
    return FilterBank.load(name)


def match(layer: Layer, trace: ModelTrace, banks: Sequence[FilterBank], *, whole: bool, resize: bool) -> Match | None:
    """Find the entry for a layer: the first bank that has its kernel decides.

    Args:
        layer: The layer.
        trace: The trace, which gives the layer's depth.
        banks: In the order of preference.
        whole: Look for whole filters instead of slices.
        resize: If no bank has the kernel, take the nearest one.
    """
    if not is_spatial(layer):  # a depthwise 1×1 has no form that clusters could have
        return None
    found = _find(layer.kernel, layer, trace, banks, whole)
    if found is not None or not resize:
        return found
    kernels = {e.kernel for bank in banks for e in bank.entries if len(e.kernel) == len(layer.kernel)}
    for kernel in sorted(kernels, key=lambda k: (_apart(k, layer.kernel), k)):
        found = _find(kernel, layer, trace, banks, whole)
        if found is not None:
            return Match(found.entry, found.bank, resizing(kernel, layer.kernel))
    return None


def _find(
    kernel: Sequence[int], layer: Layer, trace: ModelTrace, banks: Sequence[FilterBank], whole: bool
) -> Match | None:
    depth, channels = depths(trace)[layer.name], layer.shape[1] if whole else None
    for bank in banks:
        entry = bank.find(kernel, depth, is_depthwise(layer), layer.name, channels)
        if entry is not None:
            return Match(entry, bank)
    return None


def _apart(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(abs(m - n) for m, n in zip(a, b, strict=True))


def matched(
    method: Method,
    layers: Sequence[Layer],
    trace: ModelTrace,
    report: ReportBuilder,
    banks: Sequence[FilterBank],
    *,
    whole: bool,
    resize: bool,
) -> list[Layer]:
    """The layers that the banks fit; the others get their reason.

    Raises:
        HeadstartError: They fit none.
    """
    served = []
    for layer in layers:
        if match(layer, trace, banks, whole=whole, resize=resize) is None:
            report.skip(layer, f"the bank has no {_form(layer, whole)}")
        else:
            served.append(layer)
    if not served:
        needs = ", ".join(sorted({_form(layer, whole) for layer in layers}))
        holds = "; ".join(f"'{bank.title}' has {_forms(bank)}" for bank in banks)
        raise HeadstartError(
            f"{method.info.name}: there are no filters for this model. It takes {needs}. {holds}.",
            remedy="Build a bank from a model with such layers, or pass resize=True for another kernel size.",
        )
    return served


def _form(layer: Layer, whole: bool) -> str:
    kind = "depthwise " * is_depthwise(layer)
    return f"{layer.shape[1]}×{sizes(layer.kernel)} {kind}filters" if whole else f"{sizes(layer.kernel)} {kind}slices"


def _forms(bank: FilterBank) -> str:
    return ", ".join(dict.fromkeys(entry.form for entry in bank.entries))


def resized(atoms: Tensor, found: Match) -> Tensor:
    """Bring ``(k, *atom)`` to the layer's kernel."""
    if found.matrix is None:
        return atoms
    dims = len(found.entry.kernel)
    return (atoms.double().flatten(-dims) @ found.matrix.T).to(atoms.dtype)


def resized_deviations(deviations: Tensor, found: Match) -> Tensor:
    """Deviations of taps that are interpolated between independent ones."""
    if found.matrix is None:
        return deviations
    dims = len(found.entry.kernel)
    return (deviations.double().square().flatten(-dims) @ found.matrix.square().T).sqrt().to(deviations.dtype)


def draw_clusters(entry: Entry, count: int, generator: torch.Generator) -> Tensor:
    """Indices of ``count`` clusters, drawn in proportion to their sizes."""
    return torch.multinomial(entry.sizes.double(), count, replacement=True, generator=generator)
