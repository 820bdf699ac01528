"""Preparing a stream: what is missing, what is done already, worker processes, and one data set after the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.errors import DataError, Problem, RunStateError
from ...base.files import remove_leftovers, write_json
from ...base.lock import RunLock
from ...base.outside import kind_of, parse_json
from . import archives, manifest
from .contract import Context, Converter, Source, Unit
from .images import ImageRules
from .registry import converters
from .workers import Job, Pool
from .writer import WORK, Tally, assemble, image_folder, shard_path, write_drops


@dataclass(frozen=True)
class Request:
    """The options of ``cl-plugins data prepare``.

    Attributes:
        stream: Name of the stream.
        raw: Folder with the raw files.
        out: The data folder.
        tasks: Only these tasks; all if empty.
        workers: Processes; 1 works in this one.
        seed: Seed of option building and splits.
        limit: Maximum number of records per data set.
        rules: How pictures are stored.
        settings: ``task.name`` -> value.
        restart: Rebuild data sets that were made with other options or from other files.
    """

    stream: str
    raw: Path
    out: Path
    tasks: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 0
    limit: int | None = None
    rules: ImageRules = field(default_factory=ImageRules)
    settings: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True)
class _Part:
    """One split of one task."""

    converter: Converter
    context: Context
    split: str
    mark: str

    @property
    def dataset(self) -> str:
        return self.converter.dataset(self.split)


def prepare(request: Request, progress: Callable[[str, int | None], Any] | None = None) -> dict[str, dict[str, Any]]:
    """Convert the raw files of a stream.

    Finished data sets are skipped, unfinished ones continue where they stopped. The result depends on the raw files,
    the seed and the options, not on the number of workers or on interruptions.

    Args:
        request: What to do.
        progress: Called with the name of a data set and its number of units (None if unknown); gives an object with
            ``update(n)``, ``set_postfix_str(text)`` and ``close()``, such as `cl_plugins.base.status_line.Bar`.

    Returns:
        Data set -> its entry of the manifest, for every requested data set.

    Raises:
        DataError: Raw files are missing or useless, settings are unknown, or a data set came out empty. What is
            finished stays.
        RunStateError: Another process works in the folder, or a worker died.
    """
    made = _open(request)
    if request.limit is not None and request.limit < 1:
        raise DataError(Problem("--limit", f"is {request.limit}.", "Give a number above 0."))
    try:
        lock = RunLock(request.out)
        lock.__enter__()
    except RunStateError as error:
        what = error.problems[0].what if error.problems else str(error)
        raise RunStateError(Problem(str(request.out), what, "Wait for it, or give another --out.")) from error
    try:
        parts = _pending(request, made)
        problems: list[Problem] = []
        with Pool(request.workers) as pool:
            for part in parts:
                try:
                    _make(part, request, pool, progress)
                except DataError as error:
                    problems += error.at(part.dataset)
        if problems:
            raise DataError(problems)
        with suppress(OSError):  # the unfinished work of another stream stays
            (request.out / WORK).rmdir()
        entries = manifest.read_object(request.out / manifest.MANIFEST).get("datasets", {})
        names = [converter.dataset(split) for converter, _ in made for split in converter.splits]
        return {name: entries[name] for name in names}
    finally:
        lock.__exit__(None, None, None)


def _open(request: Request) -> list[tuple[Converter, Context]]:
    """The converters, after every check that needs no work."""
    classes = converters(request.stream, request.tasks)
    problems = _setting_problems(request, converters(request.stream))
    if not request.raw.is_dir():
        fix = "Give the folder of the raw files; `cl-plugins data sources` says which."
        problems.append(Problem("--raw", f"{request.raw} is not a folder.", fix))
    if problems:
        raise DataError(problems)
    made: list[tuple[Converter, Context]] = []
    for kind in classes:
        own = request.raw / kind.task
        prefix = f"{kind.task}."
        settings = {k.removeprefix(prefix): v for k, v in request.settings.items() if k.startswith(prefix)}
        context = Context(own if own.is_dir() else request.raw, request.seed, settings)
        made.append((kind(context), context))
    for converter, _ in made:
        absent = converter.missing()
        strange = [] if absent else _strange_files(converter)
        if absent:
            problems += _missing_problems(converter, absent)
        else:
            problems += strange or converter.check()
    if problems:
        raise DataError(problems, "The raw files are not complete:" if len(problems) > 1 else None)
    return made


def _strange_files(converter: Converter) -> list[Problem]:
    """Raw files that are pipes or devices: a reader would wait for them, or never come to their end."""
    found = []
    for path in dict.fromkeys(path for split in converter.splits for path in converter.inputs(split)):
        kind = kind_of(path.stat().st_mode)
        if kind is not None and not path.is_dir():
            found.append(Problem(str(path), f"is {kind}, not a regular file.", "Put the downloaded file there."))
    return found


def _missing_problems(converter: Converter, absent: Sequence[Path]) -> list[Problem]:
    shown = [str(path) for path in absent[:12]]
    more = f" and {len(absent) - len(shown)} more" if len(absent) > len(shown) else ""
    fix = "Obtain: " + " Or: ".join(describe(source) for source in converter.sources)
    packed = packed_beside(converter.raw, absent)
    if packed:
        shown_archives = "; ".join(
            f"cl-plugins data unpack {archive} --out {folder}" for archive, folder in packed[:3]
        )
        fix = f"There are archives; unpack what you need: {shown_archives}. {fix}"
    return [
        Problem(f"{converter.stream}.{converter.task}", f"these files are missing: {', '.join(shown)}{more}.", fix)
    ]


def packed_beside(raw: Path, absent: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Archives that may hold what is missing, each with the folder to unpack it to.

    Args:
        raw: The task's raw folder.
        absent: What is missing.
    """
    found: dict[Path, Path] = {}
    for path in absent:  # images.zip for images/
        for suffix in archives.SUFFIXES:
            archive = path.with_name(path.name + suffix)
            if not path.suffix and archive.is_file():
                found.setdefault(archive, path)
    for folder in dict.fromkeys([*(path.parent for path in absent), raw]):
        for archive in sorted(folder.iterdir()) if folder.is_dir() else ():
            end = next((end for end in archives.SUFFIXES if archive.name.endswith(end)), None)
            if end is not None and archive.is_file():
                found.setdefault(archive, archive.with_name(archive.name.removesuffix(end)))
    return list(found.items())


def describe(source: Source) -> str:
    """A source in one or two sentences: what, where, terms."""
    return f"{source.name} from {source.where} (terms: {source.licence}); it holds {', '.join(source.files)}."


def _setting_problems(request: Request, classes: Sequence[type[Converter]]) -> list[Problem]:
    known = {f"{kind.task}.{name}": setting for kind in classes for name, setting in kind.settings.items()}
    problems = []
    for key, value in request.settings.items():
        if key not in known:
            listed = ", ".join(known) or "none for this stream"
            problems.append(Problem(f"--set {key}", "is not a setting.", f"Settings: {listed}."))
        elif known[key].choices and value not in known[key].choices:
            problems.append(
                Problem(f"--set {key}", f"is {value!r}.", f"Choose from: {', '.join(known[key].choices)}.")
            )
    return problems


def _pending(request: Request, made: Sequence[tuple[Converter, Context]]) -> list[_Part]:
    """What remains to be done; data sets that were made otherwise are a problem, or rebuilt."""
    out = request.out
    done = manifest.read_object(out / manifest.MANIFEST).get("datasets", {})
    info = manifest.read_object(out / manifest.INFO)
    if (out / WORK).is_dir():
        remove_leftovers(out)
    pending: list[_Part] = []
    problems: list[Problem] = []
    anew: list[str] = []
    for converter, context in made:
        for split in converter.splits:
            mark = manifest.fingerprint(converter, split, context, request.rules, request.limit)
            part = _Part(converter, context, split, mark)
            entry = done.get(part.dataset)
            if entry is None and part.dataset in info and info[part.dataset] != manifest.info_entry(part.dataset):
                what = f"{manifest.INFO} already has a data set {part.dataset!r} that this command did not write."
                problems.append(Problem(str(out), what, "Rename it, give another --out, or add --restart."))
            if entry is not None and entry.get("fingerprint") == mark:
                if _whole(out, entry):
                    continue
                anew.append(part.dataset)
            elif entry is not None:
                what = "was made with other options, or from other files."
                problems.append(Problem(part.dataset, what, "Give another --out, or add --restart to rebuild it."))
                anew.append(part.dataset)
            pending.append(part)
    if problems and not request.restart:
        raise DataError(problems)
    manifest.forget(out, anew)
    for converter, _ in made:
        names = {converter.dataset(split) for split in converter.splits}
        # Pictures are shared by the splits of a task, so they go only when all of its splits are rebuilt.
        if names & set(anew) and names <= {part.dataset for part in pending}:
            shutil.rmtree(out / image_folder(converter), ignore_errors=True)
    return pending


def _whole(out: Path, entry: Mapping[str, Any]) -> bool:
    path = out / str(entry.get("file"))
    return path.is_file() and path.stat().st_size == entry.get("bytes")


def _make(part: _Part, request: Request, pool: Pool, progress: Callable[[str, int | None], Any] | None) -> None:
    """Make one data set."""
    out, name = request.out, part.dataset
    work = out / WORK / name
    plan = {"fingerprint": part.mark}
    if manifest.read_object(work / "plan.json") != plan:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / "plan.json", plan)
    bar = progress(name, part.converter.total(part.split)) if progress else None
    tally = Tally()
    shards = 0
    try:
        for result in _results(part, request, pool):
            tally.add(result)
            shards += 1
            if bar is not None:
                bar.update(1)
                bar.set_postfix_str(f"{tally.records} records, {tally.dropped.total()} dropped")
    finally:
        if bar is not None:
            bar.close()
    if tally.records == 0:
        write_drops(out, name, (shard_path(out, name, number) for number in range(shards)))
        reasons = "; ".join(f"{reason}: {count}" for reason, count in tally.dropped.most_common(3))
        what = f"no usable record was found ({tally.dropped.total()} dropped{'; ' + reasons if reasons else ''})."
        what += _example(out / "dropped" / f"{name}.jsonl")
        raise DataError(Problem(name, what, f"See {out / 'dropped'} and the raw files in {part.context.raw}."))
    made = assemble(out, name, shards, tally)
    described = manifest.entry(
        part.converter, part.split, part.context, request.rules, request.limit, made, out, part.mark
    )
    manifest.add(out, name, described)
    shutil.rmtree(work, ignore_errors=True)


def _example(path: Path) -> str:
    """The first drop in words: with thousands of one kind, one says what all of them lack."""
    try:
        with path.open("rb") as file:
            first = parse_json(file.readline())
        return f" For example {first['id']}: {first['reason']}, {first['detail']}." if first["detail"] else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _results(part: _Part, request: Request, pool: Pool) -> Iterator[Tally]:
    """The tallies of all units in order."""
    units: Iterator[Unit] = part.converter.units(part.split)
    kind = type(part.converter)
    job = Job(f"{kind.__module__}:{kind.__qualname__}", part.context, part.split, request.out, request.rules)
    if request.limit is None:
        yield from pool.run(job, units)
        return
    # With a limit the units come one after the other, so that nothing is made that does not count.
    left = request.limit
    for number, unit in enumerate(units):
        result = pool.one(job, unit, number, left)
        left -= result.records
        yield result
        if left <= 0:
            return
