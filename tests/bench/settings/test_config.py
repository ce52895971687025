"""Experiments as files: what is read, what is refused and where, and that a command line survives the way there."""

from __future__ import annotations

import argparse
import math
import shlex
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.bench import Experiment, Training
from headstart.bench.runs.search import Search
from headstart.bench.settings import config
from headstart.bench.settings.words import SETTINGS, check, defaults, experiment, parse_seeds
from headstart.bench.specs.setting import TRAINER, Setting, settings_of
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trainer.trainer import Trainer
from headstart.cli import compare
from headstart.cli.main import main
from headstart.errors import HeadstartError

# Any text that a command line can hold; a first dash would make it an option.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: not text.startswith("-") and not text.endswith(".toml")
)
numbers = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
VALUES = {
    "numbers": st.lists(st.floats(0.1, 1e6), max_size=3, unique=True).map(lambda v: tuple(sorted(v))),
    "text": texts,
    "whole": st.integers(0, 10**9),
    "number": numbers,
    "switch": st.booleans(),
    "seeds": st.one_of(
        st.integers(1, 30).map(str),
        st.tuples(st.integers(0, 9), st.integers(10, 20)).map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.lists(st.integers(0, 10**6), min_size=2, max_size=4, unique=True).map(lambda s: ",".join(map(str, s))),
    ),
    "texts": st.lists(texts, min_size=1, max_size=3).map(tuple),
}
any_settings = st.fixed_dictionaries(
    {}, optional={name: VALUES[word.kind] for name, word in SETTINGS.items() if word.group != TRAINER}
)


def command_line(words):
    """The arguments that say the same."""
    arguments = []
    for name, value in words.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            arguments += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [repr(value).strip("'")])]
            if isinstance(value, str):
                arguments[-1] = value
    return arguments


def parsed(arguments):
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    return compare.settings(parser.parse_args(["compare", *arguments]))[0]


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a file with this text, named ``experiment.toml``."""
    monkeypatch.chdir(tmp_path)

    def call(text):
        (tmp_path / "experiment.toml").write_bytes(text.encode())
        return config.read("experiment.toml")

    return call


@given(any_settings)
@settings(max_examples=60)
def test_a_command_line_and_its_file_say_the_same(written_folder, words):
    from_line = parsed(command_line(words))
    assert from_line == {**defaults(), **words}
    path = written_folder / "written.toml"
    path.write_text(config.write(from_line), encoding="utf-8", newline="\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "check", lambda settings: None)  # any text, not only names of methods
        assert {**defaults(), **config.read(path).settings} == from_line


@pytest.fixture(scope="module")
def written_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


def test_every_field_of_a_training_is_a_setting():
    assert {field.name for field in fields(Training)} == {found.field for found in settings_of(Training)}


def test_a_file_gives_the_experiment_of_the_command_line(read):
    found = read(
        "# a comment\n"
        'arms = [\n  "prewarm", # one\n  "half=prewarm:fraction=0.5",\n]\n'
        "seeds = [3, 5]\nlr = 1\ncontrols = false\nbatch-size = 8\n"
    )
    whole = {**defaults(), **found.settings}
    typed = "--arms prewarm half=prewarm:fraction=0.5 --seeds 3,5 --lr 1 --no-controls --batch-size 8"
    line = parsed(shlex.split(typed))
    assert whole == line
    assert experiment(whole) == experiment(line)
    assert experiment(whole).seeds == (3, 5)
    assert found.lines == {"arms": 2, "seeds": 6, "lr": 7, "controls": 8, "batch-size": 9}


@pytest.mark.parametrize(("written", "meant"), [("8", 8), ('"0-7"', 8), ("[4]", 1), ("[1, 2]", 2)])
def test_seeds_in_every_form(read, written, meant):
    assert len(parse_seeds(read(f"seeds = {written}\n").settings["seeds"])) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = 'mnist5k'\n\nstep = 5\n", "experiment.toml, line 3: there is no key 'step'. Did you mean 'steps'?"),
        ("batch_size = 5\n", "line 1: there is no key 'batch_size'. Did you mean 'batch-size'?"),
        ("zzzzzzz = 5\n", "line 1: there is no key 'zzzzzzz'. Known: task, "),
        ("steps = 5\n[training]\nlr = 1\n", "line 2: there is no table 'training'. An experiment's file has no tables"),
        ("lr.end = 1\n", "line 1: lr = a table is not a number."),
        ("steps = 2.5\n", "line 1: steps = 2.5 is not a whole number."),
        ("steps = true\n", "line 1: steps = True is not a whole number."),
        ("\nsteps = 0\n", "line 2: steps is 0; it must be at least 1."),
        ("lr = nan\n", "line 1: lr = nan is not a number."),
        ("lr = -1\n", "line 1: lr is -1; it must be above 0."),
        ("alpha = 1.5\n", "line 1: alpha is 1.5; it must be above 0 and below 1."),
        ("margin = 0\n", "line 1: margin is 0; it must be above 0."),
        ("controls = 1\n", "line 1: controls = 1 is not true or false."),
        ("task = 3\n", "line 1: task = 3 is not a text"),
        ("arms = 3\n", "line 1: arms = 3 is not a list of texts"),
        ("arms = []\n", "line 1: arms = [] is empty."),
        (
            '# one\narms = [\n"prewarm",\n"prewram",\n]\n',
            "line 2: There is no method 'prewram'. Did you mean 'prewarm'",
        ),
        ('arms = ["lsuv", "lsuv"]\n', "line 1: Two arms are called 'lsuv'."),
        ("optimizer = 'adan'\n", "line 1: There is no optimizer 'adan'. Did you mean 'adam'"),
        (
            "precision = 'atuo'\n",
            "line 1: There is no precision 'atuo'. Did you mean 'auto'? Known: auto, bfloat16, float32.",
        ),
        ("augment = ['flop']\n", "line 1: There is no augmentation 'flop'. Did you mean 'flip'"),
        ("seeds = 'many'\n", "line 1: seeds = 'many' is not understood."),
        ("seeds = [1, 1]\n", "line 1: Seeds [1, 1] repeat one."),
        ("seeds = []\n", "line 1: seeds = [] is not a number (8)"),
        ("lr = 1\nlr = 2\n", "line 2: 'lr = 2' is not TOML: cannot overwrite a value."),
        ("lr = 1\nsteps 2\n", "line 2: 'steps 2' is not TOML: expected '='"),
        ("lr = 1\narms = [1,\n", "line 2: 'arms = [1,' is not TOML"),
    ],
)
def test_an_error_points_at_the_line_and_names_the_nearest_word(read, text, message):
    with pytest.raises(HeadstartError) as caught:
        read(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("experiment.toml, line ")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_none(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(b"lr = 1\n# \xff\n")
    with pytest.raises(HeadstartError, match="line 2: this is not UTF-8"):
        config.read(path)
    path.write_bytes(b"#" * 100_000)
    with pytest.raises(HeadstartError, match="too many"):
        config.read(path)
    with pytest.raises(HeadstartError, match="could not be read: No such file"):
        config.read(tmp_path / "nowhere.toml")


def test_an_option_overrules_the_file(task_file, tmp_path, capsys):
    path = tmp_path / "e.toml"
    path.write_text(
        f'task = {task_file!r}\nout = "{tmp_path / "out"}"\narms = ["within-layer"]\ncontrols = false\n'
        "steps = 4\nbatch-size = 16\nevaluations = 2\ncalibration = 32\nseeds = 1\nexploratory = true\n"
    )
    assert main(["compare", str(path), "--quiet"]) == 0
    assert "2 trials run" in capsys.readouterr().out
    assert main(["compare", str(path), "--quiet", "--seeds", "2"]) == 0
    assert "2 trials run in" in (out := capsys.readouterr().out)
    assert "2 existed already" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('model = "headstart:prewarm-cmn"', "There is no"),
        ('device = "warp"', "The device 'warp' cannot be used"),
    ],
)
def test_an_error_that_comes_later_points_at_the_line_too(task_file, tmp_path, capsys, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text(f"task = {task_file!r}\n{line}\n")
    assert main(["compare", "e.toml", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"e.toml, line 2: {message}")
    assert main(["compare", "e.toml", "--quiet", "--model", "headstart:nothing", "--device", "cpu"]) == 2
    assert "e.toml" not in capsys.readouterr().err  # what was typed is not the file's fault


def test_write_writes_a_file_that_says_the_same_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "--arms", "lsuv", 'a "quoted"=prewarm', "--steps", "7", "--no-controls"]
    assert main([*arguments, "--write", "e.toml"]) == 0
    assert "Run it: headstart compare e.toml" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["e.toml"]
    assert parsed(["e.toml"]) == parsed(arguments[1:])
    before = (tmp_path / "e.toml").read_bytes()
    assert main([*arguments, "--write", "e.toml"]) == 2
    assert "'e.toml' exists" in capsys.readouterr().err
    assert (tmp_path / "e.toml").read_bytes() == before


def test_write_refuses_what_cannot_run(tmp_path, capsys):
    assert main(["compare", "--arms", "prewram", "--write", str(tmp_path / "e.toml")]) == 2
    assert "Did you mean 'prewarm'" in capsys.readouterr().err
    assert not (tmp_path / "e.toml").exists()
    with pytest.raises(HeadstartError, match="not valid text"):
        config.write({"task": "\udcff"})
    with pytest.raises(HeadstartError, match="could not be written"):
        config.save(tmp_path / "no" / "e.toml", {})


def test_a_file_after_the_arms_is_told_apart(capsys):
    assert main(["compare", "--arms", "lsuv", "experiment.toml"]) == 2
    assert "Put the file first: headstart compare experiment.toml" in capsys.readouterr().err


@pytest.mark.parametrize("words", [{"alpha": 0.0}, {"margin": -1.0}, {"margin": math.inf}, {"steps": 0}])
def test_values_that_make_no_sense_are_refused(words):
    with pytest.raises(HeadstartError):
        check(words)


def test_the_pages_have_the_tables_that_the_settings_give(load_tool):
    for page, text in load_tool("reference_pages").pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run tools/reference_pages.py"


@pytest.mark.parametrize(
    ("found", "value", "message"),
    [
        (Setting("n", "whole", 1, "", least=1), 0, "n is 0; it must be at least 1."),
        (Setting("p", "number", 0.1, "", above=0, below=1), 1.0, "p is 1; it must be above 0 and below 1."),
        (Setting("p", "number", 0.1, "", above=0, below=1), math.nan, "p is nan; it must be above 0 and below 1."),
        (Setting("c", "text", "a", "", choices=("a", "bb"), noun="kind"), "b", "There is no kind 'b'."),
        (Setting("c", "texts", (), "", choices=("aa", "bb")), ("aa", "cc"), "There is no c 'cc'."),
    ],
)
def test_a_setting_checks_its_bounds_and_choices(found, value, message):
    found.check(found.default)
    with pytest.raises(HeadstartError) as caught:
        found.check(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("cls", [Training, Experiment, Search, Trainer, TrainerExperiment])
def test_every_setting_of_a_class_is_an_option_with_its_default_and_is_documented(cls):
    own = settings_of(cls)
    assert own
    for found in own:
        assert SETTINGS[found.name].default in (found.default, "auto")
        assert found.help in " ".join((cls.__doc__ or "").split())
        assert found.help
