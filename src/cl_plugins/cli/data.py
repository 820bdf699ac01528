"""``cl-plugins data``: convert raw data sets to LLaMA-Factory data sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


_EPILOG = """\
prepare writes OUT/dataset_info.json (merged), a .jsonl per data set, pictures,
and OUT/manifest.json: counts, hashes, licences, drops and why.
After a kill, the same command resumes. --raw may hold one folder per task
(DIR/path, DIR/sur, ...), or all raw files side by side. Needs the extra `data`.
unpack extracts a zip or tar archive into the new folder OUT, all or nothing;
names that lead out of it, links and archives that grow beyond measure are
refused.

  cl-plugins data sources medical_cl
  cl-plugins data prepare medical_cl --raw raw/ --out data/medical_cl
  cl-plugins data prepare medical_cl --raw raw/ --out x/ --task rad --limit 100
  cl-plugins data unpack raw/RS/images.zip --out raw/RS/images
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "action",
        choices=("prepare", "sources", "unpack"),
        help="prepare: convert; sources: what to download, where, under which terms; unpack: extract an archive",
    )
    parser.add_argument(
        "stream", metavar="STREAM", help="name of a stream, such as medical_cl; for unpack the archive"
    )
    parser.add_argument("--raw", metavar="DIR", type=Path, help="folder with the raw files")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write: the recipe's `dataset_dir`")
    parser.add_argument("--task", metavar="NAME", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--workers", metavar="N", type=int, help="processes (default: the processors, at most 8)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of options and splits (default: 0)")
    parser.add_argument("--limit", metavar="N", type=int, help="at most N records per data set")
    parser.add_argument("--pad-square", action="store_true", help="pad pictures to squares, as LLaVA does")
    parser.add_argument(
        "--max-megapixels", metavar="X", type=float, default=50.0, help="drop larger pictures (default: 50)"
    )
    parser.add_argument(
        "--set", metavar="TASK.NAME=VALUE", action="append", default=[], help="a setting of a task; see `sources`"
    )
    parser.add_argument(
        "--restart", action="store_true", help="rebuild what was made with other options or from other files"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    """Prepare a stream, show its sources, or unpack an archive."""
    return {"sources": _sources, "prepare": _prepare, "unpack": _unpack}[args.action](args)


def _unpack(args: argparse.Namespace) -> int:
    """Take an archive apart."""
    from ..base.errors import DataError, Problem
    from ..data.prepare.archives import unpack
    from . import output

    archive = Path(args.stream)
    if args.out is None:
        example = f"For example: --out {archive.with_name(archive.name.split('.')[0])}"
        raise DataError(Problem("--out", "is not given.", example))
    files = unpack(archive, args.out)
    if args.json:
        output.print_json({"archive": str(archive), "out": str(args.out), "files": files})
    else:
        output.emit(f"{args.out}: {files} files from {archive}")
    return 0


def _sources(args: argparse.Namespace) -> int:
    """Print what a stream is made from."""
    from ..data.prepare.registry import converters
    from . import output

    kinds = converters(args.stream, args.task)
    if args.json:
        output.print_json(
            {
                kind.task: {
                    "sources": [vars(source) for source in kind.sources],
                    "settings": {name: vars(setting) for name, setting in kind.settings.items()},
                    "notes": list(kind.notes),
                }
                for kind in kinds
            }
        )
        return 0
    for kind in kinds:
        output.heading(f"{args.stream}.{kind.task}", f"DIR/{kind.task}/ or DIR/")
        for number, source in enumerate(kind.sources):
            if number:
                output.emit("  or")
            output.pairs(
                [
                    ("what", source.name),
                    ("where", source.where),
                    ("terms", source.licence),
                    ("files", ", ".join(source.files)),
                ]
            )
        for name, setting in kind.settings.items():
            choices = "|".join(setting.choices) or "TEXT"
            output.emit(f"  --set {kind.task}.{name}={choices}  (default: {setting.default or 'none'})")
            for line in output.wrap(setting.help, output.width() - 6):
                output.emit(f"      {line}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    """Convert the raw files."""
    from ..base.errors import DataError, Problem
    from ..base.status_line import Bar
    from ..data.prepare.engine import Request, prepare
    from ..data.prepare.images import ImageRules
    from . import output

    problems = [
        Problem(f"--{name}", "is not given.", f"For example: --{name} {example}")
        for name, example in (("raw", "raw/"), ("out", f"data/{args.stream}"))
        if getattr(args, name) is None
    ]
    settings = dict(word.split("=", 1) for word in args.set if "=" in word)
    problems += [
        Problem(f"--set {word}", "has no value.", "Write --set TASK.NAME=VALUE.")
        for word in args.set
        if "=" not in word
    ]
    if problems:
        raise DataError(problems)
    request = Request(
        stream=args.stream,
        raw=args.raw,
        out=args.out,
        tasks=tuple(args.task),
        workers=args.workers if args.workers is not None else max(1, min(8, os.cpu_count() or 1)),
        seed=args.seed,
        limit=args.limit,
        rules=ImageRules(pad_square=args.pad_square, max_megapixels=args.max_megapixels),
        settings=settings,
        restart=args.restart,
    )
    made = prepare(request, None if args.json else Bar)
    if args.json:
        output.print_json(made)
        return 0
    rows = [(name, str(entry["records"]), _dropped(entry["dropped"])) for name, entry in made.items()]
    output.columns(("data set", "records", "dropped"), rows, right=(1,))
    output.emit(f"In {args.out}: dataset_info.json, manifest.json. Recipes read it with `dataset_dir: {args.out}`.")
    named: dict[str, list[str]] = {}
    for name, entry in made.items():
        for remark in entry["remarks"]:
            named.setdefault(remark, []).append(name)
    for remark, names in named.items():
        for line in output.wrap(f"Note on {', '.join(names)}: {remark}", output.width()):
            output.emit(line)
    return 0


def _dropped(dropped: dict[str, Any]) -> str:
    """How many records were left out, and for what."""
    if not dropped["count"]:
        return "none"
    reasons = sorted(dropped["reasons"].items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{reason}: {count}" for reason, count in reasons[:4])
    return f"{dropped['count']} ({shown}{', ...' if len(reasons) > 4 else ''})"
