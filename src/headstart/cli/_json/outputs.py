"""What every command prints with ``--json``, as JSON Schemas; docs/json.md is made from them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from headstart.cli._json import bench, core
from headstart.cli._json.schema import (
    Schema,
    many,
    text,
    texts,
    thing,
    whole,
)

_NOTES = texts("sentences on how it was done")
_PAGE = text("file of the page that was written")


@functools.cache
def outputs() -> Mapping[str, Mapping[str, Schema]]:
    """The schema of each output: command, then the case, which is empty where there is one only."""
    return {
        "compare": {
            "": thing("the verdicts", bench.analysis(), page=_PAGE),
            "--dry-run": bench.forecast(),
            "--write": thing(out=text("the file that was written")),
        },
        "judge": {"": bench.judgement()},
        "init": {"": core.written(core.report("the report, a row per layer"))},
        "adapt": {"": core.written(core.adapted())},
        "diagnose": {"": core.diagnosis()},
        "bank build": {"": core.bank(written=True), "--elbow": core.elbow()},
        "bank info": {"": core.banks(), "BANK": core.bank(written=False)},
        "bank merge": {"": core.bank(written=True)},
        "bank show": {"": thing(out=text("file of the picture"), notes=_NOTES)},
        "methods": {"": many(core.method(), "every method"), "NAME": core.method()},
        "tasks": {"": many(core.task(), "every task"), "NAME": core.task()},
        "models": {"": many(core.model(), "every model that headstart has"), "NAME": core.model()},
        "protocols": {
            "": many(core.protocol(), "every protocol"),
            "NAME": core.protocol(),
            "--write": thing(out=text("the file that was written")),
        },
        "reproduce": {"": bench.reproduction(), "--dry-run": bench.reproduction_forecast()},
        "report": {"": thing("the verdicts", bench.analysis(), page=_PAGE), "several folders": bench.overview()},
        "status": {"": bench.status()},
        "export": {
            "": many(bench.trial(), "a row per trial"),
            "--curves": many(bench.point(), "a row per point of a learning curve"),
            "--out": thing(
                out=text("the file that was written"),
                rows=whole("how many rows it has"),
                columns=texts("its columns"),
            ),
        },
        "doctor": {"": core.checkup()},
    }
