"""Change the number of input channels of a first convolution: ``adapt_conv`` and its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.adapt.channel_mix import RULES, ChannelMap, Mix, check_per, mix, mixed
from headstart.adapt.input_layers import InputLayers, Stem, named_layers
from headstart.adapt.response import Response, ResponseMatcher
from headstart.errors import DataError, HeadstartError, ModelError, one_error, unknown
from headstart.model import guard, inputs
from headstart.model.forward import full_precision
from headstart.model.inputs import Batch, GetInputs
from headstart.model.tensor_state import HeldTensor
from headstart.model.transaction import Transaction
from headstart.model.weights import Layer, to_canonical
from headstart.restoring import put_back
from headstart.results.display import Table, number
from headstart.results.report import Report, Row, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATCHES = ("auto", "batch-norm", "original", "unit", *RULES)


@dataclass
class NewChannel:
    """One new input channel.

    Attributes:
        layer: The layer that takes it.
        name: Its name, or its index as text.
        made_of: Old channels by name, and their weights; empty for zeros.
        drawn: Whether it was drawn at random.
    """

    layer: str
    name: str
    made_of: dict[str, float]
    drawn: bool = False

    def __str__(self) -> str:
        if self.drawn:
            return "drawn at random"
        parts = [name if weight == 1 else f"{weight:.3g} × {name}" for name, weight in self.made_of.items()]
        return " + ".join(parts) or "zeros"


_RESPONSES = ("layer", "matched to", "output std wanted", "before", "after", "factor")


@dataclass
class AdaptReport(Report):
    """The result of :func:`adapt_conv`: a report with a row per adapted layer.

    Attributes:
        old_channels, new_channels: How many channels the layers took before, and take now.
        channels: What every new channel is made of.
        responses: Deviations of the outputs on the data, per layer; empty without data.
    """

    old_channels: int = 0
    new_channels: int = 0
    channels: list[NewChannel] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    def plot_filters(self) -> Figure:
        """Draw the filters before and after, if the number of channels is the same.

        Raises:
            MissingExtraError: matplotlib is not installed.
            HeadstartError: The number of channels changed.
        """
        if self.filters is None:
            raise HeadstartError(
                f"The filters took {self.old_channels} channels and take {self.new_channels}, so they cannot be drawn"
                " side by side."
            )
        return super().plot_filters()

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the filters as plain values, ready for JSON."""
        return {
            **super().to_dict(),
            "old_channels": self.old_channels,
            "new_channels": self.new_channels,
            "channels": [asdict(c) for c in self.channels],
            "responses": [asdict(r) for r in self.responses],
        }

    def to_tables(self) -> list[Table]:
        """Layers, channels, and outputs."""
        channels = [[c.layer, c.name, str(c)] for c in self.channels]
        tables = [*super().to_tables(), Table(("layer", "new channel", "made of"), channels, "channels")]
        if self.responses:
            tables.append(Table(_RESPONSES, [_cells(r) for r in self.responses], "outputs"))
        return tables


def _cells(r: Response) -> list[str]:
    factor = "" if r.factors is None else " … ".join(number(f) for f in dict.fromkeys(r.factors))
    return [r.layer, r.match, number(r.wanted), number(r.before), number(r.after), factor]


@one_error("hs.adapt_conv stopped at an error")
def adapt_conv(
    model: nn.Module,
    in_channels: int,
    strategy: str | None = None,
    *,
    mapping: ChannelMap | None = None,
    names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
    fill: str = "zeros",
    data: Any = None,
    reference: Any = None,
    match: str = "auto",
    per: str = "layer",
    recentre: bool = False,
    layer: str | Sequence[str] | None = None,
    seed: int | torch.Generator = 0,
    samples: int | None = None,
    get_inputs: GetInputs | None = None,
) -> AdaptReport:
    """Make a (pre-trained) model take another number of input channels, in place.

    The first convolution gets a weight for the new channels, made from the old weight. With data, it is then
    rescaled so that its output has the deviation that the rest of the network expects. Its class, attributes, device,
    precision and memory format stay. Its weight is a new parameter, so make the optimizer afterwards.

    Args:
        model: An eager module with a convolution (1-3 dimensions, grouped, transposed) that takes the input.
        in_channels: The new number of channels.
        strategy: ``repeat`` (default), ``sum``, ``mean``, ``select`` or ``zeros``; see `headstart.adapt_weight`.
        mapping: What every new channel is made of, instead of a strategy; see `headstart.adapt_weight`.
        names: The names of the new channels.
        source_names: The names of the old channels.
        fill: What a new channel without a source gets: ``zeros``, ``mean`` or ``random``.
        data: A batch with the new channels, in any form that `headstart.initialize` takes. The layers that take the
            input are then found by running the model, which must work afterwards. Without it, the first registered
            convolution is taken.
        reference: A batch with the old channels, for ``original``.
        match: The target for the output's deviation on the data. ``batch-norm``: what the trained batch norm behind
            the layer expects. ``original``: that of the original
            layer on ``reference``; without one, on the data itself, where each old channel gets the new one that
            is closest to it. ``unit``: 1. ``response``, ``energy``, ``nothing``: the data are not used, see
            `headstart.adapt_weight`. ``auto``: ``original`` with a reference, else ``batch-norm`` where there is one,
            else ``original``; without data ``response``.
        per: One factor for the ``layer``, or one per output ``channel``.
        recentre: Set the running mean of the trained batch norm behind the layer to that of the new output, for data
            that cannot be centred as the old data were.
        layer: Names of the convolutions to adapt, instead of those that are found.
        seed: The seed of the draws.
        samples: How many samples to use.
        get_inputs: ``batch -> tensor | tuple | dict`` for data of any other form.

    Returns:
        What every new channel is made of, deviations before and after, and what else to know.

    Raises:
        HeadstartError: Says what failed, where, and what to do. The model is then unchanged.

    Example:
        >>> import torch, headstart as hs
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
        >>> grey = torch.randn(16, 1, 12, 12)
        >>> expected = model(grey.expand(-1, 3, -1, -1))
        >>> report = hs.adapt_conv(model, 1, data=grey)
        >>> torch.allclose(model(grey), expected, atol=1e-5)
        True
        >>> str(report.channels[0])
        '0 + 1 + 2'
    """
    start = time.perf_counter()
    if match not in MATCHES:
        raise unknown("match", str(match), MATCHES)
    check_per(per)
    if data is None and (reference is not None or recentre or match in ("batch-norm", "original", "unit")):
        what = "reference=" if reference is not None else "recentre=" if recentre else f"match={match!r}"
        raise DataError(f"{what} needs new data, and there is none.", remedy="Pass data=.")
    if reference is not None and match not in ("auto", "original"):
        raise HeadstartError(f"match={match!r} does not use reference=.", remedy="Leave one of them out.")
    model = guard.unwrap(model)
    guard.check(model)
    if guard.is_lazy(model):
        raise ModelError(
            "The model has lazy modules without shapes, so it has no channels to adapt.",
            remedy="Build it for the new channels, or run one batch of the old ones through it first.",
        )
    chosen = named_layers(model, layer)
    draw = rng.seed_of(seed)

    def make(stem: Layer) -> tuple[Mix, Tensor]:
        found = mix(
            in_channels,
            stem.in_channels,
            strategy,
            mapping=mapping,
            names=names,
            source_names=source_names,
            fill=fill,
            even=match not in ("energy", "nothing"),
            groups=stem.groups,
        )
        energy, transposed = match == "energy", stem.kind == "transposed"
        weight = mixed(
            stem.module.weight, found, energy=energy, per=per, transposed=transposed, seed=draw, stream=stem.name
        )
        return found, weight

    with rng.untouched(draw), torch.inference_mode(False), torch.no_grad():
        batch, old_batch = (
            None if d is None else inputs.load(d, model, seed=draw, samples=samples, get_inputs=get_inputs)
            for d in (data, reference)
        )
        if batch is not None and match not in RULES:
            inputs.require_variation(batch)
        with Transaction(model) as transaction, full_precision(model):  # everything is tried here, and taken back
            stems = InputLayers(transaction, in_channels, make)
            stems.find(batch, chosen)
            responder = ResponseMatcher(transaction, stems, match, per, recentre)
            if batch is not None:
                responder.run(batch, old_batch)
        report = _report(stems, responder, batch)
        _keep(stems, responder)
    what = "mapping" if mapping is not None else f"strategy={strategy or 'repeat'!r}"
    report.methods = [f"adapt_conv(in_channels={in_channels}, {what}, match={match!r}, per={per!r})"]
    report.seed, report.seconds = draw, time.perf_counter() - start
    return report


def _keep(stems: InputLayers, responder: ResponseMatcher) -> None:
    """Make all changes permanent, or none."""
    kept = [HeldTensor(f"{norm}.running_mean", buffer) for norm, buffer, _ in responder.means]
    try:
        stems.redo()
        for _, buffer, value in responder.means:
            buffer.copy_(value)
    except BaseException as error:
        put_back([("weights", stems.undo), *((h.name, h.restore) for h in kept)], error)
        raise


def _report(stems: InputLayers, responder: ResponseMatcher, batch: Batch | None) -> AdaptReport:
    """Report what was done, while the model is in its old state."""
    old = stems.found[0].layer.in_channels
    report = AdaptReport("headstart: adapt_conv", old_channels=old, new_channels=stems.channels)
    report.responses = responder.responses
    report.statistics = [norm for norm, _, _ in responder.means]
    if old == stems.channels:
        first = stems.found[0]
        pair = [to_canonical(first.layer, w.detach()).clone() for w in (first.old, first.new)]
        report.filters = (pair[0], pair[1])
    for stem in stems.found:
        layer, mixture = stem.layer, stem.mix
        shape = (layer.out_channels, stems.channels // layer.groups, *layer.kernel)
        row = Row(stem.name, type(layer.module).__name__, shape, "written", ["adapt_conv"])
        (old_mean, old_std), (new_mean, new_std) = summarize(stem.old.detach()), summarize(stem.new.detach())
        row.weight_mean, row.weight_std = (old_mean, new_mean), (old_std, new_std)
        if stem.name in responder.moments:
            moments = responder.moments[stem.name]
            row.output_mean, row.output_std = moments.total_mean, moments.total_std
        report.rows.append(row)
        report.channels += [
            NewChannel(stem.name, name, mixture.made_of(t), t in mixture.random) for t, name in enumerate(mixture.names)
        ]
        report.findings += _about(stem)
    names = ", ".join(f"'{stem.name}'" for stem in stems.found)
    report.findings += [
        f"The weight of {names} is a new parameter: make the optimizer afterwards, or put it into the old one's place.",
        *responder.findings,
    ]
    report.findings += [f"The running mean of '{n}' was moved to that of the new outputs." for n in report.statistics]
    if stems.records:
        report.findings.append(f"Also set to {stems.channels}: {', '.join(stems.records)}.")
    elsewhere = stems.elsewhere(old)
    if elsewhere and old != stems.channels:
        report.findings.append(
            f"Still set for {old} channels: {'; '.join(elsewhere)}. Normalize the new channels by their own statistics."
        )
    if batch is None:
        report.findings.append(
            f"Without data the model was not run: {names} is the layer you named, or the first registered."
        )
    others = stems.others(old) if batch is None or old == stems.channels else []
    if others:
        report.findings.append(
            f"These layers also take {old} channels, perhaps from the input: {', '.join(others[:5])}."
        )
    return report


def _about(stem: Stem) -> list[str]:
    """Further findings on one layer."""
    found = []
    if stem.mix.unused:
        found.append(f"'{stem.name}' no longer uses the old channels {', '.join(stem.mix.unused)}.")
    if not stem.old.requires_grad:
        found.append(f"The weight of '{stem.name}' is frozen and stays frozen: it will not learn the new channels.")
    if stem.old._backward_hooks or getattr(stem.old, "_post_accumulate_grad_hooks", None):
        found.append(f"Hooks on the old weight of '{stem.name}' were not carried over.")
    return found
