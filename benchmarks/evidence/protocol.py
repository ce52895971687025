"""The protocol: what is judged, on what, by which rule; written down, and compared with what would run."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

from evidence import cells, data
from headstart.bench.models.zoo import ZOO
from headstart.bench.store.store import content_key
from headstart.bench.trials.arms import parse_arm
from headstart.engine import specs
from headstart.errors import HeadstartError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "results" / "protocol.json"
DRAFT, FROZEN = "a draft", "frozen"


def recipe() -> str:
    """Return the hash of `auto`: its recipes, the revisions of its methods, and the banks' content."""
    return content_key({"auto": methods(cells.AUTO)})[:16]


def methods(spec: str) -> list[str]:
    """Return what names a start's methods: their options, the content of banks, and their revisions."""
    return [method.key() for method in parse_arm(spec).methods()]


def code() -> dict[str, str]:
    """Return the hash of each file that builds a network, by its name."""
    files = set()
    for network in cells.NETWORKS.values():
        kind, name = specs.head(network.model)
        built_in = kind == "headstart"
        files.add(Path(inspect.getfile(ZOO[specs.head(name)[0]].build)) if built_in else ROOT / kind)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def packs(folder: Path) -> dict[str, str]:
    """Return the hash of what each pack holds, by side and name; of those that are there."""
    found = {f"{side}-{name}": data.content(side, name, folder) for side, named in data.SIDES.items() for name in named}
    return {name: content for name, content in found.items() if content is not None}


def described(status: str, folder: Path) -> dict[str, Any]:
    """Collect all that the protocol fixes, as it is in the code now.

    Args:
        status: `DRAFT` or `FROZEN`.
        folder: Of the packs.
    """
    judging = data.SIDES[data.JUDGING]
    return {
        "status": status,
        "recipe": recipe(),
        "cells": [
            {
                "cell": cell.name,
                "network": cells.NETWORKS[cell.network].model.rpartition("/")[2],
                "kind": cells.NETWORKS[cell.network].kind,
                "data": judging[cell.data].what,
                "images": cell.images,
                "optimizer": cell.optimizer,
                "epochs": cell.training(()).epochs,
                "measured": cell.name in cells.measured(),
                "matched": (matched := cells.NETWORKS[cell.network].matched),
                "matched_methods": methods(matched) if matched else [],
                "rates": list(cells.RATES[cell.optimizer]),
                "augment": list(judging[cell.data].augment),
            }
            for cell in cells.CORE
        ],
        "data": [
            {"name": name, "side": side, "what": source.what, "test": source.test, "sizes": list(source.sizes)}
            for side in (data.DEVELOPMENT, data.JUDGING)
            for name, source in data.SIDES[side].items()
        ],
        "arms": [
            {
                "arm": arm.label,
                "spec": arm.spec,
                "control": arm.control,
                "methods": [method.key() for method in arm.methods()],
            }
            for arm in cells.judged_arms("vit")
        ],
        "code": code(),
        "packs": packs(folder),
        "seeds": cells.SEEDS,
        "batch": cells.BATCH,
        "margin": cells.MARGIN,
        "decay": dict(cells.DECAY),
    }


def check(folder: Path, path: Path = FILE) -> None:
    """Refuse to judge by anything but a frozen protocol that says what would run.

    Args:
        folder: Of the packs. One that is there on one side alone, then or now, is no difference: it is drawn by the
            same rule.
        path: The protocol.

    Raises:
        HeadstartError: If it is a draft, or the code says something else by now.
    """
    written = json.loads(path.read_text()) if path.exists() else {"status": "not there"}
    if written["status"] != FROZEN:
        raise HeadstartError(
            f"The protocol '{path.name}' is {written['status']}: nothing is judged by it.",
            remedy="End the development, then: python benchmarks/frozen.py freeze; and commit it before the first "
            "judged trial. --rehearse runs the same on the development side.",
        )
    now = json.loads(json.dumps(described(FROZEN, folder)))
    both = now["packs"].keys() & written.get("packs", {}).keys()
    for each in (now, written):
        each["packs"] = {name: content for name, content in each.get("packs", {}).items() if name in both}
    changed = sorted(key for key in now.keys() | written.keys() if now.get(key) != written.get(key))
    if changed:
        raise HeadstartError(
            f"What would run is not what '{path.name}' says: {', '.join(changed)} changed since it was frozen.",
            remedy=f"Go back to the commit that froze it (git log -1 -- docs/results/{path.name}), and to the packs"
            " that were there then. Another recipe needs another judging on fresh tasks.",
        )


def write(status: str, folder: Path, path: Path = FILE) -> None:
    """Write the protocol's file as the code has it now.

    Raises:
        HeadstartError: If it is frozen already, or a cell's length was never measured and it is to be frozen.
    """
    if path.exists() and json.loads(path.read_text())["status"] == FROZEN:
        raise HeadstartError(f"'{path.name}' is frozen.", remedy="Another recipe needs another judging on fresh tasks.")
    what = described(status, folder)
    assumed = [each["cell"] for each in what["cells"] if not each["measured"]]
    if status == FROZEN and assumed:
        raise HeadstartError(
            f"The lengths of {', '.join(assumed)} were not measured.",
            remedy="Run first: python benchmarks/frozen.py lengths",
        )
    path.write_text(json.dumps(what, indent=1) + "\n")
