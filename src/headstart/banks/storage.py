"""A bank as a file: safetensors, with its description as JSON in the metadata.

The schema, ``headstart-bank-1``, is documented in ``docs/banks.md``. A file is read without running any code
in it, and refused if anything in it does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from headstart.banks.entry import Entry
from headstart.errors import HeadstartError, unknown
from headstart.model import checkpoints

FORMAT = "headstart-bank-1"
MAX_JSON = 1_000_000  # characters of metadata that are parsed
_SHIPPED = Path(__file__).parent / "shipped"
_TENSORS = ("centroids", "deviations", "sizes")
_FIELDS = ("kernel", "depth", "depthwise", "layer", "inertia", "norm", "whole")


def shipped() -> list[str]:
    """Names of the banks that come with the package."""
    return sorted(path.stem for path in _SHIPPED.glob(f"*{checkpoints.SAFETENSORS}"))


def locate(path: str | Path) -> Path:
    """Find a bank's file: a shipped name, or else a path.

    Raises:
        HeadstartError: There is no such bank.
    """
    if str(path) in shipped():
        return _SHIPPED / f"{path}{checkpoints.SAFETENSORS}"
    if Path(path).is_file():
        return Path(path)
    if Path(path).suffix == checkpoints.SAFETENSORS or Path(path).name != str(path):
        raise HeadstartError(f"There is no filter bank '{path}'.", remedy="'headstart bank build' writes one.")
    raise unknown("filter bank", str(path), shipped())


def write(path: str | Path, entries: Sequence[Entry], provenance: dict[str, Any], *, half: bool) -> None:
    """Write a bank. The file appears complete or not at all.

    Raises:
        HeadstartError: It cannot be written there, or its values do not fit half precision.
    """
    if Path(path).suffix != checkpoints.SAFETENSORS:
        raise HeadstartError(
            f"'{path}' does not end in {checkpoints.SAFETENSORS}.", remedy="The ending names the format."
        )
    tensors, rows = {}, []
    for index, entry in enumerate(entries):
        for name in _TENSORS:
            value = getattr(entry, name).clone(memory_format=torch.contiguous_format)
            tensors[f"{index}.{name}"] = value.half() if half and value.is_floating_point() else value
            if not bool(torch.isfinite(tensors[f"{index}.{name}"]).all()):
                raise HeadstartError(f"{entry!r} has weights beyond half precision.", remedy="Save it without half.")
        rows.append({name: getattr(entry, name) for name in _FIELDS})
    texts = {"entries": json.dumps(rows), "provenance": json.dumps(provenance)}
    for name, text in texts.items():
        if len(text) > MAX_JSON:
            raise HeadstartError(f"The bank's {name} take {len(text):,} characters, more than {MAX_JSON:,}.")
    checkpoints.write(Path(path), tensors, {"format": FORMAT, **texts})


def read(path: Path) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Read and check a bank's file.

    Raises:
        HeadstartError: It is damaged, of another format, or its values do not fit together.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise HeadstartError(
                    f"'{path}' is a safetensors file, but not a filter bank: its format is {meta.get('format')!r}, "
                    f"not '{FORMAT}'.",
                    remedy="'headstart bank build' makes a bank from weights.",
                )
            if max(len(meta["entries"]), len(meta["provenance"])) > MAX_JSON:
                raise HeadstartError(f"'{path}' has more than {MAX_JSON:,} characters of metadata.")
            rows, provenance = json.loads(meta["entries"]), json.loads(meta["provenance"])
            tensors = load_file(path)
        if set(tensors) != {f"{i}.{name}" for i in range(len(rows)) for name in _TENSORS}:
            raise ValueError(f"its tensors are not those of {len(rows)} entries")
        if not isinstance(provenance, dict):
            raise ValueError("its provenance is not an object")
        return tuple(_entry(row, tensors, i) for i, row in enumerate(rows)), provenance
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise HeadstartError(
            f"'{path}' cannot be read as a filter bank ({reason}).", remedy="It is damaged: build or copy it again."
        ) from error


def _entry(row: dict[str, Any], tensors: dict[str, torch.Tensor], index: int) -> Entry:
    if set(row) != set(_FIELDS):
        raise ValueError(f"entry {index} has the fields {sorted(row)}")
    if not all(isinstance(row[n], bool) for n in ("depthwise", "whole")) or not isinstance(row["layer"], str):
        raise ValueError(f"entry {index} has a field of the wrong type")
    if not all(isinstance(size, int) for size in row["kernel"]):
        raise ValueError(f"entry {index} has the kernel {row['kernel']}")
    numbers = {name: float(row[name]) for name in ("depth", "inertia", "norm")}
    stored = {name: tensors[f"{index}.{name}"] for name in _TENSORS}
    wide = {name: t.float() if t.dtype == torch.float16 else t for name, t in stored.items()}
    return Entry(**{**row, **numbers, **wide, "kernel": tuple(row["kernel"])})
