"""The page on the architecture shows the rooms, imports and files that there are."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
GROUND = {"errors", "rng", "progress", "version"}
PACKAGES = ["headstart", "headstart.bench"]


@functools.cache
def imported(path):
    """Dotted names that a file imports, as far as they are files or folders of the package (a plain reading)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package imports by full names"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            place = SOURCES.joinpath(*name.split("."))
            while name and not (place.is_dir() or place.with_suffix(".py").is_file()):
                name, place = name.rpartition(".")[0], place.parent
            found.add(name)
    return found


def rooms(package):
    """Room -> the rooms that it imports."""
    folder, depth = SOURCES.joinpath(*package.split(".")), package.count(".") + 1
    found = {}
    for place in folder.iterdir():
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        if place.stem == "__init__" or not files or files[0].suffix != ".py":
            continue
        names = {n for file in files for n in imported(file) if n.startswith(f"{package}.")}
        found[place.stem] = {n.split(".")[depth] for n in names} - {place.stem}
    return found


def followed(arrows):
    """Room -> everything that can be reached from it."""
    reached = {a: set(bs) for a, bs in arrows.items()}
    for _ in arrows:
        reached = {a: bs.union(*(reached[b] for b in bs)) for a, bs in reached.items()}
    return reached


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tables_have_every_room_and_every_import(package):
    table = PAGE.partition(f"<!-- rooms: {package} -->")[2].partition("<!-- end -->")[0]
    rows = re.findall(r"^\| \[`(\w+)(?:/|\.py)`\]\([^)]*\) \| \S[^|]* \| ([^|]*) \|$", table, re.MULTILINE)
    shown = {room: set(filter(None, cell.strip().split(", "))) for room, cell in rows}
    assert shown == {room: used - GROUND for room, used in rooms(package).items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_has_every_room_and_arrows_that_stand_for_all_imports(package):
    real = {room: used - GROUND for room, used in rooms(package).items()}
    place = re.escape(package) + r"\.(\w+)"
    assert set(re.findall(f'data-room="{place}"', PICTURE)) == real.keys()
    drawn = {room: set() for room in real}
    for a, b in re.findall(f'data-arrow="{place} {place}"', PICTURE):
        assert b in real[a], f"{a} does not import {b}"
        drawn[a].add(b)
    assert followed(drawn) == followed(real)
    assert sum(map(len, drawn.values())) < sum(map(len, real.values()))


def test_the_tool_finds_nothing_to_write_again(load_tool):
    pytest.importorskip("grimp", reason="import-linter brings it (extra dev)")
    assert load_tool("architecture").stale() == [], "run python tools/architecture.py"


def test_every_file_that_the_page_names_exists():
    written = PAGE.partition("## Every room")[0]  # the tables below have links, which are followed elsewhere
    named = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|toml))`", written))
    assert [
        n for n in named if "NAME" not in n and not any((f / n).exists() for f in (SOURCES / "headstart", ROOT))
    ] == []
    assert len(named) > 50
