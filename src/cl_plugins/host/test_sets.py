"""Test sets through LLaMA-Factory's own loading, with the ids and options that it throws away.

A test set of tens of thousands stays small in memory: token ids are packed, and pictures are paths, or rows of the data set on
disk, until their batch is answered.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..contract.test_item import MEDIA, StoredMedia, TestItem
from ..evaluation.items import FIELDS
from ..evaluation.option_lists import read_options


if TYPE_CHECKING:
    from ..streams import Task
    from .task_args import HostArgs


@contextmanager
def _raw_rows() -> Iterator[None]:
    """Let the host's loader hand out raw records: the step that drops their extra columns is held back."""
    from llamafactory.data import loader

    original = loader.align_dataset
    loader.align_dataset = lambda dataset, *args, **kwargs: dataset
    try:
        yield
    finally:
        loader.align_dataset = original


def _load_raw(name: str, args: HostArgs, data_args: Any) -> tuple[Any, Any]:
    from llamafactory.data import loader
    from llamafactory.data.parser import get_dataset_list

    attributes = get_dataset_list([name], data_args.dataset_dir)[0]
    with _raw_rows():
        return loader._load_single_dataset(attributes, args.model, data_args, args.training), attributes


def load_test_items(
    task: Task,
    args: HostArgs,
    template: Any,
    tokenizer_module: dict[str, Any],
    max_items: int | None,
    *,
    for_engine: bool = False,
) -> list[TestItem]:
    """Load and tokenise the test sets of a task.

    Args:
        task: The task.
        args: The host's arguments; ``max_samples`` does not apply here.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.
        max_items: Keep the first so many items.
        for_engine: Also give `TestItem.engine_tokens`.

    Raises:
        DataError: With every problem: duplicate ids, prompts longer than ``cutoff_len``, an empty set, bad records.
    """
    data_args = copy.copy(args.data)
    data_args.max_samples = None
    data_args.streaming = False
    data_args.cutoff_len = 2**30  # nothing is cut here; what would be is an error below
    items: list[TestItem] = []
    problems: list[Problem] = []
    for name in task.test:
        items.extend(
            _load_one(name, task, args, data_args, template, tokenizer_module, len(items), problems, for_engine)
        )
    if not items and not problems:
        problems.append(
            Problem(f"task '{task.name}'", "its test set holds no usable item.", "Check the file and the `columns`.")
        )
    problems.extend(_duplicates(task, items))
    problems.extend(_too_long(task, items, args.data.cutoff_len))
    if problems:
        raise DataError(problems)
    return items[:max_items]


def _load_one(
    name: str,
    task: Task,
    args: HostArgs,
    data_args: Any,
    template: Any,
    module: dict[str, Any],
    first: int,
    problems: list[Problem],
    for_engine: bool,
) -> list[TestItem]:
    import numpy as np
    from datasets.exceptions import DatasetsError
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.processor import UnsupervisedDatasetProcessor

    try:
        raw, attributes = _load_raw(name, args, data_args)
    except (ValueError, OSError, DatasetsError) as error:
        what = f"cannot be loaded ({error.__cause__ or error})."
        problems.append(Problem(f"data set '{name}'", what, "Check the file behind it."))
        return []
    if len(raw) == 0:
        problems.append(Problem(f"data set '{name}'", "is empty.", "Check the file behind it."))
        return []
    with args.training.main_process_first(desc="load test set", local=not args.data.data_shared_file_system):
        aligned = align_dataset(raw, attributes, data_args, args.training)
    processor = UnsupervisedDatasetProcessor(template=template, data_args=data_args, **module)
    wanted = dict.fromkeys(("id", *FIELDS, task.options_column))
    keep = [column for column in wanted if column and column in raw.column_names and not _decoded(raw, column)]
    if task.options_column and task.options_column not in raw.column_names:
        fix = f"Columns: {', '.join(raw.column_names)}."
        problems.append(
            Problem(
                f"task '{task.name}'.options_column", f"data set '{name}' has no column {task.options_column!r}.", fix
            )
        )
    records = raw.select_columns(keep) if keep else None
    items: list[TestItem] = []
    dropped = []
    for row, example in enumerate(aligned):
        batch = {key: [value] for key, value in example.items()}
        try:
            encoded = processor.preprocess_dataset(batch)
            short = _with_short_media(processor, template, batch) if for_engine and encoded else None
        except (ValueError, OSError) as error:
            problems.append(
                Problem(f"data set '{name}', record {row}", f"cannot be used ({error}).", "Mend or remove the record.")
            )
            continue
        if not encoded or len(example["_response"]) != 1:
            dropped.append(row)
            continue
        record = records[row] if records is not None else {}
        identity = next(
            (record[c] for c in ("id", "question_id") if record.get(c) not in (None, "")), f"{task.name}/{first + row}"
        )
        try:
            options = read_options(record.get(task.options_column)) if task.options_column else None
        except ValueError as error:
            what = f"its column {task.options_column!r}: {error}."
            fix = "Give the options as a list of texts, as a mapping of letters to texts, or as lines `A. text`."
            problems.append(Problem(f"data set '{name}', record {row}", what, fix))
            continue
        items.append(
            TestItem(
                id=str(identity),
                prompt=str(example["_prompt"][-1]["content"]),
                reference=str(example["_response"][0]["content"]),
                options=options,
                tokens=np.asarray(encoded["input_ids"][0], dtype=np.int32),
                media=_media(example, aligned, row),
                kinds=tuple(kind for kind in MEDIA if example.get(f"_{kind}")),
                picture_count=len(example.get("_images") or ()),
                engine_tokens=None if short is None else np.asarray(short, dtype=np.int32),
                fields=_fields(record),
            )
        )
    if dropped:
        shown = ", ".join(map(str, dropped[:5]))
        what = f"{len(dropped)} records are not a question with one answer (first: {shown})."
        problems.append(
            Problem(f"data set '{name}'", what, "Mend or remove them; tests are never shortened silently.")
        )
    return items


def _decoded(raw: Any, column: str) -> bool:
    """Whether reading a value of the column would decode a picture."""
    from datasets import Image

    return isinstance(raw.features[column], Image)


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """What scorers may ask for, as plain JSON values; of a picture only the name of its file."""
    plain = (str, int, float)
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = record.get(name)
        if name == "image" and isinstance(value, list):
            value = value[0] if value else None
        if name == "image" and isinstance(value, str):
            value = value.replace("\\", "/").rsplit("/", 1)[-1]
        listed = isinstance(value, list) and all(isinstance(entry, plain) for entry in value)
        empty = value is None or (value in ("", []) and name != "answer_type")  # an empty type is a type of its own
        if not empty and (isinstance(value, plain) or listed):
            found[name] = value
    return found


def _media(example: Mapping[str, Any], aligned: Any, row: int) -> Mapping[str, Any] | StoredMedia:
    """Paths as they are; anything else would stay in memory for the whole run, so only its place is kept."""
    media = {kind: example.get(f"_{kind}") for kind in MEDIA}
    return media if all(_only_paths(value) for value in media.values()) else StoredMedia(aligned, row)


def _only_paths(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_only_paths, value))
    return value is None or isinstance(value, str)


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
