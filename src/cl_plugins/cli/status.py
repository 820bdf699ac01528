"""``cl-plugins status``: how far a run is, who works on it, and whether its files are whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


_EPILOG = """\
`--verify` reads every file that the journal and the carry name, and compares
its hash, and computes matrix and metrics again from the score files; without
it, only what the journal says is shown. Exit code 1 if a file is missing or
damaged.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run")
    parser.add_argument("--verify", action="store_true", help="compare the hashes of all files")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the state of a run."""
    from ..run.status import collect
    from . import output

    value = collect(args.run_dir, verify=args.verify)
    if args.json:
        output.print_json(
            {**value, "damaged": None if value["damaged"] is None else [vars(p) for p in value["damaged"]]}
        )
    else:
        show(value)
    return 1 if value["damaged"] else 0


def show(value: dict[str, Any]) -> None:
    """Print the state of a run for people."""
    from ..run.progress import clock
    from . import output

    steps = value["steps"]
    done = [step for step in steps if step["state"] == "finished"]
    output.emit(output.bold(f"{value['method']} on {value['stream']}") + f", seed {value['seed']}")
    output.pairs(
        [
            ("run", value["run"]),
            ("state", f"{len(done)} of {len(steps)} steps finished in {clock(value['seconds'])}"),
            ("at work", _holder(value["locked_by"])),
        ]
    )
    output.emit()
    rows = []
    for step in steps:
        kind, *rest = step["step"].split(":")
        words = [kind, *(part.replace("_", " ") for part in rest[:-1])]
        when = (step["time"] or "")[:19].replace("T", " ")
        took = clock(step["seconds"]) if step["seconds"] is not None else ""
        rows.append((step["state"], " ".join(words), rest[-1] if rest else "", when, took, _result(step["details"])))
    output.columns(("state", "step", "task", "at (UTC)", "took", "result"), rows, right=(4,))
    if value["note"]:
        output.emit()
        for line in output.wrap(value["note"], output.width()):
            output.emit(line)
    if value["damaged"]:
        output.heading("Damaged files")
        output.show_problems(value["damaged"])
    elif value["damaged"] is not None:
        output.heading("All files are present and have their hashes.")
    if not value["finished"]:
        output.heading("Start it with the same command again: it resumes where it stopped.")


def _holder(note: dict[str, Any] | None) -> str:
    if note is None:
        return "nobody"
    return f"process {note.get('pid', '?')} on {note.get('host', '?')}, since {note.get('started', '?')}"


def _result(details: dict[str, Any]) -> str:
    if "score" in details:
        return f"{details['score']:.2f}"
    if "optimizer_steps" in details:
        return f"{details['optimizer_steps']} updates"
    return ""
