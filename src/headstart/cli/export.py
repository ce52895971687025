"""Write stored trials as a table, CSV or Parquet, also while they still run."""

from __future__ import annotations

import argparse

from headstart.cli._command import add_command
from headstart.results.plain import to_json

_EXAMPLES = """\
examples:
  headstart export runs/compare --out trials.csv              one row per trial
  headstart export runs/compare --curves --out curves.parquet one row per point of a learning curve
  headstart export runs/compare                               CSV on standard output
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``headstart export``."""
    parser = add_command(subparsers, "export", __doc__, _EXAMPLES)
    parser.add_argument("folder", metavar="DIR", help="the folder that 'headstart compare' wrote")
    parser.add_argument("--out", metavar="FILE", help=".csv or .parquet (default: CSV on standard output)")
    parser.add_argument("--curves", action="store_true", help="one row per point of a curve instead of one per trial")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, or what was written")


def run(args: argparse.Namespace) -> int:
    """Read the folder, write the table."""
    from headstart.bench import Store
    from headstart.bench.store import export

    store = Store(args.folder)
    rows, columns = (export.curves(store), export.CURVES) if args.curves else (export.trials(store), export.TRIALS)
    if args.out is None:
        print(to_json(rows) if args.json else export.to_csv(rows, columns).removesuffix("\n"))
        return 0
    path = export.save(rows, columns, args.out, args.force)
    if args.json:
        print(to_json({"out": str(path), "rows": len(rows), "columns": list(columns)}))
    else:
        print(f"Wrote {len(rows)} rows to '{path}'.")
    return 0
