"""The commands with one line on each, and options that take their default and type from a function's argument."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from headstart.results.plain import to_json

COMMANDS = {
    "compare": "train with and without a start on paired seeds, and say whether it helps",
    "judge": "judge any results: reads a table of arm, seed and score, prints verdicts",
    "init": "write an initialized checkpoint of a model, and report what was done to each layer",
    "adapt": "make a checkpoint's first convolution take another number of input channels",
    "diagnose": "measure every layer of a model and say what is wrong with its start; changes nothing",
    "bank": "build, show and merge filter banks of trained networks",
    "methods": "list the methods, or describe one: options, presets, cost, deviations, reference",
    "tasks": "list the tasks, or describe one: classes, images, splits, files, options",
    "models": "list the models, or describe one: options, smallest image, parameters at a given input",
    "protocols": "list the papers' comparisons, or describe one: its settings, and what was corrected in it",
    "reproduce": "run a paper's comparisons, and compare the published with the measured results",
    "report": "make page and table again from stored trials; for several experiments a common page",
    "status": "say how far an experiment is: done, running, missing, refused, damaged",
    "export": "write stored trials as a table, CSV or Parquet, also while they still run",
    "doctor": "say what is installed and what is missing: versions, devices, threads, extras, caches, data",
    "completion": "print the script that lets a shell complete commands and options",
}
"""Each command is a module of this package, which is imported only if it is used."""
NEEDS = {"compare": "bench", "reproduce": "bench", "report": "bench", "completion": "completion"}
"""Commands that need an extra."""


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, description: str | None, examples: str
) -> argparse.ArgumentParser:
    """Add a command's parser.

    Args:
        subparsers: The subparsers of the program.
        name: One of `COMMANDS`.
        description: The docstring of its module.
        examples: Text below the options, shown as it is.
    """
    return subparsers.add_parser(
        name,
        help=COMMANDS[name],
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_like(parser: argparse.ArgumentParser, function: Callable[..., Any], name: str, help: str, **how: Any) -> None:
    """Add an option with the default and the type of a function's argument.

    Args:
        parser: The parser of a command.
        function: What the command calls.
        name: The argument's name.
        help: The help text; the default is added to it.
        how: Further arguments of ``add_argument``, such as the type if it is not that of the default.
    """
    default = inspect.signature(function).parameters[name].default
    kind = how.pop("type", type(default))
    text = f"{help} (default: {default})"
    parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=kind(default), help=text, **how)


def print_written(path: str, as_json: bool) -> None:
    """Print that an experiment's file was written."""
    print(to_json({"out": path}) if as_json else f"Wrote '{path}'. Run it: headstart compare {path}")
