"""The pages in a real browser: what runs, what is asked for, what is seen, in light and dark, wide and narrow."""

import itertools
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from headstart.bench import Store, analyse
from headstart.bench.report.overview import combine
from headstart.bench.report.overview_page import write_overview
from headstart.bench.report.page import write_report
from headstart.results.display import printable

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing (extra test)")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = (
    "<script>window.hit=1;alert(1)</script>",
    '"><img src=x onerror="window.hit=1;alert(1)">',
    "' onmouseover='window.hit=1' onfocus='alert(1)",
    "</style></svg><script>window.hit=1</script>",
    "javascript:alert(1)",
    "bell\x07 \u202eright to left\u202c nul\x00 \ud7ff\u2028",
    "{{ 7*7 }}{% raise %}${7*7}",
    "]]>&lt;b&gt;&#0;",
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, BROWSERS)), None) or driver.chromium.executable_path
        if not Path(found).exists():
            pytest.skip(
                f"no browser: none of {', '.join(BROWSERS)} is on the PATH, nor has playwright installed its own"
            )
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox for root
        browser = driver.chromium.launch(executable_path=found, args=[*QUIET, *sandbox])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, fill_store, make_result):
    """The page of one experiment and the page over two, with hostile names wherever a name can stand."""
    root = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)

    def layer(name):
        weights = [float(v) for v in rng.normal(size=4 * 3 * 5 * 5)]
        measures = {part: {"norm": 1.0, "brightness_share": 0.1} for part in ("default", "start", "trained")}
        kinds = {"name": name, "kind": "Conv2d", "shape": [4, 3, 5, 5], "kept": 4, "kept_direction": 0.9}
        return {**kinds, "measures": measures, "default": weights, "start": weights, "trained": weights}

    def noisy(mean, **changes):
        curve = (10.0, 80.0 + mean - 90, mean + 1)
        tests = rng.normal(mean, 0.2, 8)
        return {i: make_result(float(a), tuple(c + a - mean for c in curve), **changes) for i, a in enumerate(tests)}

    def store(folder, task, extra):
        results = {"default": noisy(90, first_layer=layer(HOSTILE[0]))}
        results |= {
            name: noisy(90 + i / 4, init_seconds=0.01, first_layer=layer(name)) for i, name in enumerate(HOSTILE)
        }
        results |= {f"control of {HOSTILE[0]}": noisy(90), "default, other draw": noisy(90)}
        results |= {
            extra: {i: {"status": "refused", "reason": f"refused, {HOSTILE[0]} {HOSTILE[1]}"} for i in range(8)}
        }
        results |= {"late": dict.fromkeys(range(8))}
        return fill_store(
            Store(folder),
            results,
            controls={
                f"control of {HOSTILE[0]}": ("matched-random", HOSTILE[0]),
                "default, other draw": ("null", "default"),
            },
            methods={name: [f"Method({name})"] for name in HOSTILE},
            threads=lambda label, seed: HOSTILE[1] if seed else 2,
            task={"name": task, "description": f"{task}: 10 classes", "classes": 10},
            model={"name": HOSTILE[3], "parameters": 5},
        )

    single = store(root / '"><img src=x onerror=alert(1)>', HOSTILE[0], "refused")
    other = store(root / "other", HOSTILE[1], "refused, too")
    return {
        "single": write_report(single, analyse(single)),
        "combined": write_overview(combine([single.folder, other.folder]), root / "combined"),
    }


@dataclass
class Opened:
    """A page with all that it did while it was opened."""

    page: object
    messages: list = field(default_factory=list)
    requests: list = field(default_factory=list)


@pytest.fixture
def visit(browser, pages):
    """Open a page by name; the network is off."""
    contexts = []

    def call(name, width=1200, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda m: opened.messages.append(m.text))
        opened.page.on("pageerror", lambda e: opened.messages.append(str(e)))
        opened.page.on("dialog", lambda d: (opened.messages.append(d.message), d.dismiss()))
        opened.page.on("request", lambda r: opened.requests.append(r.url))
        opened.page.goto(pages[name].as_uri())
        opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return opened

    yield call
    for context in contexts:
        context.close()


both = pytest.mark.parametrize("name", ["single", "combined"])
schemes = pytest.mark.parametrize("scheme", ["light", "dark"])


@both
def test_the_page_runs_nothing_and_asks_for_nothing(visit, pages, name):
    opened = visit(name)
    for element in opened.page.locator("[tabindex], summary").all():
        element.focus()
        element.hover()
    assert opened.messages == []
    assert {url for url in opened.requests if not url.startswith("data:")} == {pages[name].as_uri()}
    assert opened.page.evaluate("window.hit") is None
    assert opened.page.locator("script, iframe, object, embed, form, [onerror], [onmouseover], [onfocus]").count() == 0
    assert opened.page.locator("a[href]").count() == 0


@both
def test_hostile_names_are_shown_as_they_are(visit, name):
    text = visit(name).page.locator("body").text_content()
    for hostile in HOSTILE:
        assert printable(hostile) in text
    assert "refused, " + HOSTILE[0] in text
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", text)


@both
@schemes
def test_every_figure_is_seen_and_has_a_name(visit, name, scheme):
    page = visit(name, scheme=scheme).page
    figures = page.locator("svg:not([aria-hidden]), img")
    assert figures.count() == (3 + 3 * 9 if name == "single" else 2)
    assert page.get_by_role("img", name=re.compile(r"\w")).count() == figures.count()
    for figure in figures.all():
        box = figure.bounding_box()
        assert figure.is_visible()
        assert box["width"] >= 100
        assert box["height"] >= 40
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    drawn = page.locator("svg[role=img] :is(path, use)").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().width > 0).length"
    )
    assert drawn > 50


CONTRAST = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), svg = element.closest("svg");
    const inks = [light(parts(svg ? style.fill : style.color)), light(behind(element))].sort((x, y) => y - x);
    found.push([(inks[0] + 0.05) / (inks[1] + 0.05), node.textContent.trim()]);
  }
  return found;
}"""


@both
@schemes
def test_all_text_has_the_contrast_that_wcag_asks_for(visit, name, scheme):
    page = visit(name, scheme=scheme).page
    found = page.evaluate(CONTRAST)
    assert len(found) > 100
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (max(red, green, blue) < 60) == (scheme == "dark")


@both
@pytest.mark.parametrize("width", [360, 768])
def test_the_page_does_not_scroll_sideways(visit, name, width):
    page = visit(name, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator("main *:visible").evaluate_all(
        "(all, width) => all.filter(e => !e.closest('.wide') && e.getBoundingClientRect().right > width + 0.5)"
        ".map(e => e.outerHTML.slice(0, 80))",
        width,
    )
    assert wide == []
    for region in page.locator(
        ".wide"
    ).all():  # what is wider than the page scrolls by keyboard, too, and says what it is
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")


@both
def test_headings_follow_each_other_and_name_their_sections(visit, name):
    page = visit(name).page
    levels = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all("all => all.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(page.locator("h1, h2, h3").evaluate_all("all => all.map(e => e.textContent.trim() !== '')"))
    assert page.get_by_role("region", name="Verdicts", exact=True).count() == 1


@both
def test_tables_have_header_cells_for_rows_and_columns(visit, name):
    page = visit(name).page
    shapes = page.locator("table").evaluate_all(
        "all => all.map(t => ["
        " [...t.tHead.rows[0].cells].every(c => c.tagName === 'TH' && c.scope === 'col' && c.textContent.trim()),"
        " [...t.tBodies].flatMap(b => [...b.rows]).every(r => r.cells[0].tagName === 'TH' && r.cells[0].scope),"
        " new Set([...t.rows].map(r => [...r.cells].reduce((n, c) => n + c.colSpan, 0))).size])"
    )
    assert len(shapes) >= 2
    assert shapes == [[True, True, 1]] * len(shapes)
