"""The options that say where trials run."""

from __future__ import annotations

import argparse

from headstart.bench.runs.executors.base import Executor
from headstart.bench.runs.executors.in_process import InProcess
from headstart.bench.runs.executors.interleaved import Interleaved
from headstart.bench.runs.executors.processes import Processes, cores
from headstart.errors import HeadstartError


def add_executor_arguments(group: argparse._ArgumentGroup) -> None:
    """Add ``--jobs``, ``--streams``, ``--ray`` and ``--gpus-per-trial``.

    Args:
        group: The group of a command's parser.
    """
    group.add_argument("--jobs", type=int, metavar="N", help="trials at a time, each in a process (default: 1)")
    group.add_argument(
        "--streams",
        type=int,
        metavar="N",
        help="trials at a time in one process, each on its own stream of a GPU; with --capture",
    )
    group.add_argument(
        "--ray", metavar="ADDRESS", help="run trials on Ray: 'local', or a cluster's address such as 'auto'"
    )
    group.add_argument(
        "--gpus-per-trial", type=float, metavar="X", help="on Ray; 0.25 lets four trials share a GPU (default: 1)"
    )


def executor_from(args: argparse.Namespace) -> Executor:
    """Make the executor from the arguments.

    Raises:
        HeadstartError: The arguments do not fit together.
        MissingExtraError: Ray is not installed.

    Example:
        >>> type(executor_from(argparse.Namespace(jobs=None, streams=None, ray=None, gpus_per_trial=None))).__name__
        'InProcess'
    """
    if args.streams is not None:
        if args.ray or args.jobs is not None:
            raise HeadstartError("--streams is for one process.", remedy="Leave --jobs and --ray out, or --streams.")
        return Interleaved(args.streams)
    if args.ray:
        from headstart.bench.runs.executors.on_ray import LOCAL, OnRay

        local = args.ray == LOCAL and args.jobs
        return OnRay(args.ray, args.jobs, args.gpus_per_trial, max(1, cores() // args.jobs) if local else 1)
    if args.gpus_per_trial is not None:
        raise HeadstartError("--gpus-per-trial needs Ray.", remedy="Add --ray local, or leave it out.")
    return InProcess() if args.jobs in (None, 1) else Processes(args.jobs)
