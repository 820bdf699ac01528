"""``cl-plugins validate``: the checks that a run makes before its model loads, for many recipes at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem, RecipeError


if TYPE_CHECKING:
    from ..config import Recipe
    from ..contract.host import Host

_EPILOG = """\
Checks the `cl:` block, the stream, the method with the engine and precision of
the recipe, data set names and files, lets LLaMA-Factory (with `encoders:`,
Transformers) parse the arguments of every task, and prepares the training and
test sets of all tasks as the run will (kept in the cache of the `datasets`
library; `--quick` leaves this out), and scores every reference against itself.
Words of the form key=value apply to all recipes:

  cl-plugins validate examples/yaml/demo/*.yaml
  cl-plugins validate recipe.yaml use_cpu=true     (on a machine without a GPU)

Exit code 0 if every recipe is good, else 2.
"""
_NEEDS_LAUNCHER = "FORCE_TORCHRUN"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="recipes, and key=value words for all of them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--quick", action="store_true", help="skip the checks that need the base's tokenizer, or the encoders"
    )
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Check every file."""
    from . import output
    from .hosts import quiet_host

    words = [word for word in args.recipes if "=" in word and not Path(word).exists()]
    files = [word for word in args.recipes if word not in words]
    if not files:
        raise RecipeError(Problem("RECIPE", "is missing.", "Name at least one recipe."))
    results: dict[str, tuple[list[Problem], list[str]]] = {}
    with quiet_host():
        for file in files:
            results[file] = check_file(file, [*words, *args.overrides], read=not args.quick)
    bad = sum(bool(problems) for problems, _ in results.values())
    if args.json:
        output.print_json(
            {file: {"problems": [vars(p) for p in found], "notes": notes} for file, (found, notes) in results.items()}
        )
        return 2 if bad else 0
    for file, (problems, notes) in results.items():
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "ok"
        output.emit((output.bold(count) if problems else count) + f"  {file}")
        output.show_problems(problems, indent=4)
        for note in notes:
            for line in output.wrap(f"note: {note}", output.width() - 4):
                output.emit(f"    {line}")
    if len(files) > 1:
        output.emit(f"{len(files) - bad} of {len(files)} recipes are valid")
    return 2 if bad else 0


def check_file(path: str, overrides: list[str], *, read: bool = True) -> tuple[list[Problem], list[str]]:
    """Problems and notes of one recipe.

    Args:
        path: The file.
        overrides: ``key=value`` words.
        read: See `check_recipe`.
    """
    from .recipes import read_stream_recipe

    try:
        return check_recipe(read_stream_recipe(path, overrides), read=read)
    except RecipeError as error:
        return error.at(path), []


def check_recipe(recipe: Mapping[str, Any], *, read: bool = True) -> tuple[list[Problem], list[str]]:
    """Problems and notes of a recipe with ``cl``, as far as they can be seen without loading a model.

    Args:
        recipe: Host keys and ``cl``.
        read: Whether to prepare the data of all tasks as a run does, if the base's tokenizer is here.
    """
    from ..run.check import check
    from .hosts import host

    found = host(recipe)
    try:
        return _prepared(found, check(found, recipe), read)
    except (DataError, RecipeError) as error:
        return error.at("cl"), []


def _prepared(host: Host, recipe: Recipe, read: bool) -> tuple[list[Problem], list[str]]:
    """What the host says to the arguments and the data of each training and test."""
    from ..run.data_sets import trained_tests
    from ..run.plan import make_plan
    from ..run.reading import argument_problem, parse_all, read_data
    from ..run.sender import carry_remarks
    from ..run.state import RunState

    # the host refuses a directory that holds an adapter; the run handles that itself
    state = RunState.to_look(host, Path("no-such-directory"), recipe.host_keys, recipe.config)
    steps = make_plan(recipe.config, state.method)
    trainings = [step.task for step in steps if step.kind == "train" and step.task]
    tests = dict.fromkeys(step.task for step in steps if step.tests and step.task)
    _, refusals = parse_all(state, trainings)
    root = Path(str(recipe.host_keys["output_dir"]))
    problems: list[Problem] = []
    known = trained_tests(host, recipe.host_keys, recipe.config)
    notes = [*carry_remarks(root, recipe.config), *known.values()]
    for message, tasks in refusals.items():
        if _NEEDS_LAUNCHER in message:
            notes.append(
                "LLaMA-Factory starts DeepSpeed only with FORCE_TORCHRUN=1, or under torchrun; its later checks were not made."
            )
        else:
            problems.append(argument_problem(state, trainings, message, tasks))
    if refusals or not read:
        return problems, notes
    try:
        state.session  # noqa: B018
    except RecipeError as error:
        problems += error.problems
    except Exception as error:  # any exception of the host or the hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        notes.append(f"The data were not prepared: {host.reader} cannot be loaded here ({reason}).")
    else:
        read_data(state, list(tests), trainings, known)
    return problems, notes
