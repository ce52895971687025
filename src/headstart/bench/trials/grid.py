"""Grids: the values that a search tries, of training settings and of methods' options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from headstart import rng
from headstart.bench.store.store import canonical
from headstart.bench.trials.arms import Arm, spec_of
from headstart.bench.trials.training import Training
from headstart.engine import specs
from headstart.engine.method import Method
from headstart.engine.registry import parse, resolve
from headstart.errors import HeadstartError, unknown

Configuration = dict[str, Any]  # values by the axes' keys
_BUDGET = ("steps", "epochs", "batch_size", "evaluations", "devices", "device", "precision", "memory_format")
_LARGEST = 100_000


@dataclass(frozen=True)
class Axis:
    """The values of one setting or option.

    Args:
        name: A field of `Training`, or an option of a method.
        values: The values; among equals, the first one wins.
        arm: The arm of the option; empty for a field of `Training`, which all arms have.
    """

    name: str
    values: tuple[Any, ...]
    arm: str = ""

    @property
    def key(self) -> str:
        """The name, with the arm's before it if it is an option."""
        return f"{self.arm}.{self.name}" if self.arm else self.name

    def __str__(self) -> str:
        return f"{self.key}={','.join(map(str, self.values))}"

    def concerns(self, arm: Arm) -> bool:
        """Whether an arm tries these values; controls share the options of their method."""
        return self.arm in ("", arm.label, arm.of)


def read_grid(texts: Sequence[str], arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Read ``lr=1e-3,3e-3`` and ``ARM.option=a,b``.

    Args:
        texts: As on the command line.
        arms: The arms, for their labels.

    Returns:
        The values, by the name before the equals sign.

    Raises:
        HeadstartError: A text is neither of the two.

    Example:
        >>> read_grid(["lr=1e-3,0.01", "prewarm.scale=match,paper"], [Arm("prewarm", "prewarm")])
        {'lr': [0.001, 0.01], 'prewarm.scale': ['match', 'paper']}
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        label = _label(text, arms)
        name, values = specs.item(text[len(label) :])
        parts = [part.strip() for part in specs.split(values or "", ",")]
        if not name or not all(parts):
            raise HeadstartError(
                f"{text!r} cannot be searched.",
                remedy="Write lr=1e-3,3e-3 or, for an option of an arm, ARM.option=a,b.",
            )
        key = label + name
        if key in found:
            raise HeadstartError(f"The search lists {key!r} twice: '{text}'.", remedy="Put its values into one list.")
        found[key] = [specs.literal(part) for part in parts]
    return found


def make_grid(entries: Mapping[str, Sequence[Any]], arms: Sequence[Arm], training: Training) -> tuple[Axis, ...]:
    """Check the grid of a search.

    Args:
        entries: Values by a field of `Training` (in which ``-`` may stand for ``_``) or by ``ARM.option``.
        arms: The arms of the experiment.
        training: Its training settings otherwise.

    Returns:
        An axis for each entry.

    Raises:
        HeadstartError: There is no such field, arm or option, or a value is not allowed.
    """
    axes = tuple(_axis(key, list(values), arms) for key, values in entries.items())
    for axis in axes:
        texts = [canonical(value) for value in axis.values]
        if len(set(texts)) < len(texts) or not texts:
            raise HeadstartError(f"The search's '{axis}' is empty or lists a value twice.")
    common = [axis for axis in axes if not axis.arm]
    try:
        for values in _product(common):
            replace(training, **values).resolve(training.batch_size)
    except HeadstartError as error:
        names = " and ".join(f"'{axis}'" for axis in common)
        raise HeadstartError(f"The search cannot try {names}: {error}") from error
    return axes


def configurations(axes: Sequence[Axis], arm: Arm, training: Training, most: int) -> list[Configuration]:
    """List the configurations of an arm: its whole grid, or a random part of it.

    Args:
        axes: The axes of the search.
        arm: The arm.
        training: Gives the configuration that is in every part: the values without a search if they are
            listed, else the values listed first.
        most: The number of configurations. The draw depends only on the arm's grid.

    Example:
        >>> configurations([Axis("lr", (0.1, 0.2))], Arm("default"), Training(), 2)
        [{'lr': 0.1}, {'lr': 0.2}]
    """
    own = [axis for axis in axes if axis.concerns(arm)]
    whole = _product(own)
    if len(whole) <= most:
        return whole
    usual = whole.index({axis.key: _usual(axis, arm, training) for axis in own})
    stream = rng.generator(0, "search", canonical([[axis.name, axis.values] for axis in own]))
    drawn = [i for i in torch.randperm(len(whole), generator=stream).tolist() if i != usual]
    return [whole[i] for i in sorted([usual, *drawn[: most - 1]])]


def configured(arm: Arm, axes: Sequence[Axis], configuration: Configuration) -> Arm:
    """Return the arm with the values of a configuration.

    Args:
        arm: The arm of the experiment.
        axes: Say which values belong to training and which are options.
        configuration: From :func:`configurations`.

    Example:
        >>> axes = [Axis("lr", (0.1,)), Axis("scale", ("paper",), "prewarm")]
        >>> found = configured(Arm("prewarm", "prewarm"), axes, {"lr": 0.1, "prewarm.scale": "paper"})
        >>> found.spec, found.changes
        ('prewarm:scale=paper', (('lr', 0.1),))
    """
    mine = [axis for axis in axes if axis.key in configuration]
    changes = {**dict(arm.changes), **{axis.name: configuration[axis.key] for axis in mine if not axis.arm}}
    options = {axis.name: configuration[axis.key] for axis in mine if axis.arm}
    spec = arm.spec
    if options:
        methods = [_with_options(m, {k: v for k, v in options.items() if k in m.options()}) for m in parse(arm.spec)]
        spec = "+".join(spec_of(method) for method in methods)
    return replace(arm, spec=spec, changes=tuple(changes.items()))


def _label(text: str, arms: Sequence[Arm]) -> str:
    """Return the label, with its dot, at the start of a text, or nothing; a label may hold dots and equals signs."""
    known = [f"{arm.label}." for arm in arms if text.startswith(f"{arm.label}.")]
    return max(known, key=len, default="")


def _axis(key: str, values: list[Any], arms: Sequence[Arm]) -> Axis:
    label = _label(key, arms)
    if label:
        return _option_axis(next(arm for arm in arms if f"{arm.label}." == label), key[len(label) :], values)
    hidden = (*_BUDGET, "test_normalization")  # validation does not see the latter
    known = [field.name.replace("_", "-") for field in fields(Training) if field.name not in hidden]
    owner, dot, _ = key.rpartition(".")
    if dot:
        raise unknown("arm", owner, [arm.label for arm in arms if arm.methods() and not arm.control])
    name = key.strip().replace("-", "_")
    if name in _BUDGET:
        raise HeadstartError(
            f"The search cannot try {key!r}: budget and machine are the same for all.",
            remedy=f"Choose of {', '.join(known)}.",
        )
    if name.replace("_", "-") not in known:
        raise unknown("training setting to search:", key, known)
    return Axis(name, tuple(_typed(key, value, getattr(Training(), name)) for value in values))


def _option_axis(arm: Arm, option: str, values: list[Any]) -> Axis:
    if arm.control:
        raise HeadstartError(f"{arm.label!r} takes the options of {arm.of!r}.", remedy=f"Write {arm.of}.{option}=...")
    owners = [method for method in arm.methods() if option in method.options()]
    if not owners:
        raise unknown(f"option of the arm {arm.label!r}:", option, [o for m in arm.methods() for o in m.options()])
    if len(owners) > 1:
        names = " and ".join(method.info.name for method in owners)
        raise HeadstartError(f"In the arm {arm.label!r} both {names} have an option {option!r}.")
    default = owners[0].options()[option]
    chosen = tuple(float(v) if isinstance(default, float) and type(v) is int else v for v in values)
    axis = Axis(option, chosen, arm.label)
    try:
        for value in chosen:
            _with_options(owners[0], {option: value})
    except HeadstartError as error:
        raise HeadstartError(f"The search cannot try '{axis}': {error}") from error
    return axis


def _with_options(method: Method, options: Mapping[str, Any]) -> Method:
    if not options:
        return method
    (changed,) = resolve(type(method)(**{**method.options(), **options}))
    return changed


def _typed(key: str, value: Any, default: Any) -> Any:
    """Convert a value to the type of its field."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, (tuple, list)):
        return tuple(value)
    if type(value) is not type(default):
        kind = {float: "a number", int: "a whole number", str: "a text", tuple: "a list"}.get(type(default), "a switch")
        raise HeadstartError(f"The search cannot try {key}={value!r}: it is not {kind}.")
    return value


def _usual(axis: Axis, arm: Arm, training: Training) -> Any:
    if axis.arm:
        values = next(m.options()[axis.name] for m in parse(arm.spec) if axis.name in m.options())
    else:
        values = dict(arm.changes).get(axis.name, getattr(training, axis.name))
    return values if values in axis.values else axis.values[0]


def _product(axes: Sequence[Axis]) -> list[Configuration]:
    if (size := math.prod(len(axis.values) for axis in axes)) > _LARGEST:
        raise HeadstartError(f"The search's grid has {size:,} configurations, too many.", remedy="List fewer values.")
    names = [axis.key for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]
