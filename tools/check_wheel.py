"""Fail when the built wheel lacks a file of the source tree, or is too large."""

import sys
import zipfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"
LIMIT = 1_000_000  # bytes: nearly all of it is code; data or pictures by mistake would be more


def needed() -> list[str]:
    """Every file of the package: modules, templates, shipped banks, published figures, the type marker."""
    files = (p for p in sorted(SOURCES.rglob("*")) if p.is_file() and p.suffix != ".pyc")
    return [p.relative_to(SOURCES).as_posix() for p in files]


def main(folder: str) -> int:
    """Look into the newest wheel of a folder."""
    wheel = max(Path(folder).glob("*.whl"), key=lambda p: p.stat().st_mtime)
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in needed() if name not in names]
    size = wheel.stat().st_size
    print(f"{wheel.name}: {len(names)} files, {size / 1000:.0f} kB")
    if missing:
        print(f"missing: {', '.join(missing)}")
    if size > LIMIT:
        print(f"larger than {LIMIT / 1000:.0f} kB")
    return 1 if missing or size > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
