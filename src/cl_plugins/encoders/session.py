"""What a run with ``encoders:`` loads once: the encoders, their processors, the classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from ..base.errors import CompatibilityError, DataError, Problem, RecipeError, RunStateError
from ..base.logs import logger
from ..contract.backend import Answer
from ..contract.test_item import IGNORE_INDEX, TestItem, TestSet
from ..crossmodal.configuration import CrossModalConfig
from ..crossmodal.encoders import config_of, load_encoder, make_encoder, plain_config
from ..crossmodal.inputs import CrossModalProcessor
from ..records.results import JOINT
from ..training.collated import CollatedData
from . import data as data_sets
from . import keys as key_rules
from .backend import ClassBackend
from .base import AnsweringClassifier, EncoderBase, plain_classifier
from .checking import Found, check_values, label_problems, length_problems
from .classes import Classes, Training, record_set
from .data import Record, RecordRows
from .sets import channel_names


if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..contract.session import Rows, TaskArgs
    from ..crossmodal.configuration import ClassifierOptions
    from ..crossmodal.inputs import EncoderSpec
    from ..streams import Task
    from .keys import EncoderArgs


def own(args: TaskArgs) -> EncoderArgs:
    """Arguments that a run passes back, as `keys.parse` made them.

    Raises:
        TypeError: If another host made them.
    """
    if not isinstance(args, key_rules.EncoderArgs):
        raise TypeError(f"not arguments of a recipe with encoders: {type(args).__name__}")
    return args


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block, and go on as before behind it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _config(encoders: Mapping[str, Any], labels: Sequence[str], options: ClassifierOptions) -> CrossModalConfig:
    about = {name: {"config": plain_config(encoder.config)} for name, encoder in encoders.items()}
    return CrossModalConfig(encoders=about, labels=labels, **vars(options))


def outline(keys: Mapping[str, Any], first: Training) -> AnsweringClassifier:
    """The classifier of a recipe without any weights, on PyTorch's ``meta`` device.

    Args:
        keys: The recipe's keys.
        first: The first task, which says how many classes the head has at the start; none where its data are not here.
    """
    specs = key_rules.specs(keys, [])
    try:
        labels: Sequence[str] = Classes([first], specs).names
    except DataError:
        labels = ()
    with torch.device("meta"):
        encoders = {name: make_encoder(_encoder_config(spec)) for name, spec in specs.items()}
        return AnsweringClassifier(_config(encoders, labels, key_rules.options(keys, [])), encoders)


def _loaded(name: str, model: str) -> Any:
    """A pretrained encoder.

    Raises:
        CompatibilityError: If it cannot be loaded, or its family is not known.
    """
    try:
        return load_encoder(model)
    except (OSError, ValueError, ImportError) as error:
        what = f"cannot be loaded: {' '.join(str(error).split())[:300]}"
        fix = "Check the name, and whether the model is here or can be downloaded."
        raise CompatibilityError(Problem(f"encoders.{name}.model", what, fix)) from error


def _encoder_config(spec: EncoderSpec) -> PretrainedConfig:
    if spec.model is None:
        return config_of(spec.random_config())
    return config_of(AutoConfig.from_pretrained(spec.model).to_dict())


class Session:
    """See `cl_plugins.contract.session.Session`.

    Args:
        args: Arguments of any task.
        trainings: Name, training sets and keys of every task that the stream trains, in order: they say which classes there
            are.
    """

    def __init__(self, args: EncoderArgs, trainings: Sequence[Training] = ()) -> None:
        problems: list[Problem] = []
        self.args = args
        self.specs = key_rules.specs(args.keys, problems)
        self._options = key_rules.options(args.keys, problems)
        self.sample_counts: dict[str, dict[str, int]] = {}
        self._encoders: dict[str, Any] = {}
        for name, spec in self.specs.items():
            if spec.model is not None:
                self._encoders[name] = _loaded(name, spec.model)
            else:
                with _seeded(spec.seed):
                    self._encoders[name] = make_encoder(_encoder_config(spec))
        self.processor = CrossModalProcessor(self.specs, {n: e.config for n, e in self._encoders.items()})
        for name, encoder in self._encoders.items():
            problems += length_problems(f"encoders.{name}", self.specs[name], encoder.config)
        if problems:
            raise RecipeError(problems)
        sets = [record_set(set_name, keys, self.specs) for _, names, keys in trainings for set_name in names]
        self.processor.name_channels(channel_names(sets))
        self.classes = Classes(trainings, self.specs)
        self._trained = frozenset(name for name, _, _ in trainings)
        self._confused: set[tuple[str, str]] = set()
        self._base: EncoderBase | None = None

    @property
    def base(self) -> EncoderBase:
        """The classifier, made at the first use; the recipe's seed decides its trained parts."""
        if self._base is None:
            config = _config(self._encoders, self.classes.names, self._options)
            with _seeded(int(self.args.keys.get("run_seed", self.args.keys.get("seed", 42)))):
                model = AnsweringClassifier(config, self._encoders)
            model.eval()
            placed: Any = model
            self._base = EncoderBase(placed.to(self.args.training.device))
        return self._base

    @property
    def loaded_model(self) -> Any:
        """The classifier if it was made already, else None."""
        return None if self._base is None else self._base.model

    def encode(self, text: str) -> list[int]:
        """Bytes of a text: there is no tokenizer."""
        return list(text.encode("utf-8"))

    def collate(self, records: Sequence[Record]) -> dict[str, Any]:
        """A batch with labels (rows, 2), the first of them -100.

        Raises:
            DataError: If a record has a label that no training set has.
        """
        batch: dict[str, Any] = self.processor(records)
        numbers = self.classes.numbers
        try:
            batch["labels"] = torch.tensor([[IGNORE_INDEX, numbers[record["label"]]] for record in records])
        except KeyError as error:  # of a buffer, since the records of tasks are checked
            what = f"hold the label {error}, which no task of the stream has."
            raise DataError(
                Problem("the samples", what, "Name every task with its training set or `labels`.")
            ) from error
        return batch

    def task_data(self, dataset: Any, args: TaskArgs) -> CollatedData:
        """A training set for random access."""
        return CollatedData(dataset, self.collate, next(self.base.model.parameters()).device)

    def _records(self, task: str, names: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[list[Record]], Found]:
        """The records of each training set of a task, with what was found in them.

        Raises:
            DataError: With everything that is wrong with them.
        """
        records: list[list[Record]] = []
        found = Found()
        for where, one in self._read(found, names, keys, keys.get("max_samples")):
            fix = "Correct the label, or add it to `labels`."
            found.problems += label_problems(where, one, f"task '{task}'", self.classes.of(task), fix)
            records.append(one)
        if found.problems:
            raise DataError(found.problems)
        return records, found

    def _read(
        self, found: Found, names: Sequence[str], keys: Mapping[str, Any], limit: int | None
    ) -> Iterator[tuple[str, list[Record]]]:
        """File and records of each data set that can be read; what is wrong with it, and then with its values, is noted."""
        for name in names:
            mine = record_set(name, keys, self.specs, limit)
            try:
                records = mine.records()
            except DataError as error:
                found.problems += error.problems
                continue
            where = str(mine.file())
            yield where, records
            check_values(found, where, records, self.processor)

    def _count(self, task: str, parts: Sequence[Found], records: int) -> None:
        """Note how many records of a training set were cut."""
        cut = sum(found.cut_records for found in parts)
        self.sample_counts[task] = {"records": records, "dropped_records": 0, "cut_samples": cut}
        if cut:
            told = sum(parts, Found()).told
            logger.warning("task '%s': %d of %d training records are cut (%s)", task, cut, records, told)

    def training_set(
        self, task: str, args: TaskArgs, *, with_rows: bool = False
    ) -> tuple[dict[str, Any], Rows | None]:
        """The records of one task, checked: the first one is read, so that the encoders are known to take it."""
        mine = own(args)
        parts, found = self._records(task, mine.datasets, mine.keys)
        records = [record for part in parts for record in part]
        self.collate(records[:1])
        self._count(task, [found], len(records))
        sources = [name for name, part in zip(mine.datasets, parts, strict=True) for _ in part]
        rows = RecordRows(records, sources, self.specs) if with_rows else None
        return {"train_dataset": records}, rows

    def stored_samples(
        self,
        task: str,
        args: TaskArgs,
        buffer: Any,
        *,
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        like: Any = None,
    ) -> list[Record]:
        """The records of a replay buffer."""
        return data_sets.from_buffer(buffer)

    def joined(self, own: Any, memory: Any, indices: Sequence[int]) -> list[Record]:
        """The new records, then those of the memory."""
        return [*own, *(memory[i] for i in indices)]

    def joint_training_set(self, args: TaskArgs, parts: Sequence[Training]) -> dict[str, Any]:
        """The records of several tasks."""
        records: list[Record] = []
        counts: list[Found] = []
        problems: list[Problem] = []
        for task, names, keys in parts:
            try:
                found, count = self._records(task, names, {**own(args).keys, **keys})
            except DataError as error:
                problems += error.problems
                continue
            records += [record for part in found for record in part]
            counts.append(count)
        if problems:
            raise DataError(problems)
        self._count("joint", counts, len(records))
        return {"train_dataset": records}

    def validation_set(self, args: TaskArgs, parts: Sequence[Training]) -> None:
        """None: no loss is measured on validation sets."""

    def test_items(
        self,
        task: Task,
        keys: Mapping[str, Any],
        max_items: int | None,
        *,
        for_engine: bool = False,
        drop_too_long: bool = False,
    ) -> TestSet:
        """The test items of a task; a label that is never learned is an answer that is never given.

        Raises:
            DataError: If something is wrong with the records, or the task's scorer takes one class for another.
        """
        records: list[Record] = []
        found, places = Found(), dict[str, str]()
        for where, one in self._read(found, task.test, keys, max_items):
            found.problems += self._unknown(where, one, task, keys)
            for number, record in enumerate(one, start=1):
                places.setdefault(record["label"], f"{where}, record {number}")
            records += one
        found.problems += self._alike(task, places)
        if found.problems:
            raise DataError(found.problems)
        records = records[:max_items]
        self.processor(records[:1])
        if found.cut_records:
            told = (task.name, found.cut_records, len(records), found.told)
            logger.warning("task '%s': %d of %d test records are cut (%s)", *told)
        token = np.zeros(1, dtype=np.int32)
        items = (
            TestItem(r["id"], data_sets.describe(r, self.specs), r["label"], None, token, {"record": r})
            for r in records
        )
        return TestSet(items, shortened=found.cut_records)

    def _unknown(self, where: str, records: Sequence[Record], task: Task, keys: Mapping[str, Any]) -> list[Problem]:
        """Labels that are no class of the stream, of a task that says which classes it has; else they are told."""
        fix = "Correct the label, or add it to `labels`."
        problems = label_problems(where, records, "the stream", self.classes.numbers, fix)
        if keys.get(key_rules.LABELS) is not None or not self.classes.names:
            return problems
        for problem in problems:
            logger.warning(
                "task '%s': %s %s, so that it is never answered", task.name, problem.where, problem.what[:-1]
            )
        return []

    def _alike(self, task: Task, places: Mapping[str, str]) -> list[Problem]:
        """Classes that the scorer of a task takes for each other, each pair once."""
        told = []
        for one, other in self.classes.confused(task.scorer, task.name, places):
            if (one, other) not in self._confused:
                self._confused.add((one, other))
                first, second = (self.classes.places.get(name) or places[name] for name in (one, other))
                what = f"names the class {other!r}, which `{task.scorer}` takes for {one!r} ({first})."
                fix = "Write a class in one way everywhere, and give different classes different names."
                told.append(Problem(second, what, fix))
        return told

    def trained_items(self, dataset: Any, items: Sequence[TestItem]) -> dict[int, int]:
        """Records with the same files and values in all modalities."""
        rows: dict[str, int] = {}
        for number, record in enumerate(dataset):
            rows.setdefault(data_sets.content(record, self.specs), number)
        found = {
            number: rows.get(data_sets.content(item.media["record"], self.specs))  # type: ignore[index]
            for number, item in enumerate(items)
        }
        return {number: row for number, row in found.items() if row is not None}

    def restored(self, tasks: Sequence[str]) -> None:
        """Says which classes the head has learned.

        Raises:
            RunStateError: If the classes of a task are not known.
        """
        strange = [task for task in tasks if task not in self._trained and task != JOINT]
        if strange:
            what = f"has learned the task {strange[0]!r}, whose classes are not known."
            fix = "Give its `train`, and `labels` where the data are elsewhere."
            raise RunStateError(Problem("the carry", what, fix))
        model = self.base.model
        model.learned, model.opened = self.classes.learned(tasks), 0

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
        """The trainer of one task; the classes of the task join those of the head."""
        from .trainer import EncoderTrainer

        self.base.model.opened = self.classes.learned([task])
        return EncoderTrainer(
            model=model,
            args=own(args).training,
            data_collator=self.collate,
            callbacks=list(callbacks),
            terms=terms,
            task=task,
            recipe=recipe,
            **data,
        )

    def backend(self, model: Any) -> ClassBackend:
        """Answers with the most probable of the classes that were seen."""
        return ClassBackend(model, self, int(self.args.training.per_device_eval_batch_size))

    def plot_loss(self, args: TaskArgs) -> None:
        """The report draws it."""

    def save_model(self, model: Any, folder: Path, tensors: dict[str, Any] | None = None) -> None:
        """Save a `CrossModalClassifier`, encoders included."""
        plain_classifier(model).save_pretrained(folder)

    def save_processor(self, folder: Path) -> None:
        """Save what makes batches of records."""
        self.processor.save_pretrained(folder)

    def quantisation(self) -> dict[str, Any] | None:
        """None."""
        return None

    def eos_token_ids(self) -> list[int]:
        """None: an answer is a class."""
        return []

    def engine_prompt(self, item: TestItem) -> dict[str, Any]:
        """Engines generate text.

        Raises:
            CompatibilityError: Always.
        """
        raise CompatibilityError(Problem("cl.eval.backend", "cannot be an engine with `encoders`.", "Use `host`."))

    def read_answers(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """The classes of one-token answers."""
        return [Answer(self.classes.names[row[0]] if len(row) else "") for row in ids]
