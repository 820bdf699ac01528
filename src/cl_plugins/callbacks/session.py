"""What a learner's run has in memory: the base, the tokenizer or processor, and the tests; see `contract.session.Session`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from ..adapters.plain_base import PlainBase
from ..base.errors import CompatibilityError, DataError, Problem
from ..contract.backend import Answer
from ..contract.test_item import TestItem, TestSet
from ..generation.answers import read_answers
from ..generation.backend import ModelBackend
from ..run.card import auto_class
from .prompts import Prompts, tokenizer_of
from .rows import TestRow, name_of
from .settings import lora_of


if TYPE_CHECKING:
    from ..contract.backend import Backend, OnBatch
    from ..contract.session import Rows, TaskArgs
    from ..contract.task import TaskData
    from ..streams import Task
    from .host import LearnerHost


#: Model, name of the task and some of its test rows -> the answers, one text per row.
AnswerFunction: TypeAlias = Callable[[Any, str, list[Mapping[str, Any]]], Sequence[str]]


class LearnerSession:
    """See `cl_plugins.contract.session.Session`; what a recipe's training needs is the script's.

    Args:
        host: The host, with a learner's base or without.
        args: The keys of the run.
    """

    def __init__(self, host: LearnerHost, args: TaskArgs) -> None:
        self._host, self._args = host, args
        self._keys: Mapping[str, Any] = getattr(args, "keys", {})
        self.sample_counts: dict[str, dict[str, int]] = {}
        self._base = host.base

    @property
    def base(self) -> PlainBase:
        """The learner's base; for a command the recorded one, loaded at the first use."""
        if self._base is None:
            import torch
            from transformers import AutoConfig

            name, trust = self._args.base_name, self._args.trust_remote_code
            dtype = getattr(torch, str(self._keys.get("infer_dtype", "float32")))
            auto = auto_class(AutoConfig.from_pretrained(name, trust_remote_code=trust))
            model = auto.from_pretrained(name, dtype=dtype, trust_remote_code=trust)
            self._base = PlainBase(model, lora_of(self._keys))
        return self._base

    @property
    def loaded_model(self) -> Any:
        """The base's model if there is one already."""
        return None if self._base is None else self._base.model

    @cached_property
    def reader(self) -> Any:
        """Tokenizer or processor: the script's, or that of the base.

        Raises:
            CompatibilityError: If the base has none.
        """
        if self._host.reader is not None:
            return self._host.reader
        from transformers import AutoProcessor, AutoTokenizer

        pictures = auto_class(self.base.model.config).__name__ == "AutoModelForImageTextToText"
        try:
            name = self._args.base_name
            return (AutoProcessor if pictures else AutoTokenizer).from_pretrained(
                name, trust_remote_code=self._args.trust_remote_code
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            what = f"is not given, and the base has none ({reason})."
            raise CompatibilityError(
                Problem("tokenizer", what, "Give `tokenizer=`: a tokenizer or processor.")
            ) from error

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer, with a padding token."""
        tokenizer = tokenizer_of(self.reader)
        if tokenizer.pad_token_id is None:
            tokenizer = copy.deepcopy(tokenizer)  # the script's own stays as it is
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _prompts(self) -> Prompts:
        return Prompts(self.reader, self._tokenizer, self._rows)

    def _rows(self, task: str) -> tuple[TestRow, ...]:
        """The rows of a test; none where a function scores it."""
        test = self._host.tests.get(task, ())
        return test if isinstance(test, tuple) else ()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def test_items(
        self,
        task: Task,
        keys: Mapping[str, Any],
        max_items: int | None,
        *,
        for_engine: bool = False,
        drop_too_long: bool = False,
    ) -> TestSet:
        """The rows of a test as items; with the user's own function for answers their prompts are not tokenised."""
        items = []
        for number, row in enumerate(self._rows(task.name)[:max_items]):
            tokens = np.zeros(1, dtype=np.int32)
            if self._host.answer is None:
                tokens = self._prompts.tokens(task.name, number)
            pictures = len(row.images)
            items.append(
                TestItem(
                    row.id,
                    row.prompt,
                    row.reference,
                    row.options,
                    tokens,
                    {"task": task.name, "row": str(number)},
                    kinds=("images",) if pictures else (),
                    picture_count=pictures,
                    fields=row.fields,
                )
            )
        return TestSet(items)

    def backend(self, model: Any) -> Backend:
        """Greedy generation with the model, or the user's own function."""
        if self._host.answer is not None:
            return FunctionBackend(model, self._host.answer, self._rows, self._host.batch_size)
        return ModelBackend(
            model,
            self._tokenizer,
            self._prompts.collate,
            batch_size=self._host.batch_size,
            together=False,
            eos_token_ids=self.eos_token_ids(),
            media_token_ids=self._prompts.media_tokens(self.base.model.config),
        )

    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer: those of the model's generation config, and the tokenizer's."""
        own = getattr(getattr(self.base.model, "generation_config", None), "eos_token_id", None)
        given = [*(own if isinstance(own, list) else [own]), self._tokenizer.eos_token_id]
        return list(dict.fromkeys(int(token) for token in given if token is not None))

    def read_answers(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Texts of token ids, and whether they were cut."""
        return read_answers(ids, self._tokenizer, max_new_tokens=max_new_tokens, eos_token_ids=self.eos_token_ids())

    def save_model(self, model: Any, folder: Path, tensors: dict[str, Any] | None = None) -> None:
        """Save a plain model with Transformers."""
        model.save_pretrained(folder, state_dict=tensors)

    def save_processor(self, folder: Path) -> None:
        """Save tokenizer or processor as the script has it."""
        self.reader.save_pretrained(folder)

    def quantisation(self) -> dict[str, Any] | None:
        """The quantisation config of the base."""
        config = getattr(self.base.model.config, "quantization_config", None)
        if config is None:
            return None
        return dict(config.to_dict() if hasattr(config, "to_dict") else config)

    def restored(self, tasks: Sequence[str]) -> None:
        """The weights say all."""

    def plot_loss(self, args: TaskArgs) -> None:
        """The script's trainer has its own logs."""

    # --- trained by the script

    def _not_here(self) -> NoReturn:
        what = "is trained by the script that made the run."
        raise CompatibilityError(Problem("this run", what, "Run the script again."))

    def training_set(
        self, task: str, args: TaskArgs, *, with_rows: bool = False
    ) -> tuple[dict[str, Any], Rows | None]:
        """Refused: the script has the data."""
        self._not_here()

    def stored_samples(
        self,
        task: str,
        args: TaskArgs,
        buffer: Any,
        *,
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        like: Any = None,
    ) -> Any:
        """Refused: the script's trainer reads the buffer."""
        self._not_here()

    def joined(self, own: Any, memory: Any, indices: Sequence[int]) -> Any:
        """Refused: the script's trainer reads the buffer."""
        self._not_here()

    def joint_training_set(
        self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]
    ) -> dict[str, Any]:
        """Refused: the script has the data."""
        self._not_here()

    def validation_set(self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]) -> Any:
        """Refused: the script has the data."""
        self._not_here()

    def task_data(self, dataset: Any, args: TaskArgs) -> TaskData | None:
        """Refused: the script has the data."""
        self._not_here()

    def trainer(
        self,
        args: TaskArgs,
        model: Any,
        data: dict[str, Any],
        callbacks: Sequence[Any],
        terms: Any,
        task: str,
        recipe: str,
    ) -> Any:
        """Refused: the script has the trainer."""
        self._not_here()

    def trained_items(self, dataset: Any, items: Sequence[TestItem]) -> dict[int, int]:
        """Refused: the script has the data."""
        self._not_here()

    def engine_prompt(self, item: TestItem) -> dict[str, Any]:
        """Refused: the model in memory answers."""
        self._not_here()


class FunctionBackend:
    """Answers with a user's function, see `cl_plugins.contract.backend.Backend`.

    Args:
        model: The model that answers.
        function: The function.
        rows: Task -> its test rows.
        batch_size: Rows per call.
    """

    together = False

    def __init__(
        self, model: Any, function: AnswerFunction, rows: Callable[[str], tuple[TestRow, ...]], batch_size: int
    ) -> None:
        self._model, self._function, self._rows, self.batch_size = model, function, rows, batch_size
        self.name = f"function {name_of(function)}"

    def settings(self) -> dict[str, Any]:
        """Nothing is known of them."""
        return {}

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`.

        Raises:
            DataError: If the function does not return one text per row.
        """
        from ..adapters.modes import looking

        for position, numbers in enumerate(batches):
            places = [items[i].feature for i in numbers]
            task = str(places[0]["task"])
            rows = [self._rows(task)[int(place["row"])].raw for place in places]
            with looking(self._model):
                found = self._function(self._model, task, list(rows))
            texts = [found] if isinstance(found, str) else list(found)
            if len(texts) != len(rows) or not all(isinstance(text, str) for text in texts):
                what = f"returned {len(texts)} answers for {len(rows)} rows of task '{task}'."
                if len(texts) == len(rows):
                    what = f"returned something else than texts for task '{task}'."
                raise DataError(Problem(f"answer ({name_of(self._function)})", what, "Return one text per row."))
            on_batch(position, [Answer(text) for text in texts])

    def close(self) -> None:
        """The model belongs to the run."""
