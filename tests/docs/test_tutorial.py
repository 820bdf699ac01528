"""The tutorial as a reader follows it: its files are written, its commands run, and they print what it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks():
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def shown(title):
    return next(text for language, name, text in blocks() if language == "text" and name == title)


def test_every_file_has_a_name_and_recipe_and_stream_fit():
    assert all(name for language, name, _ in blocks() if language != "bash")
    files = {name: text for language, name, text in blocks() if language not in ("bash", "text")}
    assert list(files) == ["make_raw.py", "convert.py", "data/dataset_info.json", "stream.yaml", "recipe.yaml"]
    named = {task[kind] for task in yaml.safe_load(files["stream.yaml"])["tasks"] for kind in ("train", "test")}
    assert named == set(json.loads(files["data/dataset_info.json"]))


@pytest.mark.slow
def test_it_runs_from_raw_files_to_a_compared_table(tmp_path):
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100",
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1",
    }  # fmt: skip
    printed = []
    for language, name, text in blocks():
        if language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            printed.append(done.stdout + done.stderr)
        elif language != "text":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    for method in ("seqlora", "ewc"):
        matrix = json.loads((tmp_path / "runs" / method / "matrix.json").read_text())
        assert matrix["tasks"] == ["colour", "corner", "light"]
        assert (tmp_path / "runs" / method / "report.html").exists()
    table = (tmp_path / "runs" / "compared" / "compare.md").read_text()
    assert "seqlora" in table
    assert "ewc" in table
    words = set(re.findall(r"[a-z_]{3,}", shown("accuracy matrix").lower()))
    assert words <= set(re.findall(r"[a-z_]{3,}", "".join(printed).lower()))
