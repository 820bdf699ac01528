"""``cl-plugins compare``: several runs in one table and picture, or runs compared with a published result."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import Problem, RecipeError


_EPILOG = """\
Runs of one method that differ in their seed or task order become one row, with
an interval. `--names` gives every run a name; runs with the same name belong
together.

  cl-plugins compare saves/*/ --out comparison
  cl-plugins compare a1 a2 b1 b2 --names a a b b --out comparison

`--after TASK` compares them at an earlier point: every run as if its stream had
ended after this task, in its own order. Runs that were stopped later or are
still at work count in full.

  cl-plugins compare saves/*/ --after neuro --out interim

`--baseline LABEL` adds the differences of every other row to one of them,
within pairs of runs of equal seed and task order. LABEL is the label in the
table, or the method where only one row has it.

  cl-plugins compare saves/*/ --baseline seqlora --out differences

`--with` compares them with a published result (`cl-plugins list published`):
ours, theirs, the difference, and whether theirs lies inside our interval. Where
the source scores by another rule, the run's kept answers are scored by the
source's rule first; the run itself stays as it is.

  cl-plugins compare saves/inclora --with li2025/inclora
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the files go; may be omitted with --with")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="a name for each run, in their order")
    parser.add_argument(
        "--after", metavar="TASK", help="compare the runs as they stood after this task; the later ones are left out"
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="add the differences to this row, paired by seed and task order"
    )
    parser.add_argument(
        "--with", dest="published", metavar="SOURCE/ENTRY", help="a published result to compare the runs with"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (with --with)")


def run(args: argparse.Namespace) -> int:
    """Compare runs."""
    from ..run.reopen import check_target

    problems = []
    if args.names is not None and len(args.names) != len(args.runs):
        what = f"gives {len(args.names)} names for {len(args.runs)} runs."
        problems.append(Problem("--names", what, "Give one name per run, in the same order."))
    if args.out is None and args.published is None:
        problems.append(Problem("--out", "is missing.", "Give a folder for table and picture, or add `--with`."))
    if args.json and args.published is None:
        problems.append(Problem("--json", "is given without `--with`.", "Read compare.json in the folder of `--out`."))
    if args.after is not None and args.published is not None:
        what = "is given with `--with`, but published results are those of whole streams."
        problems.append(Problem("--after", what, "Leave one of the two out."))
    if args.baseline is not None and args.published is not None:
        what = "is given with `--with`, but a published result has no seeds that pair with those of the runs."
        problems.append(Problem("--baseline", what, "Leave one of the two out."))
    if problems:
        raise RecipeError(problems)
    if args.out is not None:
        check_target(args.out)
    if args.published is not None:
        return _beside(args)
    write(args.runs, args.out, args.names, args.after, args.baseline)
    return 0


def write(
    runs: Sequence[Path],
    out: Path,
    names: Sequence[str] | None,
    after: str | None = None,
    baseline: str | None = None,
) -> None:
    """Write table and picture of several runs, and print the table.

    Args:
        runs: Directories of runs.
        out: Where the files go.
        names: A name for each run; None names them by method and settings.
        after: The task after which the runs are compared; None for their ends.
        baseline: The row to which differences are shown; None for no differences.
    """
    from ..base.files import write_bytes
    from ..report import compare, compare_table
    from . import output

    files = compare(runs, out, names=names, write=write_bytes, after=after, baseline=baseline)
    width, colour, ascii = output.width(), output.colour(), output.plain()
    table = compare_table(runs, names=names, width=width, colour=colour, ascii=ascii, after=after, baseline=baseline)
    output.show_styled(table)
    output.emit()
    for line in output.wrap(f"{', '.join(path.name for path in files)} in {out}", output.width()):
        output.emit(line)


def _beside(args: argparse.Namespace) -> int:
    """Compare with a published result."""
    import tempfile
    from functools import cache

    from ..base.files import write_bytes
    from ..report import against_published, published_page
    from . import output
    from .report import rescore

    with tempfile.TemporaryDirectory(prefix="cl-plugins-") as scratch:

        @cache
        def scored(run_dir: Path, words: tuple[str, ...]) -> Path:
            # The directory keeps the run's name, because tables show it.
            folder = Path(tempfile.mkdtemp(dir=scratch)) / run_dir.resolve().name
            return rescore(run_dir, list(words), folder)

        def anew(run_dir: Path, words: list[str]) -> Path:
            return scored(run_dir, tuple(words))  # several tables of a source often need the same rules

        found = against_published.compare_with_published(args.runs, args.published, args.names, anew)
    files = published_page.write_published(found, args.out, write_bytes) if args.out is not None else []
    if args.json:
        output.print_json(published_page.as_json(found))
        return 0
    for number, compared in enumerate(found):
        if number:
            output.emit()
        for line in output.wrap(published_page.title(compared), output.width()):
            output.emit(output.bold(line))
        for line in output.wrap(f"{compared.source.title}. {compared.source.reference}", output.width()):
            output.emit(line)
        output.emit()
        output.numbers(published_page.published_table(compared, decimals=1 if output.width() < 72 else 2))
        output.emit()
        for line in output.wrap(published_page.interval_note(compared), output.width()):
            output.emit(line)
        output.heading("What each side measures")
        for name, ours, theirs in compared.definitions:
            output.emit(f"  {name}")
            output.pairs([("ours", ours), ("theirs", theirs)], indent=4)
        output.heading("About these numbers")
        output.pairs([("-", remark) for remark in compared.remarks])
    if files:
        output.emit()
        for line in output.wrap(f"{', '.join(path.name for path in files)} in {args.out}", output.width()):
            output.emit(line)
    return 0
