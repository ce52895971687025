"""The papers' protocols: their numbers are the papers' own, written out here once more, and they run."""

import argparse
import re

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.bench import Store
from headstart.bench.papers.protocols import PROTOCOLS, find, words_of
from headstart.bench.runs.experiment import Experiment
from headstart.bench.settings.config import read
from headstart.bench.settings.words import SETTINGS, check, defaults, experiment
from headstart.bench.tasks.loading import load_task
from headstart.bench.trials.optimizers import Schedule
from headstart.cli import compare
from headstart.cli.main import main
from headstart.errors import HeadstartError, UnknownNameError
from headstart.measure.patches import foreground_density, mean_patch_norm

TASK = {"data-dependent-published": ("--task", "mine.py:load"), "data-dependent-corrected": ("--task", "mine.py:load")}
VERSIONS = ("published", "corrected")
# Rate at the start and the end, patches per image that were used, deviation alpha, patches per image by the rule.
PREWARM = {
    "mnist": (3e-3, 3e-5, 58, 0.20, 58),
    "fashion-mnist": (3e-3, 3e-5, 22, 0.20, 22),
    "cifar10": (3e-3, 3e-5, 28, 0.25, 27),
    "svhn": (5e-4, 3e-6, 15, 0.25, 16),
    "cifar100": (2e-3, 3e-5, 16, 0.25, 30),
}
PUBLISHED_SEEDS = (42, 7, 13, 99, 2025, 1, 8, 21)


def settings(*arguments):
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    return compare.settings(parser.parse_args(["compare", *arguments]))[0]


def built(name) -> Experiment:
    return experiment(settings(f"protocol:{name}", *TASK.get(name, ())))


def rates(training, images, evaluations=()):
    """The learning rate of each epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=training.lr)
    schedule = Schedule(optimizer, training.resolve(images), images)
    found = []
    for epoch in range(round(training.epochs)):
        found.append(schedule.rate)
        for _ in range(images // training.batch_size):
            optimizer.step()
            schedule.after_step()
        if evaluations:
            schedule.after_evaluation(evaluations[epoch])
    return found


def test_the_names_are_those_of_papers_data_sets_and_versions():
    data = [f"prewarm-{task}" for task in PREWARM] + ["clusters-pairs", "clusters-tiny-imagenet", "data-dependent"]
    data += [f"smart-init-{task}" for task in ("imagenet16", "imagenet32", "imagenet64", "cifar10")]
    assert set(PROTOCOLS) == {f"{name}-{version}" for name in data for version in VERSIONS}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_an_experiment_and_its_file_says_the_same(name, tmp_path, capsys):
    made = built(name)
    check(settings(f"protocol:{name}", *TASK.get(name, ())))
    assert set(find(name).words) < set(SETTINGS)
    path = str(tmp_path / "experiment.toml")
    assert main(["compare", f"protocol:{name}", *TASK.get(name, ()), "--write", path]) == 0
    assert experiment({**defaults(), **read(path).settings}) == made
    assert read(path).settings["out"] == f"runs/{name}"
    if name not in TASK:
        other = str(tmp_path / "other.toml")
        assert main(["protocols", name, "--write", other]) == 0
        assert read(other).settings == read(path).settings
    capsys.readouterr()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_says_what_became_of_the_defects(name):
    protocol = find(name)
    kinds = [note.kind for note in protocol.notes]
    assert "reproduced" in kinds if name.endswith("published") else "corrected" in kinds
    assert "corrected" not in kinds or name.endswith("corrected")
    for note in protocol.notes:
        assert len(note.what) > 10
        assert len(note.why) > 10
    baseline, *others = built(name).arms
    assert baseline.label == "default"
    if name.endswith("published"):
        assert not any(arm.control for arm in others)
        assert "validate-on-test" in built(name).task or not name.startswith(("prewarm", "clusters"))
    else:
        assert {"null", "equal-steps"} <= {arm.control for arm in others}
        assert "validate-on-test" not in built(name).task
        assert {"kaiming", "lsuv"} <= {arm.label for arm in others}
        assert len(built(name).seeds) >= 10


@pytest.mark.parametrize("task", PREWARM)
def test_pre_warm(task):
    lr, end, used, alpha, ruled = PREWARM[task]
    published, corrected = (built(f"prewarm-{task}-{version}") for version in VERSIONS)
    for made in (published, corrected):
        training = made.training
        assert made.model == "headstart:prewarm-cnn"
        assert (training.optimizer, training.weight_decay, training.clip) == ("adam", 0, 0)
        assert (training.steps, training.epochs, training.batch_size, training.calibration) == (5000, 0, 256, 256)
        assert (training.lr, training.lr_end, training.schedule) == (lr, end, "cosine")
        assert training.evaluation_steps() == list(range(200, 5001, 200))
        assert (training.augment, training.normalization, training.test_normalization) == ((), "task", "same")
        assert training.precision == "float32"
    assert (published.task, corrected.task) == (f"{task}:validate-on-test", task)
    assert published.seeds == PUBLISHED_SEEDS
    assert [arm.label for arm in published.arms] == ["default", "prewarm"]
    labels = {arm.label for arm in corrected.arms}
    assert {"prewarm", "prewarm-own-scale", "kaiming", "lsuv", "whitening", "matched-random of prewarm"} <= labels
    channels = 1 if alpha == 0.20 else 3
    for made, patches in ((published, used), (corrected, ruled)):
        (method,) = next(arm for arm in made.arms if arm.label == "prewarm").methods()
        conv = nn.Conv2d(channels, 32, 3)
        hs.initialize(conv, torch.rand(16, channels, 12, 12), method)
        assert float(conv.weight.detach()[:16].std(correction=0)) == pytest.approx(alpha, rel=1e-4)
        assert (method.patches, method.algorithm, method.fraction, method.taper) == (patches, "minibatch", 0.5, "after")


@pytest.mark.parametrize(
    ("task", "measured"),
    [
        ("mnist", 0.1373),
        pytest.param("fashion-mnist", 0.3602, marks=pytest.mark.slow),
        pytest.param("cifar100", 0.5676, marks=pytest.mark.slow),
    ],
)
def test_the_rule_gives_these_patches_on_the_real_training_images(real_data, monkeypatch, tmp_path, task, measured):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    images = load_task(f"{task}:validate-on-test", root=real_data(task)).train.images
    if task == "cifar100":
        every_25th = images[::25].float() / 255
        patches = nn.functional.unfold(every_25th, 3).transpose(1, 2).flatten(0, 1)
        found, least = mean_patch_norm(patches), 0.005
        assert int(8 * 6.65 * measured) == PREWARM[task][4]
    else:
        found, least = foreground_density(images), 1e-4
        assert int(8 / found) == PREWARM[task][4]
    assert found == pytest.approx(measured, abs=least)


@pytest.mark.parametrize("data", ["pairs", "tiny-imagenet"])
def test_filter_clustering(data):
    published, corrected = (built(f"clusters-{data}-{version}") for version in VERSIONS)
    for made in (published, corrected):
        training = made.training
        assert made.model == "headstart:resnet18"
        assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 1e-4)
        assert (training.lr, training.batch_size, training.epochs, training.evaluations) == (0.01, 128, 15, 15)
        assert training.augment == (("flip", "rotate") if data == "pairs" else ())
        assert training.rotation == 15
        assert training.normalization == ("task" if data == "pairs" else "imagenet")
    methods = {arm.label: arm.methods() for arm in published.arms}
    assert methods.pop("default") == []
    bank = "cifar100-pairs-resnet18"
    assert methods == {
        "clusters-paper": [hs.FilterClusters(bank, draw="slices", scale="paper")],
        **({"gabor:paper": [hs.Gabor.paper()]} if data == "pairs" else {}),
    }
    starts = {arm.label: arm.methods() for arm in corrected.arms}
    assert starts["clusters"] == [hs.FilterClusters(bank, draw="slices", scale="match")]
    assert starts["matched-random of clusters"] == [hs.MatchedRandom(of=f"filter-clusters:bank={bank},draw=slices")]
    assert starts["zero-dc-random of clusters-paper"] == [
        hs.ZeroDCRandom(of=f"filter-clusters:bank={bank},draw=slices,scale=paper"),
    ]
    assert len(published.seeds) == 5
    assert rates(published.training, 5000) == pytest.approx([0.01] * 7 + [0.002] * 6 + [0.0004] * 2)
    flat = rates(corrected.training, 5000, [50.0] * 15)  # five epochs without a rise are borne, the sixth is not
    assert flat == pytest.approx([0.01] * 7 + [0.005] * 6 + [0.0025] * 2)
    assert rates(corrected.training, 5000, list(range(15))) == pytest.approx([0.01] * 15)


def test_the_pairs_of_filter_clustering(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    root = real_data("cifar100")
    published = load_task(built("clusters-pairs-published").task, root=root)
    assert (len(published.train), len(published.validation), len(published.test)) == (5000, 1000, 1000)
    assert published.fingerprint() == load_task("cifar100-pairs:10,11,validate-on-test", root=root).fingerprint()
    corrected = load_task(built("clusters-pairs-corrected").task, root=root)
    assert (len(corrected.train), len(corrected.validation), len(corrected.test)) == (4500, 500, 1000)


@pytest.mark.parametrize(
    ("data", "batch", "epochs", "decay", "seeds"),
    [
        ("imagenet16", 64, 75, 0.9375, 4),
        ("imagenet32", 64, 50, 0.925, 4),
        ("imagenet64", 64, 35, 0.925, 4),
        ("cifar10", 32, 100, 0.925, 40),
    ],
)
def test_smart_init(data, batch, epochs, decay, seeds):
    published, corrected = (built(f"smart-init-{data}-{version}") for version in VERSIONS)
    for made in (published, corrected):
        training = made.training
        assert made.model == "headstart:mobilenet-v1"
        assert (training.optimizer, training.weight_decay, training.lr) == ("adamw", 0.01, 1e-3)
        assert (training.batch_size, training.epochs, training.evaluations) == (batch, epochs, epochs)
        assert rates(training, 640) == pytest.approx([1e-3 * decay**epoch for epoch in range(epochs)])
        assert training.augment == (("flip", "crop") if data == "cifar10" else ())
    assert len(published.seeds) == seeds
    chosen = published.training.normalization, published.training.test_normalization
    assert chosen == (("task", "imagenet") if data == "cifar10" else ("none", "same"))
    assert (corrected.training.normalization, corrected.training.test_normalization) == ("task", "same")
    if data != "cifar10":
        assert published.task == f"{data}:test-set=imagenetv2-top-images,resample=lanczos"
        assert corrected.task == f"{data}:test-set=imagenetv2"


def test_data_dependent():
    for version in VERSIONS:
        made = built(f"data-dependent-{version}")
        training = made.training
        assert (made.model, made.task) == ("headstart:caffenet", "mine.py:load")
        assert (training.optimizer, training.momentum, training.lr, training.weight_decay) == ("sgd", 0.9, 1e-3, 1e-6)
        assert (training.steps, training.batch_size, training.clip, training.calibration) == (80_000, 16, 10, 160)
        assert (training.schedule, training.decay) == ("step", 0.5)
        assert training.milestones == tuple(range(10_000, 80_000, 10_000))
        names = {arm.label: [method.info.name for method in arm.methods()] for arm in made.arms if not arm.control}
        assert names["gaussian"] == names["k-means"] == ["within-layer", "balance"]
        fills = {arm.label: arm.methods()[0].fill for arm in made.arms if arm.label in ("gaussian", "k-means")}
        assert fills == {"gaussian": "gaussian", "k-means": "kmeans"}
        with pytest.raises(HeadstartError, match=r"leaves the task to you.*--task folder:PATH:size=227"):
            words_of(f"data-dependent-{version}")


def test_an_option_overrules_a_protocol():
    said = settings("protocol:prewarm-mnist-published", "--steps", "20", "--seeds", "2", "--task", "mnist5k")
    assert (said["steps"], said["seeds"], said["task"], said["batch-size"]) == (20, "2", "mnist5k", 256)


def test_a_name_that_is_not_known_gets_the_nearest(capsys):
    with pytest.raises(UnknownNameError, match="Did you mean 'prewarm-mnist-published'"):
        find("prewarm-mnst-published")
    assert main(["compare", "protocol:prewarm-mnst-published"]) == 2
    assert "Did you mean 'prewarm-mnist-published'" in capsys.readouterr().err
    assert main(["compare", "--arms", "lsuv", "protocol:prewarm-mnist-published"]) == 2
    assert "Put the file first" in capsys.readouterr().err


def test_a_protocol_runs_on_the_real_data(real_data, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADSTART_DATA_ROOT", str(real_data("mnist")))
    task = "mnist:validate-on-test,train=5000,validation=500,test=500"
    fast = [
        "--steps",
        "20",
        "--batch-size",
        "64",
        "--evaluations",
        "1",
        "--seeds",
        "7,",
        "--exploratory",
        "--task",
        task,
    ]
    assert main(["compare", "protocol:prewarm-mnist-published", *fast, "--quiet"]) == 0
    assert "2 trials run" in capsys.readouterr().out
    store = Store(tmp_path / "runs" / "prewarm-mnist-published")
    plan = store.read_experiment()
    assert (plan["training"]["lr"], plan["training"]["batch_size"], plan["seeds"]) == (3e-3, 64, [7])
    results = [store.get(cell["key"]).result for cell in plan["trials"]]
    assert all(result["status"] == "done" and result["test_accuracy"] > 40 for result in results)


def test_the_page_lists_every_protocol(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "protocols.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)
    assert listed == [name.removesuffix("-published") for name in PROTOCOLS if name.endswith("-published")]
    for protocol in PROTOCOLS.values():
        assert protocol.paper in page
        for note in protocol.notes:
            assert f"{note.what} |" in page
            assert f"{note.kind}: {note.why} |" in page
    for words in re.findall(r"protocol:([\w-]+)", page):
        assert words == "NAME" or words in PROTOCOLS
