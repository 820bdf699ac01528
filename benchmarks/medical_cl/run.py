"""Run the Medical-CL benchmark: a list of recipes, seeds and orders, with a ledger of what is finished.

Every cell is an ordinary ``llamafactory-cli train`` in a process of its own. A finished cell is not run again, one that was
stopped goes on, and a changed recipe is a new cell; so the same command can be given at any time. From the root of the
repository::

    python -m benchmarks.medical_cl.run --recipes inclora seqfull --seeds 0 1 2
    python -m benchmarks.medical_cl.run --scale tiny
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks.medical_cl import ledger, tiny
from benchmarks.medical_cl.cells import PAPER_ORDER, RECIPES, Cell, Scale, make_cells, recipe_files
from cl_plugins.base.errors import ClPluginsError


SAVES = Path("saves/bench_medical_cl")
LEDGER = Path("benchmarks/medical_cl/ledgers")
#: The source whose rules the answers are scored by as well.
SOURCE = "li2025"

#: From a cell, the file of its recipe and a log file to whether the run ended well.
Launch = Callable[[Cell, Path, Path], bool]


def in_own_process(cell: Cell, recipe: Path, log: Path) -> bool:
    """Start the run as a user would; the environment (``FORCE_TORCHRUN``, ``CUDA_VISIBLE_DEVICES``) goes through."""
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    if cell.scale == "tiny":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = ["llamafactory-cli", "train", str(recipe)]
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    return done.returncode == 0


def run_cell(cell: Cell, directory: Path, launch: Launch = in_own_process) -> bool:
    """Carry out one cell and enter it into the ledger, unless it stands there.

    Args:
        cell: The cell.
        directory: Folder of the ledger.
        launch: How a run is started.

    Returns:
        Whether the cell is in the ledger now.
    """
    if (directory / f"{cell.id}.json").is_file():
        say(f"{cell.id}: finished before")
        return True
    cell.saves.mkdir(parents=True, exist_ok=True)
    recipe, log = cell.saves / f"{cell.id}.yaml", cell.saves / f"{cell.id}.log"
    recipe.write_text(yaml.safe_dump(cell.started(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    start = time.monotonic()
    if not ledger.finished(cell.output_dir):
        say(f"{cell.id}: running, prints into {log}")
        if not launch(cell, recipe, log) or not ledger.finished(cell.output_dir):
            say(f"{cell.id}: FAILED after {time.monotonic() - start:.0f} s, see {log}")
            return False
    # Seed and order make a repetition of a cell, not another recipe.
    block = {key: value for key, value in cell.keys["cl"].items() if key != "order"}
    common = dataclasses.replace(cell, keys={**cell.keys, "seed": None, "cl": block}).sha256
    ledger.record(cell, common, by_paper_rules(cell.output_dir), directory)
    say(f"{cell.id}: done after {time.monotonic() - start:.0f} s")
    return True


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


def main(argv: Sequence[str] | None = None, launch: Launch = in_own_process) -> int:
    """Command line.

    Args:
        argv: The words behind the program; those of the process by default.
        launch: How a run is started.

    Returns:
        0, 1 if a cell failed, 2 for problems of recipes or data.
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
    parser.add_argument("--list", action="store_true", help="print the cells and run nothing")
    options = parser.parse_args(argv)

    saves, directory = options.saves / options.scale, options.ledger / options.scale
    try:
        size = tiny.scale(saves, options.steps) if options.scale == "tiny" else Scale("full", saves)
        if options.scale == "tiny" and not options.list:
            tiny.prepare(saves)
        names = options.recipes or list(recipe_files(options.recipe_dir))
        cells = make_cells(names, options.seeds, options.orders, size, options.recipe_dir, options.set)
    except ClPluginsError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        for cell in cells:
            state = "finished" if (directory / f"{cell.id}.json").is_file() else "to do"
            say(f"{state:9} {cell.id}")
        return 0
    good = sum(run_cell(cell, directory, launch) for cell in cells)
    say(f"{good} of {len(cells)} cells are in {directory}")
    return 0 if good == len(cells) else 1


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
