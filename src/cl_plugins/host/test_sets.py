"""Test sets through LLaMA-Factory's own loading, with the ids and options that it throws away.

A test set of tens of thousands stays small in memory: token ids are packed, and pictures are paths, or rows of the data set on
disk, until their batch is answered.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from ..contract.test_item import MEDIA, TestItem, TestSet
from ..evaluation.items import FIELDS
from ..evaluation.option_lists import read_options
from ..evaluation.thoughts import split_thought
from ..generation.answers import decode
from .data import num_samples_problem, sorted_folders
from .test_records import fields_of, id_columns, is_decoded, media_of
from .token_cache import Encoded, stored_rows


if TYPE_CHECKING:
    from ..streams import Task
    from .task_args import HostArgs
    from .token_cache import TokenCache


@contextmanager
def _raw_rows() -> Iterator[None]:
    """Let the host's loader return raw records: the step that drops their extra columns is held back."""
    from llamafactory.data import loader

    original = loader.align_dataset
    loader.align_dataset = lambda dataset, *args, **kwargs: dataset
    try:
        yield
    finally:
        loader.align_dataset = original


def load_raw(name: str, args: HostArgs, data_args: Any) -> tuple[Any, Any]:
    """The raw records of a data set and the host's attributes of it.

    Args:
        name: Its name in ``dataset_info.json``.
        args: The host's arguments.
        data_args: Those for its data.
    """
    from llamafactory.data import loader
    from llamafactory.data.parser import get_dataset_list

    attributes = get_dataset_list([name], data_args.dataset_dir)[0]
    with _raw_rows(), sorted_folders():
        return loader._load_single_dataset(attributes, args.model, data_args, args.training), attributes


def load_test_items(
    task: Task,
    args: HostArgs,
    template: Any,
    tokenizer_module: dict[str, Any],
    max_items: int | None,
    *,
    for_engine: bool = False,
    drop_too_long: bool = False,
    cache: TokenCache | None = None,
) -> TestSet:
    """Load and tokenise the test sets of a task.

    Prompt and reference are what the host encodes for training, not the text of the record: templates rewrite answers
    (thoughts, tool calls). A thought in front of the reference is kept apart (`TestItem.reference_thought`).

    Args:
        task: The task.
        args: The host's arguments; ``max_samples`` does not apply here.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.
        max_items: Keep at most this number of items, the first ones.
        for_engine: Also give `TestItem.engine_tokens`.
        drop_too_long: Leave out items whose prompt is longer than ``cutoff_len``, instead of refusing them.
        cache: Keeps token ids between starts; None to encode every record.

    Raises:
        DataError: With every problem: duplicate ids, prompts longer than ``cutoff_len``, an empty set, bad records,
            records without an answer.
    """
    data_args = copy.copy(args.data)
    data_args.max_samples = None
    data_args.streaming = False
    data_args.cutoff_len = 2**30  # nothing is cut here; what would be is an error below
    problems: list[Problem] = []
    loader = _Loader(task, args, data_args, template, tokenizer_module, for_engine, problems, cache)
    items: list[TestItem] = []
    for name in task.test:
        items.extend(loader.load(name, len(items)))
    if not items and not problems:
        problems.append(
            Problem(
                f"task '{task.name}'", "its test set contains no usable item.", "Check the file and the `columns`."
            )
        )
    problems.extend(_duplicates(task, items))
    fitting = [item for item in items if len(item.tokens) <= args.data.cutoff_len] if drop_too_long else items
    if items and not fitting:
        what = f"all {len(items)} test prompts are longer than `cutoff_len: {args.data.cutoff_len}`."
        problems.append(Problem(f"task '{task.name}'", what, "Raise `cutoff_len`."))
    problems.extend(_too_long(task, fitting, args.data.cutoff_len))
    if problems:
        raise DataError(problems)
    dropped = len(items) - len(fitting)
    if dropped:
        logger.warning(
            "task '%s': %d of %d test items are left out, because their prompts are longer than cutoff_len: %d",
            *(task.name, dropped, len(items), args.data.cutoff_len),
        )
    return TestSet(fitting[:max_items], dropped)


@dataclass
class _Loader:
    """Loads the data sets of one task.

    Attributes:
        task: The task.
        args: The host's arguments.
        data_args: Those for tests.
        template: The host's template.
        module: The host's tokenizer and processor.
        for_engine: Whether `TestItem.engine_tokens` are wanted.
        problems: What is wrong; added to.
        cache: Keeps token ids between starts.
    """

    task: Task
    args: HostArgs
    data_args: Any
    template: Any
    module: dict[str, Any]
    for_engine: bool
    problems: list[Problem]
    cache: TokenCache | None = None

    def load(self, name: str, first: int) -> list[TestItem]:
        """The items of one data set.

        Args:
            name: Its name.
            first: Number of the first record among all data sets of the task.
        """
        from llamafactory.data.converter import align_dataset
        from llamafactory.data.processor import UnsupervisedDatasetProcessor

        where = f"data set '{name}'"
        try:
            raw, attributes = load_raw(name, self.args, self.data_args)
        except Exception as error:  # whatever the host and the libraries of its sources raise
            what = f"cannot be loaded ({error.__cause__ or error})."
            self.problems.append(Problem(where, what, "Check its data file."))
            return []
        if attributes.num_samples is not None:
            self.problems.append(num_samples_problem(where))
            return []
        if len(raw) == 0:
            self.problems.append(Problem(where, "is empty.", "Check its data file."))
            return []
        training = self.args.training
        try:
            with training.main_process_first(desc="load test set", local=not self.args.data.data_shared_file_system):
                aligned = align_dataset(raw, attributes, self.data_args, training)
        except Exception as error:  # the host's converters look into records of any form
            what = f"cannot be read as its entry in dataset_info.json says ({type(error).__name__}: {error})."
            self.problems.append(Problem(where, what, "Correct `formatting`, `columns`, `tags` or the file."))
            return []
        processor = UnsupervisedDatasetProcessor(template=self.template, data_args=self.data_args, **self.module)
        records = self._records(raw, where)
        columns = id_columns(records)
        items: list[TestItem] = []
        dropped: list[int] = []
        unanswered: list[int] = []
        file = self.cache.file(aligned, self.args.data, for_engine=self.for_engine) if self.cache else None
        kept = self.cache.read(file, len(aligned)) if self.cache and file else None
        made: list[Encoded] = []
        for row, example in enumerate(aligned if kept is None else stored_rows(aligned)):
            try:
                encoded = self._encoded(processor, example) if kept is None else kept[row]
            except Exception as error:  # of the host's template, its plugins and readers of media
                fix = "Fix or remove the record."
                self.problems.append(Problem(f"{where}, record {row}", f"cannot be used ({error}).", fix))
                continue
            if encoded is None:
                dropped.append(row)
                continue
            made.append(encoded)
            record = records[row] if records is not None else {}
            try:
                item = self._item(example, aligned, row, encoded, record)
            except ValueError as error:
                what = f"its column {self.task.options_column!r}: {error}."
                fix = "Give the options as a list of texts, as a mapping of letters to texts, or as lines `A. text`."
                self.problems.append(Problem(f"{where}, record {row}", what, fix))
                continue
            if not item.reference.strip():
                unanswered.append(row)
            identity = next((record[c] for c in columns if record.get(c) not in (None, "")), None)
            items.append(
                replace(item, id=str(identity if identity is not None else f"{self.task.name}/{first + row}"))
            )
        if self.cache and file and kept is None and len(made) == len(aligned):
            self.cache.write(file, made)
        if dropped:
            what = f"{len(dropped)} records are not a question with one answer (first: {_first(dropped)})"
            why = _why_dropped(raw, attributes, dropped[0])
            fix = "Fix or remove them; test sets are never shortened silently."
            self.problems.append(Problem(where, f"{what}{why}.", fix))
        if unanswered:
            what = f"the answer of {len(unanswered)} records is empty (first: {_first(unanswered)})."
            self.problems.append(Problem(where, what, "Give the right answer, or remove the records."))
        return items

    def _records(self, raw: Any, where: str) -> Any:
        """The columns of the raw records that scoring needs; None if there are none."""
        column = self.task.options_column
        if column and column not in raw.column_names:
            what = f"{where} has no column {column!r}."
            fix = f"Columns: {', '.join(raw.column_names)}."
            self.problems.append(Problem(f"task '{self.task.name}'.options_column", what, fix))
        wanted = dict.fromkeys(("id", *FIELDS, column))
        keep = [name for name in wanted if name and name in raw.column_names and not is_decoded(raw, name)]
        return raw.select_columns(keep) if keep else None

    def _encoded(self, processor: Any, example: Mapping[str, Any]) -> Encoded | None:
        """The token ids of a record; None if it is not a question with one answer."""
        import numpy as np

        batch = {key: [value] for key, value in example.items()}
        found = processor.preprocess_dataset(batch)
        if not found or len(example["_response"]) != 1:
            return None
        short = _with_short_media(processor, self.template, batch) if self.for_engine else None
        lists = (found["input_ids"][0], found["labels"][0], *([] if short is None else [short]))
        return Encoded(*(np.asarray(ids, dtype=np.int32) for ids in lists))

    def _item(
        self, example: Mapping[str, Any], aligned: Any, row: int, encoded: Encoded, record: Mapping[str, Any]
    ) -> TestItem:
        """One item, still without its id; ValueError if its options cannot be read."""
        column = self.task.options_column
        thought, reference = self._reference(str(example["_response"][0]["content"]), encoded.answer.tolist())
        return TestItem(
            id="",
            prompt=str(example["_prompt"][-1]["content"]),
            reference=reference,
            options=read_options(record.get(column)) if column else None,
            tokens=encoded.prompt,
            media=media_of(example, aligned, row),
            kinds=tuple(kind for kind in MEDIA if example.get(f"_{kind}")),
            picture_count=len(example.get("_images") or ()),
            engine_tokens=encoded.short,
            fields=fields_of(record),
            reference_thought=thought,
            thought_words=self.template.thought_words,
        )

    def _reference(self, written: str, labels: Sequence[int]) -> tuple[str, str]:
        """Thought and answer as the host teaches them.

        The text of the record is kept where the template teaches that very answer, since tokens may not give back every
        character.

        Args:
            written: The answer in the record.
            labels: The tokens that the host trains on.
        """
        words, tokenizer = self.template.thought_words, self.module["tokenizer"]
        plain = split_thought(written, words)[1]
        tokens = tokenizer.encode(plain, add_special_tokens=False)
        taught, again = decode([labels, tokens], tokenizer, words)
        thought, answer = split_thought(taught, words)
        return thought, plain if answer.strip() == again.strip() else answer.strip()


def _first(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:5]))


def _why_dropped(raw: Any, attributes: Any, row: int) -> str:
    """What the host did not like about a record, as far as it can be told."""
    if attributes.formatting != "alpaca" or not attributes.response or attributes.response not in raw.column_names:
        return ": turns of user and assistant must alternate and end with one answer"
    value = raw.select_columns([attributes.response])[row][attributes.response]
    if value is None:
        return f": the answer of record {row} is missing (empty, null, or a CSV cell such as None or NA)"
    if isinstance(value, bool | int | float):
        return f": the answer of record {row} is the number {value!r}; write it as text, in quotes"
    return f": the answer of record {row} is {type(value).__name__}" if not isinstance(value, str) else ""


def _with_short_media(processor: Any, template: Any, batch: dict[str, Any]) -> list[int]:
    """The prompt with one token per picture: engines put in the rest themselves."""
    plugin = template.mm_plugin
    expanded = plugin.expand_mm_tokens
    plugin.expand_mm_tokens = False
    try:
        ids: list[int] = processor.preprocess_dataset(batch)["input_ids"][0]
        return ids
    finally:
        plugin.expand_mm_tokens = expanded


def media_token_ids(template: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that stand for pictures, videos and sounds in a prompt.

    Args:
        template: The host's template.
        tokenizer: Its tokenizer.
    """
    names = [getattr(template.mm_plugin, f"{kind}_token", None) for kind in ("image", "video", "audio")]
    return [tokenizer.convert_tokens_to_ids(name) for name in names if name is not None]


def pictures(item: TestItem, template: Any, processor: Any) -> list[Any]:
    """The pictures of an item, opened and brought to size by the host's own rules.

    Args:
        item: The item.
        template: The host's template.
        processor: The host's processor, which holds the limits of the size.
    """
    limits = {
        "image_max_pixels": getattr(processor, "image_max_pixels", 768 * 768),
        "image_min_pixels": getattr(processor, "image_min_pixels", 32 * 32),
    }
    return list(template.mm_plugin._regularize_images(item.feature["images"], **limits)["images"])


def _duplicates(task: Task, items: Sequence[TestItem]) -> list[Problem]:
    seen: set[str] = set()
    double: list[str] = []
    for item in items:
        if item.id in seen:
            double.append(item.id)
        seen.add(item.id)
    if not double:
        return []
    what = f"{len(double)} ids of its test set occur more than once (first: {double[0]!r})."
    return [Problem(f"task '{task.name}'", what, "Give every record its own `id`.")]


def _too_long(task: Task, items: Sequence[TestItem], cutoff_len: int) -> list[Problem]:
    lengths = [len(item.tokens) for item in items]
    over = [n for n in lengths if n > cutoff_len]
    if not over:
        return []
    what = f"{len(over)} of {len(lengths)} test prompts are longer than `cutoff_len: {cutoff_len}` (up to {max(over)} tokens, pictures included)."
    return [
        Problem(f"task '{task.name}'", what, f"Set `cutoff_len` to at least {max(over)} plus the length of an answer.")
    ]
