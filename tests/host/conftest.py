from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny


RECIPE: dict[str, Any] = {
    "model_name_or_path": "somewhere/a-model",
    "template": "llama3",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "use_cpu": True,
    "report_to": "none",
    "learning_rate": 1e-4,
    "cl": {
        "stream": {
            "name": "two_sites",
            "tasks": [
                {"name": "path", "train": ["path_a", "path_b"], "test": "path_test"},
                {"name": "rad", "train": "rad_train", "test": "rad_test"},
            ],
        },
        "method": {"name": "seqlora"},
        "task_overrides": {"rad": {"max_steps": 400}},
    },
}


@pytest.fixture(scope="session")
def base_recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe that passes every check before a run; nothing is loaded from its model path."""
    folder = tmp_path_factory.mktemp("data")
    tiny.build_data(folder, ("path", "rad"), train=2, test=2, text_only=True)
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= dict.fromkeys(("path_a", "path_b"), info["path_train"])
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return {**copy.deepcopy(RECIPE), "dataset_dir": str(folder)}


@pytest.fixture
def recipe(base_recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The base recipe with an output directory of the test's own."""
    return {**copy.deepcopy(base_recipe), "output_dir": str(tmp_path / "out")}


@pytest.fixture
def plain_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same without `cl`: an ordinary LLaMA-Factory recipe."""
    del recipe["cl"]
    return {**recipe, "dataset": "alpaca_en_demo, other"}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, list[Any]]]:
    """What our runner was called with: host, recipe and callbacks; the real one is replaced."""
    seen: list[tuple[Any, Any, list[Any]]] = []
    fake = ModuleType("cl_plugins.run.entry")
    fake.run_stream = lambda host, recipe, callbacks: seen.append((host, recipe, callbacks))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return seen
