"""Converters on the real files that public repositories hold: every row is compared with its source.

    python -m benchmarks.data.real_files --clones DIR [--only ucit mslora_cr_8.ham] [--out FILE]

``DIR/owner/name`` are clones (``git clone https://github.com/owner/name``); `real_cases.CASES` names repositories,
commits and files, and `--list` prints them. Files are read through git at these commits, some of which are older than
the newest. Pictures are made where the repository has none; the result says what else was made for a case.

A case passes if every row of the source became a record with the same texts, columns and picture, or a drop with the
reason that it has to have; or if files that do not fit together are refused. What is absent from the clones is not run.
With `--only`, the other cases keep what the result has of them. Exit status 1: something differed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.real_cases import CASES, Case
from benchmarks.data.real_sources import Absent, Clone, Laid, Row, picture_of
from cl_plugins.base.errors import DataError
from cl_plugins.crossmodal.sources import protocols
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.images import ImageRules
from cl_plugins.data.prepare.registry import CONVERTERS


#: Tasks without a case, and what was looked for.
NOT_FOUND = "no repository with records of it was found"
ROWS, TEXTS, COLUMNS, PICTURES = "rows", "texts", "columns", "pictures"


def run(case: Case, clones: Path, work: Path) -> dict[str, Any]:
    """Lay out the files of one case, convert them, and compare.

    Args:
        case: The case.
        clones: The folder of the clones.
        work: An empty folder.

    Raises:
        Absent: The clone, or a file of it, is not there.
    """
    readers = {name: Clone(clones / name, commit) for name, commit in case.repositories.items()}
    raw, out = work / "raw", work / "out"
    raw.mkdir(parents=True)
    laid = case.lay(raw, *readers.values())
    found: dict[str, Any] = {
        "repositories": {
            name: {"commit": reader.commit, "files": dict(sorted(reader.used.items()))}
            for name, reader in readers.items()
        },
        "made": ([] if case.texts_only else ["pictures"]) + list(laid.made),
        **({"agrees": dict(laid.agrees)} if laid.agrees else {}),
    }
    if case.convert is not None:
        found["datasets"] = case.convert(raw, out, laid)
        return found | {"passed": not any(entry["differences"] for entry in found["datasets"].values())}
    settings = {f"{case.task}.{name}": value for name, value in laid.settings.items()}
    rules = ImageRules(pad_square=case.pad_square)
    request = Request(case.stream, raw, out, tasks=(case.task,), workers=1, settings=settings, rules=rules)
    try:
        made = prepare(request)
    except DataError as error:
        text = " ".join(f"{problem.where} {problem.what} {problem.fix}" for problem in error.problems)
        right = bool(laid.refused) and all(part in text for part in laid.refused)
        return found | {"refused": text.replace(str(work), "")[:600], "passed": right}
    found["datasets"] = {name: _dataset(entry, out, laid, case) for name, entry in made.items()}
    differences = [entry["differences"] for entry in found["datasets"].values()]
    return found | {"passed": not laid.refused and not any(differences) and all(laid.agrees.values())}


def _dataset(entry: Mapping[str, Any], out: Path, laid: Laid, case: Case) -> dict[str, Any]:
    """What the result says about one data set."""
    split, remarks = entry["split"], entry["remarks"]
    rows = laid.rows[split]
    differences = compare(entry, out, rows, pictures=not case.pad_square)
    for text in laid.remarked.get(split, ()):
        if not any(text in remark for remark in remarks):
            differences.setdefault("remarks", []).append(f"none says {text!r}")
    return {
        "rows": len(rows),
        "records": entry["records"],
        "dropped": entry["dropped"]["reasons"],
        "remarks": remarks,
        "compared": [ROWS, TEXTS, COLUMNS, *([] if case.texts_only or case.pad_square else [PICTURES])],
        "differences": differences,
    }


def compare(
    entry: Mapping[str, Any], out: Path, rows: Sequence[Row], *, pictures: bool = True
) -> dict[str, list[str]]:
    """Where a data set differs from what its rows have to become.

    Args:
        entry: Of the manifest.
        out: The data folder.
        rows: What has to come of the rows, in their order.
        pictures: Whether the bytes of the pictures are compared; padding changes them.

    Returns:
        Kind of difference -> examples, the first five of each; empty if there is none.
    """
    with (out / entry["file"]).open(encoding="utf-8") as file:
        records = {record["id"]: record for record in map(json.loads, file)}
    path = out / "dropped" / f"{Path(entry['file']).stem}.jsonl"
    dropped: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            dropped = {drop["id"]: drop["reason"] for drop in map(json.loads, file)}
    found: dict[str, list[str]] = {}

    def differs(kind: str, what: str) -> None:
        if len(found.setdefault(kind, [])) < 5:
            found[kind].append(what[:300])

    wanted = {row.identity or f"{entry['task']}-{entry['split']}-{place:06d}": row for place, row in enumerate(rows)}
    for name in [*records, *dropped]:
        if name not in wanted:
            differs(ROWS, f"{name} is of no row")
    for name, row in wanted.items():
        if row.dropped or name in dropped or name not in records:
            if dropped.get(name, "") != row.dropped:
                differs(ROWS, f"{name}: dropped as {dropped.get(name)!r}, has to be {row.dropped or 'kept'!r}")
            continue
        record = records[name]
        turns = [message["value"] for message in record["conversations"]]
        if turns != [text for turn in row.turns for text in turn]:
            differs(TEXTS, f"{name}: {turns!r:.140} instead of {row.turns!r:.140}")
        for column, value in row.columns.items():
            if record.get(column) != value:
                differs(COLUMNS, f"{name}: {column} is {record.get(column)!r:.100} instead of {value!r:.100}")
        stored = [(out / image).read_bytes() for image in record["images"]] if pictures else []
        if pictures and stored != ([picture_of(row.picture)] if row.picture else []):
            differs(PICTURES, f"{name}: not the picture of {row.picture!r}")
    return found


def absent_tasks(cases: Sequence[Case]) -> dict[str, str]:
    """Tasks that no case converts; a task that two streams share counts once."""
    tried = {CONVERTERS[case.stream][case.task] for case in cases if case.stream in CONVERTERS}
    done = {case.task for case in cases if case.convert is not None}
    left = {f"crossmodal.{name}": NOT_FOUND for name in protocols() if name not in done}
    for stream, tasks in CONVERTERS.items():
        for task, place in tasks.items():
            if place not in tried:
                left[f"{stream}.{task}"] = NOT_FOUND
    return left


def hardware() -> dict[str, Any]:
    """System and processors."""
    return {"system": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that read files."""
    from importlib.metadata import version

    named = {name: version(name) for name in ("cl-plugins", "pillow", "numpy", "pandas", "pyarrow")}
    return {"python": platform.python_version(), **named}


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per data set or refusal."""
    lines = []
    for name, result in results.items():
        state = "as its source" if result["passed"] else "DIFFERS"
        if "refused" in result:
            lines.append(f"{name}: {'refused' if result['passed'] else 'DIFFERS: ' + result['refused']}")
        for dataset, entry in result.get("datasets", {}).items():
            drops = "".join(f", {count} dropped: {reason}" for reason, count in entry["dropped"].items())
            lines.append(f"{name}: {dataset}, {entry['rows']:,} rows, {entry['records']:,} records{drops}; {state}")
            lines += [f"    {kind}: {text}" for kind, texts in entry["differences"].items() for text in texts]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=Path, help="folder with owner/name")
    parser.add_argument("--only", nargs="+", default=[], help="streams, or names of cases")
    parser.add_argument("--list", action="store_true", help="print the repositories and their commits, and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("real_files.json"))
    args = parser.parse_args(argv)
    if args.list:
        for name in sorted({f"{owner} {commit}" for case in CASES for owner, commit in case.repositories.items()}):
            print(name)
        return 0
    if args.clones is None or not args.clones.is_dir():
        parser.error("--clones has to be a folder")
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.only and args.out.is_file() else {}
    results: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for case in CASES:
        if args.only and not {case.stream, case.name} & set(args.only):
            for part, kept in (("cases", results), ("not_run", skipped)):
                if case.name in before.get(part, {}):
                    kept[case.name] = before[part][case.name]
            continue
        with tempfile.TemporaryDirectory(prefix="cl-real-") as folder:
            try:
                results[case.name] = run(case, args.clones, Path(folder))
            except Absent as error:
                skipped[case.name] = str(error)
                print(f"{case.name}: not run, {error}", flush=True)
                continue
        print(summary({case.name: results[case.name]}), flush=True)
    tally: Counter[str] = Counter()
    used = {name for result in results.values() for name in result["repositories"]}
    for result in results.values():
        for entry in result.get("datasets", {}).values():
            tally.update({"datasets": 1, "rows": entry["rows"], "records": entry["records"]})
            tally["dropped"] += sum(entry["dropped"].values())
        tally["refused"] += "refused" in result
    report = {
        "what": "`cl-plugins data prepare` on real files of public repositories, compared with them row by row",
        "hardware": hardware(),
        "versions": versions(),
        "total": {
            "cases": len(results),
            "passed": sum(r["passed"] for r in results.values()),
            "repositories": len(used),
            **dict(tally),
        },
        "cases": results,
        "not_run": skipped,
        "not_found": absent_tasks(CASES),
    }
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(not result["passed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
