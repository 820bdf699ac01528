"""The example of two hospitals, as its script starts it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tiny
import yaml

from cl_plugins.cli import parse


ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "hospitals" / "run.sh"


def test_its_commands_exist():
    lines = [line for line in SCRIPT.read_text().splitlines() if line.startswith("cl-plugins ")]
    assert len(lines) >= 5
    for line in lines:
        parse(shlex.split(line)[1:])


def test_docs_show_the_commands_of_the_script():
    page = (ROOT / "docs" / "hospitals.md").read_text()
    used = {tuple(m) for m in re.findall(r"^cl-plugins (\w+) (\w+)", SCRIPT.read_text(), re.MULTILINE)}
    assert used <= {tuple(m) for m in re.findall(r"^cl-plugins (\w+) (\w+)", page, re.MULTILINE)}


@pytest.mark.slow
def test_two_hospitals_end_to_end(llava, tmp_path):
    data = tiny.build_data(tmp_path / "data", ("path", "cell"), train=8)
    keys = {
        "model_name_or_path": str(llava), "dataset_dir": str(data), "max_steps": "2", "lora_rank": "4",
        "cl.eval.max_new_tokens": "3",
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in keys.items()]
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out), *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    joined = json.loads((out / "joined" / "matrix.json").read_text())
    assert joined["tasks"] == ["path", "cell"]
    assert None not in joined["zero_shot"]
    assert joined["scores"][0][1] is None
    assert None not in (joined["scores"][0][0], *joined["scores"][1])
    assert (out / "joined" / "report.html").is_file()
    assert "bwt" in (out / "joined" / "metrics.json").read_text()
    inside = yaml.safe_load((ROOT / "examples/hospitals/stream_a.yaml").read_text())
    assert inside["tasks"][1] == {"name": "cell"}
