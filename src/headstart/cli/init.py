"""Write an initialized checkpoint of a model, and report what was done to each layer."""

from __future__ import annotations

import argparse
import sys

from headstart.cli._command import add_command

_EXAMPLES = """\
examples:
  headstart init headstart:prewarm-cnn --data mnist5k --method prewarm --out start.safetensors
  headstart init net.py:build_model --data images.npy --method within-layer --out start.pt
  headstart init timm:resnet18 --data photos/ --resize 64 --method prewarm+within-layer --out start.safetensors
  headstart init net.py:build_model --data data.py:load --checkpoint old.safetensors --method auto --dry-run
  headstart init timm:resnet18 --data photos/ --resize 64 --format timm --out start.safetensors
  headstart init config/ --data images.npy --format hf --out start/
  headstart init net.py:build_model --data images.npy --checkpoint trained.pt --calibrate --out even.safetensors
  headstart init net.py:build_model --data images.npy --checkpoint trained.pt --fold --calibrate --out even.safetensors

A method's spec is name, name:option=value,... or name:preset; '+' joins several (see 'headstart methods').
Exit code 0: written (or, with --dry-run, could be); 2: an error, in one line, and no file.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart init``."""
    from headstart.cli import _common

    parser = add_command(subparsers, "init", __doc__, _EXAMPLES)
    data = "mnist5k, .npy/.npz/.pt/.safetensors, a folder of images, or file.py:function"
    _common.add_arguments(parser, data_help=data)
    _common.add_mask(parser)
    _common.add_memory_limit(parser)
    parser.add_argument(
        "--method", default="auto", metavar="SPEC", help="see 'headstart methods' (default: %(default)s)"
    )
    parser.add_argument(
        "--calibrate",
        action="store_const",
        const="calibrate",
        dest="method",
        help="bring a trained model to even scales without changing its function: --method calibrate",
    )
    parser.add_argument(
        "--fold", action="store_true", help="first fold trained batch norms into the layers before them"
    )
    _common.add_output_arguments(parser)
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="format of the start: torch, safetensors, timm, nnunet, or hf (a folder) (default: by the file's ending)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="number of samples to run at a time (slower, less memory)"
    )


def run(args: argparse.Namespace) -> int:
    """Initialize, write, report."""
    from headstart import api
    from headstart.bench.models import formats
    from headstart.cli import _common, _models
    from headstart.engine import registry
    from headstart.errors import HeadstartError

    if args.out is None and not args.dry_run:
        raise HeadstartError("--out is missing.", remedy="Pass --out FILE, or --dry-run to write nothing.")
    _models.check_format(args.format, args.out, args.force or args.dry_run)
    methods = registry.resolve(args.method)
    with _common.working("Loading"):
        everything = sys.maxsize if any(m.takes_data_set for m in methods) else None
        model, source, notes = _common.load(args, everything)
    if args.fold:
        from headstart.symmetries.folding import fold_batch_norms

        if source is None:
            raise HeadstartError("--fold needs --data.", remedy="Pass --data: they show the order of layers.")
        folded = fold_batch_norms(model, source.value, samples=args.samples)
        notes.append(str(folded))
    with _common.working(f"Initializing with {args.method}"):
        init = api.compute(
            model,
            None if source is None else source.value,
            methods,
            seed=args.seed,
            include=args.include,
            exclude=args.exclude,
            samples=args.samples,
            mask=_common.mask(args),
            memory_limit=args.memory_limit,
            batch_size=args.batch_size,
        )
        if args.fold:
            init.provenance["folded"] = sorted(folded.layers)
        report = init.report
        assert report is not None
        if not args.dry_run:
            api.apply(model, init)
            notes += filter(None, [formats.save(model, args.out, args.format, init.provenance, args.model)])
    _common.show(args, report, notes, init.provenance)
    return 0
