"""From labelled samples to a stream: class-incremental or domain-incremental steps, split by group, order recorded.

The input is an index, one JSON object per line: ``label``, a field per modality (files relative to the index), and where they
are known ``split`` (``train`` or ``test``), ``group`` (video or participant, never in both splits) and ``domain``. A field whose
every value names a file (with a suffix) holds files; what is in other fields stays as it is. With
``--protocol`` the input is the folder of what the authors of a data set distribute::

    python -m cl_plugins.crossmodal.prepare index.jsonl data/my_stream --classes-per-step 4 --seed 0
    python -m cl_plugins.crossmodal.prepare index.jsonl data/languages --domains en de es pl ko
    python -m cl_plugins.crossmodal.prepare --protocol ave AVE_Dataset data/ave --seed 0
    python -m cl_plugins.crossmodal.prepare --protocol uestc_mmea_cl UESTC-MMEA-CL data/uestc_mmea_cl
    python -m cl_plugins.crossmodal.prepare --protocol samsemo SAMSEMO data/samsemo

Written are the data sets, ``dataset_info.json`` and ``stream.yaml``, which names classes, order and seed. What was not
verified about the authors' files is in the notes of the stream; `--show` prints them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, DataError, Problem
from ..base.logs import logger, set_up
from ..base.outside import OutsideError, parse_json, read_text
from . import sources


LIMIT = 2 * 1024**3  # bytes of an index
SPLITS = ("train", "test")
_ABOUT = ("split", "group", "domain")
Record = dict[str, Any]


def read_index(path: Path) -> list[Record]:
    """The samples of an index.

    Args:
        path: The file; paths in it are relative to its folder.

    Raises:
        DataError: If it cannot be read, or a line has no label or a wrong split.
    """
    try:
        found = [parse_json(line) for line in read_text(path, LIMIT).split("\n") if line.strip()]
    except (OSError, ValueError, OutsideError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Write one JSON object per line.")) from error
    problems = []
    for number, record in enumerate(found, start=1):
        where = f"{path}, line {number}"
        if not isinstance(record, dict) or not isinstance(record.get("label"), str):
            problems.append(Problem(where, "has no `label`.", "Give the name of its class as a text."))
        elif record.get("split") not in (None, *SPLITS):
            problems.append(Problem(where, f"has the split {record['split']!r}.", "Write train or test."))
    if not found:
        problems.append(Problem(str(path), "is empty.", "Write one JSON object per line."))
    if problems:
        raise DataError(problems[:10])
    return found


def with_splits(records: Sequence[Record], test: float, seed: int) -> list[Record]:
    """Samples with a split each: their own, or one that their group decides, the same on every machine.

    Args:
        records: The samples.
        test: Share of the groups that are for testing.
        seed: Which ones.

    Raises:
        DataError: If a group is in both splits.
    """
    found, seen = [], dict[tuple[str, str], str]()
    for number, record in enumerate(records):
        # null is as good as left out, and no two samples share what neither has
        kind, value = next(((k, record[k]) for k in ("group", "id") if record.get(k) is not None), ("number", number))
        draw = int(hashlib.sha256(f"{seed}/{value}".encode()).hexdigest()[:8], 16) / 16**8
        split = record.get("split") or ("test" if draw < test else "train")
        if seen.setdefault((kind, str(value)), split) != split:
            raise DataError(
                Problem(f"{kind} {str(value)!r}", "is in train and in test.", "Give all of its samples one split.")
            )
        found.append({**record, "split": split})
    return found


def class_steps(records: Sequence[Record], per_step: int, seed: int) -> list[list[str]]:
    """The classes in a seeded order, cut into steps of equal size; the last one may be smaller."""
    names = sorted({str(record["label"]) for record in records})
    random.Random(seed).shuffle(names)
    return [names[i : i + per_step] for i in range(0, len(names), per_step)]


def write_stream(
    records: Sequence[Record],
    steps: Sequence[Sequence[str]],
    source: Path,
    target: Path,
    *,
    by: str,
    seed: int,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the data sets of a stream, ``dataset_info.json`` and ``stream.yaml``.

    Args:
        records: Samples with a split each.
        steps: Classes or domains of every step.
        source: The folder that the samples' files are relative to.
        target: A new folder.
        by: ``label`` or ``domain``.
        seed: Of the order, for the notes.
        about: What the stream says of itself: ``name``, ``title``, ``paper``, ``homepage``; ``source`` and ``licence`` of
            every task.
        notes: Notes beside that on the order.

    Raises:
        DataError: If a step has no training or no test samples.
    """
    import yaml

    names = _step_names(steps, by)
    media = _media_fields(records, source)
    target.mkdir(parents=True, exist_ok=True)
    told = dict(about or {})
    of_task = {key: told.pop(key) for key in ("source", "licence") if key in told}
    info, tasks, problems = {}, [], []
    for number, (name, members) in enumerate(zip(names, steps, strict=True), start=1):
        own = [record for record in records if _value(record, by) in members]
        for split in SPLITS:
            kept = [_moved(record, media, source, target) for record in own if record["split"] == split]
            if not kept:
                what = f"has no samples for {split}."
                problems.append(
                    Problem(f"step {number} ({', '.join(members)})", what, "Check labels, domains and splits.")
                )
            (target / f"{name}_{split}.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8"
            )
            info[f"{name}_{split}"] = {"file_name": f"{name}_{split}.jsonl"}
        labels = list(members) if by == "label" else sorted({str(record["label"]) for record in records})
        sets = {"train": f"{name}_train", "test": f"{name}_test"}
        tasks.append({"name": name, **sets, **of_task, "overrides": {"labels": labels}})
    if problems:
        raise DataError(problems)
    left = _left_out(records, steps, by)
    # AVE has classes such as "Violin, fiddle".
    order = "; ".join(", ".join(f'"{m}"' if "," in m or ";" in m else m for m in members) for members in steps)
    seeded = f" (seed {seed})" if by == "label" else ""
    first = f"Order of the {'classes' if by == 'label' else 'domains'}{seeded}: {order}."
    (target / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    for note in left:
        logger.warning("%s", note)
    stream = {"name": target.name, **told, "notes": [first, *left, *notes], "tasks": tasks}
    (target / "stream.yaml").write_text(yaml.safe_dump(stream, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _value(record: Record, by: str) -> str | None:
    """A label or a domain as a text; domains may be numbers."""
    return None if record.get(by) is None else str(record[by])


def _step_names(steps: Sequence[Sequence[str]], by: str) -> list[str]:
    """A name for every step: its number, or its domain as far as it can be the name of a task and of files.

    Raises:
        DataError: If two domains have one name.
    """
    if by == "label":
        return [f"step{number}" for number in range(1, len(steps) + 1)]
    found: dict[str, str] = {}
    for members in steps:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", members[0]).lstrip("_.-")[:100] or f"domain{len(found) + 1}"
        if name.casefold() in map(str.casefold, found):
            other = next(domain for known, domain in found.items() if known.casefold() == name.casefold())
            what = (
                "is named twice." if other == members[0] else f"has the same name for its task as {other!r}: {name}."
            )
            raise DataError(Problem(f"domain {members[0]!r}", what, "Name every domain once, and differently."))
        found[name] = members[0]
    return list(found)


def _left_out(records: Sequence[Record], steps: Sequence[Sequence[str]], by: str) -> list[str]:
    """A note on samples that are in no step, with their numbers; empty if there are none."""
    known = {member for members in steps for member in members}
    others = Counter(value for record in records if (value := _value(record, by)) not in known)
    if not others:
        return []
    without = others.pop(None, 0)
    parts = [f"{count} of {by} {value}" for value, count in sorted(others.items(), key=lambda item: str(item[0]))]
    parts += [f"{without} without a {by}"] if without else []
    return [f"Samples that are left out: {', '.join(parts)}."]


def _media_fields(records: Sequence[Record], source: Path) -> set[str]:
    """The fields that hold files: those in which every text is the name of a file, with a suffix.

    A text may be the name of a file by chance, so that single values decide nothing.

    Raises:
        DataError: If a field holds files, some of which are missing.
    """
    texts: dict[str, dict[str, None]] = {}
    for record in records:
        for field, value in record.items():
            if field not in (*_ABOUT, "id", "label"):
                texts.setdefault(field, {}).update(dict.fromkeys(_texts(value)))
    found, problems = set(), []
    for field, values in texts.items():
        missing = [text for text in values if not (Path(text).suffix and _is_file(source / text))]
        if values and not missing:
            found.add(field)
        elif len(missing) < len(values) and all(re.fullmatch(r"\.\w+", Path(text).suffix) for text in missing):
            what = f"names files, of which {len(missing)} of {len(values)} are missing, such as {missing[0]}."
            problems.append(Problem(field, what, f"Paths are relative to {source}."))
    if problems:
        raise DataError(problems)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _moved(record: Record, media: Collection[str], source: Path, target: Path) -> Record:
    """A sample whose files are relative to the new folder; what is in other fields stays."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        return os.path.relpath(source / value, target) if isinstance(value, str) else value

    return {k: walk(v) if k in media else v for k, v in record.items() if k not in _ABOUT}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name
        return False


def _protocol(name: str, source: Path, target: Path, args: argparse.Namespace) -> None:
    """Make the stream of a protocol out of what the authors of its data distribute."""
    about = sources.protocol(name)
    notes = list(about.notes)
    found = sources.read(name, source, target / "signals", notes)
    if args.split == "group":
        found = [{key: value for key, value in record.items() if key != "split"} for record in found]
        notes.append(
            f"The split is not the authors': {args.test:g} of the groups (videos) are for testing, seed {args.seed}."
        )
    elif about.mixed_groups:
        both = _in_both(found)
        notes.append(f"The split is the authors'; {both} source videos have scenes in both of its parts.")
        found = [{key: value for key, value in record.items() if key != "group"} for record in found]
    records = with_splits(found, args.test, args.seed)
    classes = len({record["label"] for record in records})
    if classes != about.classes:
        notes.append(f"{classes} of the {about.classes} classes are here.")
    by = "domain" if about.domains else "label"
    domains = args.domains or about.domains
    steps = [[d] for d in domains or ()] or class_steps(
        records, args.classes_per_step or about.classes_per_step or 1, args.seed
    )
    told = {key: getattr(about, key) for key in ("title", "paper", "homepage", "source", "licence")}
    write_stream(records, steps, source, target, by=by, seed=args.seed, about={"name": name, **told}, notes=notes)


def _in_both(records: Sequence[Record]) -> int:
    """Number of groups with samples in both splits."""
    of_split = [{record["group"] for record in records if record["split"] == split} for split in SPLITS]
    return len(of_split[0] & of_split[1])


def _index(path: Path, target: Path, args: argparse.Namespace) -> None:
    """Make a stream out of an index."""
    records = with_splits(read_index(path), args.test, args.seed)
    by = "domain" if args.domains else "label"
    steps = [[name] for name in args.domains or ()] or class_steps(records, args.classes_per_step or 4, args.seed)
    write_stream(records, steps, path.parent, target, by=by, seed=args.seed)


def _positive(word: str) -> int:
    if int(word) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(word)


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; returns the exit code.

    Args:
        argv: The words of the command line.
    """
    import sys

    parser = argparse.ArgumentParser(
        prog="python -m cl_plugins.crossmodal.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = sources.protocols()
    parser.add_argument("index", nargs="?", type=Path, help="the index, or with --protocol the folder of the data set")
    parser.add_argument("folder", nargs="?", type=Path, help="where the stream goes")
    parser.add_argument("--protocol", choices=names, help="read what the authors of this data set distribute")
    parser.add_argument("--show", choices=names, metavar="PROTOCOL", help="print what is assumed about a data set")
    parser.add_argument("--ave", action="store_true", help="as `--protocol ave`")
    parser.add_argument(
        "--classes-per-step", type=_positive, help="class-incremental (default: the protocol's; else 4)"
    )
    parser.add_argument("--domains", nargs="+", help="domain-incremental: the domains in order")
    parser.add_argument("--seed", type=int, default=0, help="order of the classes, and split (default: 0)")
    parser.add_argument(
        "--split",
        choices=("source", "group"),
        default="source",
        help="of a protocol: the split that comes with the data, or whole groups (videos) drawn by the seed",
    )
    parser.add_argument("--test", type=float, default=0.2, help="share of the groups without a split (default: 0.2)")
    args = parser.parse_args(argv)
    set_up()
    if args.show:
        sys.stdout.write("\n".join(sources.protocol(args.show).notes) + "\n")
        return 0
    if args.folder is None:
        parser.error("name the index (or the folder of the data set) and the folder of the stream")
    name = args.protocol or ("ave" if args.ave else None)
    try:
        if name is not None:
            _protocol(name, args.index, args.folder, args)
        else:
            _index(args.index, args.folder, args)
    except ClPluginsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
