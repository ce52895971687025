"""Grids: what is listed is what is tried, every arm tries equally many, and what cannot be is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.bench import Arm, Training, with_controls
from headstart.bench.trials.grid import Axis, configurations, configured, make_grid, read_grid
from headstart.errors import HeadstartError, UnknownNameError

ARMS = with_controls([Arm("prewarm", "prewarm"), Arm("q=a.b", "prewarm:fraction=0.25+lsuv"), Arm("lsuv", "lsuv")])


def arm(label):
    return next(each for each in ARMS if each.label == label)


def grid(*texts, training=Training()):  # noqa: B008 - it cannot change
    return make_grid(read_grid(texts, ARMS), ARMS, training)


def test_texts_are_read_with_the_type_that_the_value_has():
    axes = grid("lr=1,1e-2", "weight-decay=0,5e-4", "optimizer=sgd,adam", "patience=1,2", "prewarm.fraction=0.25,1")
    assert [axis.name for axis in axes] == ["lr", "weight_decay", "optimizer", "patience", "fraction"]
    assert [axis.values for axis in axes] == [(1.0, 0.01), (0.0, 5e-4), ("sgd", "adam"), (1, 2), (0.25, 1.0)]
    assert [type(value) for axis in axes for value in axis.values[:1]] == [float, float, str, int, float]
    assert grid("augment=(),('flip','crop')")[0].values == ((), ("flip", "crop"))
    assert grid("q=a.b.fraction=0.1,0.2")[0] == Axis("fraction", (0.1, 0.2), "q=a.b")  # dots and signs in a label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "'lr' cannot be searched. Write lr="),
        ("lr=", "cannot be searched"),
        ("=1,2", "cannot be searched"),
        ("lr=1,,2", "cannot be searched"),
        ("lf=1,2", "no training setting to search: 'lf'. Did you mean 'lr'"),
        ("lr=high,low", "lr='high': it is not a number"),
        ("patience=1.5,2", "it is not a whole number"),
        ("lr=0.1,-1", "'lr=0.1,-1.0'.*must be above 0"),
        ("optimizer=adam,adan", "Did you mean 'adam'"),
        ("lr=0.1,0.1", "lists a value twice"),
        ("steps=10,20", "budget and machine are the same for all"),
        ("batch-size=10,20", "budget and machine are the same for all"),
        ("prewarn.fraction=1,2", "no arm 'prewarn'. Did you mean 'prewarm'"),
        ("prewarm.fractoin=0.5,1", "no option of the arm 'prewarm': 'fractoin'. Did you mean 'fraction'"),
        ("prewarm.fraction=0.5,7", "'prewarm.fraction=0.5,7.0': prewarm: fraction"),
        ("prewarm.bound=true,7", "is not of type"),
        ("default.fraction=0.5", "no option of the arm 'default'"),
        ("matched-random of prewarm.fraction=0.5,1", "takes the options of 'prewarm'. Write prewarm.fraction="),
    ],
)
def test_what_cannot_be_searched_is_said(text, message):
    with pytest.raises(HeadstartError, match=message):
        grid(text)


def test_an_entry_twice_is_refused():
    with pytest.raises(HeadstartError, match="lists 'lr' twice"):
        grid("lr=1,2", "lr=3,4")


def test_an_option_that_two_methods_of_an_arm_have_is_refused():
    arms = (Arm("default"), Arm("both", "whitening+prewarm"))
    with pytest.raises(HeadstartError, match="both whitening and prewarm have an option 'fraction'"):
        make_grid({"both.fraction": [0.25, 0.5]}, arms, Training())


def test_a_value_is_judged_together_with_the_others():
    with pytest.raises(
        HeadstartError, match="cannot try 'schedule=cosine,step': The schedule 'step' has no milestones"
    ):
        grid("schedule=cosine,step")
    assert grid("schedule=cosine,step", training=Training(milestones=(5,)))


def test_a_configuration_reaches_training_and_method():
    axes = grid("lr=0.1,0.2", "prewarm.fraction=0.25,1", "prewarm.scale=match,paper", "q=a.b.scale=match,0.5")
    values = {"lr": 0.2, "prewarm.fraction": 1.0, "prewarm.scale": "paper"}
    found = configured(arm("prewarm"), axes, values)
    assert found.changes == (("lr", 0.2),)
    assert repr(found.methods()) == repr(Arm("x", "prewarm:fraction=1.0,scale=paper").methods())
    control = configured(arm("matched-random of prewarm"), axes, values)
    assert "fraction=1.0" in repr(control.methods())
    assert "paper" in repr(control.methods())
    composed = configured(arm("q=a.b"), axes, {"lr": 0.1, "q=a.b.scale": 0.5})
    assert repr(composed.methods()) == repr(Arm("x", "prewarm:fraction=0.25,scale=0.5+lsuv").methods())
    assert configured(Arm("a", changes=(("lr", 1.0), ("clip", 1.0))), axes, {"lr": 0.1}).changes == (
        ("lr", 0.1),
        ("clip", 1.0),
    )


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 16))
def test_every_arm_tries_as_many_and_always_the_usual_one(rates, scales, most):
    axes = [
        Axis("lr", tuple(0.1 * 2**i for i in range(rates))),
        Axis("fraction", (0.5, 0.2, 0.3, 0.4)[:scales], "prewarm"),
    ]
    training = Training(lr=axes[0].values[-1])
    found = configurations(axes, arm("prewarm"), training, most)
    assert len(found) == min(most, rates * scales)
    assert {"lr": training.lr, "prewarm.fraction": 0.5} in found
    whole = configurations(axes, arm("prewarm"), training, 100)
    assert [each for each in whole if each in found] == found  # in the grid's order, none twice
    assert configurations(axes, arm("prewarm"), training, most) == found
    assert len(configurations(axes, arm("lsuv"), training, most)) == min(most, rates)


def test_arms_with_the_same_grid_try_the_same_part_of_it():
    axes = [Axis("lr", tuple(0.1 * i for i in range(1, 20)))]
    parts = [configurations(axes, arm(label), Training(), 5) for label in ("default", "lsuv", "prewarm")]
    assert parts[0] == parts[1] == parts[2] != configurations(axes, arm("lsuv"), Training(), 19)[:5]


def test_too_large_a_grid_is_refused():
    with pytest.raises(HeadstartError, match="too many"):
        grid("lr=" + ",".join(f"{i}e-5" for i in range(1, 400)), "clip=" + ",".join(map(str, range(400))))


def test_an_unknown_name_is_of_the_kind_that_says_so():
    with pytest.raises(UnknownNameError):
        grid("lf=1,2")
