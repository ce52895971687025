"""List the models, or describe one: options, smallest image, parameters at a given input."""

from __future__ import annotations

import argparse
import re
from typing import Any

from headstart.cli._command import add_command
from headstart.errors import HeadstartError, ModelError
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart models                                     all that come with headstart
  headstart models plain-cnn:depth=50                  one of them
  headstart models --input 1,28,28 --classes 10        with the parameters that they have there
  headstart models timm:resnet18 --json                any model that --model takes
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart models``."""
    parser = add_command(subparsers, "models", __doc__, _EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model to describe (default: list all)")
    parser.add_argument(
        "--input", default="3,64,64", metavar="C,H,W", help="channels, height and width of images (default: 3,64,64)"
    )
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="number of classes (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or the description."""
    from headstart.bench.models import zoo

    shape = _shape(args.input)
    if args.classes < 1:
        raise HeadstartError(f"--classes {args.classes} is not at least 1.")
    if args.name:
        found = describe(args.name, shape, args.classes)
        print(to_json(found) if args.json else "\n".join(_lines(found, shape, args.classes)))
        return 0
    listed = [describe(name, shape, args.classes) for name in zoo.ZOO]
    if args.json:
        print(to_json(listed))
    else:
        _table(listed, shape, args.classes)
    return 0


def describe(name: str, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """Describe a model, as plain values.

    Args:
        name: As for ``--model``; headstart's own models also without ``headstart:``.
        shape: Channels, then height and width of an image, or the sides of other inputs.
        classes: Number of classes.

    Returns:
        ``name``, ``parameters`` at that input or None if it takes no such inputs; for a model that comes with
        headstart also ``about``, ``takes``, ``smallest_image`` and ``options`` (default, least and largest value).

    Raises:
        HeadstartError: There is no such model, or it cannot be built.

    Example:
        >>> describe("prewarm-cnn", (1, 28, 28), 10)["parameters"]
        824650
    """
    from headstart.bench.models import zoo
    from headstart.engine import specs

    base = name.removeprefix("headstart:")
    family = specs.head(base)[0]
    if family not in zoo.ZOO:
        return {"name": name, "parameters": _parameters(name, shape, classes)}
    entry, least = zoo.ZOO[family], zoo.smallest(base)
    fits = (not entry.sides or len(shape) - 1 in entry.sides) and min(shape[1:], default=least) >= least
    return {
        "name": f"headstart:{base}",
        "about": entry.about,
        "parameters": _parameters(f"headstart:{base}", shape, classes) if fits else None,
        "takes": entry.asks,
        "smallest_image": least,
        "options": {
            key: {"default": default, "least": low, "largest": high}
            for key, (default, low, high) in entry.options.items()
        },
    }


def _parameters(spec: str, shape: tuple[int, ...], classes: int) -> int:
    """Build the model and count its parameters; headstart's own models are built without memory."""
    import torch

    from headstart import rng
    from headstart.bench.models.builders import parameter_count, resolve_model

    builder = resolve_model(spec)
    device = torch.device("meta" if spec.startswith("headstart:") else "cpu")
    with rng.untouched(), device:
        try:
            return parameter_count(builder(shape[0], classes, shape[1:]))
        except HeadstartError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"'{spec}' cannot be built: {type(error).__name__}: {reason}.") from error


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4}){0,3}", text.replace(" ", "")):
        raise HeadstartError(
            f"--input {text!r} is not understood.",
            remedy="Write channels,height,width: 3,32,32; for other inputs channels and sides: 12,400.",
        )
    return tuple(map(int, text.replace(" ", "").split(",")))


def _options(found: dict[str, Any]) -> str:
    return ", ".join(f"{key}={option['default']}" for key, option in found["options"].items())


def _table(listed: list[dict[str, Any]], shape: tuple[int, ...], classes: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "parameters", "options", "what it is"):
        table.add_column(column, no_wrap=column != "what it is", justify="right" if column == "parameters" else "left")
    for found in listed:
        count = found["parameters"]
        least = f"≥ {found['smallest_image']} px" if found["takes"] == "images" else found["takes"]
        size = f"{count / 1e6:.2f} M" if count is not None else least
        row = (found["name"].removeprefix("headstart:"), size, _options(found), found["about"])
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(table)
    console.print(
        f"\nParameters at {'×'.join(map(str, shape))} and {classes} classes; change them with --input and --classes."
        " In "
        "--model write headstart:NAME or headstart:NAME:option=value,...; torchvision:NAME, timm:NAME and "
        "file.py:function are models too. 'headstart models NAME' describes one.",
        highlight=False,
        markup=False,
    )


def _lines(found: dict[str, Any], shape: tuple[int, ...], classes: int) -> list[str]:
    where = f"{'×'.join(map(str, shape))} and {classes} classes"
    count = found["parameters"]
    lines = [f"{found['name']}: {found['about']}" if "about" in found else found["name"]]
    size = f"{count:,} at {where}" if count is not None else f"takes no inputs of {where.split()[0]}"
    lines.append(f"  parameters  {size}")
    if "about" in found:
        least = found["smallest_image"]
        size = f" of at least {least}×{least}" if found["takes"] == "images" else ""
        lines.append(f"  takes       {found['takes']}{size}")
        lines += [
            f"  {'' if index else 'options':<10}  {key}={option['default']} ({option['least']} to {option['largest']})"
            for index, (key, option) in enumerate(found["options"].items())
        ]
    return lines
