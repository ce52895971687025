"""Build, show and merge filter banks of trained networks."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.cli._command import add_command, add_like

if TYPE_CHECKING:
    from headstart.banks import FilterBank
    from headstart.banks.source_filters import Model

_EXAMPLES = """\
examples:
  headstart bank build nets/*.safetensors --clusters 3 --out nets-bank.safetensors
  headstart bank build nets/ --pool --distance even --out pooled.safetensors
  headstart bank build headstart:resnet18 --checkpoint a.pt b.pt --out resnets.safetensors
  headstart bank build nets/ --elbow                  compares numbers of clusters; writes nothing
  headstart bank info cifar10-resnets                 what a bank holds; without a name: the shipped ones
  headstart bank show cifar10-resnets --out filters.png
  headstart bank merge a.safetensors b.safetensors --out both.safetensors

Exit code 0: done; 2: an error, in one line, and no file.
"""
_BUILD_EXAMPLES = """\
examples:
  headstart bank build nets/ --out bank.safetensors
  headstart bank build nets/ --clusters "conv1=10,*=3" --exclude downsample --out bank.safetensors
  headstart bank build mine.py:build_model --checkpoint trained.pt --whole --out filters.safetensors
  headstart bank build nets/ --pool --elbow 2,3,5,10

Names of layers must match unless --pool is given. How the order of layers is found, and what
the distances mean, is in docs/banks.md.
"""
_RECORDED = (
    "checkpoint",
    "model_args",
    "clusters",
    "distance",
    "include",
    "exclude",
    "seed",
    "title",
    "licence",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart bank`` with its own commands."""
    parser = add_command(subparsers, "bank", __doc__, _EXAMPLES)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_build(actions)
    info = actions.add_parser("info", help="print what a bank holds, or list the shipped banks")
    info.add_argument(
        "bank", nargs="?", metavar="BANK", help="a file or a shipped name (default: list the shipped banks)"
    )
    info.set_defaults(act=_info)
    show = actions.add_parser("show", help="draw a bank's filters")
    show.add_argument("bank", metavar="BANK", help="a file or a shipped name")
    show.set_defaults(act=_show)
    merge = actions.add_parser("merge", help="join banks of one kind, weighted by their filters")
    merge.add_argument("banks", nargs="+", metavar="BANK", help="files or shipped names")
    merge.add_argument("--title", metavar="TEXT", help="title of the bank")
    merge.set_defaults(act=_merge)
    show.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .png, .pdf or .svg")
    merge.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .safetensors")
    for one in (show, merge):
        one.add_argument("--force", action="store_true", help="replace the file if it exists")
    for one in (info, show, merge):
        one.add_argument("--json", action="store_true", help="print JSON")


def _add_build(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from headstart.banks import FilterBank
    from headstart.banks.distances import DISTANCES

    build = actions.add_parser(
        "build",
        help="make a bank from trained networks",
        description="Cluster the filters of trained networks: every convolution with a kernel of more than one tap.",
        epilog=_BUILD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="files (.safetensors, .pt), folders of them, headstart:NAME, torchvision:NAME, timm:NAME or"
        " file.py:function",
    )
    build.add_argument(
        "--checkpoint", nargs="+", type=Path, default=[], metavar="FILE", help="trained weights of the named model"
    )
    build.add_argument("--model-args", default="", metavar="K=V,...", help="arguments of the model's builder")
    clusters = "clusters per entry; or by layer: conv1=10,*=3"
    add_like(build, FilterBank.from_models, "clusters", clusters, type=str, metavar="K")
    add_like(build, FilterBank.from_models, "distance", "distance between filters", choices=DISTANCES)
    build.add_argument("--pool", action="store_true", help="pool layers with the same kernel size and depth")
    add_like(build, FilterBank.from_models, "bins", "bins of depth, with --pool", metavar="N")
    build.add_argument("--whole", action="store_true", help="cluster whole filters instead of slices")
    build.add_argument("--include", nargs="+", metavar="LAYER", help="only these layers: names, globs or blocks")
    build.add_argument("--exclude", nargs="+", metavar="LAYER", help="not these layers")
    build.add_argument("--seed", type=int, default=0, help="all random draws follow from it (default: %(default)s)")
    build.add_argument(
        "--elbow",
        nargs="?",
        const="",
        metavar="K,...",
        help="measure several numbers of clusters instead of building a bank",
    )
    build.add_argument("--title", metavar="TEXT", help="title of the bank")
    build.add_argument("--licence", metavar="TEXT", help="licence of the weights; kept in the bank")
    build.add_argument("--half", action="store_true", help="store in half precision")
    build.add_argument("--out", type=Path, metavar="FILE", help="file to write: .safetensors")
    build.add_argument("--force", action="store_true", help="replace the file if it exists")
    build.add_argument("--json", action="store_true", help="print JSON")
    build.set_defaults(act=_build)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    args.act(args)
    return 0


def _build(args: argparse.Namespace) -> None:
    from headstart.banks import FilterBank, elbow
    from headstart.banks.elbow import KS
    from headstart.cli import _common, _models
    from headstart.errors import HeadstartError

    if (args.out is None) == (args.elbow is None):
        raise HeadstartError("Pass either --out FILE, to write a bank, or --elbow, to measure numbers of clusters.")
    notes: list[str] = []
    how: dict[str, Any] = {"distance": args.distance, "pool": args.pool, "whole": args.whole, "bins": args.bins}
    how |= {"include": args.include, "exclude": args.exclude, "seed": args.seed}
    if args.elbow is not None:
        ks = [_whole_number(k, "--elbow") for k in args.elbow.split(",")] if args.elbow else KS
        with _common.counting() as progress:
            measured = elbow(_models_of(args, notes, []), ks, **how, progress=progress)
        _print(args.json, measured, measured.to_dict(), notes)
        return
    _models.check_output(args.out, args.force, (".safetensors",))
    clusters = _clusters(args.clusters)
    sources: list[str] = []
    with _common.counting() as progress:
        bank = FilterBank.from_models(_models_of(args, notes, sources), clusters=clusters, **how, progress=progress)
    given: dict[str, Any] = {name: value for name in ("title", "licence") if (value := getattr(args, name))}
    given |= {"sources": sources} if sources else {}
    bank = FilterBank(bank.entries, {**bank.provenance, **given, "command": _command(args)})
    bank.save(args.out, half=args.half)
    _written(args, bank, notes)


def _info(args: argparse.Namespace) -> None:
    from headstart.banks import FilterBank, shipped

    if args.bank is not None:
        summary = FilterBank.load(args.bank).summary()
        _print(args.json, summary, summary.to_dict(), [])
        return
    banks = {name: FilterBank.load(name) for name in shipped()}
    listed = [{"name": name, "title": bank.title, "entries": len(bank)} for name, bank in banks.items()]
    lines = "\n".join(f"{name}: {bank.title}; {len(bank)} entries" for name, bank in banks.items())
    _print(args.json, lines, {"banks": listed}, [])


def _show(args: argparse.Namespace) -> None:
    from headstart.banks import FilterBank
    from headstart.cli import _models
    from headstart.errors import HeadstartError
    from headstart.results.whole_file import whole_file

    _models.check_output(args.out, args.force, (".png", ".pdf", ".svg"))
    figure = FilterBank.load(args.bank).plot()
    try:
        with whole_file(args.out) as part:
            figure.savefig(part, dpi=150, format=args.out.suffix[1:])
    except OSError as error:
        raise HeadstartError(f"'{args.out}' cannot be written: {error.strerror or error}.") from error
    _print(args.json, f"Wrote '{args.out}'.", {"out": str(args.out)}, [])


def _merge(args: argparse.Namespace) -> None:
    from headstart.banks import FilterBank
    from headstart.cli import _models

    _models.check_output(args.out, args.force, (".safetensors",))
    bank = FilterBank.merge(*(FilterBank.load(name) for name in args.banks))
    if args.title:
        bank = FilterBank(bank.entries, {**bank.provenance, "title": args.title})
    bank.save(args.out)
    _written(args, bank, [])


def _written(args: argparse.Namespace, bank: FilterBank, notes: list[str]) -> None:
    notes.append(f"Wrote '{args.out}', {args.out.stat().st_size / 1000:.1f} kB.")
    summary = bank.summary()
    _print(args.json, summary, {**summary.to_dict(), "out": str(args.out)}, notes)


def _print(as_json: bool, shown: Any, plain: dict[str, Any], notes: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from headstart.results.plain import to_json

    if as_json:
        print(to_json({**plain, "notes": notes}, str))
        return
    console = Console()
    console.print(Text(shown) if isinstance(shown, str) else shown)
    for note in notes:
        console.print(Text(note))


def _models_of(args: argparse.Namespace, notes: list[str], sources: list[str]) -> Iterator[Model]:
    """The sources one after the other: paths, or a named model with each of the checkpoints.

    For named models, their names are added to ``sources``.
    """
    from headstart import rng
    from headstart.bench.models.for_data import build
    from headstart.bench.specs import user_function
    from headstart.cli import _models
    from headstart.errors import HeadstartError

    named = [s for s in args.sources if not Path(s).exists() and ":" in s]
    if args.checkpoint and (len(args.sources) != 1 or not named):
        raise HeadstartError(
            "--checkpoint loads weights into one named model.", remedy="Pass files of weights as sources instead."
        )
    for source in args.sources:
        if source not in named:
            sources += [source] if named else []
            yield source
            continue
        for checkpoint in args.checkpoint or [None]:
            with rng.untouched():
                model, built = build(source, args.model_args, None, args.seed)
            if checkpoint is not None:
                notes.append(_models.load_checkpoint(model, checkpoint))
                sources.append(f"{source} with {checkpoint}")
            else:
                sources.append(source)
                random = not user_function.is_user_function(source)
                built += " Its weights are random: --checkpoint loads trained ones." if random else ""
            if built not in notes:
                notes.append(built)
            yield model


def _clusters(text: str) -> int | dict[str, int]:
    from headstart.engine import specs

    if "=" not in text:
        return _whole_number(text, "--clusters")
    counts = {}
    for glob, count in specs.items(text):
        counts[glob] = _whole_number(glob if count is None else count, "--clusters")
    return counts


def _whole_number(text: str, option: str) -> int:
    from headstart.errors import HeadstartError

    try:
        return int(text)
    except ValueError as error:
        raise HeadstartError(f"{option}: {text!r} is not a whole number.") from error


def _command(args: argparse.Namespace) -> str:
    """The command line that makes the same bank again."""
    words = ["headstart", "bank", "build", *args.sources]
    for name in _RECORDED:
        value = getattr(args, name)
        if value not in (None, "", []):
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    words += ["--pool", "--bins", str(args.bins)] if args.pool else []
    words += [f"--{name}" for name in ("whole", "half") if getattr(args, name)]
    return shlex.join([*words, "--out", str(args.out)])
