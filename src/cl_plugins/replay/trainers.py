"""The buffer in a custom trainer, during one task: what it adds to the training, and what the task leaves for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import RemoveColumnsCollator

from ..base.errors import CompatibilityError, DataError, Problem, RecipeError
from ..base.schema import build
from ..config import ReplayConfig
from ..training.collated import CollatedData
from ..training.phase_samples import Part
from . import keeping, mixing
from .checks import method_problems
from .labels import Labels, check
from .memory import Memory
from .rows import STATISTIC, OwnRows, StoredRows, TrainerRows
from .store import IDS, Buffer


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.carry import Carry, CarryWriter, TaskUpdate
    from ..contract.method import Method
    from ..contract.task import TaskContext
    from ..training.terms import BatchTerms


WHERE = "replay"
CHECKED = 100  # samples that are checked before the training
COMPARED = 10


def replay_config(replay: Mapping[str, Any] | ReplayConfig | None, method: Method) -> ReplayConfig:
    """The checked settings of the buffer.

    Args:
        replay: As ``cl.replay`` in a recipe.
        method: The method that it is for.

    Raises:
        RecipeError: With every problem.
    """
    problems: list[Problem] = []
    config = replay if isinstance(replay, ReplayConfig) else build(ReplayConfig, replay or {}, WHERE, problems)
    if config is not None:
        if isinstance(replay, ReplayConfig):  # else `build` has asked for them
            problems += config.value_problems(WHERE)
        problems += method_problems(config, method.capabilities, method.name, WHERE)
    if problems or config is None:
        raise RecipeError(problems)
    return config


class TrainerReplay:
    """The buffer during one task.

    Args:
        config: Its settings.
        method: The method.
        buffer: What the earlier tasks left of it.

    Attributes:
        memory: What methods see of it.
        term: A term of every micro-batch (``mixing: separate``).
    """

    def __init__(self, config: ReplayConfig, method: Method, buffer: Buffer | None) -> None:
        self._config = config
        self._stored = StoredRows(buffer) if buffer is not None and buffer.samples else None
        self._by_itself = method.capabilities.needs_replay
        self._joined: Any = None
        self._mixed = False  # whether stored rows are in batches with the task's own
        self._own: int | None = None
        self._ids: list[Any] | None = None
        self._samples: OwnRows | None = None
        self._rows: TrainerRows | None = None
        self._picks: list[keeping.Pick] = []
        self.memory = Memory(buffer, None, config.batch)
        self.term: BatchTerms | None = mixing.term(config, self._by_itself, self.memory)

    def join(self, dataset: Any, seed: int) -> Any:
        """The data set that the trainer shall train on.

        Args:
            dataset: The task's own, as the trainer has prepared it.
            seed: Seed of the task.

        Raises:
            DataError: If its samples cannot be read at random.
        """
        from torch.utils.data import ConcatDataset, IterableDataset, Subset

        sized = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if not sized or isinstance(dataset, IterableDataset):
            what = "has no random access, so that none of its samples can be kept."
            fix = "Give a data set with `len` and `[i]`, or leave replay out."
            raise DataError(Problem("train_dataset", what, fix))
        self._own, self._ids, self._joined = len(dataset), _ids(dataset), dataset
        again = mixing.behind(self._config, self._by_itself, len(self.memory), len(dataset), seed)
        self._mixed = bool(again)
        if again:
            self._joined = ConcatDataset([dataset, Subset(self._stored, again)])  # type: ignore[arg-type, list-item]
        return self._joined

    def begin(
        self, dataset: Any, collate: Callable[[list[Any]], Any], device: Any, context: TaskContext
    ) -> CollatedData:
        """The training begins: tell memory and rows how samples are collated, and refuse what could not be kept.

        Args:
            dataset: What the trainer loads from: what `join` gave, but for columns.
            collate: The trainer's collator.
            device: Where batches go.
            context: The task.

        Returns:
            The task's own samples.

        Raises:
            CompatibilityError: If the trainer takes its samples from somewhere else, makes one row of several, or gives
                samples of the buffer other labels than they had.
            DataError: If a sample cannot be stored.
        """
        if self._own is None or not _same(dataset, self._joined):
            what = "was changed after `ContinualTrainerMixin` had added the buffer to it."
            fix = "Put the mixin first: `class Mine(ContinualTrainerMixin, ...)`, and do not change `train_dataset`."
            raise CompatibilityError(Problem("train_dataset", what, fix))
        trim = collate._remove_columns if isinstance(collate, RemoveColumnsCollator) else None
        self._samples = OwnRows(dataset, self._own, trim)
        data = CollatedData(self._samples, collate, device)
        labels = next(iter(data.batches([0, 0], 2))).get("labels")
        if labels is None or len(labels) != 2:
            what = "makes one row of several samples, or no labels, so that samples cannot be told apart."
            raise CompatibilityError(Problem("data_collator", what, "Use one that pads, or leave `replay` out."))
        known = Labels(collate, self._samples)
        self._rows = TrainerRows(self._samples, data, self._ids, context.task.name, known.count)
        if self._stored is not None:
            tasks = [sample.task for sample in self.memory.samples]
            check(known, self._stored, tasks, mixed=self._mixed)
            self.memory.data = CollatedData(self._stored, collate, device)
        for index in self._foreseen(context, self._rows):
            self._rows.check(index)  # an error here costs nothing yet
        return data

    def _foreseen(self, context: TaskContext, rows: TrainerRows) -> Sequence[int]:
        """Some of the samples that will be kept, as far as that is known before the training; else the first ones."""
        if self._config.selection == "random":
            return [pick.index for pick in keeping.choose(self._config, context, None, rows)[:CHECKED]]
        return range(min(CHECKED, len(rows)))

    def choose(self, context: TaskContext, model: Module, gather: Callable[[Any], list[Any]]) -> None:
        """The training is over: select what is kept."""
        if self._rows is not None and self._samples is not None:
            self._picks = keeping.choose(self._config, context, model, self._rows, gather)
            self._samples.freeze(pick.index for pick in self._picks)

    def kept(self, task: str) -> list[Part]:
        """The samples of the buffer, then those that the task leaves for it; once they are chosen.

        Args:
            task: Name of the task.
        """
        past = [Part(self._stored, i, sample.task) for i, sample in enumerate(self.memory.samples)]
        return [*past, *(Part(self._samples, pick.index, task) for pick in self._picks)]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of the selected rows, as a statistic; none if they have none."""
        if self._rows is None:
            return {}
        found: dict[str, Tensor] = {}
        for pick, chosen in zip(self._picks, self.memory.chosen, strict=True):
            found |= {f"{chosen.uid}/{number}": value for number, value in enumerate(self._rows.tensors(pick.index))}
        return {STATISTIC: found} if found else {}

    def leave(
        self, folder: Path, context: TaskContext, update: TaskUpdate, previous: Carry | None
    ) -> Callable[[CarryWriter], None] | None:
        """Write the selected rows next to the update; returns what fills the next carry's buffer from them.

        Args:
            folder: The task's directory.
            context: The task.
            update: What it left.
            previous: The carry so far.
        """
        if self._rows is None:
            return None
        keeping.write_candidates(folder, self._config, context, self._rows, self._picks)
        return keeping.filling(self._config, update, previous, {"samples_of": "a custom trainer"})


def _same(dataset: Any, joined: Any) -> bool:
    """Whether a trainer loads from what it was given; of a Hub data set it may have removed columns."""
    if not hasattr(dataset, "column_names") or not hasattr(joined, "column_names"):
        return dataset is joined
    if len(dataset) != len(joined):
        return False
    for index in range(0, len(dataset), max(1, len(dataset) // COMPARED)):
        now, before = dataset[index], joined[index]
        if any(now[key] != before.get(key) for key in now if _is_plain(now[key])):
            return False
    return True


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, int) for item in value))


def _ids(dataset: Any) -> list[Any] | None:
    """Ids of the samples of a Hub data set, which are missing after the trainer has removed unused columns."""
    name = next((name for name in IDS if name in getattr(dataset, "column_names", ())), None)
    return list(dataset.with_format(None)[name]) if name is not None else None
