"""``cl-plugins sweep``: recipes with several methods, seeds and task orders, each as a run of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError


if TYPE_CHECKING:
    from ..sweep.cells import Cell
    from ..sweep.unchanged import Unchanged
    from ..sweep.work import Outcome

_EPILOG = """\
Every recipe is run with every method, seed and task order, by the ordinary
command in a process of its own. All recipes are checked before the first run.
A finished run stands in the ledger and is not run again (with other data or
another base at the same place it is refused), a stopped one goes on, and a
failed one does not stop the others; so the same command can be given at any
time, also at once on several machines that share the folder. At the end
`compare` puts all finished runs into one table.

  cl-plugins sweep recipe.yaml --seeds 0-4 --methods seqlora,inclora --out DIR
  cl-plugins sweep a.yaml b.yaml --orders given sur,path,rad --out DIR
  cl-plugins sweep recipe.yaml --seeds 0-9 --devices 0 1 2 3 --out DIR

A method that is not the recipe's gets its default options. ORDER is `given`
(that of the recipe), tasks with commas, or `seed:N` (as `cl.order_seed: N`).
Each word after `--devices` is what one run at a time sees as
CUDA_VISIBLE_DEVICES; without it every GPU is one. `--cluster slurm` submits a
job for each run (`pip install submitit`):

  cl-plugins sweep recipe.yaml --seeds 0-4 --out DIR --cluster slurm \\
      --cluster-set timeout_min=600 slurm_partition=gpu

Exit codes: 0 all are finished, 1 a run failed or was finished with other data,
2 a problem of a recipe, 75 stopped, run it again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="recipes, and key=value words for all of them")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--methods", metavar="NAMES", nargs="+", help="methods in place of the recipes'")
    parser.add_argument("--seeds", metavar="SEEDS", nargs="+", help="as in 0-4 or 0,1,2 (default: the recipes')")
    parser.add_argument("--orders", metavar="ORDER", nargs="+", help="orders of the tasks (default: given)")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs at once (default: one per device)")
    parser.add_argument("--devices", metavar="IDS", nargs="+", help="the GPUs of each run, as in 0 1 or 0,1 2,3")
    parser.add_argument("--cluster", metavar="NAME", help="submit jobs instead: slurm, or local to try it")
    parser.add_argument("--cluster-set", metavar="key=value", nargs="+", default=[], help="what the jobs ask for")
    parser.add_argument("--launcher", metavar="CMD", help="the launch command (default: that of `run`)")
    parser.add_argument("--quick", action="store_true", help="skip the checks that need the base's tokenizer")
    parser.add_argument("--list", action="store_true", help="print the runs and start nothing")
    parser.add_argument("--json", action="store_true", help="with --list: print JSON")
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Carry out a sweep."""
    from ..sweep.checks import check_cells
    from ..sweep.unchanged import Unchanged
    from ..sweep.work import write_recipe
    from . import output

    cells = _cells(args)
    directory = args.out / "ledger"
    finished = Unchanged(directory)
    if args.list:
        return _show(cells, directory, finished.problems(cells), as_json=args.json)
    starts = _Starts(cells, args)
    finished.check(cells)
    left = [cell for cell in cells if not (directory / f"{cell.id}.json").is_file()]
    for cell in left:
        write_recipe(cell)
    if left:
        _say(f"{len(cells)} runs, {len(left)} to do; their recipes are checked first")
        for note in check_cells(left, quick=args.quick):
            for line in output.wrap(f"note: {note}", output.width()):
                output.emit(line)
    outcomes = starts.carry_out(directory, finished)
    return _end(cells, outcomes, args.out, directory)


def _cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that a command line asks for."""
    from ..sweep.cells import GIVEN, make_cells, read_seeds
    from .recipes import read_stream_recipe

    words, files = _apart(args.recipes)
    lists = {name: _apart(getattr(args, name) or []) for name in ("methods", "seeds", "orders")}
    for more, _ in lists.values():
        words += more
    words += args.overrides
    problems = _option_problems(args, files, words)
    methods = [name for word in lists["methods"][1] for name in word.split(",") if name]
    seeds: list[int] = []
    recipes: list[tuple[str, dict[str, Any]]] = []
    try:
        seeds = read_seeds(lists["seeds"][1])
    except RecipeError as error:
        problems += error.problems
    for file in files:
        try:
            recipes.append((Path(file).stem, read_stream_recipe(file, words)))
        except RecipeError as error:
            problems += error.at(file)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    orders = lists["orders"][1] or [GIVEN]
    return make_cells(recipes, args.out / "runs", methods=methods, seeds=seeds, orders=orders)


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ``key=value`` words of a list, and the others."""
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    return settings, [word for word in words if word not in settings]


def _option_problems(args: argparse.Namespace, files: Sequence[str], words: Sequence[str]) -> list[Problem]:
    """What options say that cannot be."""
    found = []
    if not files:
        found.append(Problem("RECIPE", "is missing.", "Name at least one recipe."))
    if args.jobs is not None and args.jobs < 1:
        found.append(Problem("--jobs", f"is {args.jobs}.", "Give a number, at least 1."))
    if args.json and not args.list:
        found.append(Problem("--json", "is given without `--list`.", "Read the files in the folder of `--out`."))
    for word in words:
        key = word.partition("=")[0]
        if key in ("seed", "output_dir", "cl.order", "cl.order_seed") or (
            args.methods and key.startswith("cl.method")
        ):
            instead = {"seed": "--seeds", "output_dir": "--out"}.get(key, "--orders")
            fix = f"Use `{instead}`." if not key.startswith("cl.method") else "Write options of methods in recipes."
            found.append(Problem(word, "is decided by the sweep itself for each run.", fix))
    for option in ("jobs", "devices"):
        if args.cluster and getattr(args, option):
            fix = "Leave it out; the scheduler decides (`--cluster-set gpus_per_node=1`)."
            found.append(Problem(f"--{option}", "does not go with `--cluster`.", fix))
    if args.cluster_set and not args.cluster:
        found.append(Problem("--cluster-set", "is given without `--cluster`.", "Add `--cluster slurm`."))
    for word in args.cluster_set:
        if "=" not in word:
            fix = "Write for example `timeout_min=600`."
            found.append(Problem(f"--cluster-set {word}", "is not of the form key=value.", fix))
    return found


class _Starts:
    """How the runs of a command line are started."""

    def __init__(self, cells: Sequence[Cell], args: argparse.Namespace) -> None:
        from ..run.isolate import launch_command
        from .hosts import host

        self._cells = cells
        self._commands = {cell.id: launch_command(args.launcher or host(cell.keys).command) for cell in cells}
        self._submit: Any = None
        if args.cluster:
            from yaml import safe_load

            from ..sweep.cluster import executor

            given = {key: safe_load(value) for key, _, value in (word.partition("=") for word in args.cluster_set)}
            self._submit = executor(args.out / "jobs" / "%j", args.cluster, given)
        self._devices = list(args.devices or _gpus())
        self._jobs = args.jobs or max(1, len(self._devices))
        if self._jobs > 1 and "MASTER_PORT" in os.environ and not args.cluster:
            what = f"is set in the environment, and {self._jobs} runs at once would all use this port."
            raise RecipeError(Problem("MASTER_PORT", what, "Unset it: every run then takes a free port."))

    def carry_out(self, directory: Path, finished: Unchanged) -> dict[str, Outcome]:
        """Carry out all cells; the outcome of each, by its id."""
        from ..sweep.processes import Processes
        from ..sweep.work import run_cells, slots

        processes = Processes()
        with processes.on_signals():
            if self._submit is not None:
                from ..sweep.cluster import run_on_cluster

                return run_on_cluster(
                    self._cells,
                    directory,
                    self._commands,
                    self._submit,
                    say=_say,
                    stopped=lambda: processes.stopped,
                )
            return run_cells(
                self._cells,
                directory,
                lambda cell, more: processes.run([*self._commands[cell.id], str(cell.recipe_file)], cell.log, more),
                say=_say,
                environments=slots(self._jobs, self._devices),
                stopped=lambda: processes.stopped,
                changed=lambda cell: finished.problems([cell]).get(cell.id, ()),
            )


def _gpus() -> list[str]:
    """The GPUs that this process may use, one a run; none where there are none."""
    import subprocess

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    # in a process of its own, so that nothing of CUDA is set up in this one
    count = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=False)
    last = (done.stdout.split() or ["0"])[-1]
    return [str(number) for number in range(int(last))] if done.returncode == 0 and last.isdigit() else []


def _end(cells: Sequence[Cell], outcomes: dict[str, Outcome], out: Path, directory: Path) -> int:
    """Compare what is finished, and say what is not; the exit code."""
    from ..run.interrupt import EXIT_RUN_AGAIN
    from . import output

    states = {state: [cell for cell in cells if outcomes[cell.id].state == state] for state in ("failed", "stopped")}
    done = [cell for cell in cells if outcomes[cell.id].state == "finished"]
    if done and not states["stopped"]:
        _compare(done, out / "comparison", directory)
    output.emit()
    output.emit(f"{len(done)} of {len(cells)} runs are finished; the ledger is {directory}")
    for cell in states["failed"]:
        output.emit(f"failed: {cell.id}, see {cell.log}")
    if states["failed"]:
        output.emit("The same command tries the failed runs again.")
    if states["stopped"]:
        output.emit(f"{len(states['stopped'])} are not finished: give the same command again.")
    return 1 if states["failed"] else EXIT_RUN_AGAIN if states["stopped"] else 0


def _compare(cells: Sequence[Cell], out: Path, directory: Path) -> None:
    """One table and picture of all finished runs, out of the ledger alone."""
    from ..sweep.ledger import as_runs, entry_file, read_entry
    from . import output
    from .compare import write

    entries = [read_entry(entry_file(cell, directory)) for cell in cells]
    scored = [entry for entry in entries if entry.scores("own") is not None]
    if not scored:
        output.emit("The runs test nothing (`scope: none`), so there is nothing to compare.")
        return
    output.emit()
    with as_runs(scored, "own") as runs:
        write(runs, out, None)


def _show(cells: Sequence[Cell], directory: Path, changed: Mapping[str, list[Problem]], *, as_json: bool) -> int:
    """List the cells and what is known of them; of those that were finished with other data or another base, what changed."""
    from ..sweep.ledger import entry_file
    from . import output

    def state(cell: Cell) -> str:
        if cell.id in changed:
            return "changed"
        if entry_file(cell, directory).is_file():
            return "finished"
        if cell.failure.is_file():
            return "failed"
        return "begun" if cell.output_dir.is_dir() else "to do"

    if as_json:
        output.print_json(
            [
                {
                    "id": cell.id,
                    "state": state(cell),
                    "recipe": cell.recipe,
                    "method": cell.method,
                    "seed": cell.seed,
                    "order": list(cell.order),
                    "run": str(cell.output_dir),
                    **({"changed": [vars(problem) for problem in changed[cell.id]]} if cell.id in changed else {}),
                }
                for cell in cells
            ]
        )
        return 0
    for cell in cells:
        output.emit(f"{state(cell):9} {cell.id}")
    output.show_problems(problem for each in changed.values() for problem in each)
    return 0


def _say(line: str) -> None:
    """Print a line at once."""
    from . import output

    output.emit(line)
    sys.stdout.flush()
