"""``cl-plugins validate``: the checks that a run makes before its model loads, for many recipes at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError


if TYPE_CHECKING:
    from ..config import Recipe
    from ..contract.host import Host

_EPILOG = """\
Checks the `cl:` block, the stream, the method with the engine and precision of
the recipe, data set names and files, and lets LLaMA-Factory parse the arguments
of every task. Words of the form key=value apply to all recipes:

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
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Check every file."""
    from . import output
    from .quiet import quiet_host

    words = [word for word in args.recipes if "=" in word and not Path(word).exists()]
    files = [word for word in args.recipes if word not in words]
    if not files:
        raise RecipeError(Problem("RECIPE", "is missing.", "Name at least one recipe."))
    results: dict[str, tuple[list[Problem], list[str]]] = {}
    with quiet_host():
        for file in files:
            results[file] = check_file(file, [*words, *args.overrides])
    bad = sum(bool(problems) for problems, _ in results.values())
    if args.json:
        output.print_json(
            {file: {"problems": [vars(p) for p in found], "notes": notes} for file, (found, notes) in results.items()}
        )
        return 2 if bad else 0
    for file, (problems, notes) in results.items():
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "ok"
        output.emit(f"{output.bold(count) if problems else count}  {file}")
        output.show_problems(problems, indent=4)
        for note in notes:
            for line in output.wrap(f"note: {note}", output.width() - 4):
                output.emit(f"    {line}")
    if len(files) > 1:
        output.emit(f"{len(files) - bad} of {len(files)} recipes are good")
    return 2 if bad else 0


def check_file(path: str, overrides: list[str]) -> tuple[list[Problem], list[str]]:
    """Problems and notes of one recipe.

    Args:
        path: The file.
        overrides: ``key=value`` words.
    """
    from .recipes import read_stream_recipe

    try:
        return check_recipe(read_stream_recipe(path, overrides))
    except RecipeError as error:
        return error.problems or [Problem(path, str(error), "")], []


def check_recipe(recipe: Mapping[str, Any]) -> tuple[list[Problem], list[str]]:
    """Problems and notes of a recipe with ``cl``, as far as they can be seen without loading a model.

    Args:
        recipe: Host keys and ``cl``.
    """
    from ..run.check import check
    from .hosts import host

    found = host()
    try:
        return _argument_problems(found, check(found, recipe))
    except RecipeError as error:
        return error.problems or [Problem("cl", str(error), "")], []


def _argument_problems(host: Host, recipe: Recipe) -> tuple[list[Problem], list[str]]:
    """What the host says to the arguments of each training."""
    from ..methods.registry import get_method
    from ..run.task_keys import keys_of, trained_tasks

    config, host_keys = recipe.config, recipe.host_keys
    trained = trained_tasks(config, get_method(config.method).capabilities.schedule)
    refusals: dict[str, list[str]] = {}
    for name in trained:
        target = Path("no-such-directory")  # the host refuses one that holds an adapter; the run handles that itself
        try:
            host.task_args(keys_of(host, host_keys, config, name, target))
        except Exception as error:  # the host raises whatever its libraries raise, from ValueError to ImportError
            refusals.setdefault(str(error).strip() or type(error).__name__, []).append(name)
    problems, notes = [], []
    for message, tasks in refusals.items():
        if _NEEDS_LAUNCHER in message:
            notes.append(
                "LLaMA-Factory starts DeepSpeed only with FORCE_TORCHRUN=1, or under torchrun; what it checks after that was not seen."
            )
            continue
        where = (
            "the recipe" if len(tasks) == len(trained) else f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}"
        )
        fix = ""
        if "use_cpu" in message or "bf16" in message.lower():
            engine = host_keys.get("deepspeed")
            fix = "Check it on a machine with a GPU" + ("." if engine else ", or add `use_cpu=true`.")
        problems.append(Problem(where, f"{host.name} says: {message}", fix))
    return problems, notes
