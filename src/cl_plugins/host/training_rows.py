"""Which record each training sample was made of: the host throws ids and data set names away when it tokenises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..contract.test_item import MEDIA
from ..replay.media import KINDS, map_media, outside
from ..replay.samples import as_files
from ..replay.store import IDS
from .sample_counts import SampleCounts, kept_rows


if TYPE_CHECKING:
    from ..replay.store import Buffer, Sample
    from .task_args import HostArgs


_MANY = 1000  # kept samples from which on worker processes pay
#: Nothing of kept samples is written outside of the run.
_HERE: dict[str, Any] = {"keep_in_memory": True, "load_from_cache_file": False}
_ID, _SOURCE = "_cl_id", "_cl_source"  # columns in addition to the host's own, gone when it has tokenised


class TrainingRows:
    """The records behind a tokenised training set.

    Args:
        aligned: The host's records before tokenising, with two columns more.
        dataset: The tokenised training set.
        encode: Tokenises one aligned record as the host does.
        task: Name of the task.

    Raises:
        DataError: If records and samples do not belong together.
    """

    def __init__(self, aligned: Any, dataset: Any, encode: Any, task: str) -> None:
        self._aligned, self._dataset, self._encode, self._task = aligned, dataset, encode, task
        self._kept = kept_rows(aligned)
        if len(self._kept) != len(dataset):
            raise DataError(self._mismatch(f"{len(dataset)} samples were made from {len(self._kept)} usable records."))

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self._kept)

    def row(self, index: int) -> int:
        """Row in the task's training set, dropped records included."""
        return self._kept[index]

    def answers(self, indices: Sequence[int]) -> list[str]:
        """The answer texts of samples."""
        chosen = self._aligned.select([self._kept[i] for i in indices]).select_columns(["_response"])
        return [str(row["_response"][0]["content"]).strip() for row in chosen]

    def origin(self, index: int) -> tuple[str, str]:
        """Id of the raw record and name of its data set."""
        row = self._kept[index]
        example = self._aligned[row]
        return str(example[_ID]) or f"{self._task}/{row}", str(example[_SOURCE])

    def record(self, index: int) -> dict[str, Any]:
        """The record of a sample in ShareGPT's form, with its media in place.

        Raises:
            DataError: If the record does not give the sample that was trained on.
        """
        example = self._aligned[self._kept[index]]
        encoded = self._encode({key: [value] for key, value in example.items()})
        if encoded["input_ids"][0] != list(self._dataset[index]["input_ids"]):
            raise DataError(self._mismatch(f"sample {index} was not made from record {self._kept[index]}."))
        record = {
            "id": self.origin(index)[0],
            "messages": [*example["_prompt"], *example["_response"]],
            "system": example["_system"] or "",
            "tools": example["_tools"] or "",
            **{kind: example[f"_{kind}"] or [] for kind in KINDS},
        }
        return map_media(record, lambda value: outside(value, f"task '{self._task}', record {self._kept[index]}"))

    def _mismatch(self, what: str) -> Problem:
        fix = "Delete the cache of the `datasets` library (`overwrite_cache: true`), or turn `cl.replay` off."
        return Problem(f"task '{self._task}', replay", what, fix)


@contextmanager
def _noting(names: Sequence[str], found: list[Any]) -> Iterator[None]:
    """Let the host's loader keep ids and data set names, and return what it tokenises."""
    from llamafactory.data import loader

    align, merge = loader.align_dataset, loader._get_merged_dataset
    left = iter(names)

    def align_and_note(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        aligned = align(dataset, *args, **kwargs)
        column = next((c for c in IDS if c in dataset.column_names), None)
        raw = dataset[column] if column is not None else [None] * len(aligned)
        ids = ["" if value is None else str(value) for value in raw]
        name = next(left)
        return aligned.add_column(_ID, ids).add_column(_SOURCE, [name] * len(aligned))

    def merge_and_note(*args: Any, **kwargs: Any) -> Any:
        merged = merge(*args, **kwargs)
        if merged is not None:
            found.append(merged)
        return merged

    loader.align_dataset, loader._get_merged_dataset = align_and_note, merge_and_note
    try:
        yield
    finally:
        loader.align_dataset, loader._get_merged_dataset = align, merge


def load_with_rows(
    task_name: str,
    args: HostArgs,
    template: Any,
    tokenizer_module: dict[str, Any],
    counts: list[SampleCounts] | None = None,
) -> tuple[dict[str, Any], TrainingRows]:
    """`load_training_set`, and which record each of its samples was made of.

    Args:
        task_name: For ids and messages.
        args: The host's arguments of the task.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.
        counts: As for `load_training_set`.

    Raises:
        DataError: As `load_training_set`, and if records and samples do not belong together.
    """
    from llamafactory.data.processor import SupervisedDatasetProcessor

    from .data import load_training_set

    found: list[Any] = []
    with _noting(args.data.dataset or [], found):
        module = load_training_set(task_name, args, template, tokenizer_module, counts)
    processor = SupervisedDatasetProcessor(template=template, data_args=args.data, **tokenizer_module)
    return module, TrainingRows(found[0], module["train_dataset"], processor.preprocess_dataset, task_name)


def load_buffer(
    task_name: str,
    buffer: Buffer,
    args: HostArgs,
    template: Any,
    module: dict[str, Any],
    like: Any = None,
    origins: Mapping[str, HostArgs] | None = None,
) -> Any:
    """The samples of a replay buffer in one data set, tokenised as in the task that each of them comes from.

    The buffer may come from another site. It is read here and passed to the host as rows: the host's own loading obeys
    whatever ``dataset_info.json`` says, and caches what it has read outside of the run, where no deletion reaches it.

    Args:
        task_name: The task that is about to be trained.
        buffer: The buffer.
        args: The host's arguments of the task; ``max_samples`` does not count against kept samples.
        template: The host's template.
        module: The host's tokenizer and processor.
        like: The task's own tokenised samples, whose columns these will be joined with.
        origins: Task that samples come from -> arguments with its own ``cutoff_len`` and the like; others have
            ``args``.

    Raises:
        DataError: If a sample cannot be prepared with its task's keys.
        RunStateError: If the buffer is damaged.
    """
    parts: list[Any] = []
    columns: dict[str, list[Any]] = {}
    for origin, entries in groupby(_chats(buffer), key=lambda entry: entry[0].task):
        rows = [_aligned(as_files(record, buffer.path), like) for _, record in entries]
        encode = _Encoder(
            f"task '{task_name}' (replayed samples of '{origin}')", (origins or {}).get(origin, args), template, module
        )
        if len(rows) >= _MANY:
            parts += [*_together(columns), encode.as_data_set(rows)]
            columns = {}
            continue
        for name, values in encode(rows).items():
            columns.setdefault(name, []).extend(values)
        if len(columns.get("input_ids", ())) >= _MANY:  # lists of numbers take much more memory than a table of them
            parts += _together(columns)
            columns = {}
    parts += _together(columns)
    return parts[0] if len(parts) == 1 else _behind_each_other(parts or [_data_set({})])


def _together(columns: dict[str, list[Any]]) -> list[Any]:
    """One data set of what was tokenised; none of nothing."""
    return [_data_set(columns)] if columns else []


def _data_set(columns: dict[str, list[Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


class _Encoder:
    """Tokenises and checks the stored rows of one task.

    Args:
        where: For the messages.
        args: The host's arguments of the task.
        template: The host's template.
        module: The host's tokenizer and processor.
    """

    def __init__(self, where: str, args: HostArgs, template: Any, module: dict[str, Any]) -> None:
        from llamafactory.data.processor import SupervisedDatasetProcessor

        self._where, self._args, self._template, self._module = where, args, template, module
        self._processor = SupervisedDatasetProcessor(template=template, data_args=args.data, **module)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """The columns of the samples. A data set for each task would cost more than the tokenising of a few samples."""
        with self._named():
            found: dict[str, list[Any]] = dict(
                self._processor.preprocess_dataset({name: [row[name] for row in rows] for name in rows[0]})
            )
        if any(len(ids) >= self._args.data.cutoff_len for ids in found.get("input_ids", ())):
            self._check(_data_set(found))
        return found

    def as_data_set(self, rows: list[dict[str, Any]]) -> Any:
        """A data set of many samples, made in parts, and by several processes where the recipe wants them."""
        from datasets import Dataset

        data = self._args.data
        aligned = Dataset.from_list(rows)
        with self._named():
            found = aligned.map(
                self._processor.preprocess_dataset,
                batched=True,
                batch_size=data.preprocessing_batch_size,
                remove_columns=aligned.column_names,
                num_proc=data.preprocessing_num_workers,
                **_HERE,
            )
        self._check(found)
        return found

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError, OSError, KeyError, IndexError) as error:
            what = f"cannot be prepared ({type(error).__name__}: {error})."
            fix = "Set the data keys of the task as in its training."
            raise DataError(Problem(self._where, what, fix)) from error

    def _check(self, found: Any) -> None:
        from .data import _cut_samples

        problem = _cut_samples(self._where, found, self._args, self._template, self._module)
        if problem is not None:
            raise DataError(problem)


def _chats(buffer: Buffer) -> list[tuple[Sample, dict[str, Any]]]:
    """The entries of a buffer that a recipe has filled."""
    entries = buffer.entries()
    if any("messages" not in record for _, record in entries):
        what = "holds rows of a custom trainer; a recipe cannot read them."
        raise DataError(Problem(str(buffer.path), what, "Continue with that trainer, or begin in another directory."))
    return entries


def _aligned(record: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """A stored record as the host's loader would give it."""
    return {
        "_prompt": record["messages"][:-1],
        "_response": record["messages"][-1:],
        "_system": record.get("system", ""),
        "_tools": record.get("tools", ""),
        **{f"_{kind}": _media_like(record.get(kind) or None, kind, like) for kind in KINDS},
    }


def _media_like(value: Any, kind: str, like: Any) -> Any:
    """Paths, in the form that the task's own column has: a data set with pictures in it has ``{"path", "bytes"}``."""
    feature = like.features.get(kind) if like is not None else None
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if value is None or not isinstance(inner, Mapping) or set(inner) != {"path", "bytes"}:
        return value
    return [{"path": path, "bytes": None} for path in value]


def joined(own: Any, memory: Any, indices: Sequence[int]) -> Any:
    """The training set with memory samples behind the new ones.

    Args:
        own: The task's tokenised samples.
        memory: The buffer's.
        indices: Which of them, repetitions allowed.
    """
    own, memory = _alike(own, memory)
    return _behind_each_other([own, memory.select(list(indices))])


def _behind_each_other(parts: list[Any]) -> Any:
    """Data sets as one. `datasets` stores ids and masks in few bits and does not join two widths.

    A task's own set may have others than the buffer's: it can come out of the cache of a process in which the host had
    turned small integers off (``neat_packing`` without ``cl``).
    """
    from datasets import List, Value, concatenate_datasets

    for name in parts[0].column_names:
        features = [part.features.get(name) for part in parts]
        if any(feature != features[0] for feature in features) and all(map(_are_integers, features)):
            parts = [part.cast_column(name, List(Value("int64"))) for part in parts]
    return concatenate_datasets(parts)


def _are_integers(feature: Any) -> bool:
    """Whether a column has lists of integers."""
    return str(getattr(getattr(feature, "feature", None), "dtype", "")).startswith("int")


def _alike(own: Any, memory: Any) -> tuple[Any, Any]:
    """Both with media in one form: the buffer has paths, tables may hold bytes or pictures, with or without paths.

    Args:
        own: The task's tokenised samples.
        memory: The buffer's.
    """
    from datasets import Features, Image, List, Value

    struct = List({"bytes": Value("binary"), "path": Value("string")})
    for kind in KINDS:
        if kind not in own.column_names or kind not in memory.column_names:
            continue
        inner = getattr(own.features[kind], "feature", None)
        if own.features[kind] == memory.features[kind] or not isinstance(inner, Image | dict):
            continue
        if not isinstance(getattr(memory.features[kind], "feature", None), Value | dict):
            continue  # a column of nothing
        if isinstance(inner, dict) and own.features[kind] != struct:
            own = own.cast_column(kind, struct)
        features = Features({**memory.features, kind: struct})
        memory = memory.map(lambda row, kind=kind: {kind: _structs(row[kind])}, features=features, **_HERE)
        memory = memory.cast_column(kind, own.features[kind])
    return own, memory


def _structs(media: list[Any] | None) -> list[dict[str, Any]] | None:
    if media is None:
        return None
    return [
        {"bytes": None, "path": None, **one} if isinstance(one, dict) else {"bytes": None, "path": one}
        for one in media
    ]


def has_media(dataset: Any) -> bool:
    """Whether a sample of a training set has a picture, video or sound.

    Args:
        dataset: A tokenised training set.
    """
    from pyarrow.compute import list_value_length
    from pyarrow.compute import max as largest

    for column in (name for name in MEDIA if name in dataset.column_names):
        for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000):
            try:
                if largest(list_value_length(table[column])).as_py():
                    return True
            except NotImplementedError:  # a column of nothing has no lists
                continue
    return False
