"""What a run with ``encoders:`` loads once: the encoders, their processors, the classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from ..adapters.modes import looking
from ..base.errors import CompatibilityError, DataError, Problem
from ..contract.backend import Answer
from ..contract.test_item import IGNORE_INDEX, TestItem, TestSet
from ..crossmodal.configuration import CrossModalConfig
from ..crossmodal.encoders import config_of, load_encoder, make_encoder, plain_config
from ..crossmodal.inputs import CrossModalProcessor
from ..training.collated import CollatedData
from . import data as data_sets
from . import keys as key_rules
from .base import AnsweringClassifier, EncoderBase, plain_classifier
from .data import Record, RecordRows, RecordSet
from .sets import channel_names


if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..contract.backend import OnBatch
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


#: Name, training sets and keys of a task that is trained.
Training = tuple[str, Sequence[str], Mapping[str, Any]]


def _record_set(
    name: str, keys: Mapping[str, Any], specs: Mapping[str, EncoderSpec], limit: int | None = None
) -> RecordSet:
    return RecordSet(name, Path(str(keys.get("dataset_dir", "data"))), specs, limit)


def _all_labels(trainings: Sequence[Training], specs: Mapping[str, EncoderSpec]) -> list[str]:
    """Names of the classes: task by task, sorted within a task."""
    found: dict[str, None] = {}
    for _, names, keys in trainings:
        given = keys.get(key_rules.LABELS)
        if given is None:
            sets = (_record_set(name, keys, specs) for name in names)
            given = sorted({str(record["label"]) for each in sets for record in each.raw() if "label" in record})
        found |= dict.fromkeys(given)
    return list(found)


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
        labels = _all_labels([first], specs)
    except DataError:
        labels = []
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
        sets = [_record_set(set_name, keys, self.specs) for _, names, keys in trainings for set_name in names]
        self.processor.name_channels(channel_names(sets))
        self.labels = _all_labels(trainings, self.specs)
        self._numbers = {name: number for number, name in enumerate(self.labels)}
        self._base: EncoderBase | None = None

    def _set(self, name: str, keys: Mapping[str, Any], limit: int | None = None) -> RecordSet:
        return _record_set(name, keys, self.specs, limit)

    @property
    def base(self) -> EncoderBase:
        """The classifier, made at the first use; the recipe's seed decides its trained parts."""
        if self._base is None:
            config = _config(self._encoders, self.labels, self._options)
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
        rows = []
        for record in records:
            if record["label"] not in self._numbers:
                what = f"has the label {record['label']!r}, which no training set of the stream has."
                raise DataError(
                    Problem(f"record {record.get('id', '?')!r}", what, "Correct the label, or give `labels`.")
                )
            rows.append([IGNORE_INDEX, self._numbers[record["label"]]])
        batch["labels"] = torch.tensor(rows)
        return batch

    def task_data(self, dataset: Any, args: TaskArgs) -> CollatedData:
        """A training set for random access."""
        return CollatedData(dataset, self.collate, next(self.base.model.parameters()).device)

    def _records(self, names: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[Record], list[str]]:
        records: list[Record] = []
        sources: list[str] = []
        problems: list[Problem] = []
        for name in names:
            try:
                found = self._set(name, keys, keys.get("max_samples")).records()
            except DataError as error:
                problems += error.problems
                continue
            records += found
            sources += [name] * len(found)
        if problems:
            raise DataError(problems)
        return records, sources

    def training_set(
        self, task: str, args: TaskArgs, *, with_rows: bool = False
    ) -> tuple[dict[str, Any], Rows | None]:
        """The records of one task, checked: the first one is read, so that the encoders are known to take it."""
        mine = own(args)
        records, sources = self._records(mine.datasets, mine.keys)
        self.collate(records[:1])
        self.sample_counts[task] = {"records": len(records), "dropped_records": 0, "cut_samples": 0}
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
        for _, names, keys in parts:
            records += self._records(names, {**own(args).keys, **keys})[0]
        self.sample_counts["joint"] = {"records": len(records), "dropped_records": 0, "cut_samples": 0}
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
        """The test items of a task; a label that is never learned is an answer that is never given."""
        records, _ = self._records(task.test, {**keys, "max_samples": max_items})
        self.processor(records[:1])
        one = np.zeros(1, dtype=np.int32)
        return TestSet(
            TestItem(r["id"], data_sets.describe(r, self.specs), r["label"], None, one, {"record": r})
            for r in records[:max_items]
        )

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

        self.base.model.opened = 1 + max(self._numbers[r["label"]] for r in data["train_dataset"])
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
        return [Answer(self.labels[row[0]] if len(row) else "") for row in ids]


class ClassBackend:
    """Answers test items with a classifier, see `cl_plugins.contract.backend.Backend`.

    Args:
        model: The classifier.
        session: Makes batches, and knows the names of the classes.
        batch_size: Items per forward.
    """

    name = "host"
    together = False

    def __init__(self, model: Any, session: Session, batch_size: int) -> None:
        self._model, self._session, self.batch_size = model, session, batch_size

    def settings(self) -> dict[str, Any]:
        """Precision and device."""
        parameter = next(self._model.parameters())
        return {"dtype": str(parameter.dtype), "device": parameter.device.type, "autocast": self._bf16}

    @property
    def _bf16(self) -> bool:
        return bool(self._session.args.training.bf16)

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`; before any class was learned every answer is empty."""
        device = next(self._model.parameters()).device
        labels = self._session.labels if self._model.seen() else [""]
        for position, numbers in enumerate(batches):
            records = [items[i].media["record"] for i in numbers]  # type: ignore[index]
            batch = {k: v.to(device) for k, v in self._session.processor(records).items()}
            with looking(self._model), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                best = self._model(**batch).logits[:, 0].argmax(-1).tolist()
            on_batch(position, [Answer(labels[i]) for i in best])

    def close(self) -> None:
        """The model belongs to the run."""
