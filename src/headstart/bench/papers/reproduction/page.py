"""The page of a reproduction, in Markdown: published against measured, and every deviation by name."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from headstart.bench.papers.published import Figure, figures
from headstart.bench.papers.reproduction.plan import PAPERS, base
from headstart.bench.papers.reproduction.rows import CAVEAT, Outcome, Row, Side, side
from headstart.bench.papers.reproduction.scales import SCALES
from headstart.bench.report.summary import facts
from headstart.bench.statistics.verdicts import p_text
from headstart.results.display import printable
from headstart.results.sheet import inert

_READING = (
    "A published figure is that of the paper's data, network and budget. Each comparison says what was run here;"
    " “Deviations” lists the differences.",
    f"{CAVEAT} The notes below name it.",
    "Published intervals are 95 % intervals of the paired gain by the t distribution, from released runs or from the "
    "published gain and p-value. Where there is neither, or runs are not paired, the cell is empty.",
    "Measured intervals are 95 % intervals of the paired gain from the exact test, from six seeds on. Verdicts are "
    "those of `headstart compare`: exact two-sided tests, adjusted over the arms of a comparison.",
    "Accuracies are in percent, gains in points, against the framework's default start. Controls, curves and costs are "
    "on each comparison's own page.",
)
_SIDE = ("default", "arm", "gain", "95 % interval")


@dataclass(frozen=True)
class Reproduction:
    """The content of the page.

    Args:
        paper: A key of `PAPERS`.
        scale: A key of `SCALES`.
        outcomes: The comparisons that were run.
        left_out: A sentence for each comparison that lacks its files.
        command: The command that makes the page again.
    """

    paper: str
    scale: str
    outcomes: tuple[Outcome, ...]
    left_out: tuple[str, ...]
    command: tuple[str, ...]

    def unmeasured(self) -> list[Figure]:
        """Return the paper's published figures without a measured arm."""
        beside = {row.figure for outcome in self.outcomes for row in outcome.rows() if row.figure}
        return [figure for figure in figures() if figure.paper == self.paper and figure not in beside]


def markdown(found: Reproduction) -> str:
    """Write the page."""
    title = found.outcomes[0].comparison.protocol.paper
    lines = [f"# {inert(found.paper)}, published and measured: scale {found.scale}", "", inert(title), ""]
    lines += [SCALES[found.scale], "", "```sh", printable(" ".join(shlex.join(found.command).split())), "```", ""]
    lines += ["## Published against measured", "", *table([(o.comparison.name, o.rows()) for o in found.outcomes]), ""]
    lines += [f"- {inert(sentence)}" for sentence in found.left_out]
    lines += [*(f"- {line}" for line in _READING)]
    for outcome in found.outcomes:
        lines += ["", *_comparison(outcome)]
    lines += ["", "## Deviations", "", *_deviations(found)]
    if others := found.unmeasured():
        lines += ["", "## Published, and not measured here", "", *_others(others)]
    return "\n".join(lines) + "\n"


def table(found: Sequence[tuple[str, Sequence[Row]]]) -> list[str]:
    """Write published against measured.

    Args:
        found: Each comparison's name with its rows.
    """
    columns = ("comparison", "arm", *(f"published: {name}" for name in (*_SIDE, "runs")))
    columns += (*(f"measured: {name}" for name in (*_SIDE, "seeds")), "verdict")
    lines = ["| " + " | ".join(columns) + " |", "|---|---" + "|--:" * 10 + "|---|"]
    for name, rows in found:
        for row in rows:
            cells = (name, row.arm, *row.published[:5], *row.measured)
            lines.append("| " + " | ".join(map(inert, cells)) + " |")
    return lines


def _comparison(outcome: Outcome) -> list[str]:
    """One comparison: what was run, remarks on the published figures, and what the controls show."""
    name = outcome.comparison.name
    lines = [
        f"## {name}",
        "",
        inert(f"Protocol: {outcome.comparison.protocol.about}. Run here: {' · '.join(facts(outcome.analysis))}."),
    ]
    lines += ["", f"[Its page]({name}/{outcome.page.name})", ""]
    for row in outcome.rows():
        if row.figure:
            lines.append(f"- Published on {inert(row.arm)}: {inert(_known(row.figure))}")
    lines += [f"- {inert(reading)}" for reading in outcome.analysis.control_readings()]
    missing = outcome.analysis.missing
    return lines + ([f"- **{missing} trials are not finished; this is what the others show.**"] if missing else [])


def _known(figure: Figure) -> str:
    claimed = f", published as {p_text(figure.published_p)} one-sided" if figure.published_p is not None else ""
    p = f"; p = {p_text(figure.p)} two-sided{claimed}" if figure.p is not None else ""
    return f"{figure.metric}, {figure.runs} run{'' if figure.runs == 1 else 's'}{p}. {figure.note}".strip()


def _deviations(found: Reproduction) -> list[str]:
    """Deviations of the scale and of the user, then the papers' defects; each line once, with its protocols."""
    names = [outcome.comparison.name for outcome in found.outcomes]
    own = [(name, line) for name, o in zip(names, found.outcomes, strict=True) for line in o.comparison.deviations()]
    notes = [
        (outcome.comparison.name, f"*{note.kind}*: {inert(note.what)} → {inert(note.why)}")
        for outcome in found.outcomes
        for note in outcome.comparison.protocol.notes
    ]
    lines = ["From the protocols, at this scale:", ""]
    lines += list(_merged([(name, inert(line)) for name, line in own], names)) or ["- None."]
    lines += ["", "Of the protocols from the paper, and what was done about its defects:", ""]
    absent = [name for name in PAPERS[found.paper] if name not in set(map(base, names))]
    lines += [*_merged(notes, names), *([f"- Not run at all: {', '.join(absent)}."] if absent else [])]
    return lines


def _merged(lines: Iterable[tuple[str, str]], names: Sequence[str]) -> Iterator[str]:
    """Write each line once, with the comparisons that it concerns, unless it concerns all."""
    about: dict[str, list[str]] = {}
    for name, line in lines:
        about.setdefault(line, []).append(name)
    for line, concerned in about.items():
        whom = "" if len(concerned) == len(names) else f" ({', '.join(concerned)})"
        yield f"- {line}{whom}"


def _others(found: Sequence[Figure]) -> list[str]:
    columns = ("comparison", "arm", "setting", "measure", *_SIDE, "runs")
    lines = ["| " + " | ".join(columns) + " |", "|---" * 4 + "|--:" * 5 + "|"]
    for figure in found:
        written: Side = side(figure)
        cells = (figure.protocol, figure.arm, figure.setting, figure.metric, *written[:5])
        lines.append("| " + " | ".join(map(inert, cells)) + " |")
    return lines
