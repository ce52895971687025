import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.banks import Entry, FilterBank
from headstart.bench import Arm, Store, Training, analyse, parse_arm, run, with_controls
from headstart.bench.runs import experiment as module
from headstart.bench.runs.executors.base import Silent
from headstart.bench.trials import trial as trial_module
from headstart.bench.trials.arms import check_starts, parse_arms
from headstart.bench.trials.trial import run_trial
from headstart.errors import HeadstartError, UnknownNameError

TIMES = ("init_seconds", "train_seconds", "step_seconds", "report")


def results(experiment, store):
    """What the trials came to, without the times, by arm and seed."""
    trials = experiment.trials(experiment.prepare())
    return {
        (t.arm.label, t.seed): {k: v for k, v in store.get(t.key).result.items() if k not in TIMES}
        for t in trials
        if store.get(t.key)
    }


class Stop(Silent):
    """Interrupts the run when some trials have ended."""

    def __init__(self, after):
        self.left = after

    def end(self, result):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_and_equals_an_undisturbed_one(make_experiment, tmp_path, monkeypatch):
    experiment = make_experiment()
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    assert run(experiment, whole).ran == 6
    with pytest.raises(KeyboardInterrupt):
        run(experiment, parts, Stop(after=4))
    assert len(results(experiment, parts)) == 4
    done = run(experiment, parts)
    assert (done.ran, done.kept) == (2, 4)
    assert results(experiment, parts) == results(experiment, whole)
    monkeypatch.setattr(trial_module, "run_trial", None)  # nothing is left to run
    assert run(experiment, parts).ran == 0


def test_more_seeds_and_arms_keep_what_is_done(make_experiment, store):
    run(make_experiment(), store)
    more = make_experiment(arms=(Arm("default"), Arm("a new label", "prewarm"), Arm("lsuv", "lsuv")), seeds=(0, 1, 2))
    assert run(more, store).kept == 4


def test_a_damaged_trial_is_found_and_redone(make_experiment, store):
    experiment = make_experiment()
    run(experiment, store)
    before = results(experiment, store)
    victim = sorted(store.trials.iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:-40])
    done = run(experiment, store)
    assert done.ran == 1
    assert [damage.file for damage in done.redone] == [victim.name]
    assert store.damaged() == []
    assert results(experiment, store) == before


def test_arms_share_what_they_should_and_differ_where_they_should(make_experiment, store):
    experiment = make_experiment()
    run(experiment, store)
    found = results(experiment, store)
    default, prewarm, null = (found[label, 0]["first_layer"] for label in ("default", "prewarm", "null"))
    assert default["default"] == default["start"] == prewarm["default"] != null["default"]
    assert prewarm["start"] != prewarm["default"]
    half = len(prewarm["start"]) // 2
    assert prewarm["start"][half:] == prewarm["default"][half:]
    assert found["default", 0]["curve"] != found["default", 1]["curve"]
    assert found["default", 0]["curve"][0] != found["null", 0]["curve"][0]


def test_only_methods_are_charged_for_their_time(make_experiment, store):
    experiment = make_experiment()
    run(experiment, store)
    for trial in experiment.trials(experiment.prepare()):
        result = store.get(trial.key).result
        assert (result["init_seconds"] > 0) == (trial.arm.label == "prewarm")
        assert (result["report"] is not None) == (trial.arm.label == "prewarm")
        assert result["step_seconds"] > 0


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"steps": 7}, {"augment": ("flip",)}, {"precision": "bfloat16"}])
def test_every_change_of_the_training_is_another_trial(make_experiment, change):
    keys = [
        {t.key for t in make_experiment(training=training).trials(make_experiment(training=training).prepare())}
        for training in (make_experiment().training, replace(make_experiment().training, **change))
    ]
    assert not keys[0] & keys[1]


def test_a_changed_model_or_data_file_is_another_trial(make_experiment, tmp_path, task_file):
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\ndef build(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )

    def keys():
        experiment = make_experiment(model=f"{net}:build", arms=(Arm("default"), Arm("orthogonal", "orthogonal")))
        return {trial.key for trial in experiment.trials(experiment.prepare())}

    first = keys()
    assert keys() == first
    net.write_text(net.read_text() + "# touched\n")
    second = keys()
    assert not first & second
    data = tmp_path / "data.py"
    data.write_text(data.read_text().replace("+= 100", "+= 99"))
    assert not second & keys()


def test_a_method_that_refuses_the_model_says_so_and_the_others_go_on(make_experiment, tmp_path, store):
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\ndef build(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    experiment = make_experiment(model=f"{net}:build", arms=(Arm("default"), Arm("prewarm", "prewarm")))
    run(experiment, store)
    found = results(experiment, store)
    assert found["prewarm", 0]["status"] == "refused"
    assert "convolution" in found["prewarm", 0]["reason"]
    assert found["default", 0]["status"] == "done"
    assert run(experiment, store).ran == 2  # a refusal is tried again: the remedy may have been followed


def test_training_that_breaks_down_counts_as_guessing(make_experiment, store):
    experiment = make_experiment(
        arms=(Arm("default"),),
        training=Training(steps=6, batch_size=16, evaluations=3, optimizer="sgd", lr=1e30, schedule="constant"),
    )
    run(experiment, store)
    result = results(experiment, store)["default", 0]
    assert result["status"] == "diverged"
    assert "not finite at step" in result["reason"]
    assert result["test_accuracy"] == pytest.approx(100 / 3)
    assert result["test_loss"] is None


def test_the_global_random_states_are_as_before(make_experiment, store):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    run(make_experiment(seeds=(0,)), store)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_first_arms_trials_do_not_depend_on_the_other_arms(make_experiment):
    experiment = make_experiment()
    context = experiment.prepare()
    alone = run_trial(context, experiment.arms[0], 1)
    run_trial(context, experiment.arms[1], 1)
    again = run_trial(context, experiment.arms[0], 1)
    assert alone["curve"] == again["curve"]


def test_what_cannot_be_an_experiment_is_refused(make_experiment):
    with pytest.raises(HeadstartError, match="repeat"):
        make_experiment(seeds=(1, 1))
    with pytest.raises(HeadstartError, match="at least one"):
        make_experiment(seeds=())
    with pytest.raises(HeadstartError, match="Two arms are called 'a'"):
        make_experiment(arms=(Arm("a"), Arm("a", "lsuv")))
    twice = make_experiment(arms=(Arm("a", "lsuv"), Arm("b", "lsuv")))
    with pytest.raises(HeadstartError, match="'a' and 'b' are the same start"):
        twice.prepare()


def test_arms_that_differ_in_an_option_that_came_late_are_two_starts():
    check_starts([Arm("default"), Arm("all", "within-layer"), Arm("two", "within-layer:layers=2")])


def test_a_control_that_is_what_another_arm_is_shares_its_trials(make_experiment, store):
    longer = (("steps", 8),)
    controls = [Arm(f"equal-steps of {of}", control="equal-steps", of=of, changes=longer) for of in ("a", "b")]
    experiment = make_experiment(arms=(Arm("default"), Arm("a", "lsuv"), Arm("b", "prewarm"), *controls))
    done = run(experiment, store)
    assert (done.ran, experiment.size) == (8, 10)
    analysis = analyse(store)
    assert analysis.missing == 0
    assert analysis.arms[3].accuracies == analysis.arms[4].accuracies
    assert run(experiment, store).kept == 8


def test_an_arm_may_train_otherwise(make_experiment, store):
    experiment = make_experiment(arms=(Arm("default"), Arm("slow", changes=(("lr", 1e-5), ("steps", 9)))))
    seen = []
    progress = Silent()
    progress.working = lambda trials: seen.append((trials[0].arm, trials[0].done, trials[0].steps))
    run(experiment, store, progress)
    found = results(experiment, store)
    assert [(arm, steps) for arm, done, steps in seen if done == 0] == [("default", 6), ("slow", 9)] * 2
    assert [done for arm, done, _ in seen if arm == "slow"] == [0, 3, 6, 9] * 2
    assert found["slow", 0]["curve"][-1]["step"] == 9
    assert found["slow", 0]["curve"][0] == found["default", 0]["curve"][0]
    assert store.read_experiment()["arms"][1]["changes"] == [["lr", 1e-5], ["steps", 9]]


@pytest.mark.parametrize(
    ("change", "message"), [(("lf", 0.1), "a setting that training does not have"), (("lr", -1), "above 0")]
)
def test_an_arm_cannot_train_as_nothing_can(make_experiment, change, message):
    experiment = make_experiment(arms=(Arm("default"), Arm("odd", changes=(change,))))
    with pytest.raises(HeadstartError, match=message):
        experiment.trials(experiment.prepare())


def test_without_test_images_nothing_is_known_of_them(make_experiment, store):
    experiment = make_experiment(seeds=(0,), test=False)
    assert len(experiment.prepare().data.test) == 0
    run(experiment, store)
    found = results(experiment, store)
    assert {result["test_accuracy"] for result in found.values()} == {None}
    assert {trial.key for trial in experiment.trials(experiment.prepare())}.isdisjoint(
        trial.key for trial in make_experiment(seeds=(0,)).trials(make_experiment(seeds=(0,)).prepare())
    )
    run(make_experiment(seeds=(0,)), store)
    whole = results(make_experiment(seeds=(0,)), store)
    assert whole["prewarm", 0]["curve"] == found["prewarm", 0]["curve"]
    assert whole["prewarm", 0]["test_accuracy"] is not None


def test_a_wrong_method_stops_before_any_data_is_loaded(make_experiment, store, monkeypatch):
    monkeypatch.setattr(module, "load_task", None)
    with pytest.raises(UnknownNameError, match="Did you mean 'prewarm'"):
        run(make_experiment(arms=(Arm("x", "prewarn"),)), store)


def test_controls_follow_their_method_and_take_over_its_options():
    arms = with_controls([parse_arm("small=prewarm:fraction=0.25,scale=match"), parse_arm("lsuv")])
    assert [arm.label for arm in arms] == [
        "default",
        "small",
        "matched-random of small",
        "zero-dc-random of small",
        "equal-steps of small",
        "lsuv",
        "equal-steps of lsuv",
        "default, other draw",
    ]
    assert repr(arms[2].methods()[0]) == "MatchedRandom(of='prewarm:fraction=0.25')"
    assert arms[-1].weights_draw == 1
    assert [arm.methods() for arm in arms if arm.control in ("equal-steps", "null")] == [[], [], []]


def test_a_control_of_a_composition_replaces_the_part_that_writes_the_first_layer():
    arms = with_controls([parse_arm("prewarm+lsuv")])
    assert [type(method).__name__ for method in arms[2].methods()] == ["MatchedRandom", "LSUV"]


def test_methods_for_many_convolutions_get_random_controls_methods_for_all_layers_none():
    arms = with_controls([parse_arm("f=filter-clusters:bank=('a,b', 'c+d'),layers=2"), parse_arm("kaiming")])
    assert [arm.label for arm in arms if arm.control in ("matched-random", "zero-dc-random")] == [
        "matched-random of f",
        "zero-dc-random of f",
    ]
    (control,), (treatment,) = arms[2].methods(), arms[1].methods()
    assert control.treatment == treatment
    assert treatment.bank == ("a,b", "c+d")


def test_a_trial_is_named_by_what_a_bank_holds_not_by_where_it_lies(make_experiment, tmp_path):
    def save(name, value):
        atoms = torch.full((1, 3, 3), value)
        made = Entry((3, 3), 0.0, False, "", atoms, atoms, torch.ones(1).long(), 0.0, 1.0)
        FilterBank((made,)).save(tmp_path / f"{name}.safetensors")
        spec = f"filter-clusters:bank={tmp_path / name}.safetensors"
        experiment = make_experiment(arms=(Arm("default"), Arm("f", spec), Arm("m", spec, "matched-random", "f")))
        return {t.arm.label: t.key for t in experiment.trials(experiment.prepare()) if t.seed == 0}

    first, moved, other = save("a", 1.0), save("b", 1.0), save("b", 2.0)
    assert first == moved
    assert first["default"] == other["default"]
    assert first["f"] != other["f"]
    assert first["m"] != other["m"]


def test_commas_part_arms_but_not_a_methods_options():
    texts = [
        "default,prewarm:paper,whitening+within-layer",
        "a=prewarm:fraction=0.25,scale=match",
        "matched-random:of=gabor, lsuv",
    ]
    assert [(arm.label, arm.spec) for arm in parse_arms(texts)] == [
        ("default", "default"),
        ("prewarm:paper", "prewarm:paper"),
        ("whitening+within-layer", "whitening+within-layer"),
        ("a", "prewarm:fraction=0.25,scale=match"),
        ("matched-random:of=gabor", "matched-random:of=gabor"),
        ("lsuv", "lsuv"),
    ]
    with pytest.raises(UnknownNameError, match="Did you mean 'whitening'"):
        parse_arms(["prewarm,whitenin"])


@pytest.mark.parametrize("text", ["", "=prewarm", "label=", " =lsuv"])
def test_what_is_no_arm_is_refused(text):
    with pytest.raises(HeadstartError, match="is not an arm"):
        parse_arm(text)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a+b=lsuv", "a+b"),
        ("prewarm+lsuv=lsuv", "prewarm+lsuv"),
        ("+=lsuv", "+"),
        ("  two \n words\t=lsuv", "two words"),
        ("|`<b>&\"'[x]$y$.*=lsuv", "|`<b>&\"'[x]$y$.*"),
        ("漢字 é=lsuv", "漢字 é"),
    ],
)
def test_a_label_is_what_stands_before_the_equals_sign(text, label):
    assert [(arm.label, arm.spec) for arm in parse_arms([text])] == [(label, "lsuv")]


@pytest.mark.parametrize(("label", "wrong"), [("a,b", "','"), ("a:b", "':'"), ("a=b", "'='"), ("a,b:c", "',' or ':'")])
def test_a_label_with_a_sign_of_specs_is_refused_by_that_sign(label, wrong):
    with pytest.raises(UnknownNameError, match=re.escape(f"If '{label}' is a label: it cannot hold {wrong}.")):
        parse_arms([f"{label}=prewarm:fraction=0.25"])


@pytest.mark.parametrize("text", ["prewarn:fraction=0.5", "prewarm:fractoin=0.5", "x=prewarm:fractoin=0.5", "prewarn"])
def test_a_mistyped_spec_is_not_taken_for_a_label(text):
    with pytest.raises(UnknownNameError, match="Did you mean") as caught:
        parse_arms([text])
    assert "label" not in str(caught.value)


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x7f", "\u202e", "\u200b", "\udcff"])
def test_a_label_that_cannot_be_printed_is_refused_by_that_character(character):
    with pytest.raises(HeadstartError, match=re.escape(f"cannot be printed: {character!a}.")):
        parse_arm(f"a{character}b=lsuv")
