"""Differences between the machines and versions of trials, where there should be none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def mixed(provenances: list[Mapping[str, Any]]) -> list[str]:
    """Note differences between trials that should not exist."""
    notes = []
    for name, values in (
        ("versions", [str(sorted(p.get("versions", {}).items())) for p in provenances]),
        ("machines", [str(sorted(p.get("machine", {}).items())) for p in provenances]),
        ("thread counts", [str(p.get("threads")) for p in provenances]),
        ("commits", [str(p.get("commit")) for p in provenances]),
    ):
        if len(set(values)) > 1:
            notes.append(f"The trials were run with {len(set(values))} different {name}.")
    return notes


def eager(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Note why trials ran their steps one by one although steps should be captured.

    Example:
        >>> eager([{"eager": "the device is no CUDA device"}, {"eager": ""}, {}])
        ['Steps were not captured in 1 of 3 trials: the device is no CUDA device.']
    """
    reasons = Counter(str(result["eager"]) for result in results if result.get("eager"))
    return [
        f"Steps were not captured in {count} of {len(results)} trials: {reason}."
        for reason, count in sorted(reasons.items())
    ]


def twins(results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Say which arms have the same score in every run, and so are the same start on this model.

    Args:
        results: By arm and seed.

    Example:
        >>> runs = {seed: {"test_accuracy": 90.0 + seed} for seed in range(3)}
        >>> twins({"a": runs, "b": {}, "c": runs})
        ['a and c have the same scores in every run: they are the same start here, and count once.']
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for label, by_seed in results.items():
        if len(by_seed) > 1:
            scores = tuple(sorted((seed, float(result["test_accuracy"])) for seed, result in by_seed.items()))
            groups.setdefault(scores, []).append(label)
    return [
        f"{' and '.join(names)} have the same scores in every run: they are the same start here, and count once."
        for names in groups.values()
        if len(names) > 1
    ]
