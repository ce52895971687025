"""Draw the rooms of the package and which imports which, from the imports themselves; ``--check`` only compares.

Writes docs/architecture.svg, and the tables of docs/architecture.md between their marks. Imports of the ground, which
every room may import, have no arrows, and neither has an import that follows from others: the picture is for reading.
The tables have all imports but those of the ground.
"""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "architecture.svg"
GROUND = frozenset({"errors", "rng", "progress", "version"})
PANELS = ("headstart", "headstart.bench")

Arrow = tuple[str, str]
Node = str | tuple[str, str, int]  # a room, or where an arrow crosses a layer

CENTRE = 0.1  # how much everything is pulled to the middle
STARTS = 12  # orders to begin with
BOX, SLOT, GAP, ROW = 34, 14, 18, 62  # pixels: a box's height, an arrow's width, between boxes, between rows
COLORS = ("#1f5fa8", "#b3541e", "#2c7a4b", "#7b4397", "#9a2f4f", "#54606e", "#0f7c86", "#8a6d1b")


@dataclass(frozen=True)
class Panel:
    """The rooms of a package.

    Attributes:
        package: Its dotted name.
        layers: Rooms from the top down.
        imports: Every import of one room by another.
    """

    package: str
    layers: tuple[tuple[str, ...], ...]
    imports: frozenset[Arrow]

    @property
    def arrows(self) -> list[Arrow]:
        """What is drawn: imports of rooms above the ground that do not follow from other imports."""
        shown = {(a, b) for a, b in self.imports if b not in GROUND}
        return sorted((a, b) for a, b in shown if not _reaches(a, b, shown - {(a, b)}))


def _reaches(start: str, end: str, arrows: Iterable[Arrow]) -> bool:
    seen, front = {start}, {start}
    while front:
        front = {b for a, b in arrows if a in front} - seen
        seen |= front
    return end in seen


def panels() -> list[Panel]:
    """Read layers from pyproject.toml, and imports from the sources."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    layers = {c["containers"][0]: c["layers"] for c in contracts if c["type"] == "layers"}
    graph = grimp.build_graph("headstart", cache_dir=None)
    found = []
    for package in PANELS:
        depth = package.count(".") + 1
        inside = {m: m.split(".")[depth] for m in graph.modules if m.startswith(f"{package}.")}
        pairs = {(inside[m], inside.get(n)) for m in inside for n in graph.find_modules_directly_imported_by(m)}
        imports = frozenset((a, b) for a, b in pairs if b is not None and a != b)
        rows = [[r.strip(" ()") for r in re.split("[:|]", row)] for row in layers[package]]
        existing = [tuple(r for r in row if r in inside.values()) for row in rows]
        found.append(Panel(package, tuple(row for row in existing if row), imports))
    return found


# Layout: rows are given; rooms and crossings are put in the order with the fewest crossed arrows, then straightened.


@dataclass(frozen=True)
class Layout:
    """Where things are.

    Attributes:
        rows: Rooms and crossings of every row, from the left.
        x: The middle of each.
        chains: Arrow -> source, crossings, target.
    """

    rows: Sequence[Sequence[Node]]
    x: Mapping[Node, float]
    chains: Mapping[Arrow, Sequence[Node]]


def width(node: Node) -> float:
    """Of a box by its name, of a crossing otherwise."""
    return max(96.0, 30 + 8.6 * len(node)) if isinstance(node, str) else SLOT


def lay_out(panel: Panel) -> Layout:
    """Place the rooms of a panel."""
    level = {room: i for i, row in enumerate(panel.layers) for room in row}
    chains: dict[Arrow, list[Node]] = {
        (a, b): [a, *((a, b, i) for i in range(level[a] + 1, level[b])), b] for a, b in panel.arrows
    }
    rows: list[list[Node]] = [list(row) for row in panel.layers]
    for (source, _), chain in chains.items():
        for i, node in enumerate(chain[1:-1], level[source] + 1):
            rows[i].append(node)
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    rows = _ordered(rows, links)
    return Layout(rows, _straightened(rows, links), chains)


def _crossings(rows: Sequence[Sequence[Node]], gaps: Sequence[Sequence[tuple[Node, Node]]]) -> float:
    """Crossed arrows, and a little for every step to the side."""
    place = {node: i - (len(row) - 1) / 2 for row in rows for i, node in enumerate(row)}
    total = 0.0
    for links in gaps:
        ends = [(place[a], place[b]) for a, b in links]
        for i, (a, b) in enumerate(ends):
            total += 0.02 * abs(a - b) + sum((a - c) * (b - d) < 0 for c, d in ends[i + 1 :])
    return total


def _ordered(rows: Sequence[Sequence[Node]], links: Sequence[tuple[Node, Node]]) -> list[list[Node]]:
    """The best of several orders, each improved by moving one thing at a time until nothing gets better."""
    level = {node: i for i, row in enumerate(rows) for node in row}
    gaps = [[link for link in links if level[link[0]] == i] for i in range(len(rows))]
    found: list[list[list[Node]]] = []
    for start in range(STARTS):
        shuffle = random.Random(start)  # noqa: S311 - an order to begin with, the same in every run
        found.append(_improved([shuffle.sample(row, len(row)) for row in rows], gaps))
    return min(found, key=lambda order: _crossings(order, gaps))


def _improved(rows: list[list[Node]], gaps: Sequence[Sequence[tuple[Node, Node]]]) -> list[list[Node]]:
    best, improved = _crossings(rows, gaps), True
    while improved:
        improved = False
        for row in rows:
            for node in list(row):
                for place in range(len(row)):
                    start = row.index(node)
                    row.insert(place, row.pop(start))
                    score = _crossings(rows, gaps)
                    if score < best - 1e-9:
                        best, improved = score, True
                    else:
                        row.insert(start, row.pop(place))
    return rows


def _straightened(rows: Sequence[Sequence[Node]], links: Sequence[tuple[Node, Node]]) -> dict[Node, float]:
    """Pull everything towards what it is linked to, in its order and without overlap."""
    near: dict[Node, list[tuple[Node, float]]] = {node: [] for row in rows for node in row}
    for a, b in links:
        weight = 1.0 + 3.0 * isinstance(a, tuple) + 3.0 * isinstance(b, tuple)
        near[a].append((b, weight))
        near[b].append((a, weight))
    x = dict.fromkeys(near, 0.0)
    for sweep in range(200):
        for row in rows if sweep % 2 else reversed(rows):
            wish = []
            for node in row:
                pull = [*near[node], (node, 0.5)]
                wish.append(sum(x[n] * w for n, w in pull) / sum(w for _, w in [*pull, (node, CENTRE)]))
            x.update(zip(row, _apart(row, wish), strict=True))
    left = min(x[n] - width(n) / 2 for n in x)
    return {node: round(at - left, 1) for node, at in x.items()}


def _apart(row: Sequence[Node], wish: Sequence[float]) -> list[float]:
    """The places closest to the wished ones at which nothing overlaps (pooled neighbours)."""
    offsets = [0.0]
    for a, b in pairwise(row):
        offsets.append(offsets[-1] + (width(a) + width(b)) / 2 + GAP)
    groups: list[list[float]] = []
    for value, offset in zip(wish, offsets, strict=True):
        groups.append([value - offset])
        while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    flat = [_mean(group) for group in groups for _ in group]
    return [value + offset for value, offset in zip(flat, offsets, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Drawing


def svg(all_panels: Sequence[Panel]) -> str:
    """The picture: the panels beside each other."""
    parts, left, height = [], 30.0, 0.0
    for panel in all_panels:
        layout = lay_out(panel)
        wide = max(layout.x[n] + width(n) / 2 for n in layout.x)
        parts += _panel(panel, layout, left, 62.0)
        left += wide + 70
        height = max(height, 62.0 + ROW * (len(layout.rows) - 1) + BOX + 34)
    wide = left - 40
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {height:.0f}" width="{wide:.0f}"'
    style = "<style>text{font-family:Helvetica,Arial,sans-serif;text-anchor:middle}</style>"
    markers = "".join(
        f'<marker id="to{i}" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0,0 L7,3 L0,6 z" fill="{color}"/></marker>'
        for i, color in enumerate(COLORS)
    )
    back = f'<rect width="{wide:.0f}" height="{height:.0f}" fill="#ffffff"/>'
    title = "<title>The rooms of the package, and which imports which</title>"
    return "\n".join([f"{head}>", title, style, f"<defs>{markers}</defs>", back, *parts, "</svg>", ""])


def _panel(panel: Panel, layout: Layout, left: float, top: float) -> list[str]:
    level = {node: i for i, row in enumerate(layout.rows) for node in row}
    wide = max(layout.x[n] + width(n) / 2 for n in layout.x)
    parts = [f'<text x="{left + wide / 2:.1f}" y="30" font-size="17" font-weight="bold">{panel.package}</text>']
    ground = [node for node in level if node in GROUND]
    if ground:
        first = min(level[node] for node in ground)
        y, tall = top + ROW * first - 14, ROW * (len(layout.rows) - 1 - first) + BOX + 28
        parts.append(
            f'<rect x="{left - 14:.1f}" y="{y:.1f}" width="{wide + 28:.1f}" height="{tall:.1f}" rx="8" fill="#f1f2f4"/>'
        )
        note, place = "the ground: every room may import it", f'x="{left + wide:.1f}" y="{y + tall / 2 + 4:.1f}"'
        parts.append(f'<text {place} font-size="13" fill="#54606e" style="text-anchor:end">{note}</text>')
    sources = [room for row in panel.layers for room in row if any(a == room for a, _ in layout.chains)]
    for (a, b), chain in layout.chains.items():
        number = sources.index(a) % len(COLORS)
        xs = [_end(layout, (a, b), a, 0), *(layout.x[n] for n in chain[1:-1]), _end(layout, (a, b), b, -1)]
        parts.append(
            f'<path d="{_path(xs, [level[n] for n in chain])}" transform="translate({left:.1f},{top:.1f})" fill="none"'
            f' stroke="{COLORS[number]}" stroke-width="1.7" marker-end="url(#to{number})"'
            f' data-arrow="{panel.package}.{a} {panel.package}.{b}"><title>{a} imports {b}</title></path>'
        )
    for node, i in level.items():
        if isinstance(node, str):
            x, y = left + layout.x[node], top + ROW * i
            parts.append(
                f'<rect x="{x - width(node) / 2:.1f}" y="{y:.1f}" width="{width(node):.1f}" height="{BOX}" rx="6"'
                ' fill="#ffffff" stroke="#2b3440" stroke-width="1.3"/>'
            )
            parts.append(
                f'<text x="{x:.1f}" y="{y + 22:.1f}" font-size="15" data-room="{panel.package}.{node}">{node}</text>'
            )
    return parts


def _end(layout: Layout, arrow: Arrow, room: str, which: int) -> float:
    """Where an arrow leaves or meets a box: its arrows share the edge, from the left as they come."""
    step = 1 if which == 0 else -2
    mine = sorted((layout.x[c[step]], other) for other, c in layout.chains.items() if c[which] == room)
    place = [other for _, other in mine].index(arrow)
    usable = min(width(room) - 24, 24.0 * (len(mine) - 1))
    return layout.x[room] + (usable * (place / (len(mine) - 1) - 0.5) if len(mine) > 1 else 0.0)


def _path(xs: Sequence[float], rows: Sequence[int]) -> str:
    """From the lower edge of a box, straight through the rows between, to the upper edge of another."""
    y, bend = ROW * rows[0] + BOX, (ROW - BOX) / 2 + 6
    text = f"M{xs[0]:.1f},{y:.1f}"
    for i, (before, x) in enumerate(pairwise(xs), 1):
        down = ROW * rows[i]
        text += f" C{before:.1f},{y + bend:.1f} {x:.1f},{down - bend:.1f} {x:.1f},{down:.1f}"
        y = down + BOX
        if i < len(xs) - 1:
            text += f" L{x:.1f},{y:.1f}"
    return text


# The page


def table(panel: Panel) -> str:
    """Every room with what it holds and what it imports, the ground apart."""
    rows = ["| room | what is there | imports |", "|---|---|---|"]
    for room in (room for row in panel.layers for room in row):
        place = ROOT / "src" / Path(*panel.package.split("."))
        place = place / room if (place / room).is_dir() else place / f"{room}.py"
        source = place / "__init__.py" if place.is_dir() else place
        doc = (
            (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "")
            .partition("\n")[0]
            .replace("``", "`")
        )
        used = [b for row in panel.layers for b in row if (room, b) in panel.imports and b not in GROUND]
        link = f"[`{place.name}{'/' if place.is_dir() else ''}`](../{place.relative_to(ROOT).as_posix()})"
        rows.append(f"| {link} | {doc} | {', '.join(used)} |")
    return "\n".join(rows)


def page(every: Sequence[Panel]) -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    for panel in every:
        start, end = f"<!-- rooms: {panel.package} -->", "<!-- end -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{table(panel)}\n{end}{rest.partition(end)[2]}"
    return text


def stale() -> list[Path]:
    """The files that are out of date: the page by its text, the picture by its rooms and arrows."""
    every = panels()
    rooms = {f"{p.package}.{room}" for p in every for row in p.layers for room in row}
    arrows = {f"{p.package}.{a} {p.package}.{b}" for p in every for a, b in p.arrows}
    drawn = PICTURE.read_text(encoding="utf-8") if PICTURE.is_file() else ""
    shown = {kind: set(re.findall(f'data-{kind}="([^"]*)"', drawn)) for kind in ("room", "arrow")}
    wrong = [PAGE] if PAGE.read_text(encoding="utf-8") != page(every) else []
    return wrong + ([PICTURE] if shown != {"room": rooms, "arrow": arrows} else [])


def main() -> int:
    """Write the files, or with ``--check`` name those that are out of date."""
    if "--check" in sys.argv[1:]:
        wrong = stale()
        for path in wrong:
            print(f"{path} is out of date: run python tools/architecture.py")
        return 1 if wrong else 0
    every = panels()
    PAGE.write_text(page(every), encoding="utf-8")
    PICTURE.write_text(svg(every), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
