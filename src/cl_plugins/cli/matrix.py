"""``cl-plugins matrix``: the rows that several sites have measured, as one accuracy matrix."""

from __future__ import annotations

import argparse
from pathlib import Path


_EPILOG = """\
  cl-plugins matrix join site_a/run site_b/run --out joined
  cl-plugins matrix join site_b.carry.zip site_c/run --out joined

SITE is the `output_dir` of a run with `cl.only`, or a file that
`cl-plugins carry pack --with-matrix` wrote, which also holds the rows of the
sites before. Streams, scorers and test sets of the sites must agree, and every
site must have begun with the carry of the site before. `cl-plugins report` and
`compare` take the result as they take a run.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "put the rows of several sites together"
    action = actions.add_parser("join", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    action.add_argument("sites", metavar="SITE", nargs="+", type=Path, help="runs, packs, or unpacked packs")
    action.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")


def run(args: argparse.Namespace) -> int:
    """Join the rows of several sites."""
    from ..base.files import write_bytes
    from ..report import terminal_table, write_report
    from ..run.export import check_empty
    from ..run.join import join
    from . import output

    check_empty(args.out)
    join(args.sites, args.out)
    write_report(args.out, write_bytes)
    output.show_styled(terminal_table(args.out, output.width(), output.colour(), output.plain()))
    output.emit()
    output.emit(f"report: {args.out / 'report.html'}")
    return 0
