"""Make a checkpoint's first convolution take another number of input channels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from headstart.cli._command import add_command, add_like

_EXAMPLES = """\
examples:
  headstart adapt timm:resnet18 --in-channels 13 --checkpoint rgb.safetensors --out bands.safetensors
  headstart adapt net.py:build_model --in-channels 1 --checkpoint rgb.pt --data grey.npy --out grey.pt
  headstart adapt torchvision:resnet50 --in-channels 4 --checkpoint rgb.pt --map 0 1 2 none --out rgbn.safetensors
  headstart adapt timm:resnet18 --in-channels 4 --checkpoint rgb.safetensors --data bands.npy --dry-run \\
      --source-names red green blue --names blue green red nir --map nir=0.5*red+0.5*green

Each entry of --map is the source of one new channel, in order: an old channel (index or name), a weighted sum of old
channels, or none. With 'new=' in front, an entry is for that channel; other channels take the old one of equal name.
The model is built with its old number of channels (set it with --model-args in_channels=3); the data has the new one.
Exit code 0: written (or, with --dry-run, could be); 2: an error, in one line, and no file.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart adapt``."""
    from headstart.adapt.adapt_conv import MATCHES, adapt_conv
    from headstart.adapt.channel_mix import FILLS, STRATEGIES
    from headstart.cli import _common

    parser = add_command(subparsers, "adapt", __doc__, _EXAMPLES)
    data = ".npy/.npz/.pt/.safetensors, a folder of images, or file.py:function, with the new channels"
    _common.add_model_arguments(parser, data_help=data)
    parser.add_argument(
        "--in-channels", type=int, required=True, metavar="N", help="number of input channels that the model gets"
    )
    parser.add_argument("--strategy", metavar="NAME", help=f"{', '.join(STRATEGIES)} (default: repeat)")
    parser.add_argument(
        "--map", nargs="+", metavar="ENTRY", help="the source of each new channel, instead of a strategy"
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names of the new channels, such as bands")
    parser.add_argument("--source-names", nargs="+", metavar="NAME", help="names of the old channels")
    add_like(parser, adapt_conv, "fill", f"weights of channels without a source: {', '.join(FILLS)}", metavar="NAME")
    parser.add_argument(
        "--reference",
        metavar="DATA",
        help="data with the old channels; the output keeps its deviation on these",
    )
    add_like(parser, adapt_conv, "match", f"the target of the output's deviation: {', '.join(MATCHES)}", metavar="NAME")
    add_like(parser, adapt_conv, "per", "one factor per layer, or per output channel", metavar="NAME")
    parser.add_argument(
        "--recentre", action="store_true", help="adapt the running mean of the batch norm behind the layer"
    )
    parser.add_argument("--layer", nargs="+", metavar="LAYER", help="adapt these convolutions instead of those found")
    _common.add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Adapt, write, report."""
    from headstart import rng
    from headstart.adapt.adapt_conv import adapt_conv
    from headstart.bench.tasks.sources import load_data
    from headstart.cli import _common
    from headstart.model import checkpoints
    from headstart.version import __version__

    _common.check_output(args)
    mapping = None if args.map is None else parse_map(args.map)
    with _common.working("Loading"):
        model, source, notes = _common.load(args, own_channels=True)
        reference = None
        if args.reference is not None:
            with rng.untouched(args.seed):
                options = {"seed": args.seed, "samples": args.samples, "raw": args.raw, "resize": args.resize}
                reference = load_data(args.reference, **options)
            notes += [f"Reference: {note}" for note in reference.notes]
    with _common.working("Adapting"):
        report = adapt_conv(
            model,
            args.in_channels,
            args.strategy,
            mapping=mapping,
            names=args.names,
            source_names=args.source_names,
            fill=args.fill,
            data=None if source is None else source.value,
            reference=None if reference is None else reference.value,
            match=args.match,
            per=args.per,
            recentre=args.recentre,
            layer=args.layer,
            seed=args.seed,
            samples=args.samples,
        )
        provenance = {
            "methods": report.methods,
            "layers": report.changed,
            "channels": {c.name: str(c) for c in report.channels},
            "seed": args.seed,
            "versions": {"headstart": __version__},
        }
        if not args.dry_run:
            checkpoints.save_model(model, args.out, provenance)
    _common.show(args, report, notes, provenance)
    return 0


def parse_map(entries: Sequence[str]) -> Any:
    """Read the entries of ``--map``.

    Raises:
        HeadstartError: Some name their new channel and others do not, or a weight is not a number.

    Example:
        >>> parse_map(["0", "red", "none", "0.5*red+0.5*green"])
        [0, 'red', None, {'red': 0.5, 'green': 0.5}]
        >>> parse_map(["nir=red", "3=none"])
        {'nir': 'red', 3: None}
    """
    from headstart.errors import HeadstartError

    if not any("=" in entry for entry in entries):
        return [_made_of(entry) for entry in entries]
    if not all("=" in entry for entry in entries):
        raise HeadstartError(
            "--map names the new channel in some entries but not in others.", remedy="Write new=old for all, or none."
        )
    pairs = (entry.partition("=") for entry in entries)
    return {_channel(new): _made_of(old) for new, _, old in pairs}


def _made_of(text: str) -> Any:
    from headstart.errors import HeadstartError

    if text.strip().lower() == "none":
        return None
    if "*" not in text and "+" not in text:
        return _channel(text)
    weights: dict[int | str, float] = {}
    for part in text.split("+"):
        number, times, name = part.rpartition("*")
        try:
            weight = float(number) if times else 1.0
        except ValueError as error:
            raise HeadstartError(
                f"--map: {number!r} in {text!r} is not a number.", remedy="Write: --map nir=0.5*red+0.5*green"
            ) from error
        weights[_channel(name)] = weights.get(_channel(name), 0.0) + weight
    return weights


def _channel(text: str) -> int | str:
    text = text.strip()
    return int(text) if text.isdecimal() else text
