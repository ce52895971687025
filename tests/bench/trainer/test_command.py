import pytest

from headstart.bench.trainer.command import PLACEHOLDERS, Command
from headstart.bench.trainer.secrets import without_secrets
from headstart.bench.trainer.trainer import Trainer
from headstart.errors import HeadstartError

VALUES = {name: f"<{name}>" for name in PLACEHOLDERS}


def filled(text, **values):
    return Command.parse(text).fill({**VALUES, **values})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train {start}", ["train", "<start>"]),
        ("train --init={start} '{seed} of 8'", ["train", "--init=<start>", "<seed> of 8"]),
        ("train {start} --opt '{\"lr\": 1}' {{x}}", ["train", "<start>", "--opt", '{"lr": 1}', "{x}"]),
        ("train {start} $HOME `id` ; rm -rf / && a | b > c", None),
        (r"train {start} a\ b ''", ["train", "<start>", "a b", ""]),
    ],
)
def test_words_are_parted_as_a_shell_does_and_nothing_else_of_it_happens(text, words):
    if words is None:
        words = ["train", "<start>", "$HOME", "`id`", ";", "rm", "-rf", "/", "&&", "a", "|", "b", ">", "c"]
    assert filled(text) == words


def test_a_value_stays_one_word_whatever_it_holds():
    assert filled("train {start} {dir}/x", start="/a b'\"$(x) {seed}", dir="/d e")[1:] == [
        "/a b'\"$(x) {seed}",
        "/d e/x",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train {start} {sede}", r"placeholder {sede}.*Did you mean {seed}\?.*{start}, {seed}, {out}, {dir}, {extra}"),
        ("train {start} {lr}", r"{lr}, which does not exist.*write {{lr}}"),
        ("train 'x", "split into words"),
        ("  ", "empty"),
        ("train {seed} {out}", r"no {start}"),
        ("train {{start}}", r"no {start}"),
    ],
)
def test_what_cannot_be_is_said(text, message):
    with pytest.raises(HeadstartError, match=message):
        Command.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "train {start}"}, r"no {out}.*--metric-pattern"),
        ({"metric_pattern": "acc ("}, "not a regular expression"),
        ({"metric_pattern": "a", "metric_file": "b"}, "give only one of"),
        ({"metric_file": "{folder}/x"}, "{folder}, which does not exist"),
        ({"metric": " "}, "no name"),
        ({"start_format": "pickle"}, "pickle"),
        ({"timeout": -1}, "at least 0"),
        ({"steps": -1}, "trainer-steps is -1"),
    ],
)
def test_a_trainer_that_cannot_be(changes, message):
    with pytest.raises(HeadstartError, match=message):
        Trainer(**{"command": "train {start} {out}", **changes})


def test_another_script_is_another_trainer_and_another_place_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer("python train.py {start} {out}")
    (tmp_path / "train.py").write_text("1")
    first = trainer.identity()
    (tmp_path / "train.py").write_text("2")
    assert trainer.identity() != first
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.py").write_text("1")
    monkeypatch.chdir(tmp_path / "other")
    assert trainer.identity() == first


def test_secrets_of_the_environment_are_not_written_down(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("A_TOKEN", "0123456789-longer")
    monkeypatch.setenv("DB_PASSWORD", "abc")  # shorter than anything that could be told from a word
    monkeypatch.setenv("HARMLESS", "visible-value")
    text = "0123456789-longer 0123456789 abc visible-value"
    assert without_secrets(text) == "<A_TOKEN> <WANDB_API_KEY> abc visible-value"
    trainer = Trainer("train {start} {out} --key 0123456789")
    assert "0123456789" not in str(trainer.identity())
    assert "0123456789" in trainer.parsed.words
