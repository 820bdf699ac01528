"""Whether the finished runs of a sweep still belong to the data and the base that are there now.

A cell's name says what its recipe requests, and nothing of the content of most files. As every start of a run does, a sweep
compares what a finished run has recorded of them; a run that does not fit is neither taken for the result nor touched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, Problem, RunStateError
from ..base.outside import OutsideError, parse_json
from ..records.run import read_run
from ..run.journal import Journal
from ..run.open_settings import measured_tasks
from ..run.record import compare
from . import ledger
from .cells import Cell


#: From recipes and the file where hashes are kept to what each would read now, see `reads.read_all`.
Look = Callable[[Sequence[Mapping[str, Any]], Path], Sequence[Mapping[str, Any]]]
#: What carries out `reads.read_all` and prints JSON.
READ = (sys.executable, "-m", "cl_plugins.cli.reads")
_FIX = "Restore what changed, or give another folder for the new runs: the finished run stays as it is."


class Unchanged:
    """Compares finished cells with what is there now; what recipes of equal data and base would read is found once.

    Args:
        directory: Folder of the ledger.
        look: Finds what recipes would read now; in a process of its own by default, so that the host's libraries and what
            they hold on a GPU go away again.
    """

    def __init__(self, directory: Path, look: Look | None = None) -> None:
        self._directory, self._look = directory, look
        self._known: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.Lock()

    def problems(self, cells: Iterable[Cell]) -> dict[str, list[Problem]]:
        """Why finished cells do not count.

        Args:
            cells: Cells; those that are not finished are left out.

        Returns:
            Id of a cell -> problems, of those that have some.
        """
        done = [cell for cell in cells if self._finished(cell)]
        with self._lock:
            new = {key: cell for key, cell in ((_reading(cell), cell) for cell in done) if key not in self._known}
            if new:
                saves = next(iter(new.values())).saves
                found = (self._look or in_own_process)([c.keys for c in new.values()], saves / ".data_hashes.json")
                self._known |= zip(new, found, strict=True)
        told = {cell.id: self._compared(cell, self._known[_reading(cell)]) for cell in done}
        return {cell_id: problems for cell_id, problems in told.items() if problems}

    def check(self, cells: Iterable[Cell]) -> None:
        """Refuse to go on with finished cells that do not count.

        Args:
            cells: The cells.

        Raises:
            RunStateError: With every problem of every cell.
        """
        if found := self.problems(cells):
            problems = [problem for each in found.values() for problem in each]
            raise RunStateError(problems, "Finished runs do not belong to the data and the base that are there now:")

    def _finished(self, cell: Cell) -> bool:
        return ledger.entry_file(cell, self._directory).is_file() or ledger.finished(cell.output_dir)

    def _compared(self, cell: Cell, now: Mapping[str, Any]) -> list[Problem]:
        try:
            old, steps = self._recorded(cell)
            if "problems" in now:
                return [Problem(f"{cell.id}: {p['where']}", p["what"], p["fix"]) for p in now["problems"]]
            began = (old.get("began_with") or {}).get("sha256")
            if began and now["carry"] and began != now["carry"]:
                return [
                    Problem(cell.id, "began with another carry than the one that `cl.carry_from` names now.", _FIX)
                ]
            compare(old, {**old, "base": now["base"], "data": now["data"]}, cell.output_dir, None, frozenset(), measured_tasks(steps))  # fmt: skip
        except RunStateError as error:
            return [Problem(cell.id, p.what.replace("another recipe", "other data or another base"), _FIX) for p in error.problems]  # fmt: skip
        except ClPluginsError as error:
            return error.problems if hasattr(error, "problems") else [Problem(cell.id, str(error), "")]
        except (KeyError, TypeError, AttributeError) as error:
            what = f"has no record of its data and its base that could be compared ({error!r})."
            return [Problem(cell.id, what, "Restore `run.json` from a copy, or give another folder for the new runs.")]
        return []

    def _recorded(self, cell: Cell) -> tuple[Mapping[str, Any], Sequence[str]]:
        """``run.json`` of a finished run and its steps: out of the ledger, else out of its directory."""
        path = ledger.entry_file(cell, self._directory)
        if path.is_file():
            entry = ledger.read_entry(path)
            return entry.content["run"], list(entry.content["step_seconds"])
        return read_run(cell.output_dir), list(Journal(cell.output_dir).entries)


def _reading(cell: Cell) -> str:
    """What cells that read the same have in common: all but the seed and the method."""
    block = {key: value for key, value in cell.keys["cl"].items() if key != "method"}
    return json.dumps({**cell.keys, "seed": None, "cl": block}, sort_keys=True, default=str)


def in_own_process(recipes: Sequence[Mapping[str, Any]], hashes: Path) -> Sequence[Mapping[str, Any]]:
    """What recipes would read now, see `reads.read_all`.

    Args:
        recipes: Host keys and ``cl``.
        hashes: Where hashes of data files are kept.

    Raises:
        RunStateError: If that process fails.
    """
    asked = json.dumps({"recipes": list(recipes), "hashes": str(hashes)}, default=str).encode()
    done = subprocess.run(READ, input=asked, capture_output=True, check=False, env=dict(os.environ))
    try:
        found: list[dict[str, Any]] = parse_json(done.stdout.splitlines()[-1])
        if len(found) != len(recipes):
            raise ValueError("other recipes were read")
    except (OutsideError, ValueError, IndexError, TypeError) as error:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
        what = f"could not be compared with their data and their base (exit code {done.returncode}): {lines[-1]}"
        raise RunStateError(Problem("finished runs", what, "Check the recipes with `cl-plugins validate`.")) from error
    return found
