"""A small finished run with a replay buffer, whose files are edited."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from running import go


@pytest.fixture(scope="session")
def finished(llava, data, tmp_path_factory):
    """Two picture tasks by IncLoRA, tests and buffer included."""
    out = tmp_path_factory.mktemp("fuzz") / "run"
    keys = tiny.recipe(llava, data, out, "inclora", ("one", "two"), max_steps=1)
    keys["cl"]["replay"] = {"capacity_per_task": 2}
    go(keys)
    return out


@pytest.fixture
def place(finished, tmp_path):
    """A copy of the run that may be damaged, and a folder beside it that nothing may touch."""
    root = Path(shutil.copytree(finished, tmp_path / "place" / "run"))
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("x.safetensors", "replay.json", "memory_x.safetensors"):
        (outside / name).write_text("not yours")
    return root, outside
