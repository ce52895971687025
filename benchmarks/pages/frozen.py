"""The pages of the evidence that is being gathered: what development measured, and the protocol as it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from evidence import cells, development

from headstart.bench.statistics.verdicts import signed
from pages.tables import table
from pages.trials import Row, rows

LENGTHS, TRIALS, PROTOCOL = "development-lengths.csv", "development.csv", "protocol.json"
Blocks = dict[str, list[str]]
CELL = ("cell", "network", "data", "augmentation", "optimizer, rates", "epochs", "random at auto's sizes")


def developed(folder: Path) -> Blocks:
    """Write the tables of the development page."""
    found = rows(folder / LENGTHS)
    trials = rows(folder / TRIALS)
    blocks = {"lengths": table(["cell", "rate: accuracy", "epochs: accuracy", "taken"], _lengths(found), text=4)}
    for round_ in development.ROUNDS:
        blocks[f"round-{round_.name}"] = _round(trials, round_.name) or ["Not run yet."]
    return blocks


def _lengths(found: Sequence[Row]) -> list[list[str]]:
    """A row for each cell: the rates that were compared, and the lengths at the best of them."""
    lines = []
    for cell in dict.fromkeys(row["cell"] for row in found):
        tried: dict[tuple[float, float], list[float]] = {}
        for row in found:
            if row["cell"] == cell:
                tried.setdefault((float(row["epochs"]), float(row["rate"])), []).append(float(row["accuracy"]))
        means = {key: fmean(values) for key, values in tried.items()}
        half = cells.EPOCHS[int(cell.rsplit("-", 2)[1])] / 2
        at_rates = {rate: mean for (epochs, rate), mean in means.items() if epochs == half}
        grid = cells.RATES[cell.rsplit("-", 1)[1]]
        if set(grid) - set(at_rates) or development.rates_left(at_rates, grid):
            continue  # its rates are not finished
        best = max(at_rates, key=lambda rate: at_rates[rate])
        at_lengths = {epochs: mean for (epochs, rate), mean in sorted(means.items()) if rate == best}
        reached = development.plateau(at_lengths)
        lines.append(
            [
                cell,
                ", ".join(f"{rate:g}: {mean:.1f}" for rate, mean in sorted(at_rates.items())),
                ", ".join(f"{epochs:g}: {mean:.1f}" for epochs, mean in at_lengths.items()),
                f"rate {best:g}, {reached:g} epochs" if reached else f"rate {best:g}, length not finished",
            ]
        )
    return lines


def _round(trials: Sequence[Row], name: str) -> list[str]:
    """For each kind of network, the candidates in the order that decides which go on."""
    lines: list[str] = []
    number = [round_.name for round_ in development.ROUNDS].index(name)
    before, left = (development.survivors(trials, rounds) for rounds in (number, number + 1))
    found = development.differences(trials, name)
    refused = {(row["cell"], row["arm"]) for row in trials if row["round"] == name and row["status"] == "refused"}
    for kind in cells.KINDS:
        own = [cell for cell in found if development.kind_of(cell) == kind]
        if not own:
            continue
        over = development.finished(trials, development.ROUNDS[number], kind, before[kind])
        base = {
            cell: [float(r["test_accuracy"]) for r in trials if _is(r, name, cell, "default") and development.scored(r)]
            for cell in own
        }
        made = [["default", *(f"{fmean(base[cell]):.1f}" for cell in own), "", ""]]
        for arm, score in development.ranking(trials, name, kind):
            shown = [_shown(found[cell].get(arm, []), (cell, arm) in refused) for cell in own]
            goes_on = ("yes" if arm in left[kind] else "no") if over else "open"
            made.append([arm, *shown, signed(score), goes_on])
        lines += ["", f"#### {kind[0].upper()}{kind[1:]}", "", *table(["start", *own, "median", "goes on"], made)]
    if left_out := development.without_score(trials, name):
        lines += ["", f"Left out, as they have no score: {'; '.join(left_out)}. The round is not finished there."]
    return lines


def _is(row: Row, round_: str, cell: str, arm: str) -> bool:
    return (row["round"], row["cell"], row["arm"]) == (round_, cell, arm)


def _shown(differences: Sequence[float], refused: bool) -> str:
    if refused:
        return "refused"
    if not differences:
        return ""
    return f"{signed(fmean(differences))} ({sum(d > 0 for d in differences)}/{len(differences)})"


def fixed(folder: Path) -> Blocks:
    """Write the tables of the protocol."""
    if not (folder / PROTOCOL).exists():
        return {}
    known = json.loads((folder / PROTOCOL).read_text())
    listed = [
        [
            each["cell"],
            each["network"],
            f"{each['data']}; {each['images']} images",
            ", ".join(each["augment"]),
            f"{each['optimizer']}, {', '.join(f'{rate:g}' for rate in each['rates'])}",
            f"{each['epochs']:g}{'' if each['measured'] else ' (assumed)'}",
            f"`{each['matched']}`" if each["matched"] else "none",
        ]
        for each in known["cells"]
    ]
    sides = [
        [each["side"], each["what"], "{:,}, {:,}, {:,}".format(*each["sizes"]), each["test"]] for each in known["data"]
    ]
    arms = [[each["arm"], f"`{each['spec']}`", each["control"] or "no"] for each in known["arms"]]
    return {
        "status": table(["status", "recipe"], [[known["status"], f"`{known['recipe']}`"]], text=2),
        "data": table(["side", "classes", "images at most: training, validation, test", "tested on"], sides, text=4),
        "cells": table(CELL, listed, text=len(CELL)),
        "arms": table(["arm", "spec", "control"], arms, text=3),
    }
