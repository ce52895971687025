import math

import numpy as np
import pytest

from headstart.bench import Arm, analyse, run
from headstart.bench.store import Record
from headstart.bench.summary import as_dict, cells, markdown
from headstart.bench.verdicts import Verdict
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
def fill(store):
    """Write a store of given results: ``{label: {seed: result}}``; the first label is the baseline."""

    def write(results, controls=(), alpha=0.05, margin=0.5, threads=lambda label, seed: 2):
        cells = []
        for label, by_seed in results.items():
            for seed, value in by_seed.items():
                record = Record({"arm": label, "seed": seed}, value, {"threads": threads(label, seed)})
                cells.append({"arm": label, "seed": seed, "key": store.put(record) if value else record.key})
        arms = [
            {
                "label": label,
                "spec": label,
                "methods": [],
                "control": dict(controls).get(label, ("", ""))[0],
                "of": dict(controls).get(label, ("", ""))[1],
                "weights_draw": 0,
            }
            for label in results
        ]
        store.write_experiment(
            {
                "format": "headstart-experiment-1",
                "arms": arms,
                "trials": cells,
                "seeds": list(range(8)),
                "alpha": alpha,
                "margin": margin,
                "task": {"description": "t"},
                "model": {"name": "m", "parameters": 5},
                "training": {"steps": 20, "batch_size": 8, "lr": 0.1, "optimizer": "adam", "schedule": "cosine"},
                "provenance": {"command": []},
            }
        )
        return analyse(store)

    return write


def noisy(mean, spread=0.1, seed=0, n=8, **options):
    draws = np.random.default_rng(seed).normal(mean, spread, n)
    return {i: result(float(a), **options) for i, a in enumerate(draws)}


def test_a_method_is_judged_against_the_baseline_and_its_controls_apart(fill):
    analysis = fill(
        {"default": noisy(90), "good": noisy(93, seed=1), "matched": noisy(93, seed=2), "null": noisy(90, seed=3)},
        controls={"matched": ("matched-random", "good"), "null": ("null", "default")},
    )
    verdicts = {arm.label: arm.comparison.verdict for arm in analysis.arms[1:]}
    assert verdicts == {"good": Verdict.HELPS, "matched": Verdict.HELPS, "null": Verdict.NO_EVIDENCE}
    assert [c.against for c in analysis.beyond] == ["matched"]
    assert analysis.beyond[0].verdict is Verdict.NO_EVIDENCE
    assert [arm.comparison.family for arm in analysis.arms[1:]] == [1, 1, 1]
    readings = analysis.control_readings()
    assert "the gain may come from what they share" in readings[0]
    assert "random filters with exactly the norms" in readings[0]
    assert "standard deviation of" in readings[1]


def test_a_gain_beyond_the_control_is_said_to_be_one(fill):
    analysis = fill(
        {"default": noisy(90), "good": noisy(93, seed=1), "zero": noisy(90.2, seed=2)},
        controls={"zero": ("zero-dc-random", "good")},
    )
    assert "good does better than this control" in analysis.control_readings()[0]


def test_steps_to_the_baselines_accuracy_are_censored_at_the_budget(fill):
    fast, slow = (10.0, 91.0, 92.0), (10.0, 80.0, 89.0)
    analysis = fill(
        {
            "default": noisy(90, n=3),
            "fast": noisy(90, n=3, points=fast),
            "slow": noisy(90, n=3, points=slow),
            "mixed": {0: result(90, fast), 1: result(90, slow), 2: result(90, fast)},
        }
    )
    by = {arm.label: (arm.steps_to_baseline, arm.reached) for arm in analysis.arms}
    assert by == {"default": (20, 3), "fast": (10, 3), "slow": (None, 0), "mixed": (10, 2)}


def test_the_start_is_charged_in_steps_and_in_accuracy_at_equal_time(fill):
    analysis = fill({"default": noisy(90, n=4), "dear": noisy(90, n=4, init=0.05), "absurd": noisy(90, n=4, init=5.0)})
    dear, absurd = analysis.arms[1:]
    assert dear.init_steps == pytest.approx(5)
    assert dear.equal_time == pytest.approx(85 - 90)  # half of the last stretch of the curve is not reached
    assert absurd.equal_time is None
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
    assert data["arms"][1]["comparison"]["interval"] == [None, None]


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
