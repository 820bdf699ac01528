"""The driver of `make demo-compare`, with stand-ins for the two commands that it starts."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from recipe_files import ROOT

from cl_plugins.data.demo.stream import tasks


# Writes its arguments into a file; "trains" by writing a journal, except for the seed that is told to fail.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> calls.txt
case "$*" in *seed=13*) exit 3;; esac
for word in "$@"; do
  case "$word" in output_dir=*) mkdir -p "${word#output_dir=}" && echo '{"step": "finish"}' > "${word#output_dir=}/journal.jsonl";; esac
done
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "benchmarks" / "demo" / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "run_all", module)
    spec.loader.exec_module(module)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("llamafactory-cli", "cl-plugins"):
        (programs / name).write_text(STAND_IN, encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", os.environ["PATH"])  # the driver changes it
    return module


def _calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    return lines


def test_runs_each_pair_once_and_compares(driver: ModuleType, tmp_path: Path) -> None:
    assert driver.main(["--methods", "inclora", "seqlora", "--seeds", "0", "1"]) == 0
    *runs, comparison = _calls(tmp_path)
    assert len(runs) == 4
    assert (
        runs[0]
        == "llamafactory-cli train examples/yaml/demo/inclora.yaml seed=0 output_dir=saves/demo_compare/inclora_seed0"
    )
    assert comparison.startswith("cl-plugins compare saves/demo_compare/inclora_seed0 ")
    assert comparison.endswith("--out benchmarks/demo/results")

    assert driver.main(["--methods", "inclora", "seqlora", "--seeds", "0", "1"]) == 0
    assert _calls(tmp_path) == [comparison], "finished runs are not started again"


def test_a_failed_run_stops_nothing_and_is_not_compared(driver: ModuleType, tmp_path: Path) -> None:
    assert driver.main(["--methods", "seqfull", "--seeds", "13", "2"]) == 1
    *runs, comparison = _calls(tmp_path)
    assert len(runs) == 2
    assert "seqfull_seed13" not in comparison
    assert "seqfull_seed2" in comparison


def test_a_half_done_run_is_started_again(driver: ModuleType, tmp_path: Path) -> None:
    place = tmp_path / "saves/demo_compare/inclora_seed0"
    place.mkdir(parents=True)
    (place / "journal.jsonl").write_text(json.dumps({"step": "train:path"}) + "\n", encoding="utf-8")
    assert driver.main(["--methods", "inclora", "--seeds", "0"]) == 0
    assert len(_calls(tmp_path)) == 2


def test_joint_training_gets_the_steps_of_the_whole_stream() -> None:
    recipe = yaml.safe_load((ROOT / "examples/yaml/demo/multitask.yaml").read_text(encoding="utf-8"))
    assert recipe["max_steps"] == sum(task.steps for task in tasks())


def test_every_demo_recipe_is_compared(driver: ModuleType) -> None:
    assert set(driver.METHODS) == {path.stem for path in (ROOT / "examples/yaml/demo").glob("*.yaml")}
