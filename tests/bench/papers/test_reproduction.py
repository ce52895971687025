"""Reproductions: which comparisons a scale runs, how they deviate, which files they need, and their page."""

import argparse
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from headstart.bench import Store, analyse, load_task, resolve_model
from headstart.bench import run as run_experiment
from headstart.bench.papers.protocols import PROTOCOLS
from headstart.bench.papers.published import figures, of_arm
from headstart.bench.papers.reproduction import (
    PAPERS,
    SCALES,
    Outcome,
    Reproduction,
    available,
    fetch,
    files,
    markdown,
    plan,
)
from headstart.bench.papers.reproduction.plan import base
from headstart.bench.papers.reproduction.scales import SMOKE
from headstart.bench.settings.words import check
from headstart.bench.tasks.data.listing import lacking, look_up
from headstart.cli import reproduce
from headstart.errors import DataError, HeadstartError, UnknownNameError

OWN = {("data-dependent", "full"): "folder:photos:size=227"}
EVERY = [(paper, scale) for paper in PAPERS for scale in SCALES]
COMPARISONS = [c for paper, scale in EVERY for c in plan(paper, scale, task=OWN.get((paper, scale), ""))]


def planned(paper, scale):
    return plan(paper, scale, task=OWN.get((paper, scale), ""))


def test_every_protocol_is_of_a_paper_and_figures_name_the_papers():
    assert {f"{name}-{v}" for names in PAPERS.values() for name in names for v in ("published", "corrected")} == set(
        PROTOCOLS
    )
    assert {figure.paper for figure in figures()} == set(PAPERS)
    assert all(figure.protocol in PAPERS[figure.paper] for figure in figures())


@pytest.mark.parametrize(("paper", "scale"), EVERY)
def test_every_paper_at_every_scale_is_experiments_in_both_versions(paper, scale):
    found = planned(paper, scale)
    names = [comparison.name for comparison in found]
    assert names
    assert names[::2] == [f"{base(name)}-published" for name in names[::2]]
    assert names[1::2] == [f"{base(name)}-corrected" for name in names[::2]]
    for comparison in found:
        settings = comparison.settings(Path("out"))
        check(settings)
        assert settings["out"] == str(Path("out") / comparison.name)
        made = comparison.experiment()
        assert made.arms[0].label == "default"
        for arm in made.arms:
            arm.methods()
    assert len({comparison.task for comparison in found if comparison.name.endswith("published")}) <= len(names) // 2


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda c: c.name)
def test_every_word_that_differs_from_the_protocol_is_a_deviation(comparison):
    told = comparison.deviations()
    for word, value in comparison.words.items():
        if comparison.protocol.words.get(word) != value:
            assert sum(line.startswith(f"{word}: ") for line in told) == 1, word
    assert set(told[: len(comparison.why)]) == set(comparison.why)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda c: c.name)
def test_arms_with_published_figures_stay_and_a_published_version_has_no_controls(comparison):
    kept = {arm.label for arm in comparison.experiment().arms}
    whole = {
        arm.partition("=")[0] if ":" not in arm.partition("=")[0] else arm for arm in comparison.protocol.words["arms"]
    }
    assert {label for label in whole if of_arm(base(comparison.name), label)} <= kept
    controls = [arm for arm in comparison.experiment().arms if arm.control]
    assert bool(controls) == comparison.name.endswith("corrected")


@pytest.mark.parametrize("paper", PAPERS)
def test_full_is_the_protocols_as_they_are(paper):
    found = planned(paper, "full")
    assert {base(comparison.name) for comparison in found} == set(PAPERS[paper])
    for comparison in found:
        said = dict(comparison.words)
        said.pop("task", None) if paper == "data-dependent" else None
        assert said == {}
        assert not comparison.optional
        if paper != "data-dependent":
            assert comparison.deviations() == []


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_needs_no_files_and_small_has_eight_seeds(paper):
    for comparison in plan(paper, "smoke"):
        made = comparison.experiment()
        assert comparison.task.startswith("mnist5k:")
        assert len(made.seeds) == 2
        assert made.training.resolve(int(comparison.task.partition("train=")[2].partition(",")[0])).steps <= 60
    for comparison in plan(paper, "small"):
        assert len(comparison.experiment().seeds) == 8
        assert not comparison.task.startswith("mnist5k")


@pytest.mark.parametrize(
    "comparison", [c for p in PAPERS for s in ("smoke", "small") for c in plan(p, s)], ids=lambda c: c.name
)
def test_the_models_of_smaller_scales_fit_their_images(comparison):
    task = look_up(comparison.task.partition(":")[0])
    channels, *size = task.shape
    if "size=32" in comparison.task:
        size = [32, 32]
    model = resolve_model(comparison.experiment().model)(channels, task.classes, tuple(size))
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000


def test_what_is_not_known_is_refused():
    with pytest.raises(UnknownNameError, match=r"There is no paper 'prewarm'\. Did you mean 'pre-warm'"):
        plan("prewarm", "smoke")
    with pytest.raises(UnknownNameError, match="There is no scale 'large'"):
        plan("pre-warm", "large")
    with pytest.raises(UnknownNameError, match="no protocol of pre-warm at the scale 'smoke': 'prewarm-svhn'"):
        plan("pre-warm", "smoke", ["prewarm-svhn"])
    with pytest.raises(HeadstartError, match=r"leaves the task to you.*Add --task"):
        plan("data-dependent", "full")
    with pytest.raises(HeadstartError, match="'prewarm-mnist-published' has a task of its own"):
        plan("pre-warm", "smoke", task="cifar10")
    with pytest.raises(HeadstartError, match="--seeds 'some' is not understood"):
        plan("pre-warm", "smoke", seeds="some")


def test_only_and_seeds_and_an_own_task_choose():
    found = plan("pre-warm", "small", ["protocol:prewarm-svhn-corrected", "prewarm-mnist"], seeds="3")
    assert [c.name for c in found] == ["prewarm-mnist-published", "prewarm-mnist-corrected", "prewarm-svhn-corrected"]
    assert [len(c.experiment().seeds) for c in found] == [3, 3, 3]
    assert "seeds: 3 instead of 20." in found[1].deviations()
    assert not any(c.optional for c in found)  # what is asked for by name is not left out
    (own, _) = plan("data-dependent", "smoke", task="mine.py:load")
    assert own.task == "mine.py:load"
    assert "task: mine.py:load; the protocol leaves it to you." in own.deviations()


def put(root, *names):
    for name in names:
        layout = look_up(name, root).layouts[0]
        for path in layout:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()


def test_missing_files_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(tmp_path))
    with pytest.raises(DataError) as caught:
        available(plan("filter-clusters", "full"))
    said = str(caught.value)
    for part in (
        "cifar100-pairs: ",
        "tiny-imagenet: ",
        "Fetch cifar100-pairs with --download",
        "put tiny-imagenet there",
    ):
        assert part in said
    with pytest.raises(
        DataError, match=r"imagenet16: .*imagenetv2-top-images-format-val.*imagenetv2-matched-frequency"
    ):
        available(plan("smart-init", "full"))
    kept, left = available(plan("filter-clusters", "smoke"))
    assert (len(kept), left) == (2, [])


def test_optional_comparisons_without_files_are_left_out_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(tmp_path))
    put(tmp_path, "mnist", "fashion-mnist", "cifar100", "svhn")
    kept, left = available(plan("pre-warm", "small"))
    assert {base(c.name) for c in kept} == {
        f"prewarm-{data}" for data in ("mnist", "fashion-mnist", "cifar100", "svhn")
    }
    assert [line.split(" is left out")[0] for line in left] == ["prewarm-cifar10"]
    with pytest.raises(DataError, match="cifar10"):
        available(plan("pre-warm", "small", ["prewarm-cifar10"]))


def test_only_what_is_missing_and_can_be_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(tmp_path))
    put(tmp_path, "mnist")
    asked = []
    monkeypatch.setattr(files, "download", lambda name, root: asked.append((name, root)))
    fetch(plan("pre-warm", "small"))
    fetch(plan("filter-clusters", "small"))
    assert [name for name, _ in asked] == ["fashion-mnist", "cifar100", "cifar10", "svhn", "cifar100-pairs"]
    assert {root for _, root in asked} == {tmp_path}


def test_what_a_task_with_its_options_lacks(tmp_path):
    put(tmp_path, "imagenet16")
    assert lacking("imagenet16:train=5", tmp_path) == []
    absent = lacking("imagenet16:test-set=imagenetv2", tmp_path)
    assert any("imagenetv2-matched" in path for path in absent)
    assert lacking("mine.py:load", tmp_path) == lacking("folder:photos", tmp_path) == []
    with pytest.raises(UnknownNameError, match="no test set 'v3'"):
        lacking("imagenet16:test-set=v3", tmp_path)


@pytest.fixture
def tiny(monkeypatch):
    """The smallest reproduction: one version of one protocol, two steps."""
    (part,) = SMOKE["data-dependent"]
    words = {
        **part.words,
        "model": "headstart:plain-cnn:depth=2,width=4",
        "steps": 2,
        "milestones": (1.0,),
        "evaluations": 1,
    }
    monkeypatch.setitem(SMOKE, "data-dependent", (replace(part, words=words),))


def test_the_page_says_published_measured_and_deviations(tiny, task_file, tmp_path):
    weird = tmp_path / "a|<b>_*x*.py"
    weird.write_text(Path(task_file.rpartition(":")[0]).read_text())
    (comparison,) = plan("data-dependent", "smoke", ["data-dependent-published"], "1", f"{weird}:load")
    store = Store(tmp_path / "out")
    assert run_experiment(comparison.experiment(), store).ran == 3
    assert run_experiment(comparison.experiment(), store).ran == 0
    outcome = Outcome(comparison, analyse(store), tmp_path / "out" / "report.html")
    rows = {row.arm: row for row in outcome.rows()}
    assert set(rows) == {"gaussian", "k-means"}
    assert rows["gaussian"].published == ("", "", "", "", "", "")
    assert rows["k-means"].published == ("53.30†", "56.60†", "+3.30", "", "1", "")
    accuracy = {arm.label: arm.accuracies[0] for arm in outcome.analysis.arms}
    measured = rows["k-means"].measured
    assert (measured.baseline, measured.arm) == (f"{accuracy['default']:.2f}", f"{accuracy['k-means']:.2f}")
    assert (measured.runs, measured.interval, measured.verdict) == ("1", "—", "not settled")
    command = ("headstart", "reproduce", "data-dependent", "--out", "x\n```\n<b>\x07")
    page = markdown(Reproduction("data-dependent", "smoke", (outcome,), ("cifar10 <b> is left out.",), command))
    assert "a\\|&lt;b&gt;\\_\\*x\\*.py" in page
    assert "\x07" not in page
    assert page.count("\n```\n") == 1  # the end of the block of the command, which stays in it
    assert "<b>" not in page.replace("headstart reproduce data-dependent --out 'x ``` <b>\ufffd'", "")
    table = [line for line in page.splitlines() if line.startswith("| data-dependent-published ")]
    assert [line.split(" | ")[1] for line in table] == ["gaussian", "k-means"]
    assert all(line.count(" | ") == 12 for line in table)
    for said in (
        "It checks in minutes that everything runs",
        "cifar10 &lt;b&gt; is left out.",
        "steps: 2 instead of 80,000.",
        "*differs*: Classification of VOC 2007",
        "mean average precision on VOC 2007, 1 run.",
        "[Its page](data-dependent-published/report.html)",
        "## Published, and not measured here",
        "a network pre-trained on context, against itself",
    ):
        assert said in page
    for note in comparison.protocol.notes:
        assert note.kind in page
    assert not any(
        figure.setting == "" for figure in Reproduction("data-dependent", "smoke", (outcome,), (), ()).unmeasured()
    )


def test_figures_that_nothing_measures_are_listed_apart():
    found = Reproduction("smart-init", "small", (), (), ()).unmeasured()
    assert found == [figure for figure in figures() if figure.paper == "smart-init"]


@pytest.mark.slow
def test_the_tasks_of_the_small_scale_load(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    for paper in PAPERS:
        for comparison in plan(paper, "small"):
            name = comparison.task.partition(":")[0]
            if name not in ("cifar10", "svhn"):  # not among the real data that tests have
                task = load_task(comparison.task, root=real_data("cifar100" if name == "cifar100-pairs" else name))
                assert len(task.train) >= 4500


def test_the_page_of_the_docs_lists_what_each_scale_runs(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "reproduce.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == list(PAPERS)
    for paper, row in rows.items():
        smoke, small, full = row.split(" | ")
        for cell, scale in ((smoke, "smoke"), (small, "small")):
            assert re.findall(r"`([\w-]+)`", cell) == list(dict.fromkeys(base(c.name) for c in plan(paper, scale)))
        assert full == f"all {len(PAPERS[paper])}"
    for scale, about in SCALES.items():
        assert f"**{scale}**" in page
        assert about.endswith(".")
    parser = argparse.ArgumentParser()
    reproduce.add_parser(parser.add_subparsers())
    for line in re.findall(r"^headstart (reproduce .*?)(?: #.*)?$", page, re.MULTILINE):
        args = parser.parse_args(shlex.split(line))
        plan(args.paper, args.scale, args.only, args.seeds, args.task)
