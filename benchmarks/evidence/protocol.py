"""The protocol: what is judged, on what, by which rule; written down, and compared with what would run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evidence import cells, data
from headstart.bench.store.store import content_key
from headstart.bench.trials.arms import parse_arm
from headstart.errors import HeadstartError

FILE = Path(__file__).resolve().parents[2] / "docs" / "results" / "protocol.json"
DRAFT, FROZEN = "a draft", "frozen"


def recipe() -> str:
    """Return the hash of `auto`: its recipes, the revisions of its methods, and the banks' content."""
    return content_key({"auto": [method.key() for method in parse_arm(cells.AUTO).methods()]})[:16]


def described(status: str) -> dict[str, Any]:
    """Collect all that the protocol fixes, as it is in the code now.

    Args:
        status: `DRAFT` or `FROZEN`.
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
                "matched": cells.NETWORKS[cell.network].matched,
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
        "arms": [{"arm": arm.label, "spec": arm.spec, "control": arm.control} for arm in cells.judged_arms("vit")],
        "seeds": cells.SEEDS,
        "batch": cells.BATCH,
        "margin": cells.MARGIN,
        "decay": dict(cells.DECAY),
    }


def check(path: Path = FILE) -> None:
    """Refuse to judge by anything but a frozen protocol that says what would run.

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
    now = json.loads(json.dumps(described(FROZEN)))
    changed = sorted(key for key in now.keys() | written.keys() if now.get(key) != written.get(key))
    if changed:
        raise HeadstartError(
            f"What would run is not what '{path.name}' says: {', '.join(changed)} changed since it was frozen.",
            remedy="Go back to the commit that the protocol names, or freeze anew and judge on fresh tasks.",
        )


def write(status: str, path: Path = FILE) -> None:
    """Write the protocol's file as the code has it now.

    Raises:
        HeadstartError: If it is frozen already, or a cell's length was never measured and it is to be frozen.
    """
    if path.exists() and json.loads(path.read_text())["status"] == FROZEN:
        raise HeadstartError(f"'{path.name}' is frozen.", remedy="Another recipe needs another judging on fresh tasks.")
    what = described(status)
    assumed = [each["cell"] for each in what["cells"] if not each["measured"]]
    if status == FROZEN and assumed:
        raise HeadstartError(
            f"The lengths of {', '.join(assumed)} were not measured.",
            remedy="Run first: python benchmarks/frozen.py lengths",
        )
    path.write_text(json.dumps(what, indent=1) + "\n")
