"""What the benchmark is made of: a *cell* is one recipe with one seed and one order of the tasks, at one scale.

A recipe is a file in ``recipes/``; a new one needs no code. A cell is known by what it computes: another value in the recipe,
other data or another order give another cell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cl_plugins.base.errors import Problem, RecipeError
from cl_plugins.recipe import parse_cl
from cl_plugins.run.record import ABOUT_TASK


HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
PAPER_ORDER = "paper"
# Keys that say where and how a run is carried out, and not what it computes.
PLACES = frozenset(
    "output_dir overwrite_output_dir logging_dir logging_steps report_to run_name plot_loss save_steps save_strategy "
    "save_total_limit preprocessing_num_workers dataloader_num_workers ddp_timeout disable_tqdm overwrite_cache "
    "dataset_dir media_dir".split()
)


@dataclass(frozen=True)
class Cell:
    """One run of the benchmark.

    Attributes:
        recipe: Name of the recipe file without its ending.
        seed: Seed of the run.
        order: The tasks in the order in which they are learned.
        order_name: ``paper``, or the tasks with dashes.
        scale: ``full`` or ``tiny``.
        keys: The recipe to be started, without its ``output_dir``.
        stream: What the stream's tasks are and how they are scored; a recipe may only name it.
        data: Digest of the prepared data.
        saves: Folder of the runs of this scale.
    """

    recipe: str
    seed: int
    order: tuple[str, ...]
    order_name: str
    scale: str
    keys: Mapping[str, Any]
    stream: Sequence[Mapping[str, Any]]
    data: str
    saves: Path

    @property
    def sha256(self) -> str:
        """Hash of what the run computes: the recipe without places and logging, the stream, and the data."""
        known = {key: value for key, value in self.keys.items() if key not in PLACES}
        text = json.dumps([known, self.stream, self.data], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Its name in the ledger and on the disk."""
        return f"{self.recipe}-s{self.seed}-{self.order_name}-{self.sha256[:8]}"

    @property
    def output_dir(self) -> Path:
        """The directory of the run."""
        return self.saves / self.id

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.keys["cl"]["method"]["name"])

    def started(self) -> dict[str, Any]:
        """The recipe as LLaMA-Factory gets it."""
        return {**self.keys, "output_dir": str(self.output_dir)}


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
    return [
        _cell(name, files[name], seed, order, scale, changes) for seed in seeds for order in orders for name in names
    ]


def _cell(name: str, path: Path, seed: int, order: str, scale: Scale, changes: Sequence[str]) -> Cell:
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    scale.apply(keys)
    for word in changes:
        _change(keys, word)
    keys["seed"] = seed
    keys.pop("output_dir", None)
    stream = parse_cl(keys["cl"]).stream
    tasks = stream.task_names
    if order != PAPER_ORDER and tuple(order.split(",")) != tasks:
        keys["cl"] = {**keys["cl"], "order": order.split(",")}
        tasks, label = parse_cl(keys["cl"]).stream.task_names, "-".join(order.split(","))
    else:
        label = PAPER_ORDER
    digest = data_digest(Path(keys["dataset_dir"]))
    about = [
        {key: value for key, value in dataclasses.asdict(task).items() if key not in ABOUT_TASK}
        for task in stream.tasks
    ]
    return Cell(name, seed, tasks, label, scale.name, keys, about, digest, scale.saves)


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


def data_digest(dataset_dir: Path) -> str:
    """One hash over the content of prepared data, from the hashes in their manifest; empty where there is none.

    Folders that were made by hand have no manifest; the runs themselves record the hashes of every file.
    """
    try:
        manifest = json.loads((dataset_dir / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    found = {
        name: [entry.get("sha256"), (entry.get("pictures") or {}).get("sha256")]
        for name, entry in sorted((manifest.get("datasets") or {}).items())
    }
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
