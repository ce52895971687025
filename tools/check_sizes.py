"""Fail when a module grows beyond 400 lines, and show the median."""

import statistics
import sys
from pathlib import Path

LIMIT = 400


def main() -> int:
    """Print the sizes that matter and return 1 if one is over the limit."""
    sizes = {p: len(p.read_text().splitlines()) for p in sorted(Path("src").rglob("*.py"))}
    over = {p: n for p, n in sizes.items() if n > LIMIT}
    for path, lines in over.items():
        print(f"{path}: {lines} lines, more than {LIMIT}")
    print(f"{len(sizes)} modules, median {statistics.median(sizes.values()):.0f} lines, largest {max(sizes.values())}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
