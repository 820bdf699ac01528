"""Run the Medical-CL benchmark: a list of recipes, seeds and orders, with a ledger of what is finished.

Every cell is an ordinary ``llamafactory-cli train`` in a process of its own. A finished cell is not run again, one that was
stopped goes on, and a changed recipe is a new cell; so the same command can be given at any time. From the root of the
repository::

    python -m benchmarks.medical_cl.run --recipes inclora seqfull --seeds 0 1 2
    python -m benchmarks.medical_cl.run --scale tiny
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.medical_cl import tiny
from benchmarks.medical_cl.cells import PAPER_ORDER, RECIPES, Cell, Scale, make_cells, recipe_files
from cl_plugins.base.errors import ClPluginsError
from cl_plugins.run.interrupt import EXIT_RUN_AGAIN
from cl_plugins.run.isolate import launch_command
from cl_plugins.sweep.checks import check_cells
from cl_plugins.sweep.ledger import entry_file
from cl_plugins.sweep.processes import Processes
from cl_plugins.sweep.unchanged import Unchanged
from cl_plugins.sweep.work import VISIBLE, run_cells, slots, write_recipe


SAVES = Path("saves/bench_medical_cl")
LEDGER = Path("benchmarks/medical_cl/ledgers")
#: The source whose rules the answers are scored by as well.
SOURCE = "li2025"

#: From a cell, the file of its recipe and a log file to whether the run ended well.
Launch = Callable[[Cell, Path, Path], bool]


def by_paper_rules(run_dir: Path) -> Path | None:
    """The kept answers of a run scored by the paper's rules, or ``None`` where that cannot be.

    The scores go to ``RUN/rescored/``; nothing is generated.
    """
    from cl_plugins.cli.report import rescore
    from cl_plugins.published import read_published
    from cl_plugins.report.run_data import read_run

    run = read_run(run_dir)
    source = next(source for source in read_published() if source.key == SOURCE)
    table = next((table for table in source.tables if table.stream == run.stream), None)
    if table is None or set(table.tasks) != set(run.tasks):
        return None
    words = [f"{task}={table.measures[task].scorers[0]}" for task in run.tasks]
    try:
        return rescore(run_dir, words, run_dir / "rescored" / SOURCE)
    except (ClPluginsError, ImportError) as error:
        say(f"  not scored by the paper's rules: {error}")
        return None


def main(argv: Sequence[str] | None = None, launch: Launch | None = None) -> int:
    """Command line.

    Args:
        argv: The words behind the program; those of the process by default.
        launch: How a run is started; as a user would, in a process of its own, by default.

    Returns:
        0, 1 if a cell failed, 2 for problems of recipes or data, 75 if it was stopped.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.medical_cl.run", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--recipes", nargs="+", metavar="NAME", help="recipes (default: all, in the order of their names)"
    )
    parser.add_argument("--recipe-dir", type=Path, default=RECIPES, help="folder of the recipes (default: recipes/)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    parser.add_argument(
        "--orders",
        nargs="+",
        default=[PAPER_ORDER],
        metavar="ORDER",
        help="`paper` (default), or tasks: rad,cell,sur,path",
    )
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="tiny: on a CPU, in minutes")
    parser.add_argument(
        "--steps", type=int, default=10, help="steps per task at the tiny scale (default: %(default)s)"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="changes to every recipe")
    parser.add_argument("--saves", type=Path, default=SAVES, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="folder of the ledger (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at once (default: one, or one for each of --devices)"
    )
    parser.add_argument(
        "--devices", nargs="+", default=[], metavar="IDS", help="the GPUs of each run, as in 0 1 or 0,1 2,3"
    )
    parser.add_argument("--list", action="store_true", help="print the cells and run nothing")
    options = parser.parse_args(argv)

    saves, directory = options.saves / options.scale, options.ledger / options.scale
    try:
        size = tiny.scale(saves, options.steps) if options.scale == "tiny" else Scale("full", saves)
        if options.scale == "tiny" and not options.list:
            tiny.prepare(saves)
        names = options.recipes or list(recipe_files(options.recipe_dir))
        cells = make_cells(names, options.seeds, options.orders, size, options.recipe_dir, options.set)
        command = launch_command("llamafactory-cli train")
        finished = Unchanged(directory)
        changed = finished.problems(cells) if options.list else {}
        if not options.list:
            finished.check(cells)
        if launch is None and not options.list:
            check(cells, directory)
    except ClPluginsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        for cell in cells:
            state = "finished" if entry_file(cell, directory).is_file() else "to do"
            state = "changed" if cell.id in changed else state
            say(f"{state:9} {cell.id}")
        return 0
    processes = Processes()

    def start(cell: Cell, environment: Mapping[str, str]) -> int | None:
        if launch is not None:
            return 0 if launch(cell, cell.recipe_file, cell.log) else 1
        own = {VISIBLE: ""} if options.scale == "tiny" else {}
        return processes.run([*command, str(cell.recipe_file)], cell.log, {**environment, **own})

    with processes.on_signals():
        outcomes = run_cells(
            cells,
            directory,
            start,
            say=say,
            environments=slots(options.jobs or max(1, len(options.devices)), options.devices),
            rescore=by_paper_rules,
            stopped=lambda: processes.stopped,
            changed=lambda cell: finished.problems([cell]).get(cell.id, ()),
        )
    good = sum(outcome.state == "finished" for outcome in outcomes.values())
    say(f"{good} of {len(cells)} cells are in {directory}")
    return 0 if good == len(cells) else EXIT_RUN_AGAIN if processes.stopped else 1


def check(cells: Sequence[Cell], directory: Path) -> None:
    """Check the recipes of all cells that are not finished, before the first one starts.

    Args:
        cells: The cells.
        directory: Folder of the ledger.

    Raises:
        ClPluginsError: With every problem of every recipe.
    """
    left = [cell for cell in cells if not entry_file(cell, directory).is_file()]
    for cell in left:
        write_recipe(cell)
    for note in check_cells(left):
        say(f"note: {note}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
