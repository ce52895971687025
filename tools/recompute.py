"""Recompute every table of results from the committed files, and compare it with what the pages print.

    python tools/recompute.py            name each cell that differs; 1 if there is one
    python tools/recompute.py --write    rewrite the tables between the marks, and the figures

It covers docs/results, the README and docs/which-start.md, and needs no trial folders.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from pages.check import PAGES, check, write  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Check, or write and then check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite tables and figures")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository, or of a copy of it")
    args = parser.parse_args(arguments)
    if args.write:
        write(args.root)
    found = check(args.root)
    for sentence in found:
        print(sentence)
    print(
        f"{len(PAGES)} pages, {len(found)} differences" if found else f"{len(PAGES)} pages print what their files give"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
