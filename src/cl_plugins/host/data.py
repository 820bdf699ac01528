"""Training and test sets through LLaMA-Factory's own loading, with the ids and options that it throws away."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, Problem


if TYPE_CHECKING:
    from ..streams import Task
    from .task_args import HostArgs


@dataclass(frozen=True)
class TestItem:
    """One test item, ready for generation.

    Attributes:
        id: From the raw record, or ``<task>/<n>``.
        prompt: Text of the last user turn.
        reference: The expected answer.
        options: Option texts, if the task names a column of them.
        feature: ``input_ids`` (prompt only), ``attention_mask``, ``labels`` and media, for the host's collator.
    """

    __test__ = False  # not a test class, whatever pytest thinks

    id: str
    prompt: str
    reference: str
    options: tuple[str, ...] | None
    feature: dict[str, Any]


def local_files(dataset_dir: str, names: Sequence[str]) -> tuple[list[Path], list[Problem]]:
    """The files behind data set names, and what is wrong with the names.

    Args:
        dataset_dir: The host's ``dataset_dir``.
        names: Data set names.

    Returns:
        Local files (hub data sets have none), and problems: no ``dataset_info.json``, unknown name, missing file.
    """
    if dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
        return [], []
    info_file = Path(dataset_dir) / "dataset_info.json"
    try:
        info = json.loads(info_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = f"Set `dataset_dir` to the folder that holds dataset_info.json (you start from {Path.cwd()})."
        return [], [Problem("dataset_dir", f"there is no {info_file}.", fix)]
    except ValueError as error:
        return [], [Problem(str(info_file), f"is not valid JSON ({error}).", "Mend the file.")]
    if not isinstance(info, dict):
        return [], [Problem(str(info_file), "does not hold an object.", "Give a mapping of names to data sets.")]
    files, problems = [info_file], []
    for name in names:
        if name not in info:
            from ..schema import nearest

            fix = f"{nearest(name, info)} It defines: {', '.join(sorted(info)[:20])}.".strip()
            problems.append(Problem(str(info_file), f"there is no data set called {name!r}.", fix))
            continue
        entry = info[name]
        if not isinstance(entry, dict) or "file_name" not in entry:
            continue
        path = info_file.parent / entry["file_name"]
        if path.is_dir():
            files.extend(sorted(p for p in path.iterdir() if p.is_file()))
        elif path.is_file():
            files.append(path)
        else:
            problems.append(
                Problem(
                    f"{info_file}: {name}",
                    f"the file {path} does not exist.",
                    "Correct `file_name` or put the file there.",
                )
            )
    return files, problems


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
    task: Task, args: HostArgs, template: Any, tokenizer_module: dict[str, Any], max_items: int | None
) -> list[TestItem]:
    """Load and tokenise the test sets of a task.

    Args:
        task: The task.
        args: The host's arguments; ``max_samples`` does not apply here.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.
        max_items: Keep the first so many items.

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
        items.extend(_load_one(name, task, args, data_args, template, tokenizer_module, len(items), problems))
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
) -> list[TestItem]:
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
    keep = [column for column in ("id", "question_id", task.options_column) if column and column in raw.column_names]
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
        options = record.get(task.options_column) if task.options_column else None
        items.append(
            TestItem(
                id=str(identity),
                prompt=str(example["_prompt"][-1]["content"]),
                reference=str(example["_response"][0]["content"]),
                options=tuple(map(str, options)) if options else None,
                feature={key: values[0] for key, values in encoded.items()},
            )
        )
    if dropped:
        shown = ", ".join(map(str, dropped[:5]))
        what = f"{len(dropped)} records are not a question with one answer (first: {shown})."
        problems.append(
            Problem(f"data set '{name}'", what, "Mend or remove them; tests are never shortened silently.")
        )
    return items


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
    lengths = [len(item.feature["input_ids"]) for item in items]
    over = [n for n in lengths if n > cutoff_len]
    if not over:
        return []
    what = f"{len(over)} of {len(lengths)} test prompts are longer than `cutoff_len: {cutoff_len}` (up to {max(over)} tokens, pictures included)."
    return [
        Problem(f"task '{task.name}'", what, f"Set `cutoff_len` to at least {max(over)} plus the length of an answer.")
    ]


def load_training_set(
    task_name: str, args: HostArgs, template: Any, tokenizer_module: dict[str, Any]
) -> dict[str, Any]:
    """The host's training set of one task, checked.

    Args:
        task_name: For the messages.
        args: The host's arguments of the task.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.

    Returns:
        The host's dataset module, ``{"train_dataset": ...}``.

    Raises:
        DataError: If it is empty, broken, or pictures are cut off by ``cutoff_len``.
    """
    from datasets.exceptions import DatasetsError
    from llamafactory.data import get_dataset

    where = f"task '{task_name}'"
    try:
        module: dict[str, Any] = get_dataset(
            template, args.model, args.data, args.training, stage="sft", **tokenizer_module
        )
    except (ValueError, RuntimeError, OSError, KeyError, StopIteration, IndexError, DatasetsError) as error:
        cause = error.__cause__ or error
        what = f"its training set {args.data.dataset} cannot be prepared ({type(cause).__name__}: {cause})."
        raise DataError(
            Problem(where, what, "Check the file, its `columns` and the number of `<image>` per record.")
        ) from error
    dataset = module["train_dataset"]
    if args.data.streaming:
        return module
    if len(dataset) == 0:
        raise DataError(
            Problem(where, f"its training set {args.data.dataset} holds no usable sample.", "Check the file.")
        )
    problem = _cut_samples(where, dataset, args, template, tokenizer_module)
    if problem is not None:
        raise DataError(problem)
    return module


def _cut_samples(where: str, dataset: Any, args: HostArgs, template: Any, module: dict[str, Any]) -> Problem | None:
    """Samples that lost picture tokens make the model fail in the middle of training; those without answer, a loss of nan."""
    from llamafactory.extras.constants import IGNORE_INDEX

    if args.data.packing:
        return None
    limit = args.data.cutoff_len
    token = getattr(template.mm_plugin, "image_token", None)
    token_id = module["tokenizer"].convert_tokens_to_ids(token) if token is not None else None
    for row in _full_rows(dataset, limit):
        sample = dataset[row]
        if token_id is not None and sample.get("images"):
            whole = _picture_tokens(sample, template, module)
            if sample["input_ids"].count(token_id) < whole:
                what = f"sample {row} has {whole} picture tokens, but `cutoff_len: {limit}` leaves fewer."
                return Problem(where, what, f"Set `cutoff_len` to at least {whole} plus question and answer.")
        if all(label == IGNORE_INDEX for label in sample["labels"]):
            what = f"`cutoff_len: {limit}` leaves nothing of the answer of sample {row}."
            return Problem(where, what, "Raise `cutoff_len`, or remove the sample.")
    return None


def _full_rows(dataset: Any, limit: int) -> Iterator[int]:
    """Numbers of the samples that fill ``cutoff_len``, the only ones of which something may be missing."""
    from pyarrow.compute import list_value_length

    start = 0
    for table in dataset.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=1000):
        lengths = list_value_length(table["input_ids"]).to_pylist()
        yield from (start + i for i, length in enumerate(lengths) if length >= limit)
        start += len(lengths)


def _picture_tokens(sample: dict[str, Any], template: Any, module: dict[str, Any]) -> int:
    placeholder = "<image>" * len(sample["images"])
    plugin = template.mm_plugin
    messages = [{"role": "user", "content": placeholder}, {"role": "assistant", "content": ""}]
    expanded = plugin.process_messages(messages, sample["images"], [], [], module["processor"])
    return int(expanded[0]["content"].count(plugin.image_token))
