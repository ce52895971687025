"""Every method has a page that says what the registry says, and whose examples run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.engine import registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "methods").glob("*.md"))
EXAMPLES = [
    pytest.param(page, number, id=f"{page.stem}-{number}")
    for page in [*PAGES, DOCS / "adding-a-method.md"]
    for number in range(page.read_text(encoding="utf-8").count("```python"))
]


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("method_pages")


def test_pages_say_what_the_registry_says(tool: ModuleType) -> None:
    for page, text in tool.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run python tools/method_pages.py"


@pytest.mark.parametrize("name", hs.list_methods())
def test_every_method_names_its_options_presets_and_deviations(name: str, tool: ModuleType) -> None:
    cls, text = registry.get(name), tool.page_of(name).read_text(encoding="utf-8")
    own = text.partition(f"<!-- registry: {name} -->")[2].partition("<!-- end -->")[0]
    meanings = tool.arguments(cls)
    for option in fields(cls):  # type: ignore[arg-type]
        assert f"| `{option.name}` | `{option.default!r}` | {meanings[option.name]} |" in own
        assert len(meanings[option.name]) > 10, f"{option.name} is not explained"
    for preset in cls.info.presets:
        assert f"`{name}:{preset}`" in own
        registry.parse(f"{name}:{preset}")
    for sentence in (*cls.info.deviations, cls.info.reference, cls.info.cost):
        assert sentence in own
    assert f"`{name}`" in (DOCS / "methods" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", hs.list_methods())
def test_no_method_is_half_written(name: str, tool: ModuleType) -> None:
    source = Path(inspect.getfile(registry.get(name)))
    for path in (source, tool.page_of(name)):
        assert "TODO" not in path.read_text(encoding="utf-8"), f"{path.name} is not written yet"


def test_no_page_is_about_a_method_that_is_gone(tool: ModuleType) -> None:
    known = {tool.page_of(name).name for name in hs.list_methods()} | {"README.md"}
    assert {page.name for page in PAGES} == known
    marks = {m for page in PAGES for m in re.findall(r"<!-- registry: (\S+) -->", page.read_text(encoding="utf-8"))}
    assert marks == {*hs.list_methods(), "index"}


@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_examples_run(page: Path, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    hs.list_methods()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr("headstart.conformance.CHECKS", hs_conformance_sample())
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "__name__": "__main__",
        "hs": hs,
        "torch": torch,
        "images": torch.rand(32, 3, 12, 12),
        "model": nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 4)),
    }
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks[: number + 1] if page.stem == "adding-a-method" else [blocks[number]]:
        exec(compile(block, f"{page.name}, example {number}", "exec"), names)


def hs_conformance_sample() -> tuple[Any, ...]:
    """A few checks stand for all: the whole suite has tests of its own."""
    from headstart import conformance

    return conformance.CHECKS[::8]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_specs_on_the_command_line_parse(page: Path) -> None:
    commands = "".join(re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    specs = re.findall(r"--method (\S+)", commands)
    for arms in re.findall(r"--arms (.*)", commands):
        specs += arms.partition(" --")[0].split()
    assert specs or page.stem in ("README", "auto")
    for spec in specs:
        assert registry.parse(spec)


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "results").glob("*.md"))],
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
