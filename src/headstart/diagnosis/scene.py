"""What the rules of a diagnosis need besides the rows: facts about parameters, norms, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.diagnosis.odd_ones import blocks_without_norm
from headstart.diagnosis.parameters import duplicates, extremes, quiet_scales, starts_at_zero
from headstart.measure.gradients import Passes
from headstart.measure.positions import Positions
from headstart.model.inputs import Batch
from headstart.model.parts import EMBEDDINGS
from headstart.model.trace import ModelTrace


@dataclass
class Scene:
    """Facts about a model and its data.

    Attributes:
        normed: Layers with a normalization behind them.
        batch_normed: Layers with a batch norm behind them, which also restores differences between samples.
        outputs: Layers whose output the model returns.
        transposed: Transposed convolutions.
        unreached: Layers that the forward pass does not call.
        gradients_measured: Whether there was a backward pass.
        values: Layer name -> how many values per channel its share of never-positive units is based on.
        broken: Parameters and buffers that hold NaN or infinity.
        largest: The largest magnitude of each parameter and of each norm's statistics, if it is finite.
        copies: Groups of parameters that are copies.
        silent: Whether a branch starts at zero on purpose.
        quiet: Parameters that scale a branch down on purpose.
        returned: Deviation between samples, and over all, of each tensor that the model returned.
        constant_channels: Input channels that have the same value everywhere.
        blocks_without_norm: See the function of that name.
        own_laws: Embeddings, gates and bilinear weights, whose usual start follows neither fan.
        embeddings: Those among them that look up rows.
    """

    normed: set[str] = field(default_factory=set)
    batch_normed: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    transposed: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    gradients_measured: bool = False
    values: Mapping[str, int] = field(default_factory=dict)
    broken: Sequence[str] = ()
    largest: Mapping[str, float] = field(default_factory=dict)
    copies: Sequence[Sequence[str]] = ()
    silent: bool = False
    quiet: Sequence[str] = ()
    returned: Sequence[tuple[float, float] | None] = ()
    constant_channels: Sequence[int] = ()
    blocks_without_norm: Sequence[tuple[str, str, int]] = ()
    own_laws: set[str] = field(default_factory=set)
    embeddings: set[str] = field(default_factory=set)


def look_around(model: nn.Module, trace: ModelTrace, batch: Batch | None, passes: Passes | None) -> Scene:
    """Gather the facts."""
    broken, largest = extremes(model)
    parts = [*trace.parts, *trace.unreached_parts]
    scene = Scene(
        normed=set(trace.norm_after),
        batch_normed={
            name for name, norm in trace.norm_after.items() if isinstance(model.get_submodule(norm), _BatchNorm)
        },
        outputs=set(trace.outputs),
        transposed={la.name for la in (*trace.layers, *trace.unreached) if la.kind == "transposed"},
        unreached={la.name for la in [*trace.unreached, *trace.unreached_parts]},
        broken=broken,
        largest=largest,
        copies=duplicates(model),
        silent=starts_at_zero(model),
        quiet=quiet_scales(model),
        blocks_without_norm=blocks_without_norm(model),
        constant_channels=[] if batch is None else _constant_channels(batch, trace),
        own_laws={part.name for part in parts if not part.sees_input},
        embeddings={part.name for part in parts if isinstance(part.module, EMBEDDINGS)},
    )
    if passes is not None:
        scene.gradients_measured = passes.gradients is not None
        scene.values = {n: s.values for n, s in passes.probe.signals.items()}
        scene.returned = passes.returned
    return scene


def _constant_channels(batch: Batch, trace: ModelTrace) -> list[int]:
    """Channels of the first images or volumes that are constant over samples and places; empty if all are."""
    value = next((t for t in batch.tensors if t.is_floating_point() and t.dim() >= 4 and t.numel()), None)
    if value is None or len(value) < 2 or not bool(torch.isfinite(value).all()):
        return []
    places = Positions(batch.masks).places(trace.layers[:1], value)
    channels = value.movedim(1, 0).flatten(1) if places is None else places.rows(value)[places.counted].T
    constant = (channels.amax(1) == channels.amin(1)).tolist()
    return [] if all(constant) else [i for i, same in enumerate(constant) if same]
