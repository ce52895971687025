import base64
import itertools
import re
import struct
import sys
import zlib
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from headstart.bench import Arm, Store, Training, analyse, run
from headstart.bench.report.page import render, write_report
from headstart.bench.report.pictures import filter_picture
from headstart.bench.report.summary import markdown
from headstart.bench.runs.experiment import Experiment
from headstart.bench.statistics.sentences import say
from headstart.errors import MissingExtraError
from headstart.results.display import printable
from headstart.results.sheet import inert

HOSTILE = "<script>alert('x')</script>&\"|$\\frac{1}{0}$ ]]> -->\x07{{ 7*7 }}"
VOID = {"meta", "link", "img", "br", "line", "path", "use", "rect", "stop", "input", "hr"}


class Page(HTMLParser):
    """Collects what a test asks about, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.errors = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished experiment with a method, its controls, a null arm and a hostile label."""
    root = tmp_path_factory.mktemp("page")
    (root / "data.py").write_text(
        "import numpy as np\ndef load():\n    rng = np.random.default_rng(0)\n"
        "    return rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 2\n"
    )
    arms = (
        Arm("default"),
        Arm("prewarm", "prewarm"),
        Arm(HOSTILE, "orthogonal"),
        Arm("matched-random of prewarm", "prewarm", "matched-random", "prewarm"),
        Arm("equal-steps of prewarm", control="equal-steps", of="prewarm", changes=(("steps", 7),)),
        Arm("default, other draw", control="null", of="default", weights_draw=1),
    )
    experiment = Experiment(
        arms,
        (0, 1, 2),
        f"{root / 'data.py'}:load",
        training=Training(steps=4, batch_size=8, evaluations=2, calibration=16),
        auto=(),
    )
    store = Store(root / "store")
    run(experiment, store, command=["headstart", "compare", "--arms", HOSTILE])
    return store


@pytest.fixture(scope="module")
def html(folder):
    return render(analyse(folder))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_is_well_formed(html, page):
    assert html.lstrip().startswith("<!doctype html>")
    assert page.errors == []
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for pointer in re.findall(r'(?:url\(#|href="#)([^)"]+)', html):
        assert pointer in ids


def test_the_page_asks_for_nothing_outside_itself(html, page):
    assert not page.all("script")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    addresses = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_a_hostile_name_is_text_and_nothing_else(html, page):
    assert "<script" not in html.lower()
    assert "&lt;script&gt;alert" in html
    assert "{{ 7*7 }}" in html
    assert "\x07" not in html
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_a_hostile_name_is_inert_in_markdown(folder):
    text = markdown(analyse(folder))
    assert "<script" not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}


NAMES = st.one_of(
    st.text(max_size=30), st.lists(st.sampled_from([*"-+#=~.)(>![]<&;_*`|:/\\1x@ ", "&lt;", "http://a.b"])).map("".join)
)


@given(NAMES)
@settings(deadline=None, max_examples=300)
def test_any_name_is_plain_text_to_a_markdown_reader(name):
    (item,) = [t for t in MarkdownIt("commonmark").parse(f"- x {inert(name)}") if t.type == "inline"]
    assert {token.type for token in item.children} <= {"text", "text_special"}
    assert "".join(token.content for token in item.children) == f"x {printable(' '.join(name.split()))}".rstrip()
    kinds = {token.type for token in MarkdownIt("commonmark").parse(f"- {inert(name)}")}
    assert kinds <= {"bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"} | {
        "paragraph_open",
        "paragraph_close",
        "inline",
    }


def test_the_page_can_be_read_by_all(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    assert all(figure.get("aria-label") or figure.get("aria-hidden") for figure in page.all("svg"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    for section in page.all("section"):
        assert section["aria-labelledby"] in {a.get("id") for _, a in page.tags}


def test_every_figure_verdict_and_trial_is_there(folder, html, page):
    analysis = analyse(folder)
    assert len([svg for svg in page.all("svg") if svg.get("role") == "img"]) == 3
    assert len(page.all("img")) == 3 * len(analysis.arms)
    assert len(page.all("article")) == len(analysis.methods) == 2
    for arm in analysis.arms:
        for result in arm.results.values():
            assert result["key"][:12] in html
    first = analysis.methods[0]
    for said in (*say(first.comparison)[::2], first.aside()):
        assert escape(said, quote=True).replace("&#x27;", "&#39;") in html
    for rule in analysis.rules():
        assert rule.replace("'", "&#39;") in html
    assert "prefers-color-scheme: dark" in html


def test_figures_use_the_pages_colours_only(html):
    figures = re.findall(r"<svg role.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) == 3
    for figure in figures:
        assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", figure)) == set()
        assert "var(--ink)" in figure
        assert "var(--hue-1)" in figure


def test_the_page_is_the_same_every_time(folder, html):
    assert render(analyse(folder)) == html


def test_both_reports_are_written_beside_the_trials(folder):
    path = write_report(folder)
    assert path == folder.folder / "report.html"
    assert (folder.folder / "report.md").read_text().startswith("# prewarm and ")


def test_an_experiment_with_nothing_finished_has_a_page(folder):
    analysis = analyse(folder)
    empty = tuple(replace(arm, results={}, comparison=None) for arm in analysis.arms)
    page = Page(render(replace(analysis, arms=empty, beyond=(), missing=15)))
    assert page.errors == []
    assert not page.all("img")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"headstart\[bench\]"):
        render(analyse(folder))


def decode(source):
    """Read the PNG back: the pixels, row by row."""
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    at, body = 8, b""
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, chunk = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + chunk)
        body += chunk if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 4 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 4)


def layer(weights):
    values = [float(v) for v in weights.flatten()]
    return {"shape": list(weights.shape), "kept": len(weights), "start": values}


def test_gray_filters_go_from_blue_through_white_to_red():
    weights = np.zeros((9, 1, 3, 3))
    weights[0, 0, 0] = (-1, 0, 1)
    source, width, height = filter_picture(layer(weights), "start", 1.0)
    pixels = decode(source)
    assert (width, height) == (8 * 4 - 1, 2 * 4 - 1) == pixels.shape[1::-1]
    assert pixels[0, :3, :3].tolist() == [[33, 102, 172], [247, 247, 247], [178, 24, 43]]
    assert pixels[0, 3, 3] == 0  # the gap is clear


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 7, 3, 3), (2, 2, 9), (3, 16), (3, 15), (2, 1, 3, 3, 3)])
def test_filters_of_every_shape_have_a_picture(shape):
    weights = np.random.default_rng(0).normal(size=shape)
    source, width, height = filter_picture(layer(weights), "start", 2.0)
    assert decode(source).shape == (height, width, 4)


def test_colour_filters_show_zero_as_grey():
    weights = np.zeros((1, 3, 2, 2))
    weights[0, 0, 0, 0] = 1.0
    pixels = decode(filter_picture(layer(weights), "start", 1.0)[0])
    assert pixels[0, 0].tolist() == [255, 128, 128, 255]
    assert pixels[1, 1].tolist() == [128, 128, 128, 255]
