"""The score of a command: from a JSON or CSV file, or by a pattern from its output."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError

_STEPS = ("step", "steps", "epoch", "epochs", "iteration")
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Score:
    """The result of a run.

    Args:
        value: The final value of the metric.
        curve: Points of a curve, as ``(step, value)``; empty if there is only the final value.
        steps: The number of training steps that the run reports; None if it does not.
    """

    value: float
    curve: tuple[tuple[float, float], ...] = ()
    steps: float | None = None


def read_score(path: Path, metric: str) -> Score:
    """Read a file that a command wrote.

    Args:
        path: JSON (an object), or CSV with a header; the first character decides.
        metric: The key, or the column.

    Returns:
        The score. In a CSV file the last row counts, and all rows are the curve; a column ``step`` or ``epoch`` gives
        the steps. In JSON, a key ``steps`` may give the number of steps.

    Raises:
        HeadstartError: It cannot be read, or has no such number.
    """
    if path.stat().st_size > _LARGEST:
        raise HeadstartError(f"The file of the score has {path.stat().st_size:,} bytes, too many for one.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise HeadstartError("The file of the score is not UTF-8 text.") from error
    return _from_json(text, metric) if text.lstrip().startswith("{") else _from_csv(text, metric)


def find_score(output: str, pattern: str, metric: str) -> Score:
    r"""Find the score in a command's output: the last match counts, and all matches are the curve.

    Args:
        output: The whole output.
        pattern: A regular expression. The number is its group ``value``, or else its first group, or else the match.
        metric: The metric's name, for messages.

    Raises:
        HeadstartError: Nothing matches.

    Example:
        >>> find_score("acc: 0.5\nacc: 0.75\n", r"acc: (\S+)", "accuracy").value
        0.75
    """
    found = re.compile(pattern, re.MULTILINE)
    texts = [_group(match) for match in found.finditer(output)]
    if not texts:
        raise HeadstartError(f"Nothing in the output matches the pattern {pattern!r} of '{metric}'.")
    values = [_number(text, metric) for text in texts]
    return Score(values[-1], tuple((float(i), v) for i, v in enumerate(values, 1)) if len(values) > 1 else ())


def check_pattern(pattern: str) -> None:
    """Raise if a pattern is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise HeadstartError(f"The metric's pattern {pattern!r} is not a regular expression: {error}.") from error


def _group(match: re.Match[str]) -> str:
    if "value" in match.re.groupindex:
        return match["value"]
    return match[1] if match.re.groups else match[0]


def _from_json(text: str, metric: str) -> Score:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeadstartError(f"The file of the score is not JSON: {error}.") from error
    steps = found.get("steps")
    known = isinstance(steps, (int, float)) and not isinstance(steps, bool)
    return Score(_number(_pick(found, metric, list(found), "key"), metric), steps=float(steps) if known else None)


def _from_csv(text: str, metric: str) -> Score:
    rows = [row for row in csv.DictReader(text.splitlines()) if any(value for value in row.values())]
    if not rows:
        raise HeadstartError("The file of the score is empty: it has no row beside a header.")
    columns = [str(name).strip() for name in rows[0] if name is not None]
    rows = [{str(name).strip(): value for name, value in row.items()} for row in rows]
    last = _number(_pick(rows[-1], metric, columns, "column"), metric)
    steps = next((name for name in _STEPS if name in columns), None)
    curve = []
    for place, row in enumerate(rows, 1):
        try:
            point = (float(row[steps]) if steps else float(place), float(row[metric]))
        except (TypeError, ValueError):
            continue  # a row without the metric, as of epochs that were not evaluated
        curve.append(point)
    whole = len(curve) > 1 and all(math.isfinite(x) for point in curve for x in point)
    return Score(last, tuple(curve) if whole else (), curve[-1][0] if steps and curve else None)


def _pick(found: Any, metric: str, known: Sequence[str], kind: str) -> Any:
    if metric not in found:
        listed = ", ".join(f"'{name}'" for name in list(known)[:20]) or "none"
        raise HeadstartError(f"The file of the score has no {kind} '{metric}'; it has {listed}.")
    return found[metric]


def _number(value: Any, metric: str) -> float:
    try:
        if isinstance(value, (bool, type(None), list, dict)):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise HeadstartError(f"The score '{metric}' is {value!r}, not a number.") from None
    if not math.isfinite(number):
        raise HeadstartError(f"The score '{metric}' is {number}: the training diverged.")
    return number
