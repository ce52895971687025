"""Gather the filters of all sources, by layer, or pooled by kernel and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from headstart import rng
from headstart.banks.reservoir import Reservoir
from headstart.banks.source_filters import Convolution, Model, Names, chosen, each_source, require_known
from headstart.errors import HeadstartError

Progress = Callable[[str, int, int | None], None]
Key = tuple[object, ...]


@dataclass
class Group:
    """Filters that are clustered together.

    Attributes:
        name: Its name in messages and random streams.
        layer: Qualified name; "" when pooled.
        kernel: Kernel size.
        depthwise: Whether they are those of depthwise convolutions.
        filters: What was gathered.
        depths: The depths of their layers.
    """

    name: str
    layer: str
    kernel: tuple[int, ...]
    depthwise: bool
    filters: Reservoir
    depths: list[float] = field(default_factory=list)

    @property
    def depth(self) -> float:
        """Mean depth of its layers."""
        return sum(self.depths) / len(self.depths)


@dataclass
class Gathered:
    """All groups, in the order of layers or of depth, and the names of their sources."""

    groups: list[Group]
    sources: list[str]


def depth_bin(depth: float, bins: int) -> int:
    """The bin of a relative depth: 0 for the first convolution alone, then ``bins`` of equal width.

    Example:
        >>> [depth_bin(d, 4) for d in (0, 0.01, 0.25, 0.26, 1)]
        [0, 1, 1, 2, 4]
    """
    return math.ceil(depth * bins - 1e-9)


def gather(
    models: Iterable[Model] | Model,
    *,
    pool: bool,
    bins: int,
    whole: bool,
    include: Names,
    exclude: Names,
    sample: int,
    seed: int,
    progress: Progress | None,
) -> Gathered:
    """Read all sources once, keeping at most ``sample`` weights per group.

    Raises:
        HeadstartError: A source cannot be read, its layers differ from those of the first, or no layer of it is
            selected.
    """
    for name, number in (("bins", bins), ("sample", sample)):
        if number < 1:
            raise HeadstartError(f"{name}={number} is not at least 1.")
    groups: dict[Key, Group] = {}
    first: dict[str, Key] = {}
    names: set[str] = set()
    sources: list[str] = []
    for label, convolutions in each_source(models):
        if progress is not None:
            progress("reading", len(sources), None)
        names |= {c.name for c in convolutions}
        if not pool and convolutions:
            require_known(include, exclude, names, label)
        selected = chosen(convolutions, include, exclude, label)
        if not pool:
            shapes = {c.name: _key(c, whole) for c in selected}
            first = first or shapes
            _require_match(first, shapes, sources[0] if sources else label, label)
        for convolution in selected:
            key = _key(convolution, whole)
            key = (depth_bin(convolution.depth, bins), *key) if pool else (convolution.name, *key)
            if key not in groups:
                groups[key] = _group(convolution, key, pool, sample, seed)
            groups[key].depths.append(convolution.depth)
            groups[key].filters.add(_atoms(convolution.weight, whole))
        sources.append(label)
        del convolutions, selected, convolution
    require_known(include, exclude, names, "the sources")
    found = list(groups.values())
    if pool:
        found.sort(key=lambda group: (group.depthwise, group.kernel, group.depth))
    return Gathered(found, [label.strip("'") for label in sources])


def _atoms(weight: Tensor, whole: bool) -> Tensor:
    return weight.detach() if whole else weight.detach().flatten(0, 1)


def _key(convolution: Convolution, whole: bool) -> Key:
    """The key of a group: filters with the same key are clustered together."""
    channels = (convolution.weight.shape[1],) if whole else ()
    return (convolution.kernel, convolution.depthwise, *channels)


def _group(convolution: Convolution, key: Key, pool: bool, sample: int, seed: int) -> Group:
    kernel = "×".join(map(str, convolution.kernel))
    kind = " depthwise" * convolution.depthwise
    name = f"the{kind} {kernel} filters in depth bin {key[0]}" if pool else f"layer '{convolution.name}'"
    reservoir = Reservoir(sample, rng.generator(seed, "bank", repr(key)))
    return Group(name, "" if pool else convolution.name, convolution.kernel, convolution.depthwise, reservoir)


def _require_match(first: Mapping[str, Key], other: Mapping[str, Key], one: str, two: str) -> None:
    remedy = "Pool layers by kernel and depth with pool=True, or select those that all sources have with include=."
    for a, b, has, lacks in ((first, other, one, two), (other, first, two, one)):
        for name in a:
            if name not in b:
                raise HeadstartError(
                    f"The layers of {one} and {two} do not match: {has} has '{name}', {lacks} does not.", remedy=remedy
                )
    for name, key in first.items():
        if key != other[name]:
            shown = " and ".join(_words(k) for k in (key, other[name]))
            raise HeadstartError(
                f"The layers of {one} and {two} do not match: '{name}' has {shown} filters.", remedy=remedy
            )


def _words(key: Key) -> str:
    kernel, depthwise, *channels = key
    assert isinstance(kernel, tuple)
    return "×".join(map(str, (*channels, *kernel))) + (" depthwise" if depthwise else "")
