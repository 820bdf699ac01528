"""The ledger: one JSON file per finished cell, with all that tables and pictures are made of.

A file holds the cell, ``run.json`` (resolved recipe, versions, hardware, fingerprints of base and data, seconds, peak
memory, sizes), the accuracy matrix, the metrics, every score with its interval, the seconds of every step and the size of
what each task added; and the same scores by the paper's own rules (``peer``) where the answers could be scored by them.
The run directories are not needed any more.
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

from benchmarks.medical_cl.cells import Cell
from cl_plugins.base.errors import DataError, Problem
from cl_plugins.report.writing import write_atomically


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

    def scores(self, rules: str) -> Mapping[str, Any] | None:
        """``matrix``, ``metrics`` and ``scores`` by our (``own``) or the paper's (``peer``) rules."""
        found = self.content["own"] if rules == "own" else self.content["peer"]
        return found if isinstance(found, Mapping) else None


def finished(run_dir: Path) -> bool:
    """Whether a run's journal names its last step."""
    try:
        lines = (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(json.loads(line).get("step") == "finish" for line in lines if line.strip())


def record(cell: Cell, recipe_sha256: str, peer_dir: Path | None, directory: Path) -> Path:
    """Write the file of a finished cell.

    Args:
        cell: The cell; its run is finished.
        recipe_sha256: What its repetitions have in common.
        peer_dir: The run's answers scored by the paper's rules, if they could be.
        directory: Folder of the ledger.
    """
    run_dir = cell.output_dir
    steps = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    added: dict[str, int] = {}
    for step in steps:
        if step["step"].startswith("train:"):
            sizes = (entry["bytes"] for name, entry in step["artefacts"].items() if name.endswith(".safetensors"))
            added[step["step"].removeprefix("train:")] = sum(sizes)
    content = {
        "format": FORMAT,
        "cell": {
            "id": cell.id,
            "recipe": cell.recipe,
            "method": cell.method,
            "seed": cell.seed,
            "order": list(cell.order),
            "order_name": cell.order_name,
            "scale": cell.scale,
            "sha256": cell.sha256,
            "recipe_sha256": recipe_sha256,
            "data": cell.data,
        },
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": _read(run_dir / "run.json"),
        "step_seconds": {step["step"]: step["seconds"] for step in steps},
        "update_bytes": added,
        "own": _results(run_dir),
        "peer": _results(peer_dir) if peer_dir is not None else None,
    }
    path = directory / f"{cell.id}.json"
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    return path


def read_ledger(directory: Path) -> list[Entry]:
    """Every entry, sorted by file name.

    Raises:
        DataError: A file is damaged, or there is none; lists every problem.
    """
    found, problems = [], []
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            found.append(Entry(path, content))
            _ = found[-1].recipe, found[-1].order, found[-1].sha256, content["own"]["matrix"], content["peer"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = "Remove the file and run the benchmark again: the run itself is still finished."
            problems.append(Problem(str(path), f"is no entry of the ledger ({error!r}).", fix))
    if not found and not problems:
        problems.append(Problem(str(directory), "holds no finished cell.", "Run the benchmark first."))
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
    with tempfile.TemporaryDirectory(prefix="medical-cl-") as folder:
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


def _results(run_dir: Path) -> dict[str, Any]:
    """Matrix, metrics and scores of a run directory."""
    scores: dict[str, dict[str, Any]] = {}
    for path in sorted((run_dir / "predictions").glob("*/*.score.json")):
        scores.setdefault(path.parent.name, {})[path.name.removesuffix(".score.json")] = _read(path)
    return {"matrix": _read(run_dir / "matrix.json"), "metrics": _read(run_dir / "metrics.json"), "scores": scores}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
