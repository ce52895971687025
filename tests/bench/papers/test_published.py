"""The published figures: well-formed, about protocols that exist, and the same when recomputed from released runs."""

import csv
import importlib.resources
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from headstart.bench.papers.protocols import PROTOCOLS, find
from headstart.bench.papers.published import figures, of_arm
from headstart.bench.settings.words import defaults, experiment

ROOT = Path(__file__).parents[3]
FIGURES = figures()
NAMES = [f"{f.protocol}-{f.arm}-{f.setting}-{f.metric}" for f in FIGURES]
FROM_RUNS = [figure for figure in FIGURES if figure.source]
SMART_METRICS = {
    "test accuracy at the end": "test_accuracy_last",
    "validation accuracy of each run's best epoch": "val_accuracy",
    "training accuracy of each run's best epoch": "train_accuracy",
}


@pytest.fixture(scope="module")
def released():
    """Rows of a released file; skips without the folder that lies beside that of the data."""
    data = Path(os.environ.get("HEADSTART_DATA") or ROOT.parent / "shared" / "data")
    folder = data.parent / "published"
    if not folder.is_dir():
        pytest.skip(f"released runs: there is no folder {folder}; set HEADSTART_DATA to the folder beside it")
    kept = {}

    def rows(stem):
        if stem not in kept:
            with (folder / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
                kept[stem] = list(csv.DictReader(file))
        return kept[stem]

    return rows


def test_no_figure_stands_twice():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("figure", FIGURES, ids=NAMES)
def test_every_figure_is_well_formed(figure):
    assert f"{figure.protocol}-published" in PROTOCOLS
    assert f"{figure.protocol}-corrected" in PROTOCOLS
    assert 0 < figure.baseline < 100
    assert 0 < figure.treated < 100
    assert figure.gain == pytest.approx(figure.treated - figure.baseline, abs=0.0151)
    assert figure.runs >= 1
    assert figure.metric
    accuracy = figure.metric.startswith(("test accuracy", "accuracy on the test images"))
    assert (figure.caveat == "measure") == (not accuracy)
    assert (figure.caveat == "sequence") == (figure.protocol == "clusters-pairs")
    assert (figure.interval is None) == (figure.p is None)
    if figure.interval:
        low, high = figure.interval
        assert low < figure.gain < high
        assert low + high == pytest.approx(2 * figure.gain, abs=0.012)  # a t interval lies evenly about the mean
        assert (low > 0 or high < 0) == (figure.p < 0.05)
    if figure.published_p:
        assert figure.published_p == pytest.approx(figure.p / 2, abs=6e-4)  # one-sided, and the gain has that sign


@pytest.mark.parametrize("figure", [f for f in FIGURES if not f.setting], ids=lambda f: f"{f.protocol} {f.arm}")
def test_what_a_protocol_measures_again_is_an_arm_of_it_and_has_a_note(figure):
    arms = set()
    for version in ("published", "corrected"):
        words = find(f"{figure.protocol}-{version}").words
        arms |= {arm.label for arm in experiment({**defaults(), **words}).arms if not arm.control}
    assert figure.arm in arms
    assert of_arm(figure.protocol, figure.arm) == figure
    assert figure.note


def test_every_protocol_has_a_figure_and_other_arms_have_none():
    assert {figure.protocol for figure in FIGURES if not figure.setting} == {n.rpartition("-")[0] for n in PROTOCOLS}
    assert of_arm("prewarm-mnist", "lsuv") is None
    assert of_arm("clusters-pairs", "aligned") is None


def test_only_tiny_imagenet_measures_a_start_in_filter_clustering():
    pairs = of_arm("clusters-pairs", "clusters-paper")
    assert "does not measure a start alone" in pairs.note
    assert of_arm("clusters-pairs", "gabor:paper").note == pairs.note
    assert "only figure of this paper that measures a start" in of_arm("clusters-tiny-imagenet", "clusters-paper").note


def paired(rows, figure):
    """Baseline and start of each released run, in percent."""
    _, name, which = figure.source
    if figure.paper == "pre-warm":
        chosen = [row for row in rows if (row["dataset"], row["patches_per_image"]) == (name, which)]
        columns = ([100 * float(row[f"{arm}_accuracy"]) for row in chosen] for arm in ("baseline", "pre_warm"))
        return tuple(map(np.array, columns))
    column = SMART_METRICS[figure.metric]
    values = defaultdict(list)
    for row in rows:
        if row["experiment"] == name and row["arm"] in ("0", which) and row[column]:
            values[row["run"], row["arm"]].append(float(row[column]))
    runs = sorted({run for run, _ in values})
    return tuple(np.array([max(values[run, arm]) for run in runs]) for arm in ("0", which))


@pytest.mark.parametrize("figure", FROM_RUNS, ids=["/".join(f.source) + f" {f.metric}" for f in FROM_RUNS])
def test_every_figure_comes_back_from_the_released_runs(figure, released):
    rows = released(figure.source[0])
    if figure.paper == "filter-clusters":
        top = {
            row["config"]: float(row["val_top1"]) for row in rows if (row["statistic"], row["epoch"]) == ("mean", "15")
        }
        _, curve, random = figure.source
        assert (figure.treated, figure.baseline) == pytest.approx((top[curve], top[random]), abs=0.0051)
        assert figure.gain == pytest.approx(top[curve] - top[random], abs=0.0101)
        return
    baseline, treated = paired(rows, figure)
    differences = treated - baseline
    assert len(differences) == figure.runs
    assert (figure.baseline, figure.treated) == pytest.approx((baseline.mean(), treated.mean()), abs=0.0051)
    assert figure.gain == pytest.approx(differences.mean(), abs=0.0011)
    test = stats.ttest_1samp(differences, 0.0)
    assert figure.interval == pytest.approx(tuple(test.confidence_interval(0.95)), abs=0.0011)
    assert figure.p == pytest.approx(test.pvalue, rel=0.1, abs=5.1e-4)
    if figure.published_p:
        assert figure.published_p == pytest.approx(
            stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue, abs=6e-4
        )


def test_every_released_run_is_in_a_figure(released):
    used = {figure.source for figure in FROM_RUNS}
    seeds = {("pre-warm-seeds", r["dataset"], r["patches_per_image"]) for r in released("pre-warm-seeds")}
    smart = {("smart-init-runs", r["experiment"], r["arm"]) for r in released("smart-init-runs") if r["arm"] != "0"}
    assert seeds | smart == {source for source in used if source[0] != "filter-clustering-curves"}
    curves = {row["config"] for row in released("filter-clustering-curves")}
    assert curves == {name for source in used if source[0] == "filter-clustering-curves" for name in source[1:]}


@pytest.mark.parametrize("data", ["mnist", "fashion-mnist"])
def test_intervals_without_released_runs_follow_from_gain_and_p(data):
    found = of_arm(f"prewarm-{data}", "prewarm")
    error = found.gain / stats.t.isf(found.published_p, found.runs - 1)
    half = error * stats.t.isf(0.025, found.runs - 1)
    assert found.interval == pytest.approx((found.gain - half, found.gain + half), abs=0.006)


def test_the_figures_of_warm_start_come_back_from_the_published_differences():
    found = of_arm("smart-init-imagenet32", "warm-start")
    test = stats.ttest_1samp([2.70, 2.43, 2.14, 2.83], 0.0)
    assert found.gain == pytest.approx(2.525)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)), abs=0.006)
    assert found.p == pytest.approx(test.pvalue, abs=5e-5)


def test_the_file_has_a_column_per_field():
    text = (
        importlib.resources.files("headstart.bench.papers.published")
        .joinpath("figures.csv")
        .read_text(encoding="utf-8")
    )
    rows = list(csv.reader(text.splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows) == len(FIGURES) + 1
