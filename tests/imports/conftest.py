"""Imports published weights through the command line, and asks the model that answers for its logits."""

from __future__ import annotations

import pytest
import tiny
import yaml

from cl_plugins.cli import main


@pytest.fixture
def make(tmp_path, llava, data):
    """Writes a recipe and imports checkpoints with it: ``make(method, {task: path}, **keys)`` gives code and directory."""

    def go(method, checkpoints, tasks=("one", "two"), out="imported", **keys):
        recipe = tiny.recipe(llava, data, tmp_path / "never", method, tasks, **{"lora_alpha": 8, **keys})
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        words = [f"{task}={checkpoint}" for task, checkpoint in checkpoints.items()]
        return main(["import", "run", str(path), *words, "--out", str(tmp_path / out)]), tmp_path / out

    return go
