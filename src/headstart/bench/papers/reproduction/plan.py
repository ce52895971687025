"""Which comparisons reproduce a paper at a scale, and how each deviates from the paper's protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.bench.papers.protocols import (
    PREFIX,
    Protocol,
    clusters,
    data_dependent,
    find,
    prewarm,
    smart_init,
)
from headstart.bench.papers.protocols.base import VERSIONS
from headstart.bench.papers.reproduction.scales import SCALES, SMALL, SMOKE, Part
from headstart.bench.runs.experiment import Experiment
from headstart.bench.settings.words import SETTINGS, check, defaults, experiment
from headstart.errors import HeadstartError, unknown


def base(name: str) -> str:
    """Return a protocol's name without its version.

    Example:
        >>> base("prewarm-mnist-corrected")
        'prewarm-mnist'
    """
    return name.removesuffix("-published").removesuffix("-corrected")


PAPERS: dict[str, tuple[str, ...]] = {
    paper: tuple(dict.fromkeys(base(protocol.name) for protocol in module.protocols()))
    for paper, module in (
        ("pre-warm", prewarm),
        ("filter-clusters", clusters),
        ("smart-init", smart_init),
        ("data-dependent", data_dependent),
    )
}
"""Each paper's protocols, without versions."""


@dataclass(frozen=True)
class Comparison:
    """One protocol, as a reproduction runs it.

    Args:
        protocol: With its version.
        words: The settings that replace those of the protocol.
        why: Explanations of these settings, in sentences.
        optional: Whether it is left out if the files of its task are missing.
    """

    protocol: Protocol
    words: Mapping[str, Any]
    why: tuple[str, ...] = ()
    optional: bool = False

    @property
    def name(self) -> str:
        """Of the protocol and of the folder."""
        return self.protocol.name

    @property
    def task(self) -> str:
        """The task's name with its options."""
        return str(self.settings()["task"])

    def settings(self, out: Path = Path()) -> dict[str, Any]:
        """Return all settings of the experiment.

        Args:
            out: The parent of the comparison's own folder.
        """
        return {**defaults(), **self.protocol.words, **self.words, "out": str(out / self.name)}

    def experiment(self) -> Experiment:
        """Return the experiment to run."""
        return experiment(self.settings())

    def deviations(self) -> list[str]:
        """List the deviations from the protocol in sentences: the reasons, then each setting.

        Example:
            >>> plan("pre-warm", "small")[0].deviations()[-1]
            'precision: auto instead of float32.'
        """
        lines = list(self.why)
        for word in SETTINGS:
            if word in self.words and word in self.protocol.needs:
                lines.append(f"{word}: {_said(self.words[word])}; the protocol leaves it to you.")
            elif word in self.words:
                before = self.protocol.words.get(word, SETTINGS[word].default)
                if before != self.words[word]:
                    lines.append(f"{word}: {_said(self.words[word])} instead of {_said(before)}.")
        return lines


def plan(paper: str, scale: str, only: Sequence[str] = (), seeds: str = "", task: str = "") -> list[Comparison]:
    """List the comparisons that reproduce a paper: each protocol of the scale as published, then as corrected.

    Args:
        paper: A key of `PAPERS`.
        scale: A key of `SCALES`.
        only: Those protocols to keep, with or without version; all of the scale by default.
        seeds: Seeds for all of them instead of their own, as in ``headstart compare``.
        task: The task of protocols that leave it to the user; the scales ``"smoke"`` and ``"small"`` bring one.

    Raises:
        UnknownNameError: If there is no such paper, scale, or protocol at this scale.
        HeadstartError: A task is missing or does not fit, or the seeds are out of range.

    Example:
        >>> [comparison.name for comparison in plan("data-dependent", "smoke")]
        ['data-dependent-published', 'data-dependent-corrected']
    """
    if paper not in PAPERS:
        raise unknown("paper", paper, PAPERS)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    parts = _parts(paper, scale)
    wanted = [name.removeprefix(PREFIX) for name in only]
    known = [name for part in parts for name in (part.protocol, *_versions(part.protocol))]
    for name in wanted:
        if name not in known:
            raise unknown(f"protocol of {paper} at the scale '{scale}':", name, known)
    found = []
    for part in parts:
        for name, own in zip(_versions(part.protocol), (part.published, part.corrected), strict=True):
            if not wanted or name in wanted or part.protocol in wanted:
                said = {**part.words, **own, **({"seeds": seeds} if seeds else {}), **_task(find(name), task)}
                found.append(Comparison(find(name), said, part.why, part.optional and not wanted))
    for comparison in found:
        if any(word not in comparison.words for word in comparison.protocol.needs):
            raise HeadstartError(
                f"The protocol '{comparison.name}' leaves the task to you.",
                remedy="Add --task, such as --task folder:PATH:size=227, or take a smaller scale.",
            )
        check(comparison.settings())
    return found


def _parts(paper: str, scale: str) -> tuple[Part, ...]:
    if scale == "full":
        return tuple(map(Part, PAPERS[paper]))
    return (SMOKE if scale == "smoke" else SMALL)[paper]


def _versions(protocol: str) -> list[str]:
    return [f"{protocol}-{version}" for version in VERSIONS]


def _task(protocol: Protocol, task: str) -> dict[str, str]:
    if task and "task" not in protocol.needs:
        raise HeadstartError(
            f"The protocol '{protocol.name}' has a task of its own, so --task {task!r} does not fit.",
            remedy=f"Leave it out, or run headstart compare {PREFIX}{protocol.name} --task ...",
        )
    return {"task": task} if task else {}


def _said(value: Any) -> str:
    """Write the value of a setting in a sentence.

    Example:
        >>> _said((1.0, 2.5)), _said(5000), _said(()), _said(False)
        ('1, 2.5', '5,000', 'none', 'no')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        parts = [_said(each) for each in value]
        return ("; " if any("," in part for part in parts) else ", ").join(parts) or "none"
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value)
