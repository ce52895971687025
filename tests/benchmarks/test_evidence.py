"""How the evidence is gathered: which candidates go on, when a run stops, and what may be judged."""

import importlib.util
import itertools
import json
import time
from pathlib import Path

import pytest

from headstart.errors import HeadstartError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def trial(cell, arm, seed, accuracy, status="done", round_="1"):
    return {"round": round_, "cell": cell, "arm": arm, "seed": seed, "test_accuracy": accuracy, "status": status}


def scored(cell, **gains):
    """Trials of a cell: the default at 50 and 52 with two seeds, others by their gain with each."""
    made = [trial(cell, "default", seed, base) for seed, base in ((0, 50.0), (1, 52.0))]
    for arm, gain in gains.items():
        status = "refused" if gain is None else "done"
        made += [
            trial(cell, arm, s, None if gain is None else base + gain, status) for s, base in ((0, 50.0), (1, 52.0))
        ]
    return made


def test_the_better_half_of_each_kind_goes_on(monkeypatch):
    from evidence import cells, development

    run = [cells.Cell("small-cnn", "cifar", 500, "adamw"), cells.Cell("resnet20", "cifar", 500, "sgd")]
    run.append(cells.Cell("mlp", "gray", 500, "adamw"))
    monkeypatch.setattr(development, "ROUNDS", (development.Round("1", run, 2, searched=False),))
    monkeypatch.setattr(development, "CANDIDATES", dict.fromkeys(("auto", "a", "b", "c"), "spec"))
    trials = [
        *scored("small-cnn-cifar-500-adamw", auto=0.0, a=3.0, b=-1.0, c=None),
        *scored("resnet20-cifar-500-sgd", auto=1.0, a=-9.0, b=2.0, c=None),
        *scored("mlp-gray-500-adamw", auto=-1.0, a=-2.0, b=1.0, c=4.0),
    ]
    # Medians over cells: auto 0.5, b 0.5 and c 0, which refused; b and auto are told apart by their means, 0.5 each.
    assert development.ranking(trials, "1", cells.NORMS) == [("auto", 0.5), ("b", 0.5), ("c", 0.0), ("a", -3.0)]
    left = development.survivors(trials, 1)
    assert left[cells.NORMS] == ["auto", "b"]
    assert left[cells.NO_NORMS] == ["c", "b", "auto"]  # auto stays to be compared with
    assert left[cells.LAYER_NORMS] == ["auto", "a", "b", "c"]  # nothing was run there
    unfinished = [row for row in trials if (row["cell"], row["arm"], row["seed"]) != ("resnet20-cifar-500-sgd", "b", 1)]
    assert development.survivors(unfinished, 1)[cells.NORMS] == ["auto", "a", "b", "c"]
    assert development.survivors(trials, 0)[cells.NORMS] == ["auto", "a", "b", "c"]


def test_the_plateau_is_where_twice_the_epochs_no_longer_help():
    from evidence.development import LENGTHS, plateau

    assert plateau({}) is None
    assert plateau({10: 50.0, 20: 52.0}) is None
    assert plateau({10: 50.0, 20: 52.0, 40: 52.4}) == 20
    rising = {epochs: float(epochs) for epochs in LENGTHS}
    assert plateau(rising) == LENGTHS[-1]


def test_the_grid_of_rates_is_widened_where_the_best_lies_at_its_edge():
    from evidence.development import rates_left

    grid = (1e-3, 1e-2)
    assert rates_left({}, grid) == [1e-3, 1e-2]
    assert rates_left({1e-3: 50.0, 1e-2: 60.0}, grid) == [0.1]
    assert rates_left({1e-3: 50.0, 1e-2: 60.0, 0.1: 55.0}, grid) == []
    assert rates_left({1e-3: 60.0, 1e-2: 50.0}, grid) == [1e-4]
    assert rates_left({10.0**-n: n for n in range(-2, 3)}, grid) == []  # three beyond are enough


class Counting:
    """An executor that runs what it is given, and counts."""

    def __init__(self, clock):
        self.ran, self._clock = [], clock

    def execute(self, experiment, context, trials, progress):
        for each in trials:
            self.ran.append(each)
            next(self._clock)
            yield each


def test_no_trial_begins_when_the_time_is_over(monkeypatch):
    from evidence.running import OutOfTimeError, Until

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def tick():
        for second in itertools.count(1):
            now[0] = float(second)
            yield

    drawn = iter("abcde")
    inner = Counting(tick())
    with pytest.raises(OutOfTimeError):
        list(Until(inner, 3.0).execute(None, None, drawn, None))
    assert inner.ran == ["a", "b", "c"]
    assert list(drawn) == ["d", "e"]  # not drawn, so not claimed
    assert list(Until(Counting(tick()), None).execute(None, None, iter("ab"), None)) == ["a", "b"]


def test_only_what_was_frozen_is_judged(tmp_path, monkeypatch):
    from evidence import cells, protocol

    path = tmp_path / "protocol.json"
    with pytest.raises(HeadstartError, match="is not there: nothing is judged"):
        protocol.check(tmp_path, path)
    protocol.write(protocol.DRAFT, tmp_path, path)
    with pytest.raises(HeadstartError, match=r"is a draft: nothing is judged by it.*frozen.py freeze"):
        protocol.check(tmp_path, path)
    monkeypatch.setattr(cells, "measured", dict)
    with pytest.raises(HeadstartError, match=r"lengths of mlp-gray-500-adamw, .* were not measured"):
        protocol.write(protocol.FROZEN, tmp_path, path)
    known = {cell.name: {"rate": 0.01, "epochs": 40.0} for cell in cells.CORE}
    monkeypatch.setattr(cells, "measured", lambda: known)
    protocol.write(protocol.FROZEN, tmp_path, path)
    protocol.check(tmp_path, path)
    with pytest.raises(HeadstartError, match="is frozen"):
        protocol.write(protocol.DRAFT, tmp_path, path)
    monkeypatch.setattr(cells, "SEEDS", 13)
    monkeypatch.setattr(protocol, "recipe", lambda: "another")
    with pytest.raises(HeadstartError, match="recipe, seeds changed since it was frozen"):
        protocol.check(tmp_path, path)


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A protocol that was frozen, with the folder of its one pack."""
    import numpy as np
    from evidence import cells, data, protocol

    folder, path = tmp_path / "packs", tmp_path / "protocol.json"
    made = folder / "judging-gray"
    made.mkdir(parents=True)
    for part in data.PARTS:
        np.save(made / f"{part}-images.npy", np.zeros((2, 1, 4, 4), np.uint8))
        np.save(made / f"{part}-labels.npy", np.arange(2))
    (made / "complete").touch()
    monkeypatch.setattr(cells, "measured", lambda: {c.name: {"rate": 0.01, "epochs": 40.0} for c in cells.CORE})
    protocol.write(protocol.FROZEN, folder, path)
    protocol.check(folder, path)
    return folder, path


@pytest.mark.parametrize("spec", ["lsuv", "kaiming", "prewarm", "matched-random"])
def test_another_revision_of_any_arms_method_is_seen(settled, monkeypatch, spec):
    from dataclasses import replace

    from evidence import protocol

    from headstart.engine.registry import parse

    method = type(parse("matched-random:of=whitening" if spec == "matched-random" else spec)[0])
    monkeypatch.setattr(method, "info", replace(method.info, revision=method.info.revision + 1))
    changed = "cells" if spec == "matched-random" else "arms"
    with pytest.raises(HeadstartError, match=f"{changed}.* changed since it was frozen"):
        protocol.check(*settled)


def test_another_text_of_a_networks_code_is_seen(settled, monkeypatch, tmp_path):
    from evidence import protocol

    own = tmp_path / "benchmarks" / "evidence" / "networks.py"
    own.parent.mkdir(parents=True)
    own.write_text("widths = (40, 80, 161)")
    monkeypatch.setattr(protocol, "ROOT", tmp_path)
    with pytest.raises(HeadstartError, match=": code changed since it was frozen"):
        protocol.check(*settled)
    assert {"networks.py", "plain.py", "cifar_resnets.py", "mobilenets.py"} <= protocol.code().keys()


def test_another_content_of_a_pack_is_seen_and_one_that_is_gone_is_made_again(settled):
    import numpy as np
    from evidence import protocol

    folder, path = settled
    labels = folder / "judging-gray" / "test-labels.npy"
    np.save(labels, np.array([1, 0]))
    with pytest.raises(HeadstartError, match=r": packs changed since it was frozen.*git log -1"):
        protocol.check(folder, path)
    (folder / "judging-gray" / "complete").unlink()
    protocol.check(folder, path)


def test_what_has_no_score_is_left_out_and_named_and_its_round_drops_nothing():
    from evidence import cells, development

    cell = "small-cnn-cifar-500-adamw"
    trials = [*scored(cell, auto=1.0, whitening=2.0), trial(cell, "auto", 2, None), trial(cell, "default", 2, 50.0)]
    trials += [trial(cell, "whitening", 2, "60.0"), trial(cell, "default", 3, ""), trial(cell, "auto", 3, 90.0)]
    assert development.differences(trials, "1")[cell] == {"auto": [1.0, 1.0], "whitening": [2.0, 2.0, 10.0]}
    assert development.without_score(trials, "1") == [f"{cell}, auto, seed 2", f"{cell}, default, seed 3"]
    round_ = development.Round("1", [cells.Cell("small-cnn", "cifar", 500, "adamw")], 3, searched=False)
    assert development.finished(trials, round_, cells.NORMS, ["whitening"])
    assert not development.finished(trials[:-1], round_, cells.NORMS, ["auto"])


def test_rates_are_not_compared_without_all_scores():
    from evidence import development

    rows = [{"arm": "a", "seed": seed, "validation_accuracy": score} for seed, score in ((0, 50.0), (1, 60.0))]
    assert development.means(rows, ["a"], "cell") == {"a": 55.0}
    rows.append({"arm": "a", "seed": 2, "validation_accuracy": None})
    with pytest.raises(HeadstartError, match=r"cell: a, seed 2; b, no trial: no validation accuracy"):
        development.means(rows, ["a", "b"], "cell")


@pytest.fixture
def frozen(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("frozen", BENCHMARKS / "frozen.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "frozen")
    return module


@pytest.mark.parametrize("part", ["core", "every", "papers"])
def test_a_judgement_needs_its_mark(frozen, capsys, part):
    assert frozen.main([part]) == 1
    assert "asks for judged images" in capsys.readouterr().err
    assert not frozen.FOLDER.exists()


def test_a_draft_judges_nothing_even_when_it_is_marked(frozen, capsys, monkeypatch, tmp_path):
    from evidence import protocol

    path = tmp_path / "protocol.json"
    protocol.write(protocol.DRAFT, tmp_path, path)
    monkeypatch.setattr(protocol.check, "__defaults__", (path,))
    assert frozen.main(["core", "--open-judged-data"]) == 1
    assert "is a draft" in capsys.readouterr().err
    assert json.loads(path.read_text())["recipe"] == protocol.recipe()


@pytest.mark.parametrize("part", ["core", "papers", "pack"])
def test_a_rehearsal_opens_nothing(frozen, capsys, part):
    assert frozen.main([part, "--rehearse", "--open-judged-data"]) == 1
    assert "--rehearse opens nothing" in capsys.readouterr().err
    assert not frozen.FOLDER.exists()


@pytest.mark.parametrize("option", [["--rehearse"], ["--task", "arrays:mine"]])
def test_the_papers_have_no_rehearsal_and_take_no_task(frozen, capsys, option):
    assert frozen.main(["papers", *option]) == 1
    assert "'papers' takes neither --rehearse nor --task" in capsys.readouterr().err


@pytest.fixture
def places(frozen, tmp_path, monkeypatch):
    """Judged images in a pack and in the original files, and a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("frozen/data/judging-cifar", "frozen/data/papers-cifar100", "sets/tiny-imagenet-200/train", "mine"):
        Path(name).mkdir(parents=True)
    Path("frozen/data/judging-cifar/train-images.npy").touch()
    Path("link").symlink_to("frozen/data/judging-cifar")
    Path("files").mkdir()
    Path("files/train-images.npy").symlink_to(tmp_path / "frozen/data/judging-cifar/train-images.npy")
    return frozen


@pytest.mark.parametrize(
    "task",
    [
        *(
            "arrays:frozen/data/judging-cifar",
            "frozen/data/judging-cifar",
            "arrays:mine/../frozen/data/judging-cifar:test=5",
        ),
        *("arrays:frozen/data/papers-cifar100", "arrays:link", "arrays:files", "folder:sets/tiny-imagenet-200/train"),
        *("folder:sets/tiny-imagenet-200:size=32", "fashion-mnist", "cifar100:coarse"),
    ],
)
def test_judged_images_do_not_come_in_as_a_task(places, capsys, task):
    assert places.main(["core", "--task", task, "--data-root", "sets"]) == 1
    assert "holds images that are judged" in capsys.readouterr().err


def test_own_images_beside_the_judged_ones_do(places):
    from evidence import data

    for task in ("arrays:mine", "folder:mine:size=32", "digits", "cifar10", "file.py:function"):
        data.not_judged(task, Path("sets"), places.FOLDER / "data")


def test_a_cell_that_does_not_exist_is_named(frozen, capsys):
    assert frozen.main(["lengths", "mlp-gray-500-adam"]) == 1
    assert "Did you mean 'mlp-gray-500-adamw'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "sized"),
    [
        ("folder:cats", "folder:cats:train=500"),
        ("folder:cats:size=32", "folder:cats:size=32,train=500"),
        ("cifar10", "cifar10:train=500"),
        ("cifar100:coarse", "cifar100:coarse,train=500"),
    ],
)
def test_own_images_are_cut_to_the_cells_number(frozen, task, sized):
    assert frozen.sized(task, 500) == sized


@pytest.mark.slow  # trains 54 small networks
def test_the_same_trials_run_on_own_images_and_go_on_after_a_stop(frozen, capsys, monkeypatch, tmp_path):
    import numpy as np
    from evidence import cells

    from headstart.bench import Store

    folder = tmp_path / "mine"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 800), ("test", 100)):
        labels = np.arange(count) % 4
        images = draw.integers(0, 100, (count, 12, 12), np.uint8) + 30 * labels[:, None, None].astype(np.uint8)
        np.save(folder / f"{part}-images.npy", images)
        np.save(folder / f"{part}-labels.npy", labels)
    monkeypatch.setattr(cells, "SEEDS", 2)
    monkeypatch.setattr(cells, "EPOCHS", {500: 1})
    monkeypatch.setattr(cells, "measured", dict)
    command = ["core", "mlp-gray-500-adamw", "--primary", "--task", f"arrays:{folder}"]
    assert frozen.main([*command, "--minutes", "0.0001"]) == 3
    assert "the same command goes on" in capsys.readouterr().err
    assert frozen.main(command) == 0
    store = Store(frozen.FOLDER / "own" / "mlp-own-500-adamw")
    plan = store.read_experiment()
    assert [arm["label"] for arm in plan["arms"]] == ["default", "auto", "default, other draw"]
    assert len(plan["trials"]) == len(store.present(cell["key"] for cell in plan["trials"])) == 6
    assert frozen.main([*command, "--plan"]) == 0
    assert "mlp-own-500-adamw" in capsys.readouterr().out
