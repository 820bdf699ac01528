"""What the converters write is trained and tested on: every benchmark, a step per task, on the tiny model, in process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llava_raw
import pytest
import tiny
import yaml

from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.evaluation.items import read_predictions
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.streams import builtin_streams


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_llava(tmp_path_factory.mktemp("llava"))


def short_stream(name: str) -> dict[str, Any]:
    """The stream as it ships, with answers of three tokens."""
    stream = yaml.safe_load(builtin_streams()[name])
    for task in stream["tasks"]:
        task["max_new_tokens"] = 3
    return stream


@pytest.mark.parametrize("name", sorted(llava_raw.RAW))
def test_prepared_data_are_trained_and_tested_on(name: str, llava: Path, tmp_path: Path) -> None:
    from llamafactory.train.tuner import run_exp

    prepare(Request(name, llava_raw.RAW[name](tmp_path / "raw"), tmp_path / "data"))
    stream = short_stream(name)
    names = [task["name"] for task in stream["tasks"]]
    block = {"stream": stream, "eval": {"zero_shot": False, "scope": "seen"}}
    run_exp(
        tiny.recipe(
            llava, tmp_path / "data", tmp_path / "out", "seqlora", max_steps=1, per_device_eval_batch_size=8, cl=block
        )
    )
    matrix = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert matrix["tasks"] == names
    assert [cell is not None for cell in matrix["scores"][-1]] == [True] * len(names)
    for task in stream["tasks"]:
        path = tmp_path / "out" / "predictions" / f"after_{names[-1]}" / f"{task['name']}.jsonl"
        items = read_predictions(path)
        written = (tmp_path / "data" / f"{task['test']}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [item.id for item in items] == [json.loads(line)["id"] for line in written]
        if task.get("peer_scorer") and "bleu" not in task["scorer"]:
            assert get_scorer(task["peer_scorer"]).score(items).n == len(items)
