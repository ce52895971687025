"""Stored trials as a tidy table: one row per trial, or one per point of a learning curve."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.bench.store.store import Store
from headstart.errors import HeadstartError, needs_extra
from headstart.results.whole_file import whole_file

_RESULT = (
    "score",
    "test_accuracy",
    "test_loss",
    "validation_accuracy",
    "area",
    "init_seconds",
    "train_seconds",
    "step_seconds",
)
_POINT = ("step", "score", "accuracy", "loss", "train_loss")
_NAMES = ("task", "model", "arm", "spec", "control", "of", "changes", "weights_draw", "seed", "key", "status", "reason")
TRIALS = (*_NAMES, *_RESULT)
CURVES = (*_NAMES[:-2], "status", *_POINT)

Row = dict[str, Any]


def trials(store: Store) -> list[Row]:
    """List the stored trials of an experiment, with refused ones, in the experiment's order.

    Args:
        store: The store of an experiment that was at least begun; it may be running.

    Returns:
        A row per trial with the columns `TRIALS`; None for missing values.

    Raises:
        HeadstartError: If the folder holds no experiment.
    """
    return [
        {**names, "reason": _text(result.get("reason") or None), **{name: result.get(name) for name in _RESULT}}
        for names, result in _read(store)
    ]


def curves(store: Store) -> list[Row]:
    """List the points of the learning curves on validation, with the columns `CURVES`.

    Args:
        store: As for :func:`trials`.

    Raises:
        HeadstartError: If the folder holds no experiment.
    """
    return [
        {**names, **{name: point.get(name) for name in _POINT}}
        for names, result in _read(store)
        for point in result.get("curve", ())
    ]


def _read(store: Store) -> Iterator[tuple[Row, Mapping[str, Any]]]:
    plan = store.read_experiment()
    arms = {arm["label"]: arm for arm in plan["arms"]}
    records = store.present(cell["key"] for cell in plan["trials"])
    for cell in plan["trials"]:
        if cell["key"] not in records:
            continue
        arm, result = arms[cell["arm"]], records[cell["key"]].result
        names = {
            "task": plan["task"]["name"],
            "model": plan["model"]["name"],
            "arm": arm["label"],
            "spec": arm["spec"],
            "control": arm["control"] or None,
            "of": arm["of"] or None,
            "changes": ", ".join(f"{name}={value}" for name, value in arm.get("changes", ())) or None,
            "weights_draw": arm["weights_draw"],
            "seed": cell["seed"],
            "key": cell["key"],
            "status": result["status"],
        }
        yield {name: _text(value) for name, value in names.items()}, result


def _text(value: Any) -> Any:
    """Turn a name that UTF-8 cannot hold, as from a path, into one that it can."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def to_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Write rows as CSV (RFC 4180): numbers in full precision, None as an empty cell.

    Example:
        >>> to_csv([{"arm": "a,b", "seed": 0, "loss": None}], ("arm", "seed", "loss")).splitlines()
        ['arm,seed,loss', '"a,b",0,']
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def save(rows: Sequence[Row], columns: Sequence[str], path: str | os.PathLike[str], force: bool = False) -> Path:
    """Write rows to a file, complete or not at all.

    Args:
        rows: From :func:`trials` or :func:`curves`.
        columns: The columns, in the order of the file.
        path: Ends with ``.csv`` or ``.parquet``.
        force: Replace an existing file.

    Returns:
        The path.

    Raises:
        HeadstartError: If the ending is another one, or the file exists or cannot be written.
        MissingExtraError: If Parquet is asked for and what writes it is not installed.
    """
    target = Path(path)
    if target.suffix not in (".csv", ".parquet"):
        raise HeadstartError(f"'{target}' is neither .csv nor .parquet.", remedy="Use one of the two endings.")
    if target.exists() and not force:
        raise HeadstartError(f"'{target}' exists.", remedy="Pass --force to replace it.")
    content = to_csv(rows, columns).encode("utf-8") if target.suffix == ".csv" else _parquet(rows, columns)
    try:
        with whole_file(target) as part:
            part.write_bytes(content)
    except OSError as error:
        raise HeadstartError(f"'{target}' could not be written: {error.strerror or error}.") from error
    return target


def _parquet(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    with needs_extra(package="pyarrow", extra="export", what="A .parquet file"):
        import pyarrow
        from pyarrow import parquet
    whole, text = ("weights_draw", "seed", "step"), (*_NAMES[:7], "key", "status", "reason")
    kinds = {**dict.fromkeys(whole, pyarrow.int64()), **dict.fromkeys(text, pyarrow.string())}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns])
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), buffer)
    return buffer.getvalue()
