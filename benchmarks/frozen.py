"""Evidence at lengths that matter: develop on one side of the data, freeze the recipe, judge it once on the other.

    python benchmarks/frozen.py core --plan                   what the judgement costs; runs nothing
    python benchmarks/frozen.py pack                          development's images into runs/frozen/data, below 64 MiB
    python benchmarks/frozen.py lengths                       the default start's best rates and its plateaus
    python benchmarks/frozen.py develop --round 1             a round of candidates; the better half goes on
    python benchmarks/frozen.py core --rehearse               the judgement's very trials, on the development side
    python benchmarks/frozen.py draft | freeze                write docs/results/protocol.json as the code has it now
    python benchmarks/frozen.py core --primary --open-judged-data   the judgement: auto and the default, on each cell
    python benchmarks/frozen.py core --open-judged-data       the same cells with all controls and the other starts
    python benchmarks/frozen.py every --open-judged-data      all networks, data, numbers of images, optimizers
    python benchmarks/frozen.py papers --open-judged-data     the papers' own comparisons, at their lengths
    python benchmarks/frozen.py write                         docs/results/development.csv and its page from the trials
    python benchmarks/frozen.py core --task folder:PATH       the same on your own images; opens nothing

Run it in the root of the repository. Whatever stops it, the same command goes on. ``--minutes 9`` begins no trial after
nine minutes; ``--device cuda --jobs 12`` is for one large GPU. A machine that lacks the data sets needs
``runs/frozen/data/*.xz`` alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import page
from evidence import cells, data, development, papers, planning, protocol
from evidence.cells import CORE, EVERY, RATES, Cell
from evidence.running import Machine, OutOfTimeError, compared
from pages.check import write_page
from pages.trials import rows

from headstart.bench import Experiment, Store
from headstart.bench.store import export
from headstart.bench.tasks.data.files import data_root
from headstart.bench.tasks.loading import OWN
from headstart.engine import specs
from headstart.errors import HeadstartError, unknown

FOLDER, RESULTS = Path("runs/frozen"), development.RESULTS
JUDGED = ("core", "every", "papers")


class Comparison(NamedTuple):
    """One thing to run.

    Args:
        name: For lines and tables.
        describe: Makes the experiment; reads data.
        run: Runs it.
        searched: The optimizer whose rates are searched; empty for none.
    """

    name: str
    describe: Callable[[], Experiment]
    run: Callable[[Experiment], None]
    searched: str = ""


def judged(args: argparse.Namespace, listed: Sequence[Cell], machine: Machine) -> Iterator[Comparison]:
    """List the comparisons of a judgement, of its rehearsal, or of the same on the user's own images."""
    side = data.DEVELOPMENT if args.rehearse or args.plan else data.JUDGING
    kind = "own" if args.task else "rehearsal" if side == data.DEVELOPMENT else "judging"
    first = cells.DRAWN if kind == "rehearsal" else 0
    folder = FOLDER / kind / ("primary" if args.primary else "all")
    different = {cell.name.replace(f"-{cell.data}-", "-own-") if args.task else cell.name: cell for cell in listed}
    for name, cell in different.items():

        def describe(cell: Cell = cell) -> Experiment:
            if args.task:
                task, augment = sized(args.task, cell.images), data.AUGMENT
            else:
                task = data.task(side, cell.data, cell.images, args.root, FOLDER / "data", args.open_judged_data)
                if side == data.JUDGING:
                    protocol.check(FOLDER / "data")  # again, with the pack that was only made now
                augment = data.SIDES[side][cell.data].augment
            seeds = range(first, first + cells.SEEDS)
            return cells.experiment(
                cell, task, cells.judged_arms(cell.network, args.primary), seeds, cell.training(augment, machine.device)
            )

        def run(what: Experiment, name: str = name, cell: Cell = cell) -> None:
            compared(name, what, Store(folder / name), machine, {"lr": RATES[cell.optimizer]})
            if kind == "judging":
                published_cells(args, {each: folder / each for each in different})

        if kind == "judging" and name in judged_already(args):
            continue
        yield Comparison(name, describe, run, cell.optimizer)


def stem(args: argparse.Namespace) -> str:
    """Return the name of the files that a judgement's trials go to."""
    return f"{'judged' if args.what == 'core' else 'judged-every'}{'' if args.primary else '-controls'}"


def judged_already(args: argparse.Namespace) -> set[str]:
    """Return the cells whose trials were committed: they are judged once, on whatever machine."""
    return {row["network"] for row in rows(RESULTS / f"{stem(args)}.csv")}


def published_cells(args: argparse.Namespace, where: Mapping[str, Path]) -> None:
    """Write the trials of the cells that are finished into the files of results, and the page."""
    page.write(RESULTS, stem(args), where)
    write_page(RESULTS / "judged.md", RESULTS)


def sized(task: str, images: int) -> str:
    """Add the number of training images to a task's spec.

    Example:
        >>> sized("folder:cats:size=32", 500), sized("cifar10", 500)
        ('folder:cats:size=32,train=500', 'cifar10:train=500')
    """
    name, rest = specs.head(task)
    options = specs.path_and_options(rest)[1] if name in OWN else rest
    return f"{task}{',' if options else ':'}train={images}"


def published(args: argparse.Namespace, machine: Machine) -> Iterator[Comparison]:
    """List the papers' comparisons."""
    for name in papers.PAPERS:

        def describe(name: str = name) -> Experiment:
            if args.plan:
                return papers.alike(name, args.root, FOLDER / "data", machine)
            return papers.described(name, args.root, FOLDER / "data", machine, args.open_judged_data)

        def run(what: Experiment, name: str = name) -> None:
            papers.reproduce(name, what, FOLDER, machine)

        yield Comparison(name, describe, run)


def each(comparisons: Iterator[Comparison], plan: bool) -> None:
    """Run the comparisons one after the other, or say what they cost; name those that cannot be run."""
    costs = [one(comparison, plan) for comparison in comparisons]
    if plan:
        print(planning.table([cost for cost in costs if cost is not None]))


def one(comparison: Comparison, plan: bool) -> planning.Cost | None:
    """Run a comparison, or say what it costs."""
    try:
        what = comparison.describe()
        if plan:
            grid = {"lr": RATES[comparison.searched]} if comparison.searched else None
            return planning.cost(comparison.name, what, grid)
        comparison.run(what)
    except HeadstartError as error:
        print(f"{comparison.name}: left out. {error}", file=sys.stderr)
    return None


def developed(args: argparse.Namespace, machine: Machine) -> None:
    """Measure rates and lengths, or run a round, on all of the cells or on those that are named."""
    place = development.Place(args.root, FOLDER, machine)
    if args.what == "lengths":
        for cell in named(args.cells) or [cell for cell in CORE if cell.name not in cells.measured()]:
            development.measure(cell, place)
    else:
        development.develop(development.ROUNDS[args.round - 1], place, named(args.cells))


def named(names: Sequence[str]) -> list[Cell]:
    """Return the cells of these names.

    Raises:
        UnknownNameError: If there is no such cell.
    """
    known = {cell.name: cell for cell in EVERY}
    for name in names:
        if name not in known:
            raise unknown("cell", name, known)
    return [known[name] for name in names]


def write(machine: Machine, root: Path) -> None:
    """Write the trials of development as compact tables, and the pages that show them."""
    place = development.Place(root, FOLDER, machine)
    for name, columns, listed in (
        (development.LENGTHS_FILE, development.LENGTH_COLUMNS, development.lengths(place)),
        (development.ROUNDS_FILE, development.COLUMNS, development.rows(place)),
    ):
        known = [{column: row.get(column) for column in columns} for row in listed]
        (RESULTS / name).write_text(export.to_csv(known, columns))
    for name in ("development", "protocol"):
        write_page(RESULTS / f"{name}.md", RESULTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked; 3 if the time was over first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "lengths", "develop", "draft", "freeze", *JUDGED, "write"))
    parser.add_argument("cells", nargs="*", help="some cells only, by name")
    parser.add_argument("--primary", action="store_true", help="with core and every: the primary contrast alone")
    parser.add_argument("--plan", action="store_true", help="say what it costs and run nothing")
    parser.add_argument("--round", type=int, default=1, choices=range(1, 4), help="with develop")
    parser.add_argument("--rehearse", action="store_true", help="judge on the development side: nothing is opened")
    parser.add_argument("--open-judged-data", action="store_true", help="this is the judgement")
    parser.add_argument("--task", help="with core and every: your own images, as folder:PATH, arrays:PATH, ...")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--minutes", type=float, help="begin no trial after so many")
    parser.add_argument("--data-root", dest="root", type=data_root, default=data_root(None), help="of the data sets")
    args = parser.parse_intermixed_args(arguments)
    machine = Machine(args.device, args.jobs, args.minutes and time.monotonic() + 60 * args.minutes)
    try:
        perform(args, machine)
    except OutOfTimeError:
        print("The time is over; the same command goes on from here.", file=sys.stderr)
        return 3
    except HeadstartError as error:
        print(f"frozen.py: {error}", file=sys.stderr)
        return 1
    return 0


def consistent(args: argparse.Namespace) -> None:
    """Refuse options that say two things at once, before anything is read.

    Raises:
        HeadstartError: If they do, or a task is judged data by another way.
    """
    if args.rehearse and args.open_judged_data:
        raise HeadstartError(
            "--rehearse opens nothing, and --open-judged-data is for the judgement.", remedy="Pass one of the two."
        )
    if args.what not in ("core", "every") and (args.rehearse or args.task):
        raise HeadstartError(
            f"'{args.what}' takes neither --rehearse nor --task: they belong to core and every.",
            remedy="Leave it out. What the papers cost is told by: python benchmarks/frozen.py papers --plan",
        )
    if args.task:
        data.not_judged(args.task, args.root, FOLDER / "data")


def perform(args: argparse.Namespace, machine: Machine) -> None:
    """Do what was asked.

    Raises:
        HeadstartError: If it may not be done, or cannot.
        OutOfTimeError: If the time is over first.
    """
    consistent(args)
    opens = args.what in JUDGED and not (args.rehearse or args.plan or args.task)
    if opens:
        data.checked(data.JUDGING, args.open_judged_data)
    if opens and args.what != "papers":
        protocol.check(FOLDER / "data")
    if args.what == "pack":
        for side in (data.DEVELOPMENT, data.JUDGING, data.PAPERS) if args.open_judged_data else (data.DEVELOPMENT,):
            for path in data.pack(side, args.root, FOLDER / "data", args.open_judged_data):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    elif args.what in ("lengths", "develop"):
        developed(args, machine)
    elif args.what in ("draft", "freeze"):
        protocol.write(protocol.DRAFT if args.what == "draft" else protocol.FROZEN, FOLDER / "data")
    elif args.what == "papers":
        each(published(args, machine), args.plan)
    elif args.what == "write":
        write(machine, args.root)
    else:
        each(judged(args, named(args.cells) or (CORE if args.what == "core" else EVERY), machine), args.plan)


if __name__ == "__main__":
    sys.exit(main())
