"""What every new input channel of a layer is made of: a matrix of new by old channels, and its use on a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headstart import rng
from headstart.errors import HeadstartError, unknown

Entry = int | str | Mapping[int | str, float] | None
ChannelMap = Sequence[Entry] | Mapping[int | str, Entry]
FILLS = ("zeros", "mean", "random")
RULES = ("response", "energy", "nothing")


def _repeat(new: int, old: int) -> Tensor:
    rows, columns = torch.arange(new)[:, None], torch.arange(old)
    return (rows % min(new, old) == columns % min(new, old)).double()


def _mean(new: int, old: int) -> Tensor:
    return torch.full((new, old), 1 / old, dtype=torch.float64)


def _sum(new: int, old: int) -> Tensor:
    # In units of 1 / new, so that the edges are whole numbers: new channel t spans [t * old, (t + 1) * old].
    rows, columns = torch.arange(new)[:, None] * old, torch.arange(old) * new
    overlap = torch.minimum(rows + old, columns + new) - torch.maximum(rows, columns)
    return overlap.clamp_min(0).double() / new


def _select(new: int, old: int) -> Tensor:
    if new > old:
        raise HeadstartError(
            f"'select' keeps the first channels, but there are only {old}, fewer than {new}.",
            remedy="Use 'zeros' to keep them all and start the others at zero, or 'repeat'.",
        )
    return torch.eye(new, old, dtype=torch.float64)


def _zeros(new: int, old: int) -> Tensor:
    if new < old:
        raise HeadstartError(
            f"'zeros' adds channels, but {new} are fewer than the {old} that exist.",
            remedy="Use 'select' to keep the first ones, or 'repeat' or 'sum' to lose none.",
        )
    return torch.eye(new, old, dtype=torch.float64)


STRATEGIES: dict[str, Callable[[int, int], Tensor]] = {
    "repeat": _repeat,
    "sum": _sum,
    "mean": _mean,
    "select": _select,
    "zeros": _zeros,
}


@dataclass(frozen=True)
class Mix:
    """What the new channels are made of.

    Attributes:
        matrix: ``(new, old)`` in float64: new channel ``t`` starts as the sum of ``matrix[t, s] * old channel s``.
        names: The names of the new channels.
        source_names: The names of the old channels.
        groups: The groups of the layer; the matrix is zero outside of its blocks.
        random: New channels that are drawn at random instead.
    """

    matrix: Tensor
    names: Sequence[str]
    source_names: Sequence[str]
    groups: int = 1
    random: frozenset[int] = field(default_factory=frozenset)

    @property
    def blocks(self) -> Tensor:
        """The matrix of each group, ``(groups, new / groups, old / groups)``."""
        new, old = (n // self.groups for n in self.matrix.shape)
        return torch.stack([self.matrix[i * new :, i * old :][:new, :old] for i in range(self.groups)])

    @property
    def unused(self) -> list[str]:
        """Names of the old channels that no new one is made of."""
        return [self.source_names[s] for s in (self.matrix == 0).all(0).nonzero().flatten().tolist()]

    def made_of(self, channel: int) -> dict[str, float]:
        """The old channels behind a new one, by name; empty for zeros and for a drawn one."""
        row = self.matrix[channel].tolist()
        return {name: value for name, value in zip(self.source_names, row, strict=True) if value}

    def stand_ins(self) -> list[int]:
        """For every old channel, the closest new one; among equals, the first that is free."""
        new, old = (n // self.groups for n in self.matrix.shape)
        found: list[int] = []
        for s, column in enumerate(self.matrix.abs().T):
            group, place = divmod(s, old)
            nearest = (column == column.max()).nonzero().flatten().tolist() if bool(column.any()) else []
            nearest = nearest or list(range(group * new, (group + 1) * new))
            free = [t for t in nearest if t not in found]
            found.append(free[0] if free else nearest[place % len(nearest)])
        return found


def mix(
    new: int,
    old: int,
    strategy: str | None = None,
    *,
    mapping: ChannelMap | None = None,
    names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
    fill: str = "zeros",
    even: bool = True,
    groups: int = 1,
) -> Mix:
    """Build the mix. The arguments are those of :func:`adapt_weight`.

    Args:
        new: Number of new channels.
        old: Number of old ones.
        strategy: See :func:`adapt_weight`.
        mapping: Instead of a strategy.
        names: The names of the new channels.
        source_names: The names of the old channels.
        fill: For new channels without a source.
        even: Divide every old channel among the new ones, so that the layer's response does not change to an input that
            is the same in all channels.
        groups: The groups of the layer.

    Raises:
        HeadstartError: The arguments do not fit each other or the layer.
    """
    if isinstance(new, bool) or not isinstance(new, int) or new < 1:
        raise HeadstartError(f"in_channels={new!r} is not a number of channels.", remedy="Pass a whole number from 1.")
    if new % groups:
        raise HeadstartError(
            f"{new} input channels cannot be divided among {groups} groups.",
            remedy=f"Choose a multiple of {groups}, or put a convolution without groups in front.",
        )
    labels, sources = _labels(names, new, "names"), _labels(source_names, old, "source_names")
    if fill not in FILLS:
        raise unknown("fill", str(fill), FILLS)
    if strategy is not None and mapping is not None:
        raise HeadstartError("Both a strategy and a mapping are given.", remedy="Pass one of them.")
    if mapping is None and strategy is None and names is not None and source_names is not None:
        mapping = {}  # equal names
        if not set(labels) & set(sources):
            raise HeadstartError(
                f"None of the new names ({', '.join(labels[:5])}) is an old one ({', '.join(sources[:5])}).",
                remedy="Pass a mapping of new names to old ones.",
            )
    random: frozenset[int] = frozenset()
    if mapping is None:
        name = strategy or "repeat"
        if name not in STRATEGIES:
            raise unknown("strategy", str(name), STRATEGIES)
        matrix = torch.block_diag(*[STRATEGIES[name](new // groups, old // groups)] * groups)
    else:
        rows = _rows(mapping, labels, sources)
        matrix = torch.stack([_row(row, t, labels, sources, fill, new, groups) for t, row in enumerate(rows)])
        random = frozenset(t for t, row in enumerate(rows) if row is None and fill == "random")
    return Mix(evened(matrix) if even else matrix, labels, sources, groups, random)


def evened(matrix: Tensor) -> Tensor:
    """Divide every column by its sum, so that the shares of an old channel add up to 1.

    Raises:
        HeadstartError: An old channel is used with weights that do not sum to something positive.

    Example:
        >>> evened(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[0.5000, 0.0000],
                [0.5000, 1.0000]])
    """
    total = matrix.sum(0)
    used = (matrix != 0).any(0)
    if bool((total[used] <= 1e-6 * matrix.abs().sum(0)[used]).any()):
        raise HeadstartError(
            "The weights with which the new channels use an old one do not sum to a positive number, so the response"
            " of the layer cannot be kept.",
            remedy="Pass match='energy' or match='nothing'.",
        )
    return matrix / torch.where(used, total, torch.ones_like(total))


def adapt_weight(
    weight: Tensor,
    in_channels: int,
    strategy: str | None = None,
    *,
    mapping: ChannelMap | None = None,
    names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
    fill: str = "zeros",
    match: str = "response",
    per: str = "layer",
    groups: int = 1,
    transposed: bool = False,
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Make a convolution's weight take another number of input channels.

    Use this if you load a ``state_dict`` yourself; :func:`headstart.adapt_conv` changes a whole model.

    Args:
        weight: ``(out, in / groups, *kernel)``, with any number of dimensions of the kernel.
        in_channels: How many input channels the new weight takes.
        strategy: ``repeat`` (default): the old channels are repeated in turn. ``sum``: neighbours are summed or split,
            as when a spectrum is resampled. ``mean``: every new channel gets the mean filter. ``select``: the first
            ones. ``zeros``: the old channels, then zeros.
        mapping: What each new channel is made of, instead of a strategy: an old channel by index or name, a dict
            of weights of old channels, or None for ``fill``. Pass a sequence, or a dict by new channel (index or name):
            a channel that is not in the dict is made from the old one of the same name.
        names: The names of the new channels, such as bands. With only ``source_names`` besides, equal names are
            matched.
        source_names: The names of the old channels.
        fill: What a new channel without a source gets: ``zeros`` (the function of the known channels is kept, and the
            others are learned), ``mean`` or ``random`` (normal, at the present scale of every filter).
        match: ``response``: every old channel is divided among the new ones, so that an input that is the same in all
            channels gets the same response as before. ``energy``: sums of squares are kept, which is right for channels
            that are independent. ``nothing``: the strategy alone decides.
        per: One factor for the ``layer`` or one per output ``channel``, for ``energy``.
        groups: The groups of the layer. New channels are divided evenly among them; a strategy works within each.
        transposed: Whether the weight is that of a transposed convolution, ``(in, out / groups, *kernel)``.
        seed: The seed of random channels.

    Returns:
        A new tensor with the precision, device and memory format of ``weight``.

    Raises:
        HeadstartError: The arguments do not fit each other or the weight.

    Example:
        >>> rgb = torch.arange(6.0).view(2, 3, 1)
        >>> adapt_weight(rgb, 1).flatten().tolist()
        [3.0, 12.0]
        >>> adapt_weight(rgb, 4, mapping=["r", "g", "b", None], source_names="rgb")[1].flatten().tolist()
        [3.0, 4.0, 5.0, 0.0]
    """
    if match not in RULES:
        raise unknown("match", str(match), RULES)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or not weight.is_floating_point():
        raise HeadstartError("The weight is not a floating-point tensor of two or more dimensions.")
    old = weight.shape[0] if transposed else weight.shape[1] * groups
    if groups < 1 or (weight.shape[0] % groups):
        raise HeadstartError(f"A weight of shape {tuple(weight.shape)} does not have {groups} groups.")
    found = mix(
        in_channels,
        old,
        strategy,
        mapping=mapping,
        names=names,
        source_names=source_names,
        fill=fill,
        even=match == "response",
        groups=groups,
    )
    return mixed(weight, found, energy=match == "energy", per=per, transposed=transposed, seed=rng.seed_of(seed))


@torch.no_grad()
def mixed(
    weight: Tensor,
    found: Mix,
    *,
    energy: bool = False,
    per: str = "layer",
    transposed: bool = False,
    seed: int = 0,
    stream: str = "",
) -> Tensor:
    """Make the weight for a mix, as :func:`adapt_weight` does."""
    check_per(per)
    if not bool(torch.isfinite(weight).all()):
        raise HeadstartError("The weight holds values that are not finite.", remedy="Load a valid checkpoint first.")
    grouped = _by_input(weight.detach().cpu().double(), found.groups, transposed)  # not every device has float64
    result = torch.einsum("gts,gs...->gt...", found.blocks, grouped)
    rms = grouped.square().mean(dim=(1, *range(3, grouped.dim())), keepdim=True).sqrt()
    for t in sorted(found.random):
        group, place = divmod(t, result.shape[1])
        drawn = torch.randn(
            result.shape[2:], generator=rng.generator(seed, stream, "adapt", found.names[t]), dtype=torch.float64
        )
        result[group, place] = drawn * rms[group, 0]
    if energy:
        dims = (1, *range(3, grouped.dim()))
        had, has = (x.square().sum(dims, keepdim=True) for x in (grouped, result))
        if per == "layer":
            had, has = had.sum(), has.sum()
        result = result * torch.where(has > 0, (had / has).sqrt(), torch.ones_like(has))
    back = _from_input(result, transposed).to(weight.device, weight.dtype)
    return back.contiguous(memory_format=memory_format(weight))


def check_per(per: str) -> None:
    """Raise unless it is ``layer`` or ``channel``."""
    if per not in ("layer", "channel"):
        raise unknown("per", str(per), ("layer", "channel"))


def memory_format(weight: Tensor) -> torch.memory_format:
    """The memory format of a weight: channels-last if it has that, else contiguous."""
    if not weight.is_contiguous():
        for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if weight.dim() == dims and weight.is_contiguous(memory_format=layout):
                return layout
    return torch.contiguous_format


def _by_input(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """View a stored weight as ``(groups, in / groups, out / groups, *kernel)``."""
    grouped = weight.unflatten(0, (groups, -1))
    return grouped if transposed else grouped.transpose(1, 2)


def _from_input(grouped: Tensor, transposed: bool) -> Tensor:
    return (grouped if transposed else grouped.transpose(1, 2)).flatten(0, 1)


def _labels(names: Sequence[str] | None, count: int, argument: str) -> list[str]:
    if names is None:
        return [str(i) for i in range(count)]
    labels = [str(n) for n in names]
    if len(labels) != count:
        raise HeadstartError(f"{argument} holds {len(labels)} names for {count} channels.", remedy="Name each once.")
    twice = sorted({n for n in labels if labels.count(n) > 1})
    if twice:
        raise HeadstartError(f"{argument} holds {twice[0]!r} more than once.", remedy="Name each channel once.")
    return labels


def _rows(mapping: ChannelMap, labels: list[str], sources: list[str]) -> list[Entry]:
    """One entry per new channel."""
    if isinstance(mapping, Mapping):
        given = {_index(key, labels, "new channel"): entry for key, entry in mapping.items()}
        equal = [name if name in sources else None for name in labels]
        return [given.get(t, equal[t]) for t in range(len(labels))]
    rows = list(mapping)
    if isinstance(mapping, str) or len(rows) != len(labels):
        raise HeadstartError(
            f"The mapping has {len(rows)} entries for {len(labels)} new channels.",
            remedy="Give each new channel an old one (index or name), a dict of weights, or None.",
        )
    return rows


def _row(entry: Entry, t: int, labels: list[str], sources: list[str], fill: str, new: int, groups: int) -> Tensor:
    """The row of the matrix for an entry."""
    row = torch.zeros(len(sources), dtype=torch.float64)
    per_group = len(sources) // groups
    start = t // (new // groups) * per_group
    if entry is None:
        if fill == "mean":
            row[start : start + per_group] = 1 / per_group
        return row
    weights = entry if isinstance(entry, Mapping) else {entry: 1.0}
    for key, weight in weights.items():
        s = _index(key, sources, "old channel")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise HeadstartError(f"New channel {labels[t]!r} takes {weight!r} times {key!r}, which is not a number.")
        if not start <= s < start + per_group:
            raise HeadstartError(
                f"New channel {labels[t]!r} cannot take old channel {sources[s]!r}: the layer has {groups} groups, and"
                " they are in different ones.",
                remedy=f"It can be made of old channels {start} to {start + per_group - 1}, or by fill=.",
            )
        row[s] += weight
    return row


def _index(key: int | str, labels: list[str], what: str) -> int:
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise HeadstartError(f"{key!r} is not a channel.", remedy="Name it, or give its index.")
    if isinstance(key, str):
        if key not in labels:
            raise unknown(what, key, labels)
        return labels.index(key)
    if not 0 <= key < len(labels):
        raise HeadstartError(f"There is no {what} {key} of {len(labels)}.", remedy="Indices count from 0.")
    return key
