"""Every option that a text of the package names is one of the command that the text is about."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

import pytest

from headstart.cli import main as dispatcher

SOURCE = Path(dispatcher.__file__).parents[1]
DATA = ("compare", "reproduce", "init", "diagnose", "adapt")
# Who prints the texts of a module that is no command's own: all of them have to know its options.
PRINTED_BY = {
    "cli/_common.py": ("init", "adapt"),  # diagnose writes no checkpoint
    "cli/_dataroot.py": (*DATA, "tasks"),
    "cli/_models.py": ("init", "adapt", "bank build"),
    "bench/models/for_data.py": ("init", "adapt", "bank build"),
    "bench/models/formats.py": ("init",),
    "cli/main.py": ("",),
    "bench/tasks/sources.py": ("init", "diagnose", "adapt"),
    "bench/tasks/data": (*DATA, "tasks"),
    "bench/runs/executors": ("compare", "reproduce"),
    "bench/store/export.py": ("export",),
    "bench/papers/reproduction": ("reproduce",),
    "bench/settings/words.py": ("compare",),
    "bench/settings/config.py": ("compare",),
    "bench/papers/protocols": ("compare",),
}
# Said of the commands that take a model; options of hosts that load a start.
OTHERS = {"models": {"--model"}, "init": {"--initial-checkpoint", "--model"}}


def options() -> dict[str, set[str]]:
    """The options of every command, and of every action of one."""
    found = {"": set(dispatcher.build_parser()._option_string_actions)}
    for name in dispatcher.COMMANDS:
        (commands,) = (a for a in dispatcher.build_parser(name)._actions if isinstance(a, argparse._SubParsersAction))
        parser = commands.choices[name]
        found[name] = set(parser._option_string_actions)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= {f"{name} {one}": set(sub._option_string_actions) for one, sub in action.choices.items()}
                found[name] |= {option for sub in action.choices.values() for option in sub._option_string_actions}
    return found


OPTIONS = options()


def texts(path: Path) -> list[tuple[int, str]]:
    """The strings of a module but for comments on its functions; what a formatted one fills in is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append((node.lineno, node.value))
    return [(line, text) for line, text in found if " " in text]  # a sentence, not an option's definition


def named(text: str, owners: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each option of a text with each command that it is said of: the one written before it, or else the owners."""
    found = []
    for line in re.sub(r'"python [^"]*"', "", text).splitlines():  # of a script, not of ours
        at = owners
        for match in re.finditer(
            r"\bray start|headstart (\w+)(?: (\w+))?|(?<![\w-])(?<!var\()--[a-z][a-z-]*|[';]", line
        ):
            word = match[0]
            if word == "ray start":
                at = ()
            elif word.startswith("headstart"):
                action = f"{match[1]} {match[2]}"
                at = (action,) if action in OPTIONS else (match[1],) if match[1] in OPTIONS else owners
            elif word.startswith("--"):
                found += [(word, command) for command in at]
            else:
                at = owners  # the quoted command or the clause ends
    return found


def owners_of(path: str) -> tuple[str, ...]:
    command = path.removeprefix("cli/").removesuffix(".py")
    if command in OPTIONS:
        return (command,)
    return next((commands for start, commands in PRINTED_BY.items() if path.startswith(start)), ("compare",))


MODULES = [
    p.relative_to(SOURCE).as_posix() for p in sorted(SOURCE.rglob("*.py")) if re.search("--[a-z]", p.read_text("utf-8"))
]


@pytest.mark.parametrize("module", MODULES)
def test_every_option_of_a_text_is_one_of_its_command(module):
    wrong = [
        f"line {line}: {command} has no {option}"
        for line, text in texts(SOURCE / module)
        for option, command in named(text, owners_of(module))
        if option not in OPTIONS[command] | OTHERS.get(command, set())
    ]
    assert wrong == []


def test_the_look_finds_options_that_are_not_there():
    said = "Pass --force. See 'headstart status DIR --jsn'; --out is fine, and 'headstart bank show B --clusters 3'."
    found = named(said, ("export",))
    assert [pair for pair in found if pair[0] not in OPTIONS[pair[1]]] == [
        ("--jsn", "status"),
        ("--clusters", "bank show"),
    ]
    assert ("--force", "export") in found
    assert ("--out", "export") in found
