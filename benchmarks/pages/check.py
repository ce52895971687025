"""Whether each page prints what its files give: every table, cell by cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from pages import (
    budgets,
    costs,
    demo,
    diagnoses,
    figures,
    frozen,
    h200,
    judged,
    new_starts,
    no_harm,
    rates,
    starts,
    studies,
    sweep,
    verdicts,
)
from pages.marks import Table, blocks, outside, parts, replaced
from pages.studies import STUDIES, Blocks

RESULTS = Path("docs/results")
INDEX = RESULTS / "README.md"
MARKED = (Path("README.md"), Path("docs/which-start.md"))  # pages elsewhere whose marks count
_ABSENT = "(absent)"


class Page(NamedTuple):
    """How a page is made.

    Args:
        blocks: Writes what stands between its marks, from the folder of results.
        figure: Draws its figure; None if the files do not hold what it shows.
    """

    blocks: Callable[[Path], Blocks]
    figure: Callable[[Path], Figure | None] = lambda folder: None


def _study(stem: str) -> Page:
    return Page(lambda folder: studies.page(folder, stem), lambda folder: figures.of_study(folder, stem))


PAGES: Mapping[Path, Page] = {
    Path("README.md"): Page(starts.readme),
    **{
        RESULTS / f"{stem}.md": page
        for stem, page in {
            **{stem: _study(stem) for stem in STUDIES},
            "monai": Page(lambda folder: studies.page(folder, "monai")),
            "starts": Page(starts.page, figures.of_starts),
            "budgets": Page(budgets.page, figures.of_budgets),
            "learning-rates": Page(rates.page, figures.of_rates),
            "calibration": Page(costs.calibration),
            "growth": Page(costs.growth),
            "kmeans": Page(costs.kmeans),
            "load": Page(costs.load),
            "throughput": Page(costs.throughput),
            "demo": Page(demo.page),
            "diagnoses": Page(diagnoses.page),
            "h200": Page(h200.page),
            "statistics": Page(verdicts.page),
            "no-harm": Page(no_harm.page),
            "sweep": Page(sweep.page),
            new_starts.STEM: Page(new_starts.page),
            "development": Page(frozen.developed),
            "protocol": Page(frozen.fixed),
            judged.STEM: Page(judged.page),
        }.items()
    },
}


def check(root: Path) -> list[str]:
    """Compare what all pages print with what their files give.

    Args:
        root: Of the repository.

    Returns:
        A sentence for each difference: page, table, row, column, printed and recomputed.
    """
    listed = [path.relative_to(root) for path in sorted((root / RESULTS).rglob("*.md"))]
    found = []
    for path in dict.fromkeys([*listed, *MARKED, *PAGES]):
        text = (root / path).read_text() if (root / path).exists() else ""
        wanted = PAGES[path].blocks(root / RESULTS) if path in PAGES else {}
        found += _compare(path, blocks(text), wanted)
        if path == INDEX:
            found += _index(text, listed)
        elif path in listed:
            found += [f"{path}: a table outside of the marks: {' | '.join(each.head)}" for each in outside(text)]
    return found


def write(root: Path) -> None:
    """Put all tables between their marks, and draw the figures that can be drawn."""
    for path in PAGES:
        write_page(root / path, root / RESULTS, PAGES[path])


def write_page(path: Path, folder: Path, page: Page | None = None) -> None:
    """Put the tables of a page between its marks, and draw its figure if that can be drawn.

    Args:
        path: Of the page.
        folder: Of the results.
        page: How it is made; by default as the page of results of that name.
    """
    how = page or PAGES[RESULTS / path.name]
    path.write_text(replaced(path.read_text(), how.blocks(folder)))
    figure = how.figure(folder)
    if figure is not None:
        figure.savefig(path.with_suffix(".png"), dpi=80)


def _compare(path: Path, printed: Mapping[str, str], wanted: Blocks) -> list[str]:
    found = [f"{path}: nothing recomputes the block '{name}'." for name in printed if name not in wanted]
    found += [f"{path}: the block '{name}' is missing." for name in wanted if name not in printed]
    for name in (name for name in wanted if name in printed):
        ours, theirs = parts("\n".join(wanted[name])), parts(printed[name])
        tables = [[each for each in side if isinstance(each, Table)] for side in (theirs, ours)]
        words = [[each for each in side if isinstance(each, str)] for side in (theirs, ours)]
        for number, (old, new) in enumerate(zip_longest(*tables), start=1):
            found += _table(f"{path}, block '{name}', table {number}", old, new)
        found += [f"{path}, block '{name}', a line between the tables: {each}" for each in _lines(*words)]
    return found


def _lines(printed: list[str], wanted: list[str]) -> list[str]:
    changes = SequenceMatcher(None, printed, wanted, autojunk=False).get_opcodes()
    pairs = [zip_longest(printed[a:b], wanted[c:d]) for tag, a, b, c, d in changes if tag != "equal"]
    return [_both(old, new) for each in pairs for old, new in each]


def _table(where: str, printed: Table | None, wanted: Table | None) -> list[str]:
    if printed is None or wanted is None:
        return [f"{where}: {_both(*(each and ' | '.join(each.head) for each in (printed, wanted)))}"]
    where += f" ({wanted.title})" if wanted.title else ""
    found = []
    for column, (old, new) in enumerate(zip_longest(printed.head, wanted.head), start=1):
        if old != new:
            found.append(f"{where}, head of column {column}: {_both(old, new)}")
    for old_row, new_row in zip_longest(printed.rows, wanted.rows, fillvalue=()):
        name = (new_row or old_row)[0]
        for column, (old, new) in enumerate(zip_longest(old_row, new_row)):
            if old != new:
                head = wanted.head[column] if column < len(wanted.head) else f"{column + 1}"
                found.append(f"{where}, row '{name}', column '{head}': {_both(old, new)}")
    return found


def _both(printed: str | None, recomputed: str | None) -> str:
    old, new = (_ABSENT if each is None else f"'{each}'" for each in (printed, recomputed))
    return f"printed {old}, recomputed {new}"


def _index(text: str, listed: Sequence[Path]) -> list[str]:
    """The list of pages: one table, with each page once."""
    tables = outside(text)
    if len(tables) != 1:
        return [f"{INDEX}: {len(tables)} tables, where the list of pages is the only one."]
    linked = [target for row in tables[0].rows for target in re.findall(r"\]\(([^)]+)\)", row[0])]
    pages = [path.relative_to(RESULTS).as_posix() for path in listed if path != INDEX]
    return [f"{INDEX}: lists {each} {linked.count(each)} times." for each in pages if linked.count(each) != 1] + [
        f"{INDEX}: lists {each}, which is not there." for each in linked if each not in pages
    ]
