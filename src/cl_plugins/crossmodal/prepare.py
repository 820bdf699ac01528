"""From labelled samples to a stream: class-incremental or domain-incremental steps, split by group, order recorded.

The input is an index, one JSON object per line: ``label``, a field per modality (files relative to the index), and where they
are known ``split`` (``train`` or ``test``), ``group`` (video or participant, never in both splits) and ``domain``. AVE's own
lists can be read instead::

    python -m cl_plugins.crossmodal.prepare index.jsonl data/my_stream --classes-per-step 4 --seed 0
    python -m cl_plugins.crossmodal.prepare index.jsonl data/languages --domains en de es pl ko
    python -m cl_plugins.crossmodal.prepare --ave AVE_Dataset data/ave --classes-per-step 4 --seed 0

Written are the data sets, ``dataset_info.json`` and ``stream.yaml``, which names classes, order and seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, DataError, Problem
from ..base.outside import OutsideError, parse_json, read_text


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
        found = [parse_json(line) for line in read_text(path, LIMIT).splitlines() if line.strip()]
    except (OSError, ValueError, OutsideError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Write one JSON object per line.")) from error
    problems = []
    for number, record in enumerate(found, start=1):
        where = f"{path}, line {number}"
        if not isinstance(record, dict) or not isinstance(record.get("label"), str):
            problems.append(Problem(where, "has no `label`.", "Give the name of its class as a text."))
        elif record.get("split", "train") not in SPLITS:
            problems.append(Problem(where, f"has the split {record['split']!r}.", "Write train or test."))
    if not found:
        problems.append(Problem(str(path), "is empty.", "Write one JSON object per line."))
    if problems:
        raise DataError(problems[:10])
    return found


def read_ave(folder: Path) -> list[Record]:
    """AVE as its authors distribute it: ``trainSet.txt``, ``testSet.txt`` and the videos in ``AVE/``.

    A line is ``category&video id&quality&start&end``. A video occurs once per event; the first category counts. Validation
    videos (``valSet.txt``) are left out.

    Args:
        folder: The folder of the lists.

    Raises:
        DataError: If a list or a video is missing, or a line has another form.
    """
    found: dict[str, Record] = {}
    problems = []
    for split, name in (("train", "trainSet.txt"), ("test", "testSet.txt")):
        try:
            lines = read_text(folder / name, LIMIT).splitlines()
        except (OSError, OutsideError, ValueError) as error:
            problems.append(
                Problem(str(folder / name), f"cannot be read ({error}).", "Give the folder of AVE's lists.")
            )
            continue
        for number, line in enumerate((text for text in lines if text.strip()), start=1):
            cells = line.strip().split("&")
            if len(cells) != 5:
                what = "has not the form category&video&quality&start&end."
                problems.append(Problem(f"{folder / name}, line {number}", what, "Use AVE's own file."))
                continue
            label, video = cells[0], cells[1]
            file = f"AVE/{video}.mp4"
            if not (folder / file).is_file():
                problems.append(Problem(str(folder / file), "is missing.", "Download the videos of AVE."))
                continue
            record = {"id": video, "label": label, "picture": file, "sound": file, "group": video, "split": split}
            found.setdefault(video, record)
    if problems:
        raise DataError(problems[:10])
    return list(found.values())


def with_splits(records: Sequence[Record], test: float, seed: int) -> list[Record]:
    """Samples with a split each: their own, or one that their group decides, the same on every machine.

    Args:
        records: The samples.
        test: Share of the groups that are for testing.
        seed: Which ones.

    Raises:
        DataError: If a group is in both splits.
    """
    found, seen = [], dict[str, str]()
    for number, record in enumerate(records):
        group = str(record.get("group", record.get("id", number)))
        draw = int(hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()[:8], 16) / 16**8
        split = record.get("split") or ("test" if draw < test else "train")
        if seen.setdefault(group, split) != split:
            raise DataError(
                Problem(f"group {group!r}", "is in train and in test.", "Give all of its samples one split.")
            )
        found.append({**record, "split": split})
    return found


def class_steps(records: Sequence[Record], per_step: int, seed: int) -> list[list[str]]:
    """The classes in a seeded order, cut into steps of equal size; the last one may be smaller."""
    names = sorted({str(record["label"]) for record in records})
    random.Random(seed).shuffle(names)
    return [names[i : i + per_step] for i in range(0, len(names), per_step)]


def write_stream(
    records: Sequence[Record], steps: Sequence[Sequence[str]], source: Path, target: Path, *, by: str, seed: int
) -> None:
    """Write the data sets of a stream, ``dataset_info.json`` and ``stream.yaml``.

    Args:
        records: Samples with a split each.
        steps: Classes or domains of every step.
        source: The folder that the samples' files are relative to.
        target: A new folder.
        by: ``label`` or ``domain``.
        seed: Of the order, for the notes.

    Raises:
        DataError: If a step has no training or no test samples.
    """
    import yaml

    target.mkdir(parents=True, exist_ok=True)
    info, tasks, problems = {}, [], []
    for number, members in enumerate(steps, start=1):
        own = [record for record in records if record.get(by) in members]
        name = f"step{number}" if by == "label" else str(members[0])
        for split in SPLITS:
            kept = [_moved(record, source, target) for record in own if record["split"] == split]
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
        tasks.append({"name": name, "train": f"{name}_train", "test": f"{name}_test", "overrides": {"labels": labels}})
    if problems:
        raise DataError(problems)
    order = "; ".join(", ".join(members) for members in steps)
    notes = [f"Order of the {'classes' if by == 'label' else 'domains'} (seed {seed}): {order}."]
    (target / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    stream = {"name": target.name, "notes": notes, "tasks": tasks}
    (target / "stream.yaml").write_text(yaml.safe_dump(stream, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _moved(record: Record, source: Path, target: Path) -> Record:
    """A sample whose files are relative to the new folder; texts stay."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, str) and (source / value).is_file():
            return os.path.relpath(source / value, target)
        return value

    return {k: v if k in ("id", "label") else walk(v) for k, v in record.items() if k not in _ABOUT}


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
    parser.add_argument("index", type=Path, help="the index, or with --ave the folder of AVE's lists")
    parser.add_argument("folder", type=Path, help="where the stream goes")
    parser.add_argument("--ave", action="store_true", help="read AVE's lists in place of an index")
    parser.add_argument("--classes-per-step", type=int, default=4, help="class-incremental (default: 4)")
    parser.add_argument("--domains", nargs="+", help="domain-incremental: the domains in order")
    parser.add_argument("--seed", type=int, default=0, help="order of the classes, and split (default: 0)")
    parser.add_argument("--test", type=float, default=0.2, help="share of the groups without a split (default: 0.2)")
    args = parser.parse_args(argv)
    try:
        found = read_ave(args.index) if args.ave else read_index(args.index)
        records = with_splits(found, args.test, args.seed)
        by = "domain" if args.domains else "label"
        steps = [[name] for name in args.domains or ()] or class_steps(
            records, max(1, args.classes_per_step), args.seed
        )
        source = args.index if args.ave else args.index.parent
        write_stream(records, steps, source, args.folder, by=by, seed=args.seed)
    except ClPluginsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
