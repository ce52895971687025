"""Write commands, settings and what ``--json`` prints into the documentation; ``--check`` only compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marks import table, with_block, write_or_check

from headstart.bench.settings.words import SETTINGS
from headstart.bench.specs.setting import HOW, OUTPUT, TRAINER, WHAT
from headstart.cli._command import COMMANDS, NEEDS
from headstart.cli._json.outputs import outputs

DOCS = Path(__file__).resolve().parents[1] / "docs"
SETTINGS_ON = {"experiments.md": (WHAT, OUTPUT), "training.md": (HOW,), "own-trainer.md": (TRAINER,)}
SCHEMAS = DOCS / "json-schemas.json"


def settings_table(groups: tuple[str, ...]) -> str:
    """The settings of some groups, with their values and what they mean."""
    rows = [found.row() for found in SETTINGS.values() if found.group in groups]
    return table(("setting", "values, the default first", "meaning"), rows)


def json_sections() -> str:
    """A section for each command, with a table for each output."""
    verdicts = outputs()["compare"][""]["properties"]["arms"]
    parts = []
    for command, cases in outputs().items():
        parts.append(f"## headstart {command}")
        for case, schema in cases.items():
            parts.append(f"With `{case}`: {_named(schema)}." if case else f"{_named(schema)}.".capitalize())
            inner = schema["items"] if schema["type"] == "array" else schema
            if command not in ("compare",) and inner["properties"].get("arms") == verdicts:
                parts.append("The keys are those of [headstart compare](#headstart-compare).")
            elif case == "NAME":
                parts.append("The keys are those above.")
            else:
                parts.append(table(("key", "type", "meaning"), list(_rows(inner, "", verdicts))))
    return "\n\n".join(parts)


def _named(schema: dict[str, Any]) -> str:
    what = schema.get("description", "what was written")
    return f"a list, {what}" if schema["type"] == "array" else f"an object, {what}"


def _rows(schema: dict[str, Any], before: str, verdicts: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A row per key, those of objects inside with the key before them."""
    if before and schema["properties"].get("arms") == verdicts:
        yield f"`{before}…`", "", "the keys of [headstart compare](#headstart-compare)"
        known = outputs()["compare"][""]["properties"]
        schema = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k not in known}}
    for key, each in schema["properties"].items():
        optional = "" if key in schema["required"] else "; may be missing"
        yield f"`{before}{key}`", _type(each), f"{each.get('description', '')}{optional}"
        inner, mark = each, "."
        while "items" in inner or isinstance(inner.get("additionalProperties"), dict):
            mark = f"[]{mark}" if "items" in inner else f".*{mark}"
            inner = inner["items"] if "items" in inner else inner["additionalProperties"]
        if "properties" in inner:
            yield from _rows(inner, f"{before}{key}{mark}", verdicts)


def _type(schema: dict[str, Any]) -> str:
    kinds = schema.get("type", "any")
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def pages() -> dict[Path, str]:
    """Every page as it should be."""
    wanted = {}
    for name, groups in SETTINGS_ON.items():
        page = DOCS / name
        wanted[page] = with_block(page.read_text(encoding="utf-8"), "settings", settings_table(groups))
    page = DOCS / "command-line.md"
    rows = [(f"`{name}`", text, f"`{NEEDS[name]}`" if name in NEEDS else "") for name, text in COMMANDS.items()]
    commands = table(("command", "what it is for", "extra"), rows)
    wanted[page] = with_block(page.read_text(encoding="utf-8"), "commands", commands)
    page = DOCS / "json.md"
    wanted[page] = with_block(page.read_text(encoding="utf-8"), "json", json_sections())
    lines = (f"{json.dumps(name)}: {json.dumps(cases, ensure_ascii=False)}" for name, cases in outputs().items())
    wanted[SCHEMAS] = "{\n" + ",\n".join(lines) + "\n}\n"
    return wanted


if __name__ == "__main__":
    sys.exit(write_or_check(pages, "reference_pages.py"))
