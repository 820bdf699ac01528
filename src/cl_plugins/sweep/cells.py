"""The runs of a sweep: a *cell* is one recipe with one method, one seed and one order of the tasks.

A cell is known by what it computes: another value in the recipe, other data or another order give another cell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError
from ..recipe import parse_cl
from ..run.record import ABOUT_TASK


#: The order that the recipe or its stream has.
GIVEN = "given"
#: An order drawn as ``cl.order_seed`` draws it, as in ``seed:3``.
DRAWN = "seed:"
#: Keys that say where and how a run is carried out, and not what it computes.
PLACES = frozenset(
    "output_dir overwrite_output_dir logging_dir logging_steps report_to run_name plot_loss save_steps save_strategy "
    "save_total_limit preprocessing_num_workers dataloader_num_workers ddp_timeout disable_tqdm overwrite_cache "
    "dataset_dir media_dir".split()
)
#: LLaMA-Factory's and Transformers' default for a recipe that names no seed.
SEED = 42
_LARGEST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000  # of one range
_NAME = 48  # characters of an order in the name of a cell


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        recipe: Name of the recipe, with the method where the sweep replaces it.
        seed: Seed of the run.
        order: The tasks in the order in which they are learned.
        order_name: A short name of the order, such as ``given``.
        keys: The recipe to be started, without its ``output_dir``.
        stream: What the stream's tasks are and how they are scored; a recipe may only name it.
        data: Digest of the prepared data.
        saves: Folder of the runs.
        about: What else the ledger says of the cell.
    """

    recipe: str
    seed: int
    order: tuple[str, ...]
    order_name: str
    keys: Mapping[str, Any]
    stream: Sequence[Mapping[str, Any]]
    data: str
    saves: Path
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of what the run computes: the recipe without places and logging, the stream, and the data."""
        return self._hash(self.keys)

    @property
    def recipe_sha256(self) -> str:
        """Hash of what its repetitions have in common: as `sha256`, without seed and order."""
        block = {key: value for key, value in self.keys["cl"].items() if key not in ("order", "order_seed")}
        return self._hash({**self.keys, "seed": None, "cl": block})

    def _hash(self, keys: Mapping[str, Any]) -> str:
        known = {key: value for key, value in keys.items() if key not in PLACES}
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
    def recipe_file(self) -> Path:
        """The recipe as it is started."""
        return self.saves / f"{self.id}.yaml"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.saves / f"{self.id}.log"

    @property
    def failure(self) -> Path:
        """What is known of its last start if that failed."""
        return self.saves / f"{self.id}.failed.json"

    @property
    def method(self) -> str:
        """Name of the method."""
        return method_name(self.keys)

    def started(self) -> dict[str, Any]:
        """The recipe as the host gets it."""
        return {**self.keys, "output_dir": str(self.output_dir)}


def make_cells(
    recipes: Iterable[tuple[str, Mapping[str, Any]]],
    saves: Path,
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    orders: Sequence[str] = (GIVEN,),
    given: str = GIVEN,
    about: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """All cells, seed by seed, so that what is there after a while can be compared already.

    Args:
        recipes: Name and content of every recipe; each has a ``cl:`` block.
        saves: Folder of the runs.
        methods: Names of methods that replace those of the recipes; a method keeps the recipe's options for it.
        seeds: Seeds; none for those of the recipes.
        orders: ``given``, names of tasks with commas, or ``seed:N`` for the order that ``cl.order_seed: N`` draws.
        given: The word for the order of the recipe.
        about: What else the ledger says of every cell.

    Raises:
        RecipeError: A recipe or an order that cannot be read; lists every problem.
    """
    recipes = list(recipes)
    variants = []
    for name, keys in recipes:
        if not methods:
            variants.append((name, keys))
        for method in methods:
            label = method if len(recipes) == 1 else f"{name}-{method}"
            variants.append((label, _with_method(keys, method)))
    found: dict[str, Cell] = {}
    problems: list[Problem] = []
    for label, keys in recipes if methods else ():  # an order is wrong whatever the method; both are reported
        for order in orders:
            try:
                _cell(label, keys, 0, order, given, saves, {})
            except RecipeError as error:
                problems += [Problem(f"{label}: {p.where}", p.what, p.fix) for p in error.at("cl")]
    for number in range(max(1, len(seeds))):
        for order in orders:
            for label, keys in variants:
                seed = seeds[number] if seeds else keys.get("seed", SEED)
                try:
                    cell = _cell(label, keys, seed, order, given, saves, about or {})
                except RecipeError as error:
                    problems += [Problem(f"{label}: {p.where}", p.what, p.fix) for p in error.at("cl")]
                    continue
                found.setdefault(cell.id, cell)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return list(found.values())


def method_name(keys: Mapping[str, Any]) -> str:
    """The method that a recipe names."""
    method = keys["cl"]["method"]
    return str(method["name"] if isinstance(method, Mapping) else method)


def _with_method(keys: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A recipe with another method and that method's defaults, or with its own method as it is."""
    block = keys.get("cl")
    own = block.get("method") if isinstance(block, Mapping) else None
    if (own.get("name") if isinstance(own, Mapping) else own) == method or not isinstance(block, Mapping):
        return dict(keys)
    return {**keys, "cl": {**block, "method": {"name": method}}}


def _cell(
    label: str, keys: Mapping[str, Any], seed: Any, order: str, given: str, saves: Path, about: Mapping[str, Any]
) -> Cell:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RecipeError(Problem("seed", f"is {seed!r}.", "Give a whole number."))
    made = {key: value for key, value in keys.items() if key != "output_dir"} | {"seed": seed}
    config = parse_cl(keys.get("cl"))
    tasks, name = config.stream.task_names, given
    block = {key: value for key, value in dict(keys["cl"]).items() if key not in ("order", "order_seed")}
    if order.startswith(DRAWN):
        made["cl"] = {**block, "order_seed": _drawn(order)}
    elif order != given and tuple(order.split(",")) != tasks:
        made["cl"] = {**block, "order": order.split(",")}
    if "cl" in made and made["cl"] is not keys["cl"]:
        tasks, name = parse_cl(made["cl"]).stream.task_names, order.replace(",", "-").replace(":", "")[:_NAME]
    about_tasks = [
        {key: value for key, value in dataclasses.asdict(task).items() if key not in ABOUT_TASK}
        for task in config.stream.tasks
    ]
    digest = data_digest(Path(str(keys.get("dataset_dir", "data"))).expanduser())
    return Cell(label, seed, tasks, name, made, about_tasks, digest, saves, about)


def _drawn(order: str) -> int:
    number = order.removeprefix(DRAWN)
    if not number.isdecimal():
        fix = "Write for example `seed:3`, which is `cl.order_seed: 3`."
        raise RecipeError(Problem("--orders", f"{order!r} names no seed.", fix))
    return int(number)


def read_seeds(words: Iterable[str]) -> list[int]:
    """Seeds from words such as ``0-4``, ``0,1,2`` and ``7``, each once, in the order given.

    Raises:
        RecipeError: Words that are none, or numbers that are no seeds; lists every problem.
    """
    found: list[int] = []
    problems = []
    for word in words:
        for part in word.split(","):
            first, mark, last = part.strip().partition("-")
            if not first.isdecimal() or (mark and not last.isdecimal()) or int(last or first) < int(first):
                fix = "Write for example `--seeds 0-4`, or `--seeds 0,1,2`."
                problems.append(Problem("--seeds", f"{part!r} is no seed and no range of seeds.", fix))
            elif int(last or first) > _LARGEST_SEED:
                problems.append(Problem("--seeds", f"{part!r} is too large.", f"The largest is {_LARGEST_SEED}."))
            elif int(last or first) - int(first) >= _MOST_SEEDS:
                problems.append(Problem("--seeds", f"{part!r} are more than {_MOST_SEEDS:,}.", "Give fewer."))
            else:
                found += range(int(first), int(last or first) + 1)
    if problems:
        raise RecipeError(problems)
    return list(dict.fromkeys(found))


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
