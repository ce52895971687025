"""Seeds in blocks: looks fixed in advance, the error rate kept over all of them, the same end after an interruption."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.bench import Arm, Store, analyse, run, with_controls
from headstart.bench.analysis.sequential import plan_looks, run_until_decided
from headstart.bench.report.summary import markdown
from headstart.bench.runs.executors.base import Finished
from headstart.bench.statistics.paired import holm, sign_flip
from headstart.bench.statistics.power import least_seeds
from headstart.bench.statistics.verdicts import Verdict
from headstart.bench.trials.timing import Clock
from headstart.cli.main import main
from headstart.errors import HeadstartError

ARMS = (Arm("default"), Arm("prewarm", "prewarm"), Arm("lsuv", "lsuv"))


class Made:
    """An executor that makes results up: the baseline's accuracy, an arm's effect, and noise."""

    def __init__(self, effects, spread=1.0, stop_after=math.inf):
        self.effects, self.spread, self.left, self.seen = effects, spread, stop_after, []

    def threads(self):
        return 1

    def execute(self, experiment, context, trials, progress):
        for trial in trials:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.seen.append((trial.arm.label, trial.seed))
            noise = np.random.default_rng([trial.seed, ord(trial.arm.label[0])]).normal(0, self.spread)
            accuracy = 80 + self.effects.get(trial.arm.label, 0) + float(noise)
            result = {
                "status": "done",
                "reason": "",
                "test_accuracy": accuracy,
                "validation_accuracy": accuracy,
                "area": accuracy,
                "curve": [{"step": 0, "accuracy": 10.0, "loss": 1.0, "train_loss": None}],
                "init_seconds": 0.1,
                "train_seconds": 1.0,
                "step_seconds": 0.1,
            }
            yield Finished(trial, result, {})

    def close(self):
        pass


def false_verdicts(looks, levels, experiments, arms=2, seed=0):
    """How often a look at any time finds something although all arms do the same."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(experiments):
        # All arms are compared with the same baseline, as in an experiment; heavy tails, in steps of 0.1 points.
        accuracies = np.round(rng.standard_t(3, (arms + 1, looks[-1])), 1)
        differences = accuracies[1:] - accuracies[0]
        found += any(
            min(holm([sign_flip(arm[:count].tolist()).p for arm in differences])) <= level + 1e-12
            for count, level in zip(looks, levels, strict=True)
        )
    return found / experiments


def test_the_null_gives_at_most_alpha_over_all_looks_together():
    experiments = 1000
    looks = plan_looks(14, 2, 0.05)
    assert len(looks.seeds) == 4
    rate = false_verdicts(looks.seeds, looks.levels, experiments)
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / experiments)
    assert rate > 0.01  # nearly all of the level is used


def test_the_same_looks_at_the_full_level_would_not():
    looks = plan_looks(14, 2, 0.05).seeds
    assert false_verdicts(looks, [0.05] * 4, 600, arms=1) > 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)


@given(st.integers(1, 200), st.integers(1, 6), st.floats(0.001, 0.2), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_looks_rise_end_with_all_seeds_and_can_each_find_something(most, comparisons, alpha, wanted):
    looks = plan_looks(most, comparisons, alpha, wanted)
    assert list(looks.seeds) == sorted(set(looks.seeds))
    assert looks.seeds[-1] == most
    assert 1 <= len(looks.seeds) <= wanted
    assert looks.levels[-1] <= alpha * (1 + 1e-6)
    assert list(looks.levels) == sorted(looks.levels)
    if len(looks.seeds) > 1:
        assert looks.seeds[0] >= least_seeds(looks.levels[0] / comparisons)


def test_controls_change_neither_the_looks_nor_the_verdicts(make_experiment, store, tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "init", lambda self, arm, seed: 0.02)
    monkeypatch.setattr(Clock, "step", lambda self: 0.01)
    ends = []
    for place, arms in ((store, ARMS), (Store(tmp_path / "more"), with_controls(ARMS))):
        made = Made({"prewarm": 10, "lsuv": -10})
        ended = run_until_decided(make_experiment(arms=arms, seeds=tuple(range(24))), place, executor=made)
        methods = analyse(place).methods
        ends.append((ended.looks, ended.used, [(arm.comparison.verdict, arm.comparison.adjusted_p) for arm in methods]))
        summary = ended.summary
        assert (summary.ran, summary.kept) == (len(made.seen), 0)
        # The two equal-steps controls cost the same, and are one trial for each seed.
        assert len(made.seen) == ended.looks.seeds[0] * (len(arms) - (arms is not ARMS))
    assert ends[0] == ends[1]


def test_a_large_effect_stops_at_the_first_look(make_experiment, store):
    made = Made({"prewarm": 10, "lsuv": -10})
    ended = run_until_decided(make_experiment(arms=ARMS, seeds=tuple(range(24))), store, executor=made)
    assert (ended.used, ended.open) == (1, ())
    assert ended.looks.seeds == (12, 16, 20, 24)
    assert ended.summary.ran == len(made.seen) == 36
    analysis = analyse(store)
    assert [arm.comparison.verdict.value for arm in analysis.methods] == ["helps", "hurts"]
    assert all(arm.comparison.alpha == pytest.approx(ended.looks.levels[0]) for arm in analysis.methods)
    assert analysis.plan["looks"] == 4
    assert "Decided after 12 of 24 seeds (look 1 of 4)." in ended.sentence()
    assert "fixed in advance at 12, 16, 20 and 24 seeds" in markdown(analysis)


def test_what_was_decided_stays_decided(make_experiment, store):
    class Fading(Made):
        def execute(self, experiment, context, trials, progress):
            for each in super().execute(experiment, context, trials, progress):
                if each.trial.arm.label == "prewarm" and each.trial.seed >= 12:
                    each = each._replace(result={**each.result, "test_accuracy": 60.0})
                yield each

    ended = run_until_decided(
        make_experiment(arms=ARMS, seeds=tuple(range(24)), margin=0.01), store, executor=Fading({"prewarm": 10})
    )
    assert ended.used == 4
    prewarm, lsuv = (arm.comparison for arm in analyse(store).methods)
    assert prewarm.verdict is Verdict.HELPS
    assert prewarm.mean < 5
    assert lsuv.verdict is Verdict.NOT_SETTLED
    assert (prewarm.family, lsuv.family) == (1, 1)  # its level passed on


def test_seeds_that_are_added_by_hand_are_recorded_and_paid_for(make_experiment, store):
    made = Made({"prewarm": 1.0})
    for count in (8, 12, 16):
        run(make_experiment(arms=ARMS, seeds=tuple(range(count))), store, executor=made)
    analysis = analyse(store)
    assert analysis.plan["looked"] == [8, 12]
    assert all(arm.comparison.alpha == pytest.approx(0.05 / 9) for arm in analysis.methods)
    assert "Seeds were added by hand after looks at 8, 12 seeds" in markdown(analysis)
    run(make_experiment(arms=ARMS, seeds=tuple(range(16))), store, executor=made)
    assert analyse(store).plan["looked"] == [8, 12]


def test_a_question_that_is_named_after_results_were_there_is_too_late(make_experiment, store):
    made = Made({"prewarm": 1.0})
    run(make_experiment(arms=ARMS, seeds=tuple(range(8)), primary="prewarm"), store, executor=made)
    assert analyse(store).plan.get("primary_late") is None
    for asked, late in (("lsuv", True), ("lsuv", True), ("", None)):
        run(make_experiment(arms=ARMS, seeds=tuple(range(8)), primary=asked), store, executor=made)
        assert analyse(store).plan.get("primary_late") is late
    with pytest.raises(HeadstartError, match="arm to judge first 'none'"):
        make_experiment(arms=ARMS, primary="none")


def test_a_run_that_was_interrupted_was_no_look(make_experiment, store):
    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(arms=ARMS, seeds=tuple(range(8))), store, executor=Made({}, stop_after=5))
    run(make_experiment(arms=ARMS, seeds=tuple(range(12))), store, executor=Made({}))
    assert analyse(store).plan["looked"] == []


def test_no_effect_runs_to_the_end_and_no_trial_twice(make_experiment, store):
    made = Made({})
    experiment = make_experiment(arms=ARMS, seeds=tuple(range(14)), margin=0.01)
    ended = run_until_decided(experiment, store, executor=made)
    assert ended.used == len(ended.looks.seeds) == 4
    assert ended.open == ("prewarm", "lsuv")
    assert len(made.seen) == len(set(made.seen)) == ended.summary.ran == 42
    assert "Still open after all 14 seeds" in ended.sentence()


def test_a_design_that_would_have_seen_it_stops_too(make_experiment, store):
    experiment = make_experiment(arms=ARMS, seeds=tuple(range(24)), margin=5.0)
    ended = run_until_decided(experiment, store, executor=Made({}))
    assert ended.open == ()
    assert {arm.comparison.verdict.value for arm in analyse(store).methods} == {"no clear difference"}


def test_interrupted_it_comes_to_the_same_end(make_experiment, tmp_path):
    experiment = make_experiment(arms=ARMS, seeds=tuple(range(14)), margin=0.01)
    effects = {"prewarm": 1.5, "lsuv": -1.5}
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    first = run_until_decided(experiment, whole, executor=Made(effects))
    with pytest.raises(KeyboardInterrupt):
        run_until_decided(experiment, parts, executor=Made(effects, stop_after=33))
    second = run_until_decided(experiment, parts, executor=Made(effects))
    assert (second.used, second.open) == (first.used, first.open)
    assert second.summary.ran + second.summary.kept == first.summary.ran
    assert second.summary.kept == 33
    assert markdown(analyse(parts)) == markdown(analyse(whole))


def test_few_seeds_mean_one_look_at_the_full_level(make_experiment, store):
    ended = run_until_decided(make_experiment(arms=ARMS, seeds=(0, 1)), store, executor=Made({}))
    assert ended.looks.seeds == (2,)
    assert ended.looks.levels == (0.05,)
    assert "There is one look, after 2 seeds" in ended.looks.rule()


def test_a_fixed_number_of_seeds_has_no_such_rule(make_experiment, store):
    run(make_experiment(), store)
    assert not any("look" in rule for rule in analyse(store).rules())


def test_the_command_says_when_it_stopped(task_file, tmp_path, capsys):
    line = ["compare", "--task", task_file, "--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "16"]
    line += ["--calibration", "32", "--arms", "within-layer", "--no-controls", "--evaluations", "1", "--quiet"]
    assert main([*line, "--seeds", "2", "--exploratory", "--until", "decided"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Still open after all 2 seeds (look 1 of 1): within-layer. 4 trials run" in out
    assert main(["report", str(tmp_path / "out"), "--json"]) == 0
    assert any("one look, after 2 seeds" in rule for rule in json.loads(capsys.readouterr().out)["rules"])


@pytest.mark.parametrize(("words", "message"), [("until = 'decide'", "Did you mean 'decided'"), ("looks = 0", "1")])
def test_wrong_words_are_refused_at_their_line(tmp_path, words, message):
    from headstart.bench.settings import config

    (tmp_path / "e.toml").write_text(words)
    with pytest.raises(HeadstartError, match=message) as caught:
        config.read(tmp_path / "e.toml")
    assert "e.toml, line 1: " in str(caught.value)
