"""Train with and without a start on paired seeds, and say whether it helps."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from headstart.bench import Experiment, Store
from headstart.bench.papers.protocols import PREFIX, words_of
from headstart.bench.runs.experiment import check_design
from headstart.bench.runs.run import Summary
from headstart.bench.runs.search import Search
from headstart.bench.settings.config import Config, read, save
from headstart.bench.settings.words import (
    SETTINGS,
    check,
    check_together,
    defaults,
    search,
    trainer_experiment,
)
from headstart.bench.settings.words import experiment as build
from headstart.bench.specs.setting import GROUPS, OUTPUT, WHAT, Setting
from headstart.bench.trainer.experiment import TrainerExperiment
from headstart.bench.trainer.secrets import without_secrets
from headstart.cli._command import add_command, print_written
from headstart.cli._dataroot import add_data_root
from headstart.cli._executors import add_executor_arguments, executor_from
from headstart.errors import HeadstartError
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart compare
      the demo: auto, Pre-Warm and whitening against the default start, on 5,000 real digits
  headstart compare --arms lsuv within-layer --model timm:resnet18 --task cifar/ --steps 2000 --augment flip crop
      other starts, a timm model, a folder of .npy arrays
  headstart compare --arms quarter=prewarm:fraction=0.25 prewarm:paper --seeds 20
      configured starts; 20 seeds; seeds that have run already are kept
  headstart compare --model net.py:build_model --task data.py:load
      your own model and images
  headstart compare --seeds 40 --jobs 4
      four trials at a time, each in its own process; --ray auto runs them on a cluster
  headstart compare --seeds 40 --until decided
      at most 40 seeds, in blocks, until there is a verdict on every arm
  headstart compare --arms lsuv --steps 500 --write experiment.toml
  headstart compare experiment.toml --seeds 20 --dry-run
  headstart compare experiment.toml --seeds 20
      the same settings in a file, written from a command line; options override the file
  headstart compare protocol:prewarm-cifar10-corrected --seeds 10
      a paper's comparison by name, as published or corrected
  headstart compare --trainer "python train.py --init {start} --seed {seed} --out {out}" \
      --model net.py:build --data images.npy --metric accuracy --arms auto kaiming --out runs/mine
      your own training script, which loads the start, trains, and writes its score

An arm is a method with its options (see 'headstart methods'), or label=method. A label has no comma, colon or equals
sign. Arms may also be separated by commas. After an interruption, the same command continues.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart compare``."""
    parser = add_command(subparsers, "compare", __doc__, _EXAMPLES)
    file = "an experiment's file (.toml), or protocol:NAME (see 'headstart protocols'); options override it"
    parser.add_argument("file", nargs="?", metavar="FILE", help=file)
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for word in SETTINGS.values():
        _add(groups[word.group], word)
    add_data_root(groups[WHAT])
    groups[WHAT].add_argument("--download", action="store_true", help="first download missing files of the task")
    add_executor_arguments(parser.add_argument_group("where trials run"))
    out = groups[OUTPUT]
    out.add_argument("--write", metavar="FILE", help="only write this command line as an experiment's file")
    out.add_argument("--dry-run", action="store_true", help="only list the trials and their cost")
    out.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    out.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Run the comparison, write the page, print the verdicts."""
    from rich.console import Console
    from rich.text import Text

    from headstart.bench import analyse
    from headstart.bench import run as run_experiment
    from headstart.bench.analysis.sequential import run_until_decided
    from headstart.bench.report.page import check_packages, write_report
    from headstart.bench.report.summary import as_dict
    from headstart.bench.report.terminal import Bars, show
    from headstart.bench.runs.search import run_search
    from headstart.bench.tasks.loading import load_task

    chosen, typed, config = settings(args)
    with _pointing(config, typed):
        check(chosen)
        experiment = trainer_experiment(chosen) if chosen["trainer"] else build(chosen)
    if args.write is not None:
        _searched(chosen, experiment, config, typed)
        save(args.write, chosen)
        print_written(args.write, args.json)
        return 0
    with _pointing(config, typed, "seeds"):
        experiment = _reachable(experiment, args.file, typed)
    searched = _searched(chosen, experiment, config, typed)
    if args.download and isinstance(experiment, Experiment):
        with _pointing(config, typed):
            load_task(experiment.task, experiment.split_seed, download=True)
    store, executor = Store(chosen["out"]), executor_from(args)
    if args.dry_run:
        with _pointing(config, typed):
            return _dry_run(experiment, store, searched, args.json)
    check_packages()
    errors, found = Console(stderr=True), ""
    try:
        with _pointing(config, typed), Bars(errors, hidden=args.quiet) as bars:
            if searched is not None:
                experiment, tried = run_search(searched, store, bars, _command(), executor)
                found = f"Search: {tried.ran} trials run in {tried.seconds:.0f} s{_others(tried)}."
            if chosen["until"] == "decided":
                decision = run_until_decided(experiment, store, bars, _command(), executor, chosen["looks"])
                done, ended = decision.summary, decision.sentence()
            else:
                done, ended = run_experiment(experiment, store, bars, _command(), executor), ""
    except KeyboardInterrupt:
        errors.print(
            f"Finished trials are kept in '{store.folder}'; the same command continues from there.", markup=False
        )
        raise
    analysis = analyse(store)
    page = write_report(store, analysis)
    if args.json:
        print(to_json({**as_dict(analysis), "page": str(page)}))
        return 0
    console = Console()
    show(analysis, page, console)
    ran = f"{done.ran} trials run in {done.seconds:.0f} s{_others(done)}."
    for line in filter(None, (ended, found, ran)):
        console.print(Text(line))
    return 0


def _searched(
    chosen: Mapping[str, Any],
    experiment: Experiment | TrainerExperiment,
    config: Config | None,
    typed: Mapping[str, Any],
) -> Search | None:
    with _pointing(config, typed, "search"):
        return search(chosen, experiment) if isinstance(experiment, Experiment) else None


def _reachable(
    experiment: Experiment | TrainerExperiment, file: str | None, typed: Mapping[str, Any]
) -> Experiment | TrainerExperiment:
    """Refuse a design that cannot give a verdict; with a paper's own number of seeds, make it exploratory instead."""
    if experiment.exploratory:
        return experiment
    try:
        check_design(experiment)
    except HeadstartError:
        if file is None or not file.startswith(PREFIX) or "seeds" in typed:
            raise
        return replace(experiment, exploratory=True)
    return experiment


def _others(done: Summary) -> str:
    """Say which trials did not need to run."""
    again = f", {done.kept} existed already" if done.kept else ""
    return again + (f", {done.elsewhere} were run by another process" if done.elsewhere else "")


def _dry_run(experiment: Experiment | TrainerExperiment, store: Store, searched: Search | None, as_json: bool) -> int:
    """List the trials, done and to do, with their estimated cost."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from headstart.bench.runs.forecast import duration, forecast, ranges
    from headstart.bench.trainer.forecast import forecast_trainer
    from headstart.cli._common import working

    with working("Looking"):
        if isinstance(experiment, TrainerExperiment):
            found = forecast_trainer(experiment, store)
        else:
            found = forecast(experiment, store, searched)
    unknown = any(arm.to_do and not arm.source for arm in found.arms if not arm.shared)
    if as_json:
        print(to_json(found.as_dict()))
        return 0
    table = Table(
        "arm", "done", "to do", "start", "trial", "measured on", box=None, header_style="bold", pad_edge=False
    )
    for arm in found.arms:
        cost = ["", ""] if not arm.source or arm.refusal else [duration(arm.init_seconds), duration(arm.trial_seconds)]
        source = f"as {arm.shared}" if arm.shared else "refused" if arm.refusal else arm.source
        row = [arm.label, ranges(arm.done), ranges(arm.to_do), *cost, source]
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(table)
    for arm in found.arms:
        if arm.refusal:
            console.print(Text(f"! {arm.label} would refuse: {arm.refusal}", style="yellow"))
    if found.search is not None and found.search.to_do:
        left = f"{found.search.to_do} of {found.search.total} trials to do: about {duration(found.search.seconds)}"
        console.print(f"Search: {left}; the arms above do not have its choices yet.", highlight=False)
    time = "the time per trial is known once one has run" if unknown else f"about {duration(found.seconds)}"
    console.print(
        f"{found.to_do} of {found.total} trials to do: {time}, one after the other. Dry run: nothing was written.",
        highlight=False,
    )
    return 0


def _add(group: argparse._ArgumentGroup, word: Setting) -> None:
    """Add a setting's option. Its default is None, so that it shows whether it was given."""
    shown = " ".join(map(str, word.default)) if isinstance(word.default, tuple) else f"{word.default}"
    known = f"{', '.join(word.choices)}; " if word.choices else ""
    text = f"{word.help} ({known}default: {shown or 'none'})"
    flag = f"--{word.name}"
    if word.kind == "switch":
        text = f"{word.help} (default: {'on' if word.default else 'off'})"
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif word.kind == "flag":
        group.add_argument(flag, action="store_const", const=True, default=None, help=word.help)
    elif word.kind == "texts":
        group.add_argument(flag, nargs="+" if word.default else "*", metavar=word.metavar, help=text)
    elif word.kind == "numbers":
        group.add_argument(flag, nargs="*", type=float, metavar=word.metavar, help=text)
    else:
        kind = {"whole": int, "number": float}.get(word.kind, str)
        group.add_argument(flag, type=kind, metavar=word.metavar, help=text)


def settings(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Config | None]:
    """Combine defaults, file or protocol, and command line; later ones override earlier ones.

    Returns:
        Every setting with its value, the settings that were given, and the file if there is one.
    """
    typed = {
        name: getattr(args, word.field) for name, word in SETTINGS.items() if getattr(args, word.field) is not None
    }
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
    if misplaced := [arm for arm in typed.get("arms", ()) if arm.endswith(".toml") or arm.startswith(PREFIX)]:
        raise HeadstartError(
            f"{misplaced[0]!r} is in the place of an arm.",
            remedy=f"Put the file first: headstart compare {misplaced[0]} --arms ...",
        )
    said: Mapping[str, Any] = {}
    config = None
    if args.file is not None and args.file.startswith(PREFIX):
        said = words_of(args.file, typed)
    elif args.file is not None:
        config = read(args.file)
        said = config.settings
    told = {**said, **typed}
    check_together(told)
    return {**defaults(bool(told.get("trainer"))), **told}, typed, config


@contextlib.contextmanager
def _pointing(config: Config | None, typed: Mapping[str, Any], about: str = "") -> Iterator[None]:
    """Add to errors the line of the file that they are about, or of a setting, if it is known."""
    try:
        yield
    except HeadstartError as error:
        if config is not None:
            config.locate(error, typed, about)
        raise


def _command() -> list[str]:
    """The command line as the user typed it."""
    return ["headstart", *map(without_secrets, sys.argv[1:])]
