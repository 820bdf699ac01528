"""Data files and training sets through LLaMA-Factory's own loading."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.outside import open_regular, read_json
from .sample_counts import SampleCounts, aligned_records, count_samples, full_rows


if TYPE_CHECKING:
    from .task_args import HostArgs


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
        if _has_mark(info_file):
            what = "begins with a byte order mark (BOM), which LLaMA-Factory does not read."
            return [], [Problem(str(info_file), what, "Save the file as UTF-8 without BOM.")]
        info = read_json(info_file)
    except FileNotFoundError:
        fix = f"Set `dataset_dir` to the folder that holds dataset_info.json (you start from {Path.cwd()})."
        return [], [Problem("dataset_dir", f"there is no {info_file}.", fix)]
    except (OSError, ValueError) as error:
        return [], [Problem(str(info_file), f"is not valid JSON ({error}).", "Fix the file.")]
    if not isinstance(info, dict):
        return [], [Problem(str(info_file), "does not contain an object.", "Give a mapping of names to data sets.")]
    files, problems = [info_file], []
    for name in names:
        if name not in info:
            from ..base.schema import nearest

            fix = f"{nearest(name, info)} It defines: {', '.join(sorted(info)[:20])}.".strip()
            problems.append(Problem(str(info_file), f"there is no data set called {name!r}.", fix))
            continue
        found, wrong = _files_of(info[name], info_file.parent)
        files += found
        problems += [Problem(f"{info_file}: {name}", what, fix) for what, fix in wrong]
    return files, problems


def absent_files(dataset_dir: str, name: str) -> list[Problem]:
    """What of a data set is not on this machine.

    Args:
        dataset_dir: The host's ``dataset_dir``.
        name: Name of the data set.

    Returns:
        The problems of `local_files` that are gone as soon as the files are there: no ``dataset_info.json``, or no data
        file. A name that an existing ``dataset_info.json`` lacks is not among them.
    """
    _, problems = local_files(dataset_dir, [name])
    info_file = Path(dataset_dir) / "dataset_info.json"
    if not problems or not info_file.exists():
        return problems
    try:
        entry = read_json(info_file)[name]
        source = source_of(entry)
        gone = source in ("file_name", "script_url") and not (info_file.parent / entry[source]).exists()
        odd = any(not isinstance(entry.get(key, {}), dict) for key in ("columns", "tags"))
    except (OSError, ValueError, KeyError, TypeError):
        return []  # the file itself is wrong
    return problems if gone and not odd else []


#: Keys of an entry that say where its records are, in the order in which the host reads them.
SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")


#: Ending of a data file -> the reader that the host takes for it.
KINDS_OF_FILES = {
    ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip


def source_of(entry: Any) -> str | None:
    """The key of an entry of ``dataset_info.json`` that says where its records are; None if there is none."""
    return next((key for key in SOURCES if isinstance(entry, dict) and isinstance(entry.get(key), str)), None)


def _files_of(entry: Any, folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The local files of an entry, and what is wrong with it. A hub's name may be a folder here, of a hub's own form."""
    odd = [key for key in ("columns", "tags") if isinstance(entry, dict) and not isinstance(entry.get(key, {}), dict)]
    if odd:
        return [], [(f"`{key}` is {entry[key]!r}.", f"Give a mapping under `{key}`, or remove it.") for key in odd]
    source = source_of(entry)
    if source is None:
        return [], [("does not name the location of its records.", f"Give one of {', '.join(SOURCES)}.")]
    local = source in ("file_name", "script_url")
    path = folder / entry[source] if local else Path(entry[source])
    if source == "cloud_file_name" or (not local and not path.exists()):
        return [], []
    if path.is_dir():
        inside = sorted(path.iterdir() if source == "file_name" else path.rglob("*"))
        odd = [p for p in inside if p.exists() and not p.is_file() and not p.is_dir()]
        fix = "Take it out of the folder."
        problems = [(f"{p} is not a regular file; reading it would block.", fix) for p in odd]
        folders = [p.name for p in inside if p.is_dir()] if source == "file_name" else []
        if folders:
            what = f"the folder {path} contains folders ({', '.join(folders[:3])}), which LLaMA-Factory does not read."
            problems.append((what, "Put the data files into the folder itself, and nothing else."))
        problems += _kind_problems(path, [p for p in inside if p.is_file()]) if source == "file_name" else []
        return [p for p in inside if p.is_file()], problems
    if path.is_file():
        return [path], []
    what = "is not a regular file" if path.exists() else "does not exist"
    return [], [(f"the file {path} {what}.", f"Correct `{source}` or put the file there.")]


def _kind_problems(folder: Path, files: list[Path]) -> list[tuple[str, str]]:
    """What the host says of a folder without naming a file: files that are no data, or of several kinds."""
    odd = [file.name for file in files if file.suffix not in KINDS_OF_FILES]
    if odd:
        what = f"the folder {folder} contains files that are no data ({', '.join(odd[:3])})."
        return [(what, f"Remove them; LLaMA-Factory reads {', '.join(KINDS_OF_FILES)}.")]
    kinds = {KINDS_OF_FILES[file.suffix]: file.name for file in reversed(files)}
    if len(kinds) > 1:
        what = f"the folder {folder} contains files of different kinds ({', '.join(sorted(kinds.values()))})."
        return [(what, "Convert them to one kind.")]
    return []


def _has_mark(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(3) == b"\xef\xbb\xbf"


def num_samples_problem(where: str) -> Problem:
    """A test set that the host would draw again at every start.

    Args:
        where: The data set, for the message.
    """
    what = "is a test set with `num_samples`: the host would draw different items at every start."
    fix = "Remove `num_samples`; `cl.eval.max_items` limits tests to the same first items."
    return Problem(where, what, fix)


class _SortedOs:
    """Stands for the module `os` in the namespace of the host's loader."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def listdir(self, path: Any = ".") -> list[str]:
        """`os.listdir`, sorted."""
        return sorted(os.listdir(path))


@contextmanager
def sorted_folders() -> Iterator[None]:
    """Let the host's loader read the files of a folder in the order of their names.

    It takes the order of the file system, which differs from machine to machine: a run that goes on elsewhere, or from a
    copy of its data, would see other samples in each step, and items without an id would get other ones.
    """
    from llamafactory.data import loader

    original = loader.os
    loader.os = _SortedOs()
    try:
        yield
    finally:
        loader.os = original


@contextmanager
def _widths_put_back(args: HostArgs) -> Iterator[None]:
    """Let the host's loader change how `datasets` stores integers for the data set that it makes, and no other.

    With ``neat_packing`` it replaces ``OptimizedTypedSequence.__init__`` and leaves it so: masks of packs, which count
    their samples, do not fit into eight bits. All data sets that are made afterwards in the process would have ids and
    masks of 64 bits, also those of later runs, of the user and in the cache on disk, where other processes find them.

    Args:
        args: The host's arguments of the task.
    """
    if not args.data.neat_packing:
        yield
        return
    from datasets.arrow_writer import OptimizedTypedSequence

    original = OptimizedTypedSequence.__init__
    try:
        yield
    finally:
        OptimizedTypedSequence.__init__ = original


def load_training_set(
    task_name: str,
    args: HostArgs,
    template: Any,
    tokenizer_module: dict[str, Any],
    counts: list[SampleCounts] | None = None,
    *,
    kind: str = "training",
) -> dict[str, Any]:
    """The host's training set of one task, checked; or its validation set, which is made in the same way.

    Args:
        task_name: For the messages.
        args: The host's arguments of the task.
        template: The host's template.
        tokenizer_module: The host's tokenizer and processor.
        counts: Gets how many records were dropped or cut, unless the host streams the data.
        kind: ``training`` or ``validation``, for the messages.

    Returns:
        The host's dataset module, ``{"train_dataset": ...}``.

    Raises:
        DataError: If it is empty, broken, or pictures or questions are cut off by ``cutoff_len``.
    """
    from llamafactory.data import get_dataset

    where = f"task '{task_name}'"
    aligned: list[Any] = []
    try:
        with aligned_records(aligned), sorted_folders(), _widths_put_back(args):
            module: dict[str, Any] = get_dataset(
                template, args.model, args.data, args.training, stage="sft", **tokenizer_module
            )
    except Exception as error:  # the host's converters and templates look into records of any form
        cause = error.__cause__ or error
        what = f"its {kind} set {args.data.dataset} cannot be prepared ({type(cause).__name__}: {cause})."
        raise DataError(
            Problem(where, what, "Check the file, its `columns` and the number of `<image>` per record.")
        ) from error
    dataset = module["train_dataset"]
    if args.data.streaming:
        return module
    if len(dataset) == 0:
        raise DataError(
            Problem(where, f"its {kind} set {args.data.dataset} contains no usable sample.", "Check the file.")
        )
    where = where if kind == "training" else f"{kind} set of {where}"
    problem = _cut_samples(where, dataset, args, template, tokenizer_module)
    if problem is not None:
        raise DataError(problem)
    found, problems = count_samples(where, aligned[0], dataset, args, template, tokenizer_module, kind=kind)
    if problems:
        raise DataError(problems)
    if counts is not None:
        counts.append(found)
    return module


def _cut_samples(where: str, dataset: Any, args: HostArgs, template: Any, module: dict[str, Any]) -> Problem | None:
    """Samples that lost picture tokens make the model fail in the middle of training; those without answer, a loss of nan."""
    from llamafactory.extras.constants import IGNORE_INDEX

    if args.data.packing:
        return None
    limit = args.data.cutoff_len
    token = getattr(template.mm_plugin, "image_token", None)
    token_id = module["tokenizer"].convert_tokens_to_ids(token) if token is not None else None
    for row in full_rows(dataset, limit):
        sample = dataset[row]
        if token_id is not None and sample.get("images"):
            whole = _picture_tokens(sample, template, module)
            if sample["input_ids"].count(token_id) < whole:
                what = f"sample {row} has {whole} picture tokens, but `cutoff_len: {limit}` leaves fewer."
                return Problem(where, what, f"Set `cutoff_len` to at least {whole} plus question and answer.")
        if all(label == IGNORE_INDEX for label in sample["labels"]):
            what = f"`cutoff_len: {limit}` leaves no token of the answer of sample {row}."
            return Problem(where, what, "Raise `cutoff_len`, or remove the sample.")
    return None


def _picture_tokens(sample: dict[str, Any], template: Any, module: dict[str, Any]) -> int:
    placeholder = "<image>" * len(sample["images"])
    plugin = template.mm_plugin
    messages = [{"role": "user", "content": placeholder}, {"role": "assistant", "content": ""}]
    expanded = plugin.process_messages(messages, sample["images"], [], [], module["processor"])
    return int(expanded[0]["content"].count(plugin.image_token))
