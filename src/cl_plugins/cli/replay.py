"""``cl-plugins replay``: which training samples a run holds, and how to get rid of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..replay.store import Sample

_EPILOG = """\
  cl-plugins replay list RUN
  cl-plugins replay delete RUN --id patient-17 --id patient-18
  cl-plugins replay purge RUN --older-than 30d      (h, d or w)

Deleting rewrites the buffer, its manifest, the carry's hashes and the journal
together; an unfinished run accepts the new carry. Then the places are named in
which the samples can still be: predictions, caches of the `datasets` library,
directories that `cl.restart` moved aside. What was learned from the samples
stays in the weights. A run that is being carried out is left alone.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    words = {
        "list": "the samples in a run's buffer",
        "delete": "delete samples by their ids",
        "purge": "delete samples by their age",
    }
    for name, text in words.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        action.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run")
        action.add_argument("--json", action="store_true", help="print JSON")
        if name == "delete":
            action.add_argument(
                "--id", action="append", required=True, metavar="ID", help="id of a sample; repeatable"
            )
            action.add_argument("--task", help="only samples of this task")
        if name == "purge":
            action.add_argument("--older-than", required=True, metavar="AGE", help="an age: 30d, 12h or 4w")


def run(args: argparse.Namespace) -> int:
    """List or delete."""
    from ..run.deletion import forget, host_keys, kept_entries, kept_samples
    from ..run.remains import remains
    from . import output

    if args.action == "list":
        samples = kept_samples(args.run_dir)
        if args.json:
            output.print_json([asdict(sample) for sample in samples])
        else:
            _show(samples, args.action)
        return 0
    unwanted = _unwanted(args)
    entries = [entry for entry in kept_entries(args.run_dir) if unwanted(entry[0])]
    samples = forget(args.run_dir, unwanted, args.action)
    places = remains(args.run_dir, entries, host_keys(args.run_dir)) if samples else []
    if args.json:
        deleted = [asdict(sample) for sample in samples]
        output.print_json({"deleted": deleted, "remains": [asdict(place) for place in places]})
        return 0
    _show(samples, args.action)
    if places:
        output.emit()
        output.emit(output.bold("Where they can still be; this command does not change these places:"))
        for place in places:
            output.emit(f"  {place.where}")
            output.emit(f"      {place.what}. {place.fix}")
    return 0


def _unwanted(args: argparse.Namespace) -> Callable[[Sample], bool]:
    """Which samples go.

    Raises:
        RecipeError: If an id is not in the buffer, or the age is none; nothing is deleted then.
    """
    from ..base.errors import Problem, RecipeError
    from ..run.deletion import kept_samples, older_than

    if args.action == "purge":
        try:
            return older_than(args.older_than)
        except ValueError as error:
            raise RecipeError(Problem("--older-than", f"{error}.", "")) from error
    wanted = set(args.id)

    def chosen(sample: Sample) -> bool:
        return sample.id in wanted and args.task in (None, sample.task)

    known = {sample.id for sample in kept_samples(args.run_dir) if chosen(sample)}
    problems = []
    for name in sorted(wanted - known):
        fix = "`cl-plugins replay list RUN` lists the samples in the buffer."
        number = name.lstrip("0") or "0"
        if name.isdecimal() and number != name and any(s.id == number for s in kept_samples(args.run_dir)):
            fix = f"There is {number!r}: ids of a table that are all numbers are read as numbers, without zeros in front."
        problems.append(Problem("--id", f"the buffer has no sample {name!r}.", fix))
    if problems:
        raise RecipeError(problems)
    return chosen


def _show(samples: list[Sample], action: str) -> None:
    from . import output

    if not samples:
        output.emit("The buffer has no training sample." if action == "list" else "No sample was deleted.")
        return
    rows = [
        (s.task, s.dataset, s.stored[:19].replace("T", " "), s.selection, s.licence or "not stated", s.id)
        for s in samples
    ]
    output.columns(("task", "data set", "stored (UTC)", "selection", "licence", "id"), rows)
    output.emit()
    count = f"{len(samples)} sample{'' if len(samples) == 1 else 's'}"
    output.emit(f"{count} in the buffer" if action == "list" else f"{count} deleted")
