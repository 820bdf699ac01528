"""The ledger: one JSON file per finished cell, with all that tables and pictures are made of.

A file holds the cell, ``run.json`` (resolved recipe, versions, hardware, fingerprints of base and data, seconds, peak
memory, sizes), the accuracy matrix, the metrics, every score with its interval, the seconds of every step and the size of
what each task added; and the same scores by another source's rules (``peer``) where the caller has them. The run
directories are not needed any more.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem, RunStateError
from ..base.files import write_json
from ..run.journal import Journal
from .cells import Cell


FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One file of the ledger.

    Attributes:
        path: The file.
        content: What stands in it.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.content["cell"]["recipe"])

    @property
    def order(self) -> tuple[str, ...]:
        """The tasks in the order in which they were learned."""
        return tuple(self.content["cell"]["order"])

    @property
    def sha256(self) -> str:
        """Hash of the recipe without its seed and order: what repetitions have in common."""
        return str(self.content["cell"]["recipe_sha256"])

    @property
    def seconds(self) -> float:
        """How long the steps of the run took together."""
        return float(sum(self.content["step_seconds"].values()))

    def scores(self, rules: str) -> Mapping[str, Any] | None:
        """``matrix``, ``metrics`` and ``scores`` by our (``own``) or another source's (``peer``) rules."""
        found = self.content["own"] if rules == "own" else self.content["peer"]
        return found if isinstance(found, Mapping) else None


def entry_file(cell: Cell, directory: Path) -> Path:
    """The file of a cell in a ledger.

    Args:
        cell: The cell.
        directory: Folder of the ledger.
    """
    return directory / f"{cell.id}.json"


def finished(run_dir: Path) -> bool:
    """Whether a run's journal names its last step; no for a damaged one, which the run itself reports."""
    try:
        return "finish" in Journal(run_dir)
    except (RunStateError, OSError):
        return False


def about(cell: Cell) -> dict[str, Any]:
    """What the ledger says of a cell."""
    return {
        "id": cell.id,
        "recipe": cell.recipe,
        "method": cell.method,
        "seed": cell.seed,
        "order": list(cell.order),
        "order_name": cell.order_name,
        **cell.about,
        "sha256": cell.sha256,
        "recipe_sha256": cell.recipe_sha256,
        "data": cell.data,
    }


def record(cell: Cell, directory: Path, peer_dir: Path | None = None) -> Path:
    """Write the file of a finished cell.

    Args:
        cell: The cell; its run is finished.
        directory: Folder of the ledger.
        peer_dir: The run's answers scored by another source's rules, if they could be.

    Raises:
        RunStateError: A file of the run cannot be read.
    """
    run_dir = cell.output_dir
    steps = Journal(run_dir).entries.values()
    added: dict[str, int] = {}
    for step in steps:
        if step.step.startswith("train:"):
            sizes = (entry["bytes"] for name, entry in step.artefacts.items() if name.endswith(".safetensors"))
            added[step.step.removeprefix("train:")] = sum(sizes)
    content = {
        "format": FORMAT,
        "cell": about(cell),
        "recorded": now(),
        "run": _read(run_dir / "run.json"),
        "step_seconds": {step.step: step.seconds for step in steps},
        "update_bytes": added,
        "own": _results(run_dir),
        "peer": _results(peer_dir) if peer_dir is not None else None,
    }
    path = entry_file(cell, directory)
    write_json(path, content)
    return path


def record_failure(cell: Cell, code: int | None, seconds: float, why: str = "") -> None:
    """Note next to a run that its last start failed; the note goes when the run is finished.

    Args:
        cell: The cell.
        code: The exit code, if there is one.
        seconds: How long the start took.
        why: What is known beside the log.
    """
    content = {"format": FORMAT, "cell": about(cell), "failed": now(), "exit_code": code, "seconds": round(seconds, 1)}
    write_json(cell.failure, {**content, "log": str(cell.log), **({"why": why} if why else {})})


def read_failure(cell: Cell) -> dict[str, Any]:
    """What `record_failure` has noted.

    Raises:
        DataError: The note cannot be read.
    """
    try:
        content = json.loads(cell.failure.read_text(encoding="utf-8"))
        return {"exit_code": content["exit_code"], "seconds": float(content["seconds"]), "why": content.get("why", "")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(Problem(str(cell.failure), f"cannot be read ({error!r}).", f"See {cell.log}.")) from error


def now() -> str:
    """The time, as the ledger writes it (ISO 8601, UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_entry(path: Path) -> Entry:
    """One file of a ledger.

    Raises:
        DataError: It is none, or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        entry = Entry(path, content)
        _ = entry.recipe, entry.order, entry.sha256, entry.seconds, content["own"], content["peer"], content["run"]
        if (own := entry.scores("own")) is not None:
            _ = own["matrix"], own["metrics"], own["scores"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "Remove the file and run the same command again: the run itself is still finished."
        raise DataError(Problem(str(path), f"is no entry of the ledger ({error!r}).", fix)) from error
    return entry


def read_ledger(directory: Path) -> list[Entry]:
    """Every entry, sorted by file name.

    Raises:
        DataError: A file is damaged, or there is none; lists every problem.
    """
    found: list[Entry] = []
    problems: list[Problem] = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(read_entry(path))
        except DataError as error:
            problems += error.problems
    if not found and not problems:
        problems.append(Problem(str(directory), "holds no finished cell.", "Run the benchmark or the sweep first."))
    if problems:
        raise DataError(problems)
    return found


@contextmanager
def as_runs(entries: Sequence[Entry], rules: str) -> Iterator[list[Path]]:
    """Run directories made of entries, for the report's own readers; they go away at the end.

    Args:
        entries: Entries that have scores by these rules.
        rules: ``own`` or ``peer``.
    """
    with tempfile.TemporaryDirectory(prefix="cl-plugins-ledger-") as folder:
        made = []
        for entry in entries:
            place = Path(folder) / entry.path.stem
            results = entry.scores(rules) or {}
            _write(place / "matrix.json", results["matrix"])
            _write(place / "metrics.json", results["metrics"])
            _write(place / "run.json", entry.content["run"])
            for row, scores in results["scores"].items():
                for task, score in scores.items():
                    _write(place / "predictions" / row / f"{task}.score.json", score)
            made.append(place)
        yield made


def _results(run_dir: Path) -> dict[str, Any] | None:
    """Matrix, metrics and scores of a run directory; None of a run that tests nothing."""
    if not (run_dir / "matrix.json").is_file():
        return None
    scores: dict[str, dict[str, Any]] = {}
    for path in sorted((run_dir / "predictions").glob("*/*.score.json")):
        scores.setdefault(path.parent.name, {})[path.name.removesuffix(".score.json")] = _read(path)
    return {"matrix": _read(run_dir / "matrix.json"), "metrics": _read(run_dir / "metrics.json"), "scores": scores}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "Run the same command again, or restore the file from a copy."
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", fix)) from error


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
