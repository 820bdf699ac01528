"""The table of docs/hardware.md is the one that `benchmarks.seen` makes of tests and committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from benchmarks import seen


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / seen.PAGE).read_text(encoding="utf-8")
ABOUT = yaml.safe_load((ROOT / "benchmarks/seen.yaml").read_text(encoding="utf-8"))


def test_the_page_is_the_generated_one() -> None:
    assert seen.page(PAGE) == PAGE, "run: python -m benchmarks.seen"


def test_rows_stand_between_the_marks_only() -> None:
    with pytest.raises(ValueError, match="has to contain"):
        seen.page(PAGE.replace(seen.END, ""))
    assert seen.page(PAGE.replace("| **never** |", "| yesterday |")) == PAGE


@pytest.mark.parametrize("name", sorted({name for row in ABOUT["tests"] for name in row["tests"]}))
def test_the_tests_that_it_names_exist(name: str) -> None:
    assert seen.target(ROOT, name) in {"test", *seen.TARGETS.values()}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests/no_such_file.py::test_a", "no file"),
        ("tests/benchmarks/test_seen.py::test_that_is_not_there", "has no test_that_is_not_there"),
        ("tests/benchmarks/test_seen.py::PAGE", "has no PAGE"),
        ("tests/benchmarks/test_seen.py", "is no test"),
    ],
)
def test_tests_that_do_not_exist_are_an_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seen.target(ROOT, name)


def test_the_command_is_that_of_the_marks(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import pytest\npytestmark = [pytest.mark.engines]\ndef test_a(): ...\n", encoding="utf-8"
    )
    (tmp_path / "test_b.py").write_text(
        "import pytest\n@pytest.mark.slow\nclass TestC:\n    @pytest.mark.parametrize('a', [1])\n    def test_a(self, a): ...\n"
        "@pytest.mark.kill\ndef test_b(): ...\ndef test_d(): ...\n",
        encoding="utf-8",
    )
    wanted = {
        "test_a.py::test_a": "test-engines",
        "test_b.py::TestC::test_a": "test-slow",
        "test_b.py::test_b": "test-kill",
    }
    for name, target in {**wanted, "test_b.py::test_d": "test"}.items():
        assert seen.target(tmp_path, name) == target


def test_every_committed_result_has_a_row() -> None:
    """A new benchmark is entered into the data file."""
    benchmarks = ROOT / "benchmarks"
    committed = {
        *benchmarks.glob("*/result*.json"),
        *benchmarks.glob("*/floors.json"),
        *benchmarks.glob("*/results/compare.json"),
        *benchmarks.glob("*/results/*/compare.json"),
    }
    listed = {path for row in ABOUT["results"] for path in ROOT.glob(row["files"])}
    assert sorted(str(path.relative_to(ROOT)) for path in committed - listed) == []


@pytest.mark.parametrize(
    "path", sorted({path for row in ABOUT["results"] for path in ROOT.glob(row["files"])}), ids=str
)
def test_a_result_names_its_machine(path: Path) -> None:
    found = seen.machines(json.loads(path.read_text(encoding="utf-8")))
    assert found
    assert all("CPU" in machine or "GPU" in machine or "NVIDIA" in machine for machine in found)


def record(name: str, kind: str, measured: dict[str, object], card: bool = True) -> dict[str, object]:
    where = {"versions": {"torch": "2.9.0", "python": "3.12"}, **({"card": "H100", "driver": "580"} if card else {})}
    return {"name": name, "kind": kind, "model": "7b", "where": where, "measured": measured}


def test_what_a_card_has_shown_takes_the_place_of_never(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "gpu" / "results"
    folder.mkdir(parents=True)
    kept = {"tests": [], "results": [], "gpu": ABOUT["gpu"], "never": ABOUT["never"]}
    (tmp_path / "benchmarks" / "seen.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    assert ("GPUs", "**never**", "") in seen.rows(tmp_path)
    records = [
        record("plain LoRA", "train", {"trainings": []}),
        record("olora", "train", {"error": "CUDA error"}),
        record("fa2", "train", {"absent": ["flash_attn"]}),
        record("killed", "resume", {"distance": 0.5}),
        record("base 7b", "base", {}),
        record("on the CPU", "train", {"trainings": []}, card=False),
    ]
    for number, content in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(content), encoding="utf-8")
    shown = seen.rows(tmp_path)
    assert [row[0] for row in shown if row[2]] == [
        "`make check-gpu`, trained: plain LoRA",
        "`make check-gpu`, failed: olora",
        "`make check-gpu`, not as an uninterrupted run: killed",
    ]
    assert all(row[1] == "H100, driver 580; PyTorch 2.9.0" for row in shown if row[2])
    assert not [row for row in shown if row[0] == "GPUs"]
