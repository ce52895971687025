"""What an operation does to the scales of its inputs, found by running it again on rescaled inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

PINNED, ANY = 0, -1
"""The class of values whose scale is fixed, and the label of values that are always zero."""

# Families that, run on labels, say where each value went.
_MOVES = {
    *("view", "reshape", "permute", "transpose", "t", "slice", "select", "expand", "clone", "contiguous", "cat"),
    *("stack", "split", "split_with_sizes", "unbind", "squeeze", "unsqueeze", "alias", "detach", "narrow", "flip"),
    *("roll", "constant_pad", "reflection_pad", "replication_pad", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "unfold", "as_strided", "index_select", "repeat", "lift_fresh", "copy", "index"),
}
_ATTENTION = re.compile("attention|attn")
# What releases and backends put before and behind the name of an operation that does the same.
_VARIANT = re.compile(r"^(?:_|unsafe_|native_|lazy_)+|(?<=.)(?:_alias|(?<!^index)_copy|_nd|[123]d|_)+$")
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def family(name: str) -> str:
    """The family of an operation, whatever name a release of torch or another library gives it.

    In-place forms, copies of views, unchecked forms and numbers of dimensions are one family; so is attention,
    however it is computed.

    Args:
        name: Without namespace and overload, such as ``_unsafe_view``.

    Example:
        >>> family("_unsafe_view"), family("reflection_pad2d"), family("gelu_")
        ('view', 'reflection_pad', 'gelu')
        >>> family("_scaled_dot_product_flash_attention_for_cpu")
        'attention'
    """
    return "attention" if _ATTENTION.search(name) else _VARIANT.sub("", name) or name


class Classes:
    """Scale classes that can be merged (union-find). Class 0 is the pinned class and always its own root."""

    def __init__(self) -> None:
        self._parent = [PINNED]
        self._table: Tensor | None = None  # label + 1 -> root, until something changes
        self.reason: dict[int, str] = {}

    def copy(self) -> Classes:
        """A copy of the classes, to try a merge on."""
        other = Classes()
        other._parent, other._table, other.reason = list(self._parent), self._table, dict(self.reason)
        return other

    def new(self) -> int:
        """Create a class."""
        self._table = None
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def root(self, label: int) -> int:
        """Return the class that a label belongs to now."""
        while label > PINNED and self._parent[label] != label:
            label = self._parent[label]
        return label

    def roots(self, labels: Tensor) -> Tensor:
        """Map labels to the classes that they belong to now."""
        if self._table is None:
            parents = torch.tensor(self._parent)
            while not torch.equal(parents, above := parents[parents]):
                parents = above
            self._table = torch.cat([torch.tensor([ANY]), parents])
        return self._table[labels + 1]

    def merge(self, labels: Sequence[int]) -> int:
        """Merge the classes of labels, pinned if one of them is, and return the result."""
        roots = sorted({self.root(label) for label in labels if label != ANY})
        if len(roots) > 1:
            self._table = None
        for root in roots[1:]:
            self._parent[root] = roots[0]
        return roots[0] if roots else ANY

    def pin(self, labels: Sequence[int], why: str) -> None:
        """Fix the scale of some classes."""
        for label in labels:
            if (root := self.root(label)) > PINNED:
                self.reason[root] = why
                self._parent[root] = PINNED
                self._table = None

    def reason_of(self, label: int) -> str:
        """Why a class is pinned: the first reason on the path to its root."""
        while label > PINNED:
            if label in self.reason:
                return self.reason[label]
            label = self._parent[label]
        return "it is added to something of a fixed scale"


@dataclass
class Operation:
    """An operation with its inputs, which can be run again on other inputs."""

    func: Any
    leaves: list[Any]
    spec: Any
    labelled: dict[int, Tensor]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            self.name = self.func.overloadpacket.__name__.rstrip("_") or self.func.overloadpacket.__name__
        self.family = family(self.name)
        self._plain: list[Any] | None = None

    def alone(self) -> list[Operation]:
        """The operation as a function of each labelled input alone, with the others held constant."""
        return [
            Operation(self.func, self.leaves, self.spec, {i: field}, self.name) for i, field in self.labelled.items()
        ]

    def aside(self, value: Tensor) -> bool:
        """Tell whether an output is not for the network, such as sizes and seeds for attention's backward pass."""
        return self.family == "attention" and not value.is_floating_point()

    @property
    def size(self) -> float:
        """The largest input value."""
        return max(float(self.leaves[i].abs().max()) if self.leaves[i].numel() else 0.0 for i in self.labelled)

    def classes(self, classes: Classes) -> list[int]:
        """The classes of its inputs, without the pinned class."""
        found = {int(label) for labels in self.labelled.values() for label in labels.unique()}
        return sorted({classes.root(label) for label in found} - {PINNED, ANY})

    def run(self, change: Callable[[int, Tensor], Tensor]) -> list[Any]:
        """Run it on changed inputs: floating-point ones, and all others that are followed."""
        leaves = [
            change(i, leaf) if isinstance(leaf, Tensor) and (leaf.is_floating_point() or i in self.labelled) else leaf
            for i, leaf in enumerate(self.leaves)
        ]
        args, kwargs = tree_unflatten(leaves, self.spec)
        found = tree_flatten(self.func(*args, **kwargs))[0]
        return [leaf for leaf in found if isinstance(leaf, Tensor)]

    def moved(self, number: int) -> Tensor | None:
        """Run an operation that only moves values on their labels; None if it does more."""
        if self.family not in _MOVES:
            return None
        if self.family == "constant_pad":
            if self._fill() != 0:
                return None
            (_, widths, *_rest), _ = tree_unflatten(self.leaves, self.spec)
            padded: Tensor = self.func(self.labelled[0].double(), widths, float(ANY))
            return padded.long()
        found = self._on_labels(number)
        return None if found is None else found.long()

    def _on_labels(self, number: int) -> Tensor | None:
        """Run it with labels in place of values; None if it does not accept them."""

        def labels(i: int, leaf: Tensor) -> Tensor:
            if i in self.labelled:
                return self.labelled[i].to(torch.float64).clone()
            return torch.full(leaf.shape, float(PINNED), dtype=torch.float64)  # labels are on the CPU

        try:
            found: Tensor = self.run(labels)[number]
        except (RuntimeError, IndexError):
            return None
        return found

    def _fill(self) -> float:
        args, kwargs = tree_unflatten(self.leaves, self.spec)
        return float(args[2]) if len(args) > 2 else float(kwargs.get("value", 0))

    def candidates(self, number: int, value: Tensor, classes: Classes) -> Iterator[tuple[Tensor, list[list[int]]]]:
        """Guess the labels of an output, with the classes that would have to be merged; the fewest merges first."""
        fields = list(self.labelled.values())
        try:
            wide = [torch.broadcast_to(labels, value.shape) for labels in fields]
        except RuntimeError:
            wide = []
        if wide:
            yield joined(wide)
        if len(fields) == 1:
            yield from ((labels, []) for labels in self.reduced(number, value))
        present = self.classes(classes)
        if present:
            yield torch.full((), present[0]).expand(value.shape), [present]

    def reduced(self, number: int, value: Tensor) -> Iterator[Tensor]:
        """Guess the labels of an output with other axes than its single input, except samples and channels."""
        (labels,) = self.labelled.values()
        if labels.dim() > 2 and value.dim() > 1 and labels.shape[:2] == value.shape[:2]:
            channel = labels.flatten(2)[..., 0]
            if bool((labels.flatten(2) == channel.unsqueeze(-1)).all()):
                yield channel.reshape(*channel.shape, *[1] * (value.dim() - 2)).expand(value.shape)
        averaged = self._on_labels(number)  # a mean of equal labels is that label
        if averaged is not None and averaged.is_floating_point() and averaged.shape == value.shape:
            view = averaged.round()
            if bool((averaged - view).abs().max() < 1e-6) and set(view.unique().tolist()) <= set(
                labels.unique().tolist()
            ):
                yield view.long()

    def homogeneous(
        self, number: int, candidate: Tensor, merged: list[list[int]], factors: list[dict[int, float]]
    ) -> bool:
        """Tell whether the output scales as the candidate says."""
        plain = self._unscaled()[number]
        scales = [_scales(_together(factor, merged)) for factor in factors]
        return all(close(self._rescaled(scale)[number], plain * scale(candidate).to(plain)) for scale in scales)

    def invariant(self, number: int, factors: list[dict[int, float]], merged: Sequence[Sequence[int]] = ()) -> bool:
        """Tell whether the output is independent of the scales."""
        plain = self._unscaled()[number]
        return all(close(self._rescaled(_scales(_together(f, merged)))[number], plain) for f in factors)

    def _unscaled(self) -> list[Any]:
        if self._plain is None:
            self._plain = self.run(lambda i, leaf: leaf.clone())
        return self._plain

    def _rescaled(self, scale: Callable[[Tensor], Tensor]) -> list[Any]:
        def change(i: int, leaf: Tensor) -> Tensor:
            return leaf * scale(self.labelled[i]).to(leaf) if i in self.labelled else leaf.clone()

        return self.run(change)


def joined(fields: list[Tensor]) -> tuple[Tensor, list[list[int]]]:
    """Labels of a sum: where terms differ, their classes must be merged."""
    labels = fields[0]
    groups: list[list[int]] = []
    for other in fields[1:]:
        differ = (labels != other) & (labels != ANY) & (other != ANY)
        if bool(differ.any()):
            first, second = labels[differ], other[differ]
            width = int(second.max()) + 1
            found = (first * width + second).unique()  # much faster than a search for equal rows
            groups += torch.stack([found // width, found % width], 1).tolist()
        labels = torch.where(labels == ANY, other, labels)
    return labels, groups


def _together(factors: dict[int, float], groups: Sequence[Sequence[int]]) -> dict[int, float]:
    """Give labels that would be merged the same factor; that of the pinned class is 1."""
    parent = {label: label for group in groups for label in group}

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    for first, *rest in groups:
        for label in rest:
            low, high = sorted((root(first), root(label)))
            parent[high] = low
    return {**factors, **{label: factors.get(root(label), 1.0) for label in parent}}


def _scales(factors: dict[int, float]) -> Callable[[Tensor], Tensor]:
    table = torch.ones(max(factors, default=0) + 2, dtype=torch.float64)
    for label, factor in factors.items():
        table[label + 1] = factor
    table[ANY + 1] = table[PINNED + 1] = 1.0

    def scale(labels: Tensor) -> Tensor:
        # What has no factor came in with none.
        return table[(labels + 1).clamp_max(len(table) - 1)]

    return scale


def close(got: Tensor, wanted: Tensor) -> bool:
    """Tell whether two results of an operation agree up to rounding."""
    if not got.is_floating_point():
        return bool(torch.equal(got, wanted))
    if got.numel() == 0:
        return True
    finite = torch.isfinite(wanted)
    if not bool(finite.all()) and not torch.equal(got[~finite], wanted[~finite]):
        return False
    size = float(wanted[finite].abs().max()) if bool(finite.any()) else 0.0
    error = (got - wanted)[finite].abs().max() if bool(finite.any()) else torch.zeros(())
    return bool(error <= _ROUNDING.get(got.dtype, 1e-4) * max(size, 1e-30)) and math.isfinite(size)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
    return found
