"""What the hooks of the site do to a page."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def shown(load_tool):
    """A page's text as the site gets it; the site holds b.md and methods/README.md."""
    hooks = load_tool("site")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="methods/a.md"))
    files = [SimpleNamespace(src_uri=name) for name in ("b.md", "methods/README.md")]
    return lambda text: hooks.on_page_markdown(text, page=page, config=None, files=files)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Presets:\n- one\n- two\n", "Presets:\n\n- one\n- two\n"),
        ("First:\n1. one\n2. two\n", "First:\n\n1. one\n2. two\n"),
        ("- one\n  goes on\n- two\n", "- one\n  goes on\n- two\n"),
        ("```\na:\n- one\n```\n", "```\na:\n- one\n```\n"),
        ("| a |\n|---|\n| b |\n", "| a |\n|---|\n| b |\n"),
        ("[b](../b.md#c)", "[b](../b.md#c)"),
        ("[source](../../src/x.py)", "source"),
        ("[home](../../README.md)", "[home](../index.md)"),
        ("[all](../methods)", "[all](../methods/README.md)"),
        ("```\n[source](../../src/x.py)\n```", "```\n[source](../../src/x.py)\n```"),
    ],
)
def test_a_page_for_the_repository_becomes_one_of_the_site(shown, text, expected):
    assert shown(text) == expected
