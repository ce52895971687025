"""Fail when the built wheel lacks a file that the package needs at run time, or is too large."""

import sys
import zipfile
from pathlib import Path

NEEDED = (
    "headstart/py.typed",
    "headstart/cli/main.py",
    "headstart/bench/report/templates/",
    "headstart/bench/papers/published/figures.csv",
    "headstart/banks/shipped/cifar10-resnets.safetensors",
    "headstart/banks/shipped/efficientnet-lite0.safetensors",
)
LIMIT = 600_000


def main(folder: str) -> int:
    """Look into the newest wheel of a folder."""
    wheel = max(Path(folder).glob("*.whl"), key=lambda p: p.stat().st_mtime)
    names = zipfile.ZipFile(wheel).namelist()
    missing = [n for n in NEEDED if not any(name.startswith(n) for name in names)]
    size = wheel.stat().st_size
    print(f"{wheel.name}: {len(names)} files, {size / 1000:.0f} kB")
    if missing:
        print(f"missing: {', '.join(missing)}")
    if size > LIMIT:
        print(f"larger than {LIMIT / 1000:.0f} kB")
    return 1 if missing or size > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
