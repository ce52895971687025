import json

import pytest

from headstart.bench.trainer.scores import Score, find_score, read_score
from headstart.errors import HeadstartError


@pytest.fixture
def written(tmp_path):
    def read(text, metric="accuracy"):
        (tmp_path / "score").write_text(text, encoding="utf-8")
        return read_score(tmp_path / "score", metric)

    return read


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"accuracy": 0.5}', Score(0.5)),
        (' \n{"accuracy": "93.1", "steps": 40, "model": {"x": [1]}}', Score(93.1, steps=40.0)),
        ("\ufeffaccuracy\n1\n2\n", Score(2.0, ((1.0, 1.0), (2.0, 2.0)))),
        ("epoch, accuracy ,loss\n0,.5,1\n5,.75,1\n", Score(0.75, ((0.0, 0.5), (5.0, 0.75)), 5.0)),
        ("step,loss,accuracy\n10,1,\n20,1,0.5\n30,2,\n40,1,0.7\n\n", Score(0.7, ((20.0, 0.5), (40.0, 0.7)), 40.0)),
        ("step,accuracy\n10,0.25\n", Score(0.25, (), 10.0)),
        ('accuracy,"a ""quoted"", name"\r\n0.5,x\r\n', Score(0.5)),
    ],
)
def test_scores_are_read(written, text, score):
    assert written(text) == score


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"acc": 1, "loss": 2}', "no key 'accuracy'; it has 'acc', 'loss'"),
        ('{"accuracy": [1]}', "not a number"),
        ('{"accuracy": true}', "not a number"),
        ('{"accuracy": null}', "not a number"),
        ('{"accuracy": NaN}', "diverged"),
        ('{"accuracy": 1', "not JSON"),
        ("", "empty"),
        ("accuracy\n", "empty"),
        ("loss\n1\n", "no column 'accuracy'; it has 'loss'"),
        ("accuracy,loss\n0.5,1\n,2\n", "not a number"),
        ("accuracy\n1\nnan\n", "diverged"),
    ],
)
def test_what_is_no_score_is_said(written, text, message):
    with pytest.raises(HeadstartError, match=message):
        written(text)


@pytest.mark.parametrize(
    ("pattern", "value", "points"),
    [(r"acc (\S+)", 0.75, 2), (r"(?P<key>loss) (?P<value>\S+)", 2.0, 0), (r"^[\d.]+$", 7.5, 0)],
)
def test_the_last_match_counts(pattern, value, points):
    found = find_score("acc 0.5\nacc 0.75 loss 2\n7.5\n", pattern, "m")
    assert (found.value, len(found.curve)) == (value, points)


def test_a_pattern_without_a_match_or_a_number_is_said():
    with pytest.raises(HeadstartError, match="Nothing in the output matches"):
        find_score("acc", "loss", "m")
    with pytest.raises(HeadstartError, match="not a number"):
        find_score("acc: high", r"acc: (\w+)", "m")


def test_a_file_that_is_no_text_is_said(tmp_path):
    (tmp_path / "score").write_bytes(json.dumps({"accuracy": 1}).encode("utf-16"))
    with pytest.raises(HeadstartError, match="not UTF-8"):
        read_score(tmp_path / "score", "accuracy")
