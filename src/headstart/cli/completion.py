"""Print the script that lets a shell complete headstart's commands, options and names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headstart.cli._command import COMMANDS, add_command
from headstart.errors import needs_extra, unknown

SHELLS = ("bash", "zsh", "fish")
_EXAMPLES = """\
examples:
  headstart completion bash > ~/.local/share/bash-completion/completions/headstart
  headstart completion zsh > ~/.zfunc/_headstart           with ~/.zfunc in fpath, before compinit
  headstart completion fish > ~/.config/fish/completions/headstart.fish

The script is static: print it again after an update. Completion itself does not start Python.
"""
_FILES = ("FILE", "DATA", "SOURCE", "BANK", "MODEL")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart completion``."""
    parser = add_command(subparsers, "completion", __doc__, _EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(script(args.shell), end="")
    return 0


def script(shell: str) -> str:
    """Write the script of a shell.

    Raises:
        UnknownNameError: There is no script for the shell.
        MissingExtraError: shtab is not installed.
    """
    if shell not in SHELLS:
        raise unknown("shell", shell, SHELLS)
    with needs_extra(package="shtab", extra="completion", what="The command 'completion'"):
        import shtab
    from headstart.cli.main import build_parser

    parser = build_parser(*COMMANDS)
    names = _names()
    for command, action in _actions(parser):
        if action.dest in names.get(command, ()):
            action.choices = names[command][action.dest]
        elif action.metavar in _FILES:
            vars(action)["complete"] = shtab.FILE  # where shtab looks for it
        elif action.metavar == "DIR":
            vars(action)["complete"] = shtab.DIRECTORY
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """List every argument with its command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from _actions(one, f"{command} {name}".strip())
        else:
            yield command, action


def _names() -> Mapping[str, Mapping[str, Sequence[Any]]]:
    """The known names for an argument, by command and argument."""
    from headstart.bench.models.formats import FORMATS
    from headstart.bench.models.zoo import ZOO
    from headstart.bench.papers.protocols import PROTOCOLS
    from headstart.bench.papers.reproduction import PAPERS, SCALES
    from headstart.bench.settings.words import SETTINGS
    from headstart.bench.tasks.data.catalogue import DATASETS
    from headstart.bench.tasks.small import SMALL
    from headstart.engine.registry import list_methods

    methods = list_methods()
    return {
        "compare": {found.field: found.choices for found in SETTINGS.values() if found.choices} | {"arms": methods},
        "init": {"method": methods, "format": (*FORMATS,)},
        "methods": {"name": methods},
        "models": {"name": (*ZOO,)},
        "protocols": {"name": (*PROTOCOLS,)},
        "tasks": {"name": (*DATASETS, *SMALL)},
        "reproduce": {"paper": (*PAPERS,), "scale": (*SCALES,)},
        "completion": {"shell": SHELLS},
    }
