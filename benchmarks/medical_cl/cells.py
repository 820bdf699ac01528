"""What the benchmark is made of: the cells of `cl_plugins.sweep`, for the recipes in ``recipes/`` at one scale.

A recipe is a file in ``recipes/``; a new one needs no code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cl_plugins.base.errors import Problem, RecipeError
from cl_plugins.sweep import cells as sweep
from cl_plugins.sweep.cells import Cell


HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
PAPER_ORDER = "paper"


@dataclass(frozen=True)
class Scale:
    """How large the benchmark is.

    Attributes:
        name: ``full`` or ``tiny``.
        saves: Folder of the runs.
        every: Keys that replace those of every recipe; ``None`` takes a key out.
        rate: Factor of the learning rate of recipes that train adapters.
        full_rate: Factor of the learning rate of recipes that train all weights.
        max_items: Limit of the test sets.
    """

    name: str
    saves: Path
    every: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rate: float = 1.0
    full_rate: float = 1.0
    max_items: int | None = None

    def apply(self, keys: dict[str, Any]) -> None:
        """Change a recipe in place. Joint training keeps its share of steps."""
        steps = keys.get("max_steps", -1)
        for key, value in self.every.items():
            if value is None:
                keys.pop(key, None)
            elif key != "lora_rank" or key in keys:
                keys[key] = value
        factor = self.full_rate if keys.get("finetuning_type") == "full" else self.rate
        keys["learning_rate"] = float(f"{float(keys['learning_rate']) * factor:.6g}")
        if self.max_items is not None:
            keys["cl"] = {**keys["cl"], "eval": {**keys["cl"].get("eval", {}), "max_items": self.max_items}}
        if "max_steps" in self.every and keys["cl"]["method"]["name"] == "multitask" and steps > 0:
            # 2,000 steps a task are the benchmark's length; joint training takes those of all tasks together.
            keys["max_steps"] = self.every["max_steps"] * max(1, round(steps / 2000))


def recipe_files(directory: Path = RECIPES) -> dict[str, Path]:
    """Name to file of every recipe in a folder."""
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}


def make_cells(
    names: Sequence[str],
    seeds: Iterable[int],
    orders: Sequence[str],
    scale: Scale,
    directory: Path = RECIPES,
    changes: Sequence[str] = (),
) -> list[Cell]:
    """All cells, seed by seed, so that what is there after a while can be compared already.

    Args:
        names: Names of recipes.
        seeds: Seeds.
        orders: ``paper``, or names of tasks with commas.
        scale: The scale.
        directory: Folder of the recipes.
        changes: ``key=value`` words for every recipe, with dots below ``cl:``.

    Raises:
        RecipeError: An unknown recipe or order, or a recipe that cannot be read; lists every problem.
    """
    files = recipe_files(directory)
    problems = [
        Problem(f"--recipes {name}", f"there is no {directory / name}.yaml.", f"Recipes: {', '.join(files)}.")
        for name in names
        if name not in files
    ]
    if problems:
        raise RecipeError(problems)
    recipes = [(name, _read(files[name], scale, changes)) for name in names]
    about = {"scale": scale.name}
    return sweep.make_cells(recipes, scale.saves, seeds=list(seeds), orders=orders, given=PAPER_ORDER, about=about)


def _read(path: Path, scale: Scale, changes: Sequence[str]) -> dict[str, Any]:
    """A recipe at a scale, with changes."""
    keys: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    scale.apply(keys)
    for word in changes:
        _change(keys, word)
    return keys


def _change(keys: dict[str, Any], word: str) -> None:
    """Apply one ``key=value`` word."""
    path, mark, value = word.partition("=")
    *parents, last = path.split(".")
    if not mark or not last:
        raise RecipeError(Problem(word, "is not of the form key=value.", "Write for example `max_steps=100`."))
    place = keys
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = yaml.safe_load(value)
