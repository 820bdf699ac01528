"""The buffer in a trainer of one's own, during one task: what it adds to the training, and what the task leaves for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompatibilityError, DataError, Problem, RecipeError
from ..methods.task_data import CollatedData
from ..recipe import ReplayConfig
from ..schema import build
from . import keeping
from .checks import method_problems, setting_problems
from .memory import Memory
from .mixing import SeparateMemory, repeated
from .rows import STATISTIC, StoredRows, TrainerRows
from .store import Buffer


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.carry import Carry, CarryWriter, TaskUpdate
    from ..methods.base import Method, TaskContext
    from ..penalised import BatchTerms


WHERE = "replay"


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
        problems += setting_problems(config, WHERE)
        problems += method_problems(config, method.capabilities, method.name, WHERE)
    if problems or config is None:
        raise RecipeError(problems)
    return config


class TrainerReplay:
    """The buffer during one task.

    Args:
        config: Its settings.
        method: The method.
        carry: What the earlier tasks left.

    Attributes:
        memory: What methods see of it.
        term: A term of every micro-batch (``mixing: separate``).
    """

    def __init__(self, config: ReplayConfig, method: Method, carry: Carry | None) -> None:
        buffer = Buffer.open(carry)
        self._config = config
        self._stored = StoredRows(buffer) if buffer is not None and buffer.samples else None
        self._mixed = config.mixing != "separate" and not method.capabilities.needs_replay
        self._own: int | None = None
        self._ids: list[Any] | None = None
        self._rows: TrainerRows | None = None
        self._picks: list[keeping.Pick] = []
        self.memory = Memory(buffer, None, config.batch)
        separate = config.mixing == "separate" and not method.capabilities.needs_replay
        self.term: BatchTerms | None = SeparateMemory(self.memory, config.weight) if separate else None
        self.joined = False

    def join(self, dataset: Any, seed: int, trim: Callable[[Any], Any]) -> Any:
        """The data set that the trainer shall train on.

        Args:
            dataset: The task's own, as the trainer has prepared it.
            seed: Seed of the task.
            trim: Takes off the columns that the trainer does not use.

        Raises:
            DataError: If its samples cannot be read at random.
        """
        from torch.utils.data import ConcatDataset, Subset

        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            what = "cannot be read at random, so that no sample of it can be kept."
            raise DataError(
                Problem("train_dataset", what, "Give a data set with `len` and `[i]`, or leave replay out.")
            )
        self._own, self._ids, self.joined = len(dataset), _ids(dataset), True
        if hasattr(dataset, "column_names"):
            dataset = trim(dataset)
        if self._stored is None or not self._mixed:
            return dataset
        count = len(self._stored)
        again = range(count)
        if self._config.mixing == "ratio":
            again = repeated(count, len(dataset), self._config.ratio, seed)  # type: ignore[assignment]
        return ConcatDataset([dataset, Subset(self._stored, again)])  # type: ignore[arg-type, list-item]

    def begin(self, dataset: Any, collate: Callable[[list[Any]], Any], device: Any, task: str) -> CollatedData:
        """The training begins: tell memory and rows how samples are collated.

        Args:
            dataset: From `join`, maybe wrapped.
            collate: The trainer's collator.
            device: Where batches go.
            task: Name of the task.

        Returns:
            The task's own samples.

        Raises:
            CompatibilityError: If the trainer takes its samples from somewhere else.
        """
        from torch.utils.data import Subset

        if self._own is None or len(dataset) < self._own:
            what = "changed the data set after `ContinualTrainerMixin` had joined it with the buffer."
            raise CompatibilityError(
                Problem("the trainer", what, "Put the mixin first: `class Mine(ContinualTrainerMixin, ...)`.")
            )
        own = Subset(dataset, range(self._own))
        data = CollatedData(own, collate, device)
        self._rows = TrainerRows(own, data, self._ids, task)
        if self._stored is not None:
            self.memory.data = CollatedData(self._stored, collate, device)
        return data

    def choose(self, context: TaskContext, model: Module, gather: Callable[[Any], list[Any]]) -> None:
        """The training is over: select what is kept."""
        if self._rows is not None:
            self._picks = keeping.choose(self._config, context, model, self._rows, gather)

    def tensors(self, context: TaskContext) -> dict[str, dict[str, Tensor]]:
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
        """Write the selected rows beside the update; gives what fills the next carry's buffer from them.

        Args:
            folder: The task's directory.
            context: The task.
            update: What it left.
            previous: The carry so far.
        """
        if self._rows is None:
            return None
        keeping.write_candidates(folder, self._config, context, self._rows, self._picks)
        return keeping.filling(self._config, update, previous, {"samples_of": "a trainer of one's own"})


def _ids(dataset: Any) -> list[Any] | None:
    """Ids of the samples, from a column or the rows themselves."""
    for name in ("id", "question_id"):
        if hasattr(dataset, "column_names"):
            if name in dataset.column_names:
                return list(dataset[name])
        elif len(dataset) and isinstance(dataset[0], Mapping) and name in dataset[0]:
            return [dataset[i].get(name) for i in range(len(dataset))]
    return None
