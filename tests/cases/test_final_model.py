"""`final/` of unusual trainings answers as the run did: a tied base, a vision tower that is trained."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
from running import go


def answers(out, row):
    return [
        json.loads(line)["prediction"] for line in (out / "predictions" / row / "one.jsonl").read_text().splitlines()
    ]


def of_final(keys, out):
    """The zero-shot answers of the run's `final/`."""
    again = {**keys, "model_name_or_path": str(out / "final"), "output_dir": str(out) + "_again"}
    again["cl"] = {**keys["cl"], "stop_after": 1}
    go(again)
    return answers(out.parent / f"{out.name}_again", "zero_shot")


@pytest.mark.parametrize("method", ["seqfull", "olora"])
def test_a_tied_base(method, text_data, tmp_path):
    base = tiny.build_llama(tmp_path / "tied", tied=True)
    out = tmp_path / "run"
    keys = tiny.recipe(base, text_data, out, method, ("one",), text_only=True, max_steps=8)
    go(keys)
    shutil.rmtree(base)
    assert of_final(keys, out) == answers(out, "after_one") != answers(out, "zero_shot")


@pytest.mark.parametrize("method", ["inclora", "seqfull"])
def test_a_vision_tower_that_is_trained(method, llava, data, tmp_path):
    out = tmp_path / "run"
    more = {"lora_target": "q_proj,v_proj"} if method == "inclora" else {}
    keys = tiny.recipe(llava, data, out, method, ("one",), freeze_vision_tower=False, max_steps=8, **more)
    go(keys)
    if method == "inclora":
        from safetensors import safe_open

        with safe_open(out / "tasks" / "01_one" / "update.safetensors", "pt") as file:
            assert any("vision_tower" in name for name in file.keys())
    assert of_final(keys, out) == answers(out, "after_one") != answers(out, "zero_shot")
