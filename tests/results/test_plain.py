import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.results.plain import plain, to_json


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64("nan"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, np.inf]]), [[1.0, None]]),
        (torch.tensor(-math.inf), None),
        (torch.ones(2, requires_grad=True), [1.0, 1.0]),
        (Path("a/b"), "a/b"),
        (torch.float16, "torch.float16"),
        ([(1, (math.nan, {"x": (None, "nan")}))], [[1, [None, {"x": [None, "nan"]}]]]),
        ({1: {"a": 1}}, {"1": {"a": 1}}),
        (10**400, 10**400),
    ],
)
def test_a_value_becomes_what_json_knows(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_what_stands_for_numbers_that_are_not_finite_is_chosen_by_the_caller():
    value = {"a": [math.nan, (math.inf, np.float32("-inf"))], "b": 1.0}
    assert json.loads(to_json(value)) == {"a": [None, [None, None]], "b": 1.0}
    assert json.loads(to_json(value, str)) == {"a": ["nan", ["inf", "-inf"]], "b": 1.0}


def test_the_value_itself_stays_as_it_is():
    value = {"a": (math.nan, [1])}
    plain(value)["a"][1].append(2)
    assert value["a"][1] == [1]
