"""What a call did: a report with one row per layer and findings in plain words; and the saved result, ``Init``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.errors import HeadstartError, needs_extra
from headstart.results.display import Displayable, Table, number
from headstart.results.plain import plain
from headstart.results.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Action = Literal["written", "scaled", "left", "skipped", "not reached"]


@dataclass
class Row:
    """One layer in a report.

    Attributes:
        name: Qualified name.
        kind: Module class.
        shape: Canonical weight shape ``(out, in/groups, *kernel)``.
        action: ``written`` (new weights), ``scaled`` (old weights rescaled), ``left`` (a method visited it
            and kept its weights), ``skipped`` (not selected) or ``not reached`` (the forward never runs it).
        methods: Methods that wrote it.
        notes: Why it was skipped, and other remarks.
        weight_mean, weight_std: Mean and standard deviation of the weight, as (before, after).
        output_mean, output_std: Mean and standard deviation of the output after the call, over everything.
        across_sample_std: Deviation of the output between samples; 0 means that all inputs give the same output.
        seconds: Time spent on the layer by methods.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    action: Action = "left"
    methods: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weight_mean: tuple[float, float] | None = None
    weight_std: tuple[float, float] | None = None
    output_mean: float | None = None
    output_std: float | None = None
    across_sample_std: float | None = None
    seconds: float = 0.0


_COLUMNS = (
    "layer",
    "type",
    "weight",
    "action",
    "weight std",
    "output mean",
    "output std",
    "across samples",
    "notes",
)


@dataclass
class Report(Displayable):
    """The result of a call.

    Attributes:
        title: What was done.
        methods: ``repr`` of each method.
        rows: One row per weight layer, in execution order; layers that never run come last.
        findings: What the user should know, in plain words.
        seconds: Wall time of the call.
        seed: The seed in use.
        filters: First convolution's filters (before, after), when it was written.
        statistics: Batch norms whose running statistics were adapted to a rescale of the layers before them.
        other_tensors: Names of written parameters and buffers outside the weight layers.
        notes: What the call did not examine: weights in modules that are not weight layers.
    """

    title: str
    methods: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seed: int = 0
    filters: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    statistics: list[str] = field(default_factory=list)
    other_tensors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[str]:
        """The former name of ``other_tensors``."""
        return self.other_tensors

    @property
    def changed(self) -> list[str]:
        """Names of the layers whose weights changed."""
        return [r.name for r in self.rows if r.action in ("written", "scaled")]

    def row(self, name: str) -> Row:
        """Return the row of a layer.

        Raises:
            KeyError: No layer has that name.
        """
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the filters as plain values, ready for JSON."""
        return {
            "title": self.title,
            "methods": self.methods,
            "seed": self.seed,
            "seconds": self.seconds,
            "findings": self.findings,
            "notes": self.notes,
            "statistics": self.statistics,
            "others": self.other_tensors,
            "rows": [plain(asdict(r)) for r in self.rows],
        }

    def sentences(self) -> list[str]:
        """The findings and the notes."""
        return [*self.findings, *self.notes]

    def to_tables(self) -> list[Table]:
        """One table with a row per layer."""
        return [Table(_COLUMNS, self._cells())]

    def _cells(self) -> list[list[str]]:
        cells = []
        for r in self.rows:
            std = "" if r.weight_std is None else f"{r.weight_std[0]:.3g} → {r.weight_std[1]:.3g}"
            shape = "×".join(map(str, r.shape))
            out = [number(r.output_mean), number(r.output_std), number(r.across_sample_std)]
            by = f" by {', '.join(r.methods)}" if r.methods else ""
            cells.append([r.name, r.kind, shape, r.action + by, std, *out, "; ".join(r.notes)])
        return cells

    def plot_filters(self) -> Figure:
        """Draw the first convolution's filters before and after (needs the extra ``plot``).

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: No convolution was written.
        """
        if self.filters is None:
            raise HeadstartError("No convolution was written, so there are no filters to plot.")
        with needs_extra(package="matplotlib", extra="plot", what="Report.plot_filters()"):
            from headstart.results.filter_plot import filter_pair
        return filter_pair(*self.filters)


@dataclass
class Init:
    """A computed initialization: tensors by ``state_dict`` name, with their provenance.

    Attributes:
        tensors: New values of the parameters that change.
        provenance: Methods, seed, data fingerprint, versions.
        report: What was done; None after loading.
    """

    tensors: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the provenance in its metadata. It appears complete or not at all.

        Raises:
            HeadstartError: It cannot be written there.
        """
        meta = {"format": "headstart-init-1", "provenance": json.dumps(self.provenance)}
        if self.report is not None:
            meta["report"] = json.dumps(self.report.to_dict())
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}
        try:
            with whole_file(Path(path)) as part:
                save_file(tensors, str(part), metadata=meta)
        except (OSError, SafetensorError) as error:
            raise HeadstartError(f"'{path}' cannot be written: {getattr(error, 'strerror', None) or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Init:
        """Read a file from :meth:`save`. Only tensors and JSON are read, never pickled objects.

        Raises:
            HeadstartError: There is no such file, or it was not written by :meth:`save`.
        """
        if not Path(path).is_file():
            raise HeadstartError(f"There is no file {str(path)!r}.", remedy="Init.save writes one.")
        try:
            with safe_open(str(path), framework="pt") as f:
                meta: Mapping[str, str] = f.metadata() or {}
                tensors = load_file(path)
            if meta.get("format") != "headstart-init-1":
                raise HeadstartError(
                    f"{str(path)!r} is a safetensors file, but not an initialization (format {meta.get('format')!r}).",
                    remedy="Init.save writes one; plain weights are loaded with model.load_state_dict.",
                )
            return cls(tensors, json.loads(meta["provenance"]))
        except (SafetensorError, ValueError, KeyError) as error:
            raise HeadstartError(
                f"{str(path)!r} cannot be read as an initialization: {error}.",
                remedy="The file is damaged or not safetensors; write it again with Init.save.",
            ) from error


def summarize(weight: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation of a weight: sums of rows in its own precision, totals in float64.

    For complex weights: the magnitude of the mean, and the deviation of both parts together.
    """
    if weight.is_complex():
        (real, std), (imag, other) = map(summarize, torch.view_as_real(weight).unbind(-1))
        return math.hypot(real, imag), math.hypot(std, other)
    sums, lengths = (part.double().cpu().numpy() for part in row_sums(weight))
    return summary(sums, lengths, weight.numel())


def row_sums(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's sum and length, in the weight's own precision or float32, for :func:`summary`."""
    wide = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    inside = tuple(range(1, weight.dim()))
    return wide.sum(inside), torch.linalg.vector_norm(wide, dim=inside)


def summary(sums: NDArray[np.float64], lengths: NDArray[np.float64], count: int) -> tuple[float, float]:
    """Mean and population standard deviation of ``count`` values in rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, square = float(sums.sum() / count), float(np.square(lengths).sum() / count)
        variance = square - mean * mean
    return mean, variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))
