"""``cl-plugins carry``: what the next site needs of a run, as one file; looked at and checked before it is used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..run.inspecting import Inspection

_EPILOG = """\
  cl-plugins carry pack RUN --out path.carry.zip [--with-matrix]
  cl-plugins carry inspect path.carry.zip
  cl-plugins carry verify path.carry.zip --base models/llava
  cl-plugins carry unpack path.carry.zip --out received

The file holds the carry, the options of the method, the names of the stream's
tasks and the fingerprint of the base. Prompts, answers, predictions and paths
of this machine are never in it, training samples only with `--with-replay`. In
the next site's recipe, `cl.carry_from` names the file itself or the folder that
it was unpacked into.
"""
_SHOWN = 6  # tensors of a file, without --all


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    words = {
        "pack": "write the carry of a run into one file",
        "inspect": "what a carry holds and could reveal; loads no tensor",
        "verify": "compare every file of a carry with its hash, and the base with its fingerprint",
        "unpack": "unpack a packed carry into a new folder",
    }
    for name, text in words.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name == "pack":
            action.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run, or a carry")
            action.add_argument("--out", metavar="FILE", type=Path, required=True, help="a new file")
            action.add_argument(
                "--with-matrix", action="store_true", help="add the scores of this site and of the sites before it"
            )
            action.add_argument(
                "--with-replay", action="store_true", help="add the replay buffer, which holds training samples"
            )
            continue
        kind = "a packed carry" if name == "unpack" else "a packed carry, or the directory of a carry or a run"
        action.add_argument("file", metavar="FILE", type=Path, help=kind)
        if name == "inspect":
            action.add_argument("--all", action="store_true", help="list every tensor")
            action.add_argument("--json", action="store_true", help="print JSON")
        if name == "verify":
            action.add_argument("--base", metavar="MODEL", help="the base, as a folder or the name on a hub")
        if name == "unpack":
            action.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")


def run(args: argparse.Namespace) -> int:
    """Pack, inspect, verify or unpack."""
    actions = {"pack": _pack, "inspect": _inspect, "verify": _verify, "unpack": _unpack}
    return actions[args.action](args)


def _pack(args: argparse.Namespace) -> int:
    from ..run.packing import pack
    from . import output

    record = pack(args.run_dir, args.out, with_matrix=args.with_matrix, with_replay=args.with_replay)
    sites = sum(name.startswith("sites/") for name in record.files)
    rows = [
        ("in", f"{args.out} ({output.size(args.out.stat().st_size)})"),
        ("tasks", " → ".join(record.tasks)),
        ("method", record.method),
        ("scores", f"of {sites} site{'' if sites == 1 else 's'}" if sites else "none"),
        ("samples", _samples(record.samples)),
    ]
    if record.left_out:
        rows.append(("left out", f"the replay buffer: {_samples(record.left_out)} (`--with-replay` adds it)"))
    output.emit(output.bold("carry packed"))
    output.pairs(rows)
    return 0


def _samples(counts: dict[str, int]) -> str:
    """How many training samples there are, as text."""
    if not counts:
        return "none"
    by_task = ", ".join(f"{task} {count}" for task, count in counts.items())
    return f"{sum(counts.values())} training samples ({by_task})"


def _inspect(args: argparse.Namespace) -> int:
    from ..run.inspecting import inspect
    from . import output

    found = inspect(args.file)
    if args.json:
        output.print_json(found.to_dict())
        return 0
    _show(found, args.all)
    return 0


def _show(found: Inspection, every: bool) -> None:
    from . import output

    about = found.about
    output.emit(output.bold(f"carry of {' → '.join(found.tasks)}") + f", {output.size(found.bytes)}")
    options = ", ".join(f"{key}: {value}" for key, value in (about.get("options") or {}).items())
    rows = [
        ("method", f"{found.method}{_from(about)}"),
        ("options", options),
        ("stream", f"{found.stream or 'not known'}{_tasks(about)}"),
        ("base", f"{found.base.get('name')}, fingerprint {str(found.base.get('sha256'))[:16]}"),
        ("recipe keys", ", ".join(f"{key}: {value}" for key, value in (about.get("keys") or {}).items())),
        ("samples", _samples(found.samples)),
        ("reveals", found.reveals),
        ("scores", "; ".join(found.scores) or "none"),
    ]
    output.pairs([row for row in rows if row[1]])
    for file in found.files:
        output.heading(
            file.name, f"{output.size(file.bytes)}{f', {len(file.tensors)} tensors' if file.tensors else ''}"
        )
        shown = file.tensors if every else file.tensors[:_SHOWN]
        output.columns(("", "", ""), [(t.dtype, " x ".join(map(str, t.shape)) or "1", t.name) for t in shown])
        if len(file.tensors) > len(shown):
            output.emit(f"  and {len(file.tensors) - len(shown)} more (--all)")
        for key, text in file.texts.items():
            output.pairs([(f"text {key!r}", text)])


def _from(about: dict[str, Any]) -> str:
    package = about.get("package")
    return f", of the package {package} {about.get('version') or ''}".rstrip() if package else ""


def _tasks(about: dict[str, Any]) -> str:
    tasks = [task["name"] for task in about.get("stream_tasks") or []]
    return f": {', '.join(tasks)}" if tasks else ""


def _verify(args: argparse.Namespace) -> int:
    from ..run.inspecting import verify
    from . import output
    from .hosts import quiet_host

    def fingerprint(base: str) -> dict[str, Any]:
        from types import SimpleNamespace

        from ..host.fingerprint import base_fingerprint

        with quiet_host():
            place: Any = SimpleNamespace(model_name_or_path=base, cache_dir=None, model_revision="main")
            return base_fingerprint(place)

    found = verify(args.file, args.base, fingerprint)
    output.emit(f"{found.count} files have their hashes ({output.size(found.bytes)}).")
    said = (
        f"The base {args.base} is the one that the carry belongs to."
        if args.base
        else "The base was not compared (--base)."
    )
    output.emit(said)
    return 0


def _unpack(args: argparse.Namespace) -> int:
    from ..contract.packed import Pack
    from ..run.export import check_empty
    from . import output

    check_empty(args.out)
    pack = Pack.open(args.file)
    pack.tensors()
    pack.sites()
    if args.out.is_dir():
        args.out.rmdir()  # empty, see `check_empty`
    pack.unpack(args.out)
    output.emit(f"In {args.out}; a recipe takes it as `carry_from: {args.out}`.")
    return 0
