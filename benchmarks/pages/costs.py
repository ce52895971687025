"""The pages of what starts and trials cost, from the JSON files that their benchmarks write."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pages.marks import MAIN
from pages.studies import Blocks
from pages.tables import table


def found(folder: Path, stem: str) -> Any:
    """Read what a benchmark measured."""
    return json.loads((folder / f"{stem}.json").read_text())


def about(measured: dict[str, Any], line: str) -> list[str]:
    """Write how and where it was measured."""
    return [f"Command: `{measured['command']}`  ", f"Machine: {measured['machine']}  ", line]


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of the ratios turn by turn."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def calibration(folder: Path) -> Blocks:
    """Write the tables on calibration: networks, fills, first-layer methods."""
    measured = found(folder, "calibration")
    (batch,) = {row["batch"] for row in measured["networks"]}
    line = f"{measured['rounds']} alternating rounds per network, batch {batch}; "
    line += "ratios are medians of turn-by-turn ratios."
    head = ["network", "forward (s)", "within-layer", "and balance", "LSUV", "`lsuv` 0.3.0", "faster than it"]
    head += ["memory: within-layer", "LSUV", "worst channel after within-layer: mean, std - 1"]
    head += ["layer std in training mode: after LSUV", "after `lsuv` 0.3.0"]
    networks = table(head, list(map(_network, measured["networks"])), text=len(head))
    blocks = {
        "about": about(measured, line),
        "networks": networks,
        "fills": _fills(measured),
        "first": _first(measured),
    }
    return {**blocks, "processor": _processor(found(folder, "calibration-processor"))}


_GOALS = {"within": 1.5, "balance": 4.0, "lsuv": 2.5, "kmeans": 12.0}  # forward passes


def _processor(measured: dict[str, Any]) -> list[str]:
    """What the present code takes of the processor's time, beside the goals."""
    fills = {row["network"]: row["seconds"] / statistics.mean(row["passes"]) for row in measured["fills"]}
    lines = [["goal", "", *(f"{goal:g} ×" for goal in _GOALS.values())]]
    for row in measured["networks"]:
        turns = row["seconds"]
        lines.append(
            [
                f"{row['network']} {row['image']}²",
                f"{statistics.median(turns['forward']):.3f}",
                *(f"{ratio(turns[what], turns['forward']):.2f} ×" for what in ("within", "balance", "lsuv")),
                f"{fills[row['network']]:.1f} ×" if row["network"] in fills else "",
            ]
        )
    head = ["network", "forward (s)", "within-layer", "and balance", "LSUV", "k-means in all layers"]
    return table(head, lines, text=len(head))


def _network(row: dict[str, Any]) -> list[str]:
    turns, memory = row["seconds"], row.get("memory")
    within, own = ratio(turns["within"], turns["forward"]), ratio(turns["lsuv"], turns["forward"])
    theirs = row["peer_seconds"] / row["peer_forward"] if "peer_seconds" in row else None
    return [
        f"{row['network']} {row['image']}²",
        f"{statistics.median(turns['forward']):.3f}",
        f"{within:.2f} ×",
        f"{ratio(turns['balance'], turns['forward']):.2f} ×",
        f"{own:.2f} ×",
        f"{theirs:.0f} ×" if theirs else "",
        f"{theirs / within:.0f} × (LSUV {theirs / own:.0f} ×)" if theirs else "",
        *(_memory(memory, what) for what in ("within", "lsuv")),
        f"{row['after_within']['mean']:.1e}, {row['after_within']['std']:.1e}",
        "{:.4f} to {:.4f}".format(*row["after_lsuv"]),
        "{:.2f} to {:.2f}".format(*row["after_peer"]) if "after_peer" in row else "",
    ]


def _memory(memory: dict[str, dict[str, int]] | None, what: str) -> str:
    if memory is None:
        return ""
    whole = memory[what]["peak"] / memory["forward"]["peak"]
    grown = (memory[what]["peak"] - memory[what]["idle"]) / max(
        1, memory["forward"]["peak"] - memory["forward"]["idle"]
    )
    return f"{whole:.2f} × ({grown:.2f} ×)"


def _fills(measured: dict[str, Any]) -> list[str]:
    gaussian = {row["network"]: row["memory"]["within"]["peak"] for row in measured["networks"]}
    lines = []
    for row in measured["fills"]:
        times = row["seconds"] / statistics.mean(row["passes"])
        more = max(0, row["peak"] - gaussian[row["network"]]) / 1024
        lines.append([f"{row['network']} {row['image']}²", row["fill"], f"{times:.1f}", f"{more:.0f}"])
    head = ["network", "fill", "in forward passes", "memory beyond Gaussian (MB)"]
    return table(head, lines, text=len(head))


def _first(measured: dict[str, Any]) -> list[str]:
    turns = measured["prewarm"]["seconds"]
    lines = [
        [label, f"{1000 * statistics.median(times):.0f}", f"{ratio(times, turns['step']):.2f}"]
        for label, times in turns.items()
    ]
    return table(["", "median (ms)", "in training steps"], lines, text=3)


def kmeans(folder: Path) -> Blocks:
    """Write the tables on k-means: against scikit-learn, and from fewer points."""
    measured = found(folder, "kmeans")
    rows = [
        [row["data"], str(row["clusters"]), ", ".join(f"{r:.4f}" for r in row["ratios"])] for row in measured["sklearn"]
    ]
    every = [ratio for row in measured["sklearn"] for ratio in row["ratios"]]
    worst = f"Largest of {len(every)}: {max(every):.4f}; median {statistics.median(every):.4f}."
    fewer = [
        [f"{row['side']}×{row['side']}", str(row["clusters"]), f"{row['inertia']:.3f}", f"{row['time']:.3f}"]
        for row in measured["fewer"]
    ]
    few, many = measured["few"], measured["many"]
    return {
        "about": about(measured, f"{worst} {few:,} of {many:,} patches in the second table."),
        "sklearn": table(["data", "clusters", f"inertia, {measured['seeds']} seeds"], rows, text=3),
        "fewer": table(["patches", "clusters", "inertia", "time"], fewer, text=4),
    }


def growth(folder: Path) -> Blocks:
    """Write the slopes of cost over batch, depth and width."""
    measured = found(folder, "growth")
    middle = ", ".join(f"{name} {value}" for name, value in measured["middle"].items())
    image = measured["image"]
    line = f"Plain CNNs on {image}×{image} images around {middle}; medians of {measured['rounds']} turns."
    seconds, sizes = measured["seconds"], measured["sizes"]
    lines = []
    for key in next(iter(seconds.values()))[0]:
        cells = [key]
        for name, rows in seconds.items():
            text = f"{slope(sizes[name], [row[key] for row in rows]):.2f}"
            if key != "forward":
                text += f" ({rows[0][key] / rows[0]['forward']:.1f} ×, {rows[-1][key] / rows[-1]['forward']:.1f} ×)"
            cells.append(text)
        lines.append(cells)
    head = ["", *(f"{name} {each[0]} to {each[-1]}" for name, each in sizes.items())]
    return {"about": about(measured, line), MAIN: table(head, lines, text=len(head))}


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def load(folder: Path) -> Blocks:
    """Write what a large comparison costs beside its trials."""
    measured = found(folder, "load")
    read = measured["reading"]
    driver = read["write_and_claim_seconds_per_trial"]
    return {
        "about": [
            f"Machine: {measured['machine']}.",
            "",
            f"**{read['trials']:,} trials are reported in {read['report_seconds']:.1f} s**: "
            f"{read['analyse_seconds']:.1f} s to read,",
            f"check and judge them, the rest for a page of {read['page_megabytes']:.1f} MB. A run that finds",
            f"them all finished ends after {read['nothing_left_to_run_seconds']:.1f} s. "
            "Claiming and writing a trial takes",
            f"the driver {1000 * driver:.1f} ms.",
        ],
        MAIN: table(
            ["executor", "workers", "trial", "trials", "ratio"],
            [
                [r["executor"], f"{r['workers']}", f"{r['seconds']:g} s", f"{r['trials']}", f"{r['ratio']:.3f}"]
                for r in measured["handing_out"]
            ],
        ),
        "driver": [
            f"The driver is the one part that all trials pass through. At {1000 * driver:.1f} ms each it serves "
            f"{1 / driver:,.0f} trials a second,",
            f"which keeps 1,000 workers busy if a trial takes longer than {1000 * driver:.0f} s on average. "
            "Below that,",
            "several drivers on one store share the work. This is computed from the figure above, not measured on",
            "such a cluster.",
        ],
    }


def throughput(folder: Path) -> Blocks:
    """Write what a trial's step costs against the usual ways to write it."""
    measured = found(folder, "throughput")
    machine = measured["provenance"]["machine"]
    lines = []
    for row in measured["rows"]:
        ratios = (row["faster_than_usual"], row["faster_than_plain"], row["of_bare"])
        spans = [f"{middle:.2f} × ({low:.2f} to {high:.2f})" for middle, low, high in ratios]
        own = f"{row['milliseconds']['headstart']:.1f} ms"
        lines.append([row["model"], row["precision"], row["memory_format"], own, *spans])
    head = ["model", "precision", "memory format", "headstart", "usual, same format", "usual, as written", "bare"]
    return {
        "about": [
            f"`{measured['command']}`",
            "",
            f"{machine['processor']}, {machine['cores']} cores, {measured['provenance']['threads']} threads, "
            f"torch {measured['provenance']['versions']['torch']}. CIFAR-100, batch {measured['batch_size']}, flip, "
            f"crop and rotation; {measured['turns']} turns of {measured['steps']} steps each. "
            "Medians of the turns' ratios, and range.",
        ],
        MAIN: table(head, lines, text=len(head)),
        **_evaluations(found(folder, "evaluations")),
    }


def _evaluations(measured: Mapping[str, Any]) -> Blocks:
    """Write what other evaluation batches and flushed denormals would give."""
    sizes = list(measured["evaluations"][0]["of_usual"])
    batches = [
        [row["model"], row["memory_format"], *(_ratio(row["of_usual"][size]) for size in sizes)]
        for row in measured["evaluations"]
    ]
    flushed = [
        [row["model"], f"{row['share']:.2g}", _ratio(row["flushed"]), "yes" if row["same_losses"] else "no"]
        for row in measured["denormals"]
    ]
    machine = measured["provenance"]["machine"]
    threads = measured["provenance"]["threads"]
    return {
        "evaluations-about": [
            f"`{measured['command']}`",
            "",
            f"{machine['processor']}, {machine['cores']} cores, {threads} thread{'s' * (threads > 1)}, torch "
            f"{measured['provenance']['versions']['torch']}, other work beside it. {measured['images']} images; "
            f"{measured['turns']} turns. Medians of the turns' ratios, and range.",
        ],
        "evaluations": table(["model", "memory format", *sizes], batches, text=2),
        "denormals": table(["model", "share that is denormal", "time when flushed", "same losses"], flushed),
    }


def _ratio(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} × ({low:.2f} to {high:.2f})"
