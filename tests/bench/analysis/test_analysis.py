import math

import numpy as np
import pytest

from headstart.bench import Arm, analyse, run
from headstart.bench.report.summary import as_dict, cells, markdown
from headstart.bench.statistics.paired import Interval
from headstart.bench.statistics.verdicts import Verdict
from headstart.errors import HeadstartError


def curve(*accuracies):
    return [{"step": 10 * i, "accuracy": a, "loss": 1.0, "train_loss": None} for i, a in enumerate(accuracies)]


def result(test, points=(10.0, 80.0, 90.0), status="done", init=0.0, step=0.01):
    return {
        "status": status,
        "reason": "" if status == "done" else "the loss",
        "test_accuracy": test,
        "test_loss": 0.1,
        "validation_accuracy": points[-1],
        "area": 70.0,
        "curve": curve(*points),
        "init_seconds": init,
        "train_seconds": 1.0,
        "step_seconds": step,
        "first_layer": None,
        "report": None,
    }


@pytest.fixture
def fill(store, fill_store):
    """Analyse an experiment of given results: ``{label: {seed: result}}``; the first label is the baseline."""
    return lambda results, controls=None, **options: analyse(fill_store(store, results, controls, **options))


def noisy(mean, spread=0.1, seed=0, n=8, **options):
    draws = np.random.default_rng(seed).normal(mean, spread, n)
    return {i: result(float(a), **options) for i, a in enumerate(draws)}


def test_a_method_is_judged_against_the_baseline_and_its_controls_apart(fill):
    analysis = fill(
        {"default": noisy(90), "good": noisy(93, seed=1), "matched": noisy(93, seed=2), "null": noisy(90, seed=3)},
        controls={"matched": ("matched-random", "good"), "null": ("null", "default")},
    )
    verdicts = {arm.label: arm.comparison.verdict for arm in analysis.arms[1:]}
    assert verdicts == {"good": Verdict.HELPS, "matched": Verdict.HELPS, "null": Verdict.NO_CLEAR_DIFFERENCE}
    assert [c.against for c in analysis.beyond] == ["matched"]
    assert analysis.beyond[0].verdict is Verdict.NO_CLEAR_DIFFERENCE
    assert [arm.comparison.family for arm in analysis.arms[1:]] == [1, 1, 1]
    readings = analysis.control_readings()
    assert readings[0].startswith("Is it only the size of the filters? It may be.")
    assert "against random filters of the same size (matched)" in readings[0]
    assert "Two default starts that differ only in the draw of their weights (null)" in readings[1]


def test_another_kind_of_control_makes_no_other_test_stricter(fill):
    controls = {"matched": ("matched-random", "good"), "longer": ("equal-steps", "good"), "null": ("null", "default")}
    labels = ("default", "good", "matched", "longer", "null")
    analysis = fill({label: noisy(90, seed=i) for i, label in enumerate(labels)}, controls=controls)
    assert [arm.comparison.family for arm in analysis.arms[1:]] == [1, 1, 1, 1]
    assert [(c.against, c.family) for c in analysis.beyond] == [("matched", 1), ("longer", 1)]


def test_a_gain_beyond_the_control_is_said_to_be_one(fill):
    analysis = fill(
        {"default": noisy(90), "good": noisy(93, seed=1), "zero": noisy(90.2, seed=2)},
        controls={"zero": ("zero-dc-random", "good")},
    )
    assert analysis.control_readings()[0].startswith("Is it only that its filters ignore brightness? No.")


FAST, SLOW = (10.0, 91.0, 92.0), (10.0, 80.0, 89.0)


def test_steps_to_the_baselines_accuracy_are_censored_at_the_budget(fill):
    analysis = fill(
        {
            "default": noisy(90, n=3),
            "fast": noisy(90, n=3, points=FAST),
            "slow": noisy(90, n=3, points=SLOW),
            "mixed": {0: result(90, FAST), 1: result(90, SLOW), 2: result(90, FAST)},
        }
    )
    by = {arm.label: (arm.speed.median, arm.speed.reached) for arm in analysis.arms}
    on_the_line = pytest.approx(10 * 80 / 81)  # from 10 % to 91 % in ten steps
    assert by == {"default": (20, 3), "fast": (on_the_line, 3), "slow": (None, 0), "mixed": (on_the_line, 2)}
    assert {arm.speed.target.accuracy for arm in analysis.arms} == {90.0}
    assert not any(arm.speed.estimated for arm in analysis.arms)
    assert "After 49 % of the steps it reaches the final accuracy of default (default itself: 100 %)." in (
        analysis.arms[1].sentence()
    )
    assert "none of its runs reaches the final accuracy of default" in analysis.arms[2].sentence()
    assert any(rule.endswith("Here it is 90.00 %.") for rule in analysis.rules())


def test_steps_to_the_baselines_accuracy_have_an_interval_and_say_when_its_end_is_not_reached(fill):
    mixed = {i: result(90, SLOW if i == 3 else FAST) for i in range(8)}
    half = {i: result(90, SLOW if i % 2 else FAST) for i in range(8)}
    analysis = fill({"default": noisy(90), "mixed": mixed, "half": half})
    _, one, other = analysis.arms
    assert one.speed.interval.high == math.inf
    assert "(likely 49 % to not at all; 7 of 8 runs reach it; default itself: 100 %)" in one.sentence()
    assert "most of its runs do not reach the final accuracy of default: 4 of 8 do." in other.sentence()
    data = as_dict(analysis)["arms"][1]["steps_to_baseline"]
    assert (data["reached"], data["budget"], data["steps"]["3"]) == (7, 20, None)
    assert data["interval"] == [pytest.approx(20 * data["median_share"]), None]
    assert cells(one).speed == "49 % (49 % to not reached), 7/8"
    assert cells(one).speed in markdown(analysis)


def test_the_start_counts_among_the_steps_to_the_baselines_accuracy(fill):
    dear = noisy(90, points=FAST, init=0.05)  # five steps of 0.01 s
    absurd = noisy(90, points=FAST, init=0.11)
    analysis = fill({"default": noisy(90), "dear": dear, "absurd": absurd})
    assert analysis.arms[1].speed.median == pytest.approx(10 * 80 / 81 + 5)
    assert analysis.arms[2].speed.reached == 0  # eleven more are beyond the budget of 20


def test_a_diverged_trial_never_reaches_the_baselines_accuracy_and_sets_no_target(fill):
    broken = result(10.0, points=(10.0, 95.0), status="diverged")
    analysis = fill({"default": noisy(90, n=7) | {7: broken}, "wild": noisy(90, n=7, points=FAST) | {7: broken}})
    assert analysis.arms[0].speed.target.accuracy == pytest.approx(90)
    assert analysis.arms[1].speed.steps[7] is None
    assert analysis.arms[1].speed.reached == 7


@pytest.mark.parametrize(
    ("end", "classes", "warned"), [(11.0, 10, 1), (20.0, 10, 0), (52.0, 2, 1), (60.0, 2, 0), (2.5, 100, 0)]
)
def test_a_baseline_that_hardly_learned_is_noted(fill, end, classes, warned):
    flat = noisy(end, points=(end, end, end))
    analysis = fill({"default": flat, "same": flat}, task={"name": "t", "description": "t", "classes": classes})
    assert len(analysis.notes) == warned
    assert all("steps to its accuracy say little here" in note for note in analysis.notes)


def test_areas_are_compared_in_pairs(fill):
    def areas(values):
        return {i: result(90) | {"area": v} for i, v in enumerate(values)}

    base, more = [70, 72, 74, 71, 69, 75], [1.0, 2.0, 1.5, 0.5, 2.5, 1.0]
    arm = fill({"default": areas(base), "good": areas([b + m for b, m in zip(base, more, strict=True)])}).arms[1]
    assert arm.area_difference.mean == pytest.approx(np.mean(more))
    assert arm.area_difference.interval == Interval(0.5, 2.5)  # of six the least and the largest
    assert cells(arm).area.startswith("+1.42 (+")


def test_the_area_of_an_arm_with_more_steps_is_not_compared(fill):
    results = {"default": noisy(90), "longer": noisy(90), "same": noisy(90)}
    longer, same = fill(results, changes={"longer": [["steps", 22]], "same": [["lr", 0.2]]}).arms[1:]
    assert longer.area_difference is None
    assert same.area_difference.mean == 0


def test_a_gain_that_longer_training_has_too_is_said_to_be_one(fill):
    control = {"longer": ("equal-steps", "good")}
    analysis = fill({"default": noisy(90), "good": noisy(93, seed=1), "longer": noisy(93, seed=2)}, control)
    (reading,) = analysis.control_readings()
    assert reading.startswith("Would training longer do as well? It may.")
    assert reading.endswith("This does not separate the two.")
    assert [arm.comparison.family for arm in analysis.arms[1:]] == [1, 1]  # a control makes no method's test stricter


def test_the_start_is_charged_in_steps(fill):
    dear = fill({"default": noisy(90, n=4), "dear": noisy(90, n=4, init=0.05)}).arms[1]
    assert dear.init_steps == pytest.approx(5)
    assert "the time of 5 training steps" in dear.sentence()


def test_a_diverged_trial_counts_and_is_told(fill):
    broken = noisy(90, n=7) | {7: result(10.0, points=(10.0,), status="diverged")}
    arm = fill({"default": noisy(90), "wild": broken}).arms[1]
    assert arm.diverged == 1
    assert len(arm.comparison.differences) == 8
    assert "Training diverged in 1 of 8 seeds" in arm.sentence()
    assert arm.curves()[1].shape == (7, 3)


def test_what_is_not_finished_is_counted_and_left_out(fill):
    analysis = fill({"default": noisy(90), "late": noisy(91, n=3) | dict.fromkeys(range(3, 8))})
    assert analysis.missing == 5
    assert analysis.arms[1].comparison.seeds == (0, 1, 2)
    assert "5 trials are not finished" in markdown(analysis)


def test_a_refusal_is_no_comparison_and_no_member_of_a_family(fill):
    refused = {i: {"status": "refused", "reason": "no convolution"} for i in range(8)}
    analysis = fill({"default": noisy(90), "odd": refused, "good": noisy(93, seed=1)})
    assert analysis.arms[1].comparison is None
    assert analysis.arms[1].sentence() == "odd did not run: no convolution"
    assert analysis.arms[2].comparison.family == 1
    assert cells(analysis.arms[1]).verdict == "refused"


def test_mixed_provenance_is_noted(fill):
    analysis = fill({"default": noisy(90), "good": noisy(93)}, threads=lambda label, seed: 2 + (seed == 3))
    assert analysis.notes == ("The trials were run with 2 different thread counts.",)


def test_trials_that_could_not_be_captured_are_noted_with_their_reason(fill):
    results = noisy(90)
    results[3]["eager"], results[4]["eager"] = "the model draws random numbers while it trains", ""
    assert fill({"default": results, "good": noisy(93)}).notes == (
        "Steps were not captured in 1 of 16 trials: the model draws random numbers while it trains.",
    )


def test_damaged_files_are_noted(fill, store):
    fill({"default": noisy(90)})
    victim = sorted(store.trials.iterdir())[0]
    victim.write_text("{")
    analysis = analyse(store)
    assert analysis.missing == 1
    assert analysis.notes == (f"{victim.name} is not complete JSON; it is left out.",)


def test_plain_data_holds_no_number_that_json_cannot(fill):
    data = as_dict(fill({"default": noisy(90, n=1), "one": noisy(91, n=1), "late": {0: None}}))
    flat = [data]
    while flat:
        value = flat.pop()
        flat += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        assert not isinstance(value, float) or math.isfinite(value)
    assert (data["arms"][1]["comparison"]["low"], data["arms"][1]["comparison"]["high"]) == (None, None)


def test_the_same_store_always_gives_the_same_analysis(make_experiment, store):
    run(make_experiment(), store)
    assert as_dict(analyse(store)) == as_dict(analyse(store))


def test_a_store_of_another_format_is_refused(store):
    store.write_experiment({"format": "headstart-experiment-99"})
    with pytest.raises(HeadstartError, match="headstart-experiment-99"):
        analyse(store)


def test_an_experiment_without_methods_still_reports(make_experiment, store):
    run(make_experiment(arms=(Arm("default"),)), store)
    analysis = analyse(store)
    assert analysis.methods == ()
    assert "controls against default" in markdown(analysis)


def test_a_declared_question_is_judged_at_the_full_level_and_stands_before_the_others(fill):
    results = {"default": noisy(90), "good": noisy(93, seed=1), "same": noisy(90, seed=2), "bad": noisy(87, seed=3)}

    def p_of(**plan):
        return {arm.label: (arm.comparison.adjusted_p, arm.comparison.family) for arm in fill(results, **plan).methods}

    together, asked, behind = p_of(), p_of(primary="good"), p_of(primary="same")
    assert together["good"] == (pytest.approx(3 * 2 / 2**8), 3)
    assert asked["good"] == (2 / 2**8, 1)
    assert asked["bad"] == (pytest.approx(2 * 2 / 2**8), 2)
    assert behind["good"][0] == behind["bad"][0] == behind["same"][0] > 0.05  # as long as it has no verdict, none has
    assert p_of(primary="same", primary_late=True) == together
    analysis = fill(results, primary="good")
    assert "the question: good" in markdown(analysis)
    assert "good was declared as the question before anything ran." in markdown(analysis)


def test_nothing_has_a_verdict_behind_a_question_that_was_refused_or_decided_without_one(fill):
    runs = {
        "default": {s: result(90 + s / 10) for s in range(8)},
        "good": {s: result(95 + s / 9) for s in range(8)},
        "same": {s: result(90 + s / 10) for s in range(8)},
    }
    refused = runs | {"same": {s: {"status": "refused", "reason": "no convolution"} for s in range(8)}}

    def good_of(results, **plan):
        return next(arm.comparison for arm in fill(results, **plan).methods if arm.label == "good")

    for found in (
        good_of(refused, primary="same"),
        good_of(runs, primary="same", kept={"same": "no clear difference"}),
    ):
        assert found.verdict is Verdict.NOT_SETTLED
        assert found.behind
    assert good_of(runs, primary="same", kept={"same": "helps"}).verdict is Verdict.HELPS
