"""Videos: trained on, answered about, kept in the replay buffer and trained on again."""

from __future__ import annotations

import json

import pytest
import tiny
import tiny_video
import torch
from running import journal
from safetensors.torch import load_file


pytest.importorskip("av")
TASKS = ("one", "two")
STEPS = 60  # of task one


@pytest.fixture(scope="module")
def qwen2_vl(tmp_path_factory):
    return tiny_video.build_qwen2_vl(tmp_path_factory.mktemp("models") / "qwen2_vl")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny_video.build_videos(tmp_path_factory.mktemp("data") / "videos", TASKS)


def recipe(model, data, out, **block):
    keys = tiny.recipe(
        model, data, out, "inclora", TASKS, template="qwen2_vl", additional_target="merger", lora_target="q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        video_fps=2.0, video_maxlen=4, video_max_pixels=56 * 56, num_train_epochs=STEPS / 2,
    )  # fmt: skip
    del keys["max_steps"]
    keys["cl"] |= {"task_overrides": {"two": {"num_train_epochs": 1}}, **block}
    return keys


def test_a_stream_of_videos(run, qwen2_vl, videos, tmp_path):
    out = tmp_path / "out"
    keys = recipe(qwen2_vl, videos, out, replay={"capacity_per_task": 3})
    run(keys)

    plain = {key: value for key, value in keys.items() if key != "cl"}
    run(plain | {"dataset": "one_train", "output_dir": str(tmp_path / "plain")})
    expected = (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()
    first = out / "tasks" / "01_one" / "update.safetensors"
    assert first.read_bytes() == expected

    # only what is seen gives the merger a gradient, and only who sees answers every colour with its letter
    learned = {name: value for name, value in load_file(first).items() if "merger.mlp.0.weight" in name}
    ((_, after),) = learned.items()
    (before,) = (v for n, v in load_file(qwen2_vl / "model.safetensors").items() if "merger.mlp.0.weight" in n)
    assert not torch.equal(before, after)
    answers = [json.loads(line) for line in (out / "predictions" / "after_one" / "one.jsonl").read_text().splitlines()]
    assert [answer["prediction"] for answer in answers] == [answer["reference"] for answer in answers]
    assert len({answer["reference"] for answer in answers}) == 4

    kept = {path.read_bytes() for path in (out / "carry" / "replay" / "media").iterdir()}
    assert kept <= {path.read_bytes() for path in (videos / "videos").iterdir()}
    kept_records = (out / "carry" / "replay" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in kept_records]
    assert all(sample["videos"][0].endswith(".mp4") for sample in samples)
    assert len(samples) == 6  # three of each task
    steps = {line["step"]: line["details"].get("optimizer_steps") for line in journal(out)}
    assert (steps["train:one"], steps["train:two"]) == (STEPS, 3)  # 8 samples of its own and 3 kept ones, 4 at a time
