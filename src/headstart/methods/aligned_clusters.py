"""Aligned clusters: new filters are means of corresponding filters of trained networks (Ulm et al.)."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.errors import HeadstartError
from headstart.methods.shared.first_convolution import check_scale
from headstart.methods.shared.spatial import check_count
from headstart.model.checkpoints import Source, canonical_in, source_of
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer, look
from headstart.symmetries.alignment import tables_of
from headstart.symmetries.channel_flow import trace_channels
from headstart.symmetries.matching import Matcher, units


@register(
    "aligned-clusters",
    summary="every filter is the mean of the corresponding filters of several trained networks",
    reference="Ulm, Bayer, Diaz-Bone and Jüni, Learning an Informed CNN Initialization for Image Classification",
    scope="convolutions",
    needs_data=True,
    cost="some ten forward passes of two samples, each operation run a few times more; assignments of all channels",
    presets=("paper",),
    deviations=(
        "The source models are not changed. Published code permutes them in place, so its later calls work on models"
        " that are already aligned.",
        "Filters are matched by the Hungarian method on cosine similarity, together with the weights that take their"
        " outputs, until nothing changes. The published grouping is greedy and depends on the order. Preset:"
        " aligned-clusters:paper.",
        "Layers joined by a shortcut are permuted together, so any residual network can be aligned. The paper"
        " removes the shortcuts of the first stage.",
        "The mean is of raw weights, scaled to the layer's own norm. The published mean is of filters at length 1,"
        " and is shorter.",
        "All convolutions are written by default; the paper writes up to four.",
    ),
    depends_on_other_layers=True,
)
@dataclass(frozen=True)
class AlignedClusters(Method):
    """Align trained networks of the model's architecture and start its convolutions from the mean of their filters.

    The idea: networks trained on different tasks learn similar filters in different places. Once they are aligned,
    their mean is what they have in common. Norms, biases and linear layers keep their start; heads may differ.

    Args:
        models: Two or more sources with the same layers: models, ``state_dict`` s, paths, or functions ``model -> one
            of those``. A text is a pattern of files such as ``runs/*.safetensors``.
        average: ``"raw"`` (default) the mean of the weights; ``"unit"`` of the filters at length 1 (published).
        scale: ``"match"`` (default) the root mean square of the layer's weights; ``"source"`` that of the sources'
            layers; ``"paper"`` leaves the mean as it is; or a number.
        layers: How many convolutions to write, in execution order; None (default) for all.
        matching: ``"hungarian"`` (default) or ``"greedy"`` (published), see `headstart.align`.

    Raises:
        HeadstartError: There are fewer than two sources, no convolution has weights of its shape in all of them, or
            channels cannot be followed through the model.

    Example:
        >>> import torch, headstart as hs
        >>> _ = torch.manual_seed(0)
        >>> def net():
        ...     return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
        >>> a, b, new = net(), net(), net()
        >>> with torch.no_grad():
        ...     _ = b.load_state_dict(a.state_dict()), b[0].weight.copy_(a[0].weight.flip(0))
        >>> report = hs.initialize(new, torch.randn(8, 1, 9, 9), hs.AlignedClusters([a, b], scale="paper", layers=1))
        >>> torch.allclose(new[0].weight, a[0].weight)
        True
    """

    models: Any = None
    average: str = "raw"
    scale: float | str = "match"
    layers: int | None = None
    matching: str = "hungarian"

    def __post_init__(self) -> None:
        self.check_choice("average", "raw", "unit")
        self.check_choice("matching", "hungarian", "greedy")
        check_scale(self, self.scale, "match", "source", "paper")
        check_count(self, self.layers)
        if self.models is not None and not isinstance(self.models, str):
            several = isinstance(self.models, Sequence) and not isinstance(self.models, nn.Module)
            self.check(
                several, f"models={type(self.models).__name__} is not a list", "Pass a list of two or more sources"
            )
            object.__setattr__(self, "models", tuple(source_of(model) for model in self.models))

    @classmethod
    def paper(cls, **options: Any) -> AlignedClusters:
        """The published form: greedy grouping, means of filters at length 1, the first four convolutions."""
        return cls(**{"average": "unit", "scale": "paper", "layers": 4, "matching": "greedy", **options})

    def identity(self) -> str:
        """The options, with fingerprints of the sources."""
        held = [] if self.models is None else [source.fingerprint for source in self._sources()]
        return f"{replace(self, models=None)!r} {held}"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The convolutions among the first ``layers`` ones."""
        first = [la.name for la in trace.layers if la.kind != "linear"][: self.layers]
        found = []
        for layer in layers:
            if layer.name in first:
                found.append(layer)
            else:
                linear = layer.kind == "linear"
                report.skip(layer, "a linear layer" if linear else f"not among the first {len(first)} convolutions")
        if not found:
            kinds = sorted({type(la.module).__name__ for la in trace.layers})
            raise HeadstartError(
                f"aligned-clusters writes a convolution, and none was selected (the model runs {', '.join(kinds)}).",
                remedy="Use another method, or widen include=.",
            )
        return found

    def start(self, view: ModelView) -> None:
        """Align the sources and write the means."""
        assert view.batch is not None
        sources = self._sources()
        states = [source.state(view.model) for source in sources]
        every = {la.name: la for la in [*view.trace.layers, *view.trace.unreached]}
        found = {name: self._weights(states, layer) for name, layer in every.items()}
        common = {name: values for name, values in found.items() if values is not None}
        for layer in view.layers:
            if layer.name not in common:
                view.report.skip(layer, "not all sources have its weight in its shape")
        written = [layer for layer in view.layers if layer.name in common]
        if not written:
            names = ", ".join(f"'{layer.name}'" for layer in view.layers[:3])
            raise HeadstartError(
                f"aligned-clusters: not all of {len(sources)} sources have the weights of {names} in their shapes.",
                remedy="The sources must be networks of the model's architecture.",
            )
        wiring = trace_channels(view.model, view.batch)
        # Without the layers that the sources do not share (their heads).
        wiring.layers = {name: use for name, use in wiring.layers.items() if name in common}
        matcher = Matcher(wiring, every)
        weights = [{name: common[name][i] for name in wiring.layers} for i in range(len(states))]
        tables, _ = tables_of(matcher, [units(w) for w in weights], self.matching, "first")
        placed = [matcher.permuted(w, table) for w, table in zip(weights, tables, strict=True)]
        before = [matcher.similarity(units(weights[0]), units(w)) for w in weights[1:]]
        after = [matcher.similarity(units(placed[0]), units(w)) for w in placed[1:]]
        for layer in written:
            if layer.name in wiring.layers:
                self._write(view, layer, [p[layer.name] for p in placed])
        view.report.add_finding(
            f"aligned-clusters: the mean cosine similarity of the filters of {len(sources)} sources to those of the"
            " first was"
            f" {sum(before) / len(before):.3g} before and {sum(after) / len(after):.3g} after alignment."
        )

    def _weights(self, states: Sequence[Mapping[str, Tensor]], layer: Layer) -> list[Tensor] | None:
        """A layer's weight in every source, if all have it."""
        values = [canonical_in(state, layer) for state in states]
        return [v.cpu() for v in values if v is not None] if all(v is not None for v in values) else None

    def _write(self, view: ModelView, layer: Layer, aligned: Sequence[Tensor]) -> None:
        stacked = torch.stack(list(aligned))
        size = math.sqrt(float(stacked.double().square().mean()))
        if self.average == "unit":
            stacked = torch.stack([units({"": weight})[""] for weight in aligned])
        mean = stacked.mean(0)
        own = math.sqrt(float(mean.double().square().mean()))
        if own == 0:
            view.report.skip(layer, "the mean of the sources is zero")
            return
        wanted = {"match": self._rms(layer), "source": size, "paper": own}.get(str(self.scale), self.scale)
        view.write(layer, mean * (float(wanted) / own))
        view.report.rows[layer.name].notes.append(f"mean of {len(aligned)} sources")

    def _rms(self, layer: Layer) -> float:
        size = math.sqrt(float(look(layer).double().square().mean()))
        self.check(
            size > 0 or self.scale != "match",
            f"the weights of {layer.where} are all zero, so there is no size to match",
            "Pass scale='source', or initialize the layer first",
        )
        return size

    def _sources(self) -> tuple[Source, ...]:
        models = self.models
        if isinstance(models, str):
            models = tuple(Source(path) for path in sorted(glob.glob(str(Path(models).expanduser()), recursive=True)))
        self.check(
            models is not None and len(models) > 1,
            f"models={self.models!r} names {0 if models is None else len(models)} sources",
            "Pass two or more: models, state_dicts, paths, or a pattern of files such as 'runs/*.safetensors'",
        )
        return tuple(models)
