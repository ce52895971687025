"""Measure every layer of a model and say what is wrong with its start; changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from headstart.cli._command import add_command

_EXAMPLES = """\
examples:
  headstart diagnose net.py:build_model --data images.npy
  headstart diagnose headstart:prewarm-cnn --data mnist5k --html diagnosis.html
  headstart diagnose timm:resnet50 --checkpoint model.safetensors --json       weights only

Exit code 0: done, whatever was found; 1: with --check, if anything was found;
2: an error, in one line.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart diagnose``."""
    from headstart.cli import _common

    parser = add_command(subparsers, "diagnose", __doc__, _EXAMPLES)
    data = "mnist5k, .npy/.npz/.pt/.safetensors, a folder of images, or file.py:function (default: weights only)"
    _common.add_arguments(parser, data_help=data)
    _common.add_mask(parser)
    _common.add_memory_limit(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page that works offline")
    parser.add_argument("--check", action="store_true", help="exit with code 1 if anything was found")


def run(args: argparse.Namespace) -> int:
    """Diagnose and show."""
    from headstart.cli import _common, _models
    from headstart.diagnosis.diagnose import SAMPLES, diagnose
    from headstart.errors import HeadstartError

    if args.html is not None:
        _models.check_output(args.html, force=True, suffixes=(".html", ".htm"))
    with _common.working("Loading"):
        model, source, notes = _common.load(args, SAMPLES)
    with _common.working("Looking"):
        diagnosis = diagnose(
            model,
            None if source is None else source.value,
            seed=args.seed,
            include=args.include,
            exclude=args.exclude,
            samples=args.samples,
            mask=_common.mask(args),
            memory_limit=args.memory_limit,
        )
    diagnosis.notes = [*notes, *diagnosis.notes]
    if args.html is not None:
        from headstart.results.display import html_page
        from headstart.results.whole_file import whole_file

        try:
            with whole_file(args.html) as part:
                part.write_text(html_page(diagnosis.title, [diagnosis.to_html()]), encoding="utf-8")
        except OSError as error:
            raise HeadstartError(f"'{args.html}' cannot be written: {error.strerror or error}.") from error
    if args.json:
        from headstart.results.plain import to_json

        print(to_json(diagnosis.to_dict(), str))
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console()
        console.print(diagnosis)
        if args.html is not None:
            console.print(Text(f"Wrote '{args.html}'."))
    return 1 if args.check and diagnosis.findings else 0
