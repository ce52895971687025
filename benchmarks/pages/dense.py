"""The table of clusters in the dense layers of residual networks, seed by seed: there are too few for intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from headstart.results.sheet import inert
from pages.tables import table


def dense(found: Sequence[Mapping[str, str]]) -> list[str]:
    """Write the loss of each form, and its differences from the framework's start."""
    losses: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in found:
        losses[row["network"], row["arm"]][int(row["seed"])] = float(row["loss"])
        right[row["network"], row["arm"]].append(float(row["accuracy"]))
    lines = []
    for (network, arm), own in losses.items():
        default = losses[network, "default"]
        gaps = [own[seed] - default[seed] for seed in sorted(own) if seed in default]
        lines.append([inert(network), inert(arm), f"{_mean(own.values()):.3f}"])
        if arm == "default":
            lines[-1] += ["", "", ""]
        else:
            each = ", ".join(f"{gap:+.3f}".replace("-", "−") for gap in gaps)
            mean = f"{_mean(gaps):+.3f}".replace("-", "−")
            lines[-1] += [mean, each, f"{sum(gap < 0 for gap in gaps)}/{len(gaps)}"]
        lines[-1].append(f"{100 * _mean(right[network, arm]):.1f}")
    head = ["network", "start", "loss", "difference", "seed by seed", "lower in", "accuracy"]
    return table(head, lines, text=2)


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)
