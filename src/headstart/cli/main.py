"""Find the command's module, run it, and turn errors into one message and an exit code."""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from headstart.cli._command import COMMANDS
from headstart.version import __version__

_EXAMPLES = """\
examples:
  headstart compare                                   does a start help? on 5,000 real digits, no download
  headstart compare --model net.py:build_model --task data.py:load --steps 1000
  headstart report runs/compare                       make the page again from stored trials
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0 for success, 2 for an error with a message, 130 if interrupted, and 128
        plus its number if another signal ended it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv is None:
            _unwind_at_the_end()
            _print_anything()
        parsed = build_parser(arguments[0] if arguments else "").parse_args(arguments)
        return int(parsed.run(parsed))
    except _Ended as end:
        _complain(f"Ended by {end.signal.name}.")
        return 128 + end.signal
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from headstart.errors import HeadstartError

        if not isinstance(error, HeadstartError):
            raise
        _complain(str(error))
        return 2


class _Ended(KeyboardInterrupt):
    """Raised when a signal asks this process to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def _print_anything() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unwind_at_the_end() -> None:
    """Let other ending signals act like Ctrl-C: workers are stopped, and shared resources are freed.

    A signal that is ignored, as under ``nohup``, stays ignored.
    """
    ours = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    ours = [number for number in ours if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: object) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # `timeout` sends its signal twice; the second would end the unwinding
        raise _Ended(number)

    for number in ours:
        signal.signal(number, end)


def build_parser(*commands: str) -> argparse.ArgumentParser:
    """Make the parser, with the arguments of some commands and one line on each of the others.

    Args:
        commands: The commands to import. Others are not imported, so their extras need not be installed.
    """
    parser = argparse.ArgumentParser(
        prog="headstart",
        description="Start neural networks from their data, and find out whether it helps.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"headstart {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name in commands:
            module = _import(name)
            module.add_parser(subparsers)
            _refuse_empty(subparsers.choices[name])
            subparsers.choices[name].set_defaults(run=module.run)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _refuse_empty(parser: argparse.ArgumentParser) -> None:
    """Refuse an empty text where it would mean the working directory."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _refuse_empty(command)
        elif action.nargs != 0 and "" not in (action.default, action.const):
            action.type = _filled(action.type if callable(action.type) else str)


def _filled(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(kind)  # whose name stands in the messages of argparse
    def read(text: str) -> Any:
        if not text:
            raise argparse.ArgumentTypeError("it is empty; is a shell variable not set?")
        return kind(text)

    return read


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"headstart.cli.{name}")
    except ImportError as error:
        from headstart.errors import HeadstartError

        raise HeadstartError(
            f"The command '{name}' cannot be loaded: {error}.",
            remedy="Install what it needs, most likely with: pip install 'headstart[bench]'.",
        ) from error


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from headstart.results.display import printable

    Console(stderr=True).print(Text(printable(message), style="bold red"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
