"""Sounds: trained on, answered about, kept in the replay buffer and trained on again; TorchCodec and FFmpeg read them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import tiny_sound
from running import go, journal


pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(find_spec("torchcodec") is None, reason="torchcodec is not installed"),
]
TASKS = ("one", "two")
STEPS = 60  # of task one
PROMPT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>what is the answer?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sound.build_qwen2_audio(tmp_path_factory.mktemp("models") / "qwen2_audio")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return tiny_sound.build_sounds(tmp_path_factory.mktemp("data") / "sounds", TASKS)


@pytest.fixture(scope="module")
def keys(model, sounds, tmp_path_factory):
    made = tiny.recipe(
        model, sounds, tmp_path_factory.mktemp("run") / "out", "inclora", TASKS, template="qwen2_audio",
        num_train_epochs=STEPS / 2,
    )  # fmt: skip
    del made["max_steps"]
    made["cl"] |= {"task_overrides": {"two": {"num_train_epochs": 1}}, "replay": {"capacity_per_task": 3}}
    return made


@pytest.fixture(scope="module")
def out(keys):
    go(keys)
    return Path(keys["output_dir"])


@pytest.fixture(scope="module")
def plain(keys, out, tmp_path_factory):
    """The adapter of a run of LLaMA-Factory on the first task, without `cl`."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    go(
        {key: value for key, value in keys.items() if key != "cl"}
        | {"dataset": "one_train", "output_dir": str(folder)}
    )
    return folder


def answers(out):
    lines = (out / "predictions" / "after_one" / "one.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_first_task_has_the_bytes_of_a_plain_run(model, out, plain):
    import torch
    from safetensors.torch import load_file

    first = out / "tasks" / "01_one" / "update.safetensors"
    assert first.read_bytes() == (plain / "adapter_model.safetensors").read_bytes()
    # only what is heard gives the projector a gradient
    name = "multi_modal_projector.linear.weight"
    (after,) = (value for key, value in load_file(first).items() if key.endswith(name))
    (before,) = (value for key, value in load_file(model / "model.safetensors").items() if key.endswith(name))
    assert not torch.equal(before, after)


def test_every_sound_is_heard(out):
    """Only who hears answers every pitch with its letter."""
    found = answers(out)
    assert [answer["prediction"] for answer in found] == [answer["reference"] for answer in found]
    assert len({answer["reference"] for answer in found}) == 4


def test_answers_are_those_of_transformers_one_by_one(model, sounds, out, plain):
    import torch
    from peft import PeftModel
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model)
    trained = PeftModel.from_pretrained(Qwen2AudioForConditionalGeneration.from_pretrained(model), plain).eval()
    expected = []
    for record in json.loads((sounds / "one_test.json").read_text()):
        inputs = processor(
            text=PROMPT, audio=[tiny_sound.read(sounds / record["audios"][0])], sampling_rate=tiny_sound.RATE, return_tensors="pt"
        )  # fmt: skip
        with torch.no_grad():
            ids = trained.generate(**inputs, max_new_tokens=3, do_sample=False)
        expected.append(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert [answer["prediction"] for answer in answers(out)] == expected


def test_sounds_are_kept_and_trained_on_again(sounds, out):
    kept = {path.read_bytes() for path in (out / "carry" / "replay" / "media").iterdir()}
    assert kept <= {path.read_bytes() for path in (sounds / "sounds").iterdir()}
    samples = [json.loads(line) for line in (out / "carry" / "replay" / "samples.jsonl").read_text().splitlines()]
    assert all(sample["audios"][0].endswith(".wav") for sample in samples)
    assert len(kept) == len(samples) == 6  # three of each task
    steps = {line["step"]: line["details"].get("optimizer_steps") for line in journal(out)}
    assert (steps["train:one"], steps["train:two"]) == (STEPS, 3)  # 8 samples of its own and 3 kept ones, 4 at a time
