"""All recipes of a sweep are checked before the first run starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..base.errors import Problem, RecipeError, RunStateError
from ..base.outside import OutsideError, parse_json
from .cells import Cell


#: What checks recipes and prints JSON; files and ``--quick`` are appended.
CHECK = (sys.executable, "-m", "cl_plugins.cli", "validate", "--json")
#: From files and whether to be quick to the problems and notes of each.
Check = Callable[[Sequence[Path], bool], "dict[str, tuple[list[Problem], list[str]]]"]


def representatives(cells: Iterable[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells whose checks cover all of them: seeds are no concern of a recipe, and methods and orders none of its data.

    Args:
        cells: The cells that are still to be run.

    Returns:
        One cell for each recipe, whose data are prepared as well; and one for each other recipe with its method and order.
    """
    full: dict[str, Cell] = {}
    quick: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        block = {key: value for key, value in cell.keys["cl"].items() if key not in ("method", "order", "order_seed")}
        data = json.dumps({**cell.keys, "seed": None, "cl": block}, sort_keys=True, default=str)
        if data not in full:
            full[data] = cell
        quick.setdefault((cell.recipe_sha256, cell.order_name), cell)
    done = {(cell.recipe_sha256, cell.order_name) for cell in full.values()}
    return list(full.values()), [cell for key, cell in quick.items() if key not in done]


def check_cells(cells: Sequence[Cell], *, quick: bool = False, check: Check | None = None) -> list[str]:
    """Check the recipes of cells, whose files are written already.

    Args:
        cells: The cells that are still to be run.
        quick: Whether to leave out what needs the base's tokenizer; the runs check it again.
        check: Checks files; `cl-plugins validate` in a process of its own by default, so that its libraries and what they
            hold on a GPU go away again.

    Returns:
        Notes.

    Raises:
        RecipeError: With every problem of every recipe.
        RunStateError: If the check itself fails.
    """
    check = check or in_own_process
    full, rest = representatives(cells)
    problems: list[Problem] = []
    notes: list[str] = []
    several = len({cell.order_name for cell in cells}) > 1
    for group, briefly in ((full, quick), (rest, True)):
        if not group:
            continue
        found = check([cell.recipe_file for cell in group], briefly)
        for cell in group:
            own, said = found[str(cell.recipe_file)]
            order = f", order {cell.order_name}" if several else ""
            problems += [Problem(f"{cell.recipe}{order}: {p.where}", p.what, p.fix) for p in own]
            notes += said
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)), "The recipes have problems:")
    return list(dict.fromkeys(notes))


def in_own_process(files: Sequence[Path], quick: bool) -> dict[str, tuple[list[Problem], list[str]]]:
    """Problems and notes of recipes, as `cl-plugins validate` finds them.

    Args:
        files: The recipes.
        quick: Whether to leave out what needs the base's tokenizer.

    Raises:
        RunStateError: If the check itself fails.
    """
    command = [*CHECK, *(["--quick"] if quick else []), *map(str, files)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=dict(os.environ))
    try:
        found = parse_json(done.stdout)
        return {
            str(file): (
                [Problem(**each) for each in found[str(file)]["problems"]],
                [str(note) for note in found[str(file)]["notes"]],
            )
            for file in files
        }
    except (OutsideError, ValueError, KeyError, TypeError) as error:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
        what = f"could not be checked (exit code {done.returncode}): {lines[-1]}"
        raise RunStateError(
            Problem(f"{len(files)} recipes", what, f"Run `cl-plugins validate {files[0]}`.")
        ) from error
