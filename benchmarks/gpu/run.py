"""What works on a card, and how fast, in one table: ``make check-gpu``.

    python -m benchmarks.gpu.run                       # one H100-class card, models of 7 and 1.5 billion parameters, 8 minutes
    python -m benchmarks.gpu.run --scale tiny          # the same code with tiny models on the CPU, in less than a minute

Every row is measured in a process of its own, has a record of its own (``--out``), and is skipped when the command is given again on the
same machine. A row that fails says why, and the others go on. The rows come in the order of their importance; none is started that would
probably end behind ``--minutes``. Models and data are made below ``--work`` (20 GB; in memory, as ``/dev/shm``, it is faster).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import records, table
from benchmarks.gpu.cells import CELLS, SCALES, Cell, base_of, by_name
from benchmarks.gpu.shapes import Scale, is_made
from benchmarks.gpu.workers import Ahead, Forked, Workers
from cl_plugins.base.errors import DataError, Problem


ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
#: A process may take this many times the seconds that its cell states, and never less than a minute.
PATIENCE = 6
#: Seconds behind `--minutes` after which a process that still measures is killed.
GRACE = 60


class Check:
    """Measures cells until none is left, or no time.

    Args:
        scale: Sizes.
        out: Folder of the records and of the table.
        work: Folder of models, data and runs.
        here: The machine, from `records.where`.
        workers: Starts the processes; called when the first is needed.
        minutes: Time for all; None for as long as it takes.
        say: Prints a line.
        clock: Seconds.
    """

    def __init__(
        self,
        scale: Scale,
        out: Path,
        work: Path,
        here: dict[str, Any],
        workers: Callable[[], Workers],
        minutes: float | None = None,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scale, self.out, self.work, self.here = scale, out, work, here
        self._workers, self._started, self._say, self._clock = workers, None, say, clock
        self._begun = clock()
        self._budget = None if minutes is None else 60 * minutes
        self.records: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}

    def carry_out(self, cells: Sequence[Cell], again: Sequence[str] = (), only: Collection[str] | None = None) -> None:
        """Measure cells, in their order, and write the table.

        Args:
            cells: The rows of the table.
            only: Names of the cells that are measured; the others keep their records. None for all.
            again: Names of cells that are measured although they have a record; ``failed`` stands for all that failed.
        """
        try:
            for cell in cells:
                self._one(cell, again, wanted=only is None or cell.name in only)
        finally:
            if self._started is not None:
                self._started.close()
        write_table(self.out, cells, self.records, self.here, self.left_out)

    def _one(self, cell: Cell, again: Sequence[str], wanted: bool) -> None:
        known = records.read(self.out, cell)
        counts = records.counts(known, cell, self.scale, self.here)
        if counts and not (wanted and self._repeated(cell, known, again)):
            self.records[cell.name] = known
            return
        if not wanted:
            return
        if cell.gpu and not self.scale.gpu:
            found: dict[str, Any] = {"needs": "a GPU"}
        elif absent := cell.missing():
            found = {"absent": absent}
        else:
            needed = [] if cell.kind == "base" else self._base(cell)
            seconds = sum(part.seconds for part in (*needed, cell)) if self.scale.gpu else 0
            if not self._fits(seconds):
                self.left_out[cell.name] = "not measured: no time was left; the same command goes on"
                return
            for base in needed:
                self._keep(base, self._measure(base))
            found = self._measure(cell)
        self._keep(cell, found)

    def _repeated(self, cell: Cell, known: dict[str, Any] | None, again: Sequence[str]) -> bool:
        failed = known is not None and "error" in known["measured"]
        unmade = cell.kind == "base" and not failed and not self._made(cell)
        return cell.name in again or (failed and "failed" in again) or unmade

    def _made(self, cell: Cell) -> bool:
        return is_made(self.work / f"base_{cell.model}", self.scale.shapes[cell.model])

    def _base(self, cell: Cell) -> list[Cell]:
        """The cell that makes a cell's model, if the model is not there and making it has not failed here."""
        base = by_name()[base_of(cell)]
        failed = "error" in self.records.get(base.name, {}).get("measured", {})
        return [] if failed or self._made(cell) else [base]

    def _fits(self, seconds: float) -> bool:
        return self._budget is None or self._clock() - self._begun + seconds <= self._budget

    def _measure(self, cell: Cell) -> dict[str, Any]:
        started = self._clock()
        if cell.kind == "resume":
            found = self._resumed(cell)
        else:
            found = self._order(cell)
        shutil.rmtree(self.work / "runs" / cell.file_name, ignore_errors=True)
        return {**found, "seconds": self._clock() - started}

    def _order(self, cell: Cell, leg: str = "") -> dict[str, Any]:
        if self._started is None:
            self._started = self._workers()
        log = self.work / "logs" / f"{cell.file_name}{'_' * bool(leg)}{leg}.log"
        order = {"cell": cell.name, "scale": self.scale.name, "work": str(self.work), "leg": leg}
        limit = max(60.0, PATIENCE * cell.seconds)
        if self._budget is not None:
            limit = min(limit, GRACE + max(0.0, self._budget - (self._clock() - self._begun)))
        return self._started.run(order, log, limit)

    def _resumed(self, cell: Cell) -> dict[str, Any]:
        """An uninterrupted run, a killed one that goes on, and, if they differ, another uninterrupted one."""
        whole = self._order(cell, "whole")
        if "error" in whole:
            return whole
        killed = self._order(cell, "killed")
        if killed.get("code") != -9:
            return {"error": killed.get("error", "the run was not killed")}
        resumed = self._order(cell, "resumed")
        if "error" in resumed or resumed["distance"] == 0:
            return resumed
        again = self._order(cell, "again")
        return again if "error" in again else {**resumed, "noise": again["distance"]}

    def _keep(self, cell: Cell, found: dict[str, Any]) -> None:
        self.records[cell.name] = records.write(self.out, cell, self.scale, self.here, found)
        spent = f"{found['seconds']:6.1f} s" if "seconds" in found else " " * 8
        said = cell.kind if cell.kind == "base" and "error" not in found else table.row(cell, self.records, "")[-1]
        self._say(f"{spent}  {cell.name}: {said}")


def write_table(
    out: Path, cells: Sequence[Cell], found: dict[str, dict[str, Any]], here: dict[str, Any], left_out: dict[str, str]
) -> str:
    """Write ``table.md``.

    Args:
        out: Its folder.
        cells: The rows.
        found: Name -> record.
        here: The machine.
        left_out: Name -> why a cell has no record.

    Returns:
        Its text.
    """
    text = table.page(cells, found, here, left_out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text, encoding="utf-8")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 if a row failed or a killed run did not end as an uninterrupted one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--minutes", type=float, help="time for all rows (default: 8 on a card, no limit on the CPU)")
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", help="only these, and the models they need (default: all)"
    )
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="NAME", help="measure these again; failed: all that failed"
    )
    parser.add_argument("--work", type=Path, help="models, data and runs (default: saves/gpu_SCALE)")
    parser.add_argument(
        "--out", type=Path, help="records and table (default: benchmarks/gpu/results; tiny: below --work)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and measure nothing")
    options = parser.parse_args(argv)
    scale = SCALES[options.scale]
    if options.list:
        sys.stdout.write("".join(f"{cell.name}\n" for cell in CELLS))
        return 0
    wrong = sorted({*(options.rows or ()), *options.again} - {*by_name(), "failed"})
    if wrong:
        parser.error(f"unknown rows: {', '.join(wrong)}; --list prints their names")
    work = (options.work or ROOT / "saves" / f"gpu_{scale.name}").resolve()
    out = (options.out or (HERE / "results" if scale.gpu else work / "results")).resolve()
    minutes = options.minutes if options.minutes is not None else (8.0 if scale.gpu else None)
    try:
        check = prepared(scale, out, work, minutes)
        check.carry_out(CELLS, options.again, options.rows)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("\n" + (out / "table.md").read_text(encoding="utf-8"))
    return int(any(is_bad(record["measured"]) for record in check.records.values()))


def prepared(scale: Scale, out: Path, work: Path, minutes: float | None) -> Check:
    """A check on this machine.

    Args:
        scale: Sizes.
        out: Folder of the records.
        work: Folder of models, data and runs.
        minutes: Time for all.

    Raises:
        DataError: The scale needs a card, and there is none.
    """
    if scale.gpu and not records.cards():
        raise DataError(Problem("nvidia-smi", "names no card.", "Use `--scale tiny` on a machine without one."))
    if scale.gpu:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # LLaMA-Factory wants a launcher where it sees several
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    work.mkdir(parents=True, exist_ok=True)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(work / "cache"))
    os.environ.update(
        CL_PLUGINS_CACHE=str(work / "cache"), CUBLAS_WORKSPACE_CONFIG=":4096:8", TOKENIZERS_PARALLELISM="false"
    )

    def ahead() -> Workers:
        return Ahead(log=work / "logs" / "imports.log")

    return Check(scale, out, work, records.where(ROOT, gpu=scale.gpu), ahead if scale.gpu else Forked, minutes)


def is_bad(found: dict[str, Any]) -> bool:
    """Whether a measurement failed, or shows a resumed run that is not equal.

    Args:
        found: What was measured.
    """
    return "error" in found or ("distance" in found and not table.is_equal(found["distance"], found.get("noise")))


if __name__ == "__main__":
    raise SystemExit(main())
