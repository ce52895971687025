"""Scores of any runs: a file, rows or columns with arm, seed, score and optionally task."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from headstart.errors import DataError, HeadstartError, needs_extra

COLUMNS = ("arm", "seed", "score")
TASK = "task"
_KINDS = (".csv", ".parquet", ".jsonl", ".ndjson", ".json")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """Scores by task, arm and seed.

    Args:
        by_task: Tasks, arms and seeds, in the order of first appearance; NaN for diverged runs.
        missing: Runs without a score, each as task, arm and seed.
    """

    by_task: Mapping[str, Mapping[str, Mapping[Any, float]]]
    missing: tuple[tuple[str, str, Any], ...]

    @property
    def arms(self) -> list[str]:
        """All arms, in the order of first appearance."""
        return list(dict.fromkeys(arm for arms in self.by_task.values() for arm in arms))


def read_scores(table: Any) -> Scores:
    """Read scores from a file, rows or columns.

    Args:
        table: A path (``.csv``, ``.parquet``, or JSON lines as ``.jsonl``), rows as mappings, or a mapping of columns
            (also a data frame). An empty score is a missing run; one that is not finite is a run
            that diverged.

    Raises:
        DataError: A column is missing, a score is not a number, or a run appears twice.
        HeadstartError: The file cannot be read.
        MissingExtraError: The package that reads Parquet is not installed.

    Example:
        >>> read_scores({"arm": ["a", "b"], "seed": [0, 0], "score": [1, 2]}).by_task
        {'': {'a': {0: 1.0}, 'b': {0: 2.0}}}
    """
    rows = _rows(table)
    if not rows:
        raise DataError("The table has no row.", remedy="It needs a row for each run: arm, seed, score.")
    found: dict[str, dict[str, dict[Any, float]]] = {}
    missing = []
    for number, row in enumerate(rows, start=1):
        absent = [name for name in COLUMNS if name not in row]
        if absent:
            raise DataError(
                f"Row {number} has no {' and no '.join(map(repr, absent))}: "
                f"it has {', '.join(map(repr, row)) or 'nothing'}.",
                remedy="Name the columns arm, seed and score, and task if there are several.",
            )
        task, arm, seed = _name(row.get(TASK)), _name(row["arm"]), _seed(row["seed"])
        if not arm:
            raise DataError(f"Row {number} names no arm.")
        score = _score(row["score"], number)
        arms = found.setdefault(task, {}).setdefault(arm, {})
        if seed in arms or (task, arm, seed) in missing:
            where = f" on {task}" if task else ""
            raise DataError(f"{arm!r} has two scores for seed {seed!r}{where}.", remedy="Give each run one row.")
        if score is None:
            missing.append((task, arm, seed))
        else:
            arms[seed] = score
    if len(missing) == len(rows):
        raise DataError("No row of the table has a score.", remedy="Check the column score.")
    return Scores(found, tuple(missing))


def _rows(table: Any) -> list[Row]:
    if isinstance(table, (str, os.PathLike)):
        return _read_file(Path(table))
    if hasattr(table, "to_pylist"):  # a table of pyarrow
        return list(table.to_pylist())
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        columns = {str(name): list(table[name]) for name in getattr(table, "columns", table)}
        if len({len(values) for values in columns.values()}) > 1:
            sizes = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
            raise DataError(f"The columns differ in length: {sizes}.")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = list(table) if isinstance(table, Iterable) else [table]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"Row {number} is {type(row).__name__}, not a mapping.",
                remedy="Give a path, rows as dicts, or a dict of columns.",
            )
    return rows


def _read_file(path: Path) -> list[Row]:
    if path.suffix not in _KINDS:
        raise HeadstartError(
            f"'{path}' is none of {', '.join(_KINDS[:3])}.", remedy="Give the file the ending of its format."
        )
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        text = path.read_bytes().decode("utf-8-sig")  # line ends as they are: a quoted cell may hold one
    except OSError as error:
        raise HeadstartError(f"'{path}' could not be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not text in UTF-8.") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{key: value for key, value in row.items() if key is not None} for row in reader]
        return [{str(key).strip(): value for key, value in row.items()} for row in rows]
    return _read_lines(text, path)


def _read_lines(text: str, path: Path) -> list[Row]:
    rows: list[Row] = []
    if text.lstrip().startswith("["):
        text = _lines_of_array(text, path)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"'{path}', line {number}, is not JSON: {error}.", remedy="Write one object per line."
            ) from error
        if not isinstance(found, dict):
            raise DataError(f"'{path}', line {number}, is not an object.", remedy="Write one object per line.")
        rows.append(found)
    return rows


def _lines_of_array(text: str, path: Path) -> str:
    """Turn a JSON array of rows, as most programs write it, into lines."""
    try:
        return "\n".join(map(json.dumps, json.loads(text)))
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON: {error}.", remedy="Write one object per line, or one array.") from error


def _read_parquet(path: Path) -> list[Row]:
    with needs_extra(package="pyarrow", extra="export", what="A .parquet file"):
        import pyarrow
        from pyarrow import parquet
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"'{path}' is not a Parquet file: {error}") from error
    return rows


def _name(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def _seed(value: Any) -> Any:
    """Normalize a seed: 3, 3.0 and "3" are the same."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text)
        except ValueError:
            return text
    if isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return str(value)


def _score(value: Any, number: int) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {number}: the score {value!r} is not a number.") from error
    return found if math.isfinite(found) else math.nan
