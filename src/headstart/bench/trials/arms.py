"""Arms (a label and a start), and the control arms of a fair comparison."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.engine import specs
from headstart.engine.method import Method
from headstart.engine.registry import get, list_methods, parse
from headstart.errors import HeadstartError, UnknownNameError, unknown

DEFAULT = "default"
EQUAL_STEPS = "equal-steps"
RESTARTS = "restarts"
CONTROLS = ("matched-random", "zero-dc-random", EQUAL_STEPS, RESTARTS, "null")
"""Every kind of control arm; `headstart.bench.analysis.controls` says what each shows."""


@dataclass(frozen=True)
class Arm:
    """One start.

    Args:
        label: Its name in tables and figures.
        spec: The method's spec; ``"default"`` keeps the weights that the constructor drew.
        control: ``""`` for an arm under test, or the kind of control: a key of `CONTROLS`.
        of: The label of the arm that it is a control of.
        weights_draw: 0 for the default weights that all arms share; other numbers for other draws.
        changes: Training settings of this arm that differ: fields of `Training` with their values.
    """

    label: str
    spec: str = DEFAULT
    control: str = ""
    of: str = ""
    weights_draw: int = 0
    changes: tuple[tuple[str, Any], ...] = ()

    def methods(self) -> list[Method]:
        """Return the methods to apply, in order; none for the default start.

        Raises:
            UnknownNameError: If the spec names no known method or option.
        """
        methods = [] if self.spec == DEFAULT else parse(self.spec)
        if self.control in ("", EQUAL_STEPS, "null"):
            return methods
        if self.control == RESTARTS:
            return [m.on_all_data() or m for m in methods]
        return [get(self.control)(of=spec_of(m)) if fills_convolutions(m) else m for m in methods]  # type: ignore[call-arg]


def parse_arm(text: str) -> Arm:
    """Read an arm from the command line: a spec, or ``label=spec``.

    A label is one line of printable characters; repeated blanks count as one. It has no ``:`` and no
    ``=``, which belong to specs, and no comma, which separates arms.

    Raises:
        HeadstartError: If the label or the spec is empty, or the label cannot be printed.
        UnknownNameError: If the spec names no known method or option.

    Example:
        >>> parse_arm("prewarm:fraction=0.25").label, parse_arm("quarter=prewarm:fraction=0.25").label
        ('prewarm:fraction=0.25', 'quarter')
    """
    label, spec = specs.labelled(text)
    if not label or not spec:
        raise HeadstartError(f"{text!r} is not an arm.", remedy="Write a method's spec, or label=spec.")
    if not label.isprintable():
        hidden = ", ".join(sorted({ascii(character) for character in label if not character.isprintable()}))
        raise HeadstartError(
            f"The label {label!r} holds what cannot be printed: {hidden}.", remedy="Give the arm another: label=spec."
        )
    arm = Arm(label, spec)
    arm.methods()
    return arm


def parse_arms(texts: Sequence[str]) -> list[Arm]:
    """Read several arms, as separate texts or joined by commas.

    A comma before a method's name separates two arms; any other belongs to a method's options. An arm with a
    label must be a separate text.

    Raises:
        HeadstartError: If one is not an arm.
        UnknownNameError: If a spec names no known method or option.

    Example:
        >>> [arm.spec for arm in parse_arms(["default,prewarm:fraction=0.25,scale=match,lsuv"])]
        ['default', 'prewarm:fraction=0.25,scale=match', 'lsuv']
    """
    return [arm for text in texts for arm in _arms_of(text)]


def _arms_of(text: str) -> list[Arm]:
    try:
        return [parse_arm(part) for part in _apart(text)]
    except UnknownNameError as error:
        raise UnknownNameError(error.message, remedy=f"{error.remedy} {_label_in(text)}".strip()) from error


def _apart(text: str) -> list[str]:
    """Split a text into arms."""
    first, *rest = text.split(",")
    arms = [first]
    for part in rest:
        if _names_a_method(part) or ":" not in arms[-1]:
            arms.append(part)
        else:
            arms[-1] += f",{part}"
    return arms


def _names_a_method(spec: str) -> bool:
    return re.split("[:+,]", spec.strip())[0].strip() in {DEFAULT, *list_methods()}


def _label_in(text: str) -> str:
    """If a text that was not understood may be meant as a label, say which characters a label cannot have."""
    places = [match.start() for match in re.finditer("=", text)]
    label = next((text[:i] for i in places if _names_a_method(text[i + 1 :])), "")
    wrong = [character for character in ",:=" if character in label]
    return f"If {label.strip()!r} is a label: it cannot hold {' or '.join(map(repr, wrong))}." if wrong else ""


def with_controls(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Add the default arm if it is missing, the controls of each method, and the null.

    Each method gets the default start with more steps, whose number is measured when the experiment is
    prepared. A method that fills convolutions also gets random filters that share one property with its own; one
    that trains on samples also gets the same amount of training on all images.

    Args:
        arms: The arms under test; the result starts with the default arm.

    Raises:
        HeadstartError: If two arms have one label.

    Example:
        >>> [arm.label for arm in with_controls([parse_arm("lsuv")])]
        ['default', 'lsuv', 'equal-steps of lsuv', 'default, other draw']
    """
    first, *others = with_default(arms)
    listed = [first]
    for arm in others:
        listed.append(arm)
        if any(fills_convolutions(method) for method in arm.methods()):
            listed += [
                replace(arm, label=f"{control} of {arm.label}", control=control, of=arm.label)
                for control in ("matched-random", "zero-dc-random")
            ]
        if any(method.on_all_data() for method in arm.methods()):
            listed.append(replace(arm, label=f"{RESTARTS} of {arm.label}", control=RESTARTS, of=arm.label))
        if arm.methods():
            more = replace(first, label=f"{EQUAL_STEPS} of {arm.label}", control=EQUAL_STEPS, of=arm.label)
            listed.append(more)
    listed.append(replace(first, label=f"{first.label}, other draw", control="null", of=first.label, weights_draw=1))
    return check_labels(listed)


def with_default(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Put the default arm first, adding it if it is missing."""
    default = next((arm for arm in arms if arm.spec == DEFAULT), Arm(DEFAULT))
    return check_labels([default, *(arm for arm in arms if arm is not default)])


def check_labels(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Raise if two arms have the same label."""
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise HeadstartError(f"Two arms are called {label!r}.", remedy="Give one another name: label=spec.")
    return tuple(arms)


def check_primary(primary: str, arms: Sequence[Arm]) -> None:
    """Raise if the question is none of the arms under test."""
    methods = [arm.label for arm in arms[1:] if not arm.control]
    if primary and primary not in methods:
        raise unknown("arm to judge first", primary, methods)


def check_starts(arms: Sequence[Arm]) -> None:
    """Raise if an arm's method does not exist, or if two arms under test are the same start.

    A control may equal another arm: it then shares its trials.
    """
    owners: dict[str, str] = {}
    for arm in arms:
        start = repr(([method.spelled() for method in arm.methods()], arm.weights_draw, sorted(arm.changes)))
        if not arm.control and owners.setdefault(start, arm.label) != arm.label:
            raise HeadstartError(
                f"The arms {owners[start]!r} and {arm.label!r} are the same start.", remedy="Leave out one."
            )


def fills_convolutions(method: Method) -> bool:
    """Tell whether a method writes only convolutions, and is not a control itself."""
    return method.info.scope != "all layers" and method.info.name not in CONTROLS


def spec_of(method: Method) -> str:
    """Write a configured method as a spec that parses back to it.

    Example:
        >>> spec_of(parse("prewarm:fraction=0.25")[0])
        'prewarm:fraction=0.25'
    """
    plain = {field.name: field.default for field in method.option_fields()}
    return specs.write(method.info.name, {k: v for k, v in method.options().items() if v != plain[k]})
