"""The command ``headstart``, outside the package because torch must not be loaded before this has run.

OpenMP reads once, when torch is loaded, how long its threads spin while they wait. By default they spin on. On an idle
machine that costs nothing. Where something else runs, each spins while another holds the core that it waits for, and
training takes up to eight times as long. Commands that train let them sleep soon, unless the environment says else.
"""

from __future__ import annotations

import os
import sys

_TRAIN = ("compare", "reproduce")
_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def main() -> int:
    """Run the command line; see `headstart.cli.main.main`."""
    if sys.platform == "linux" and sys.argv[1:2] and sys.argv[1] in _TRAIN and not set(_CHOSEN) & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"
    from headstart.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
