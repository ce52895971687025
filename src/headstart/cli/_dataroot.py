"""The option ``--data-root``: the folder with the data sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


class _SetRoot(argparse.Action):
    """Set the environment variable, which worker processes inherit."""

    def __call__(self, _parser: object, _namespace: object, value: Any, _option: str | None = None) -> None:
        os.environ["HEADSTART_DATA_ROOT"] = str(Path(value).expanduser())


def add_data_root(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--data-root`` to a command's parser or group.

    Args:
        parser: The parser of the command.
    """
    parser.add_argument(
        "--data-root",
        action=_SetRoot,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the folder with the data sets (default: $HEADSTART_DATA_ROOT, or else data)",
    )
