"""``cl-plugins compare``: several runs (seeds, orders, methods) in one table and picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import Problem, RecipeError


_EPILOG = """\
Runs of one method that differ in their seed or task order become one row, with
an interval. `--names` gives every run a name; runs with the same name belong
together.

  cl-plugins compare saves/*/ --out comparison
  cl-plugins compare a1 a2 b1 b2 --names a a b b --out comparison
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where table and picture go")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="a name for each run, in their order")


def run(args: argparse.Namespace) -> int:
    """Compare runs."""
    from ..report import compare, compare_table
    from ..run.files import write_bytes
    from ..run.reopen import check_target
    from . import output

    if args.names is not None and len(args.names) != len(args.runs):
        what = f"gives {len(args.names)} names for {len(args.runs)} runs."
        raise RecipeError(Problem("--names", what, "Give one name per run, in the same order."))
    check_target(args.out)
    files = compare(args.runs, args.out, names=args.names, write=write_bytes)
    table = compare_table(
        args.runs, names=args.names, width=output.width(), colour=output.colour(), ascii=output.plain()
    )
    output.emit(table)
    output.emit()
    for line in output.wrap(f"{', '.join(path.name for path in files)} in {args.out}", output.width()):
        output.emit(line)
    return 0
