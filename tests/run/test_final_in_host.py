"""``final/`` goes back into LLaMA-Factory: ``llamafactory-cli export`` and ``chat`` take it as any model or adapter."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny


@pytest.fixture(scope="module", params=["merged", "peft"])
def finished(request, llava, data, tmp_path_factory):
    """A finished run: of an fp32 base, whose ``final/`` is a model, and of a bf16 one, whose ``final/`` is an adapter.

    ``names`` is what a recipe of the host says to load it, ``dtype`` the dtype it is loaded in.
    """
    from llamafactory.train.tuner import run_exp

    folder, half = tmp_path_factory.mktemp("final"), request.param == "peft"
    base = tiny.build_llava(folder / "base", dtype="bfloat16") if half else llava
    out = folder / "run"
    run_exp(tiny.recipe(base, data, out, "inclora", ("one", "two"), max_steps=8, bf16=half))
    final = out / "final"
    assert json.loads((final / "MANIFEST.json").read_text())["kind"] == request.param
    names = {"model_name_or_path": str(final)}
    if half:
        names = {"model_name_or_path": str(base), "adapter_name_or_path": str(final), "finetuning_type": "lora"}
    dtype = "bfloat16" if half else "float32"
    return SimpleNamespace(out=out, final=final, base=base, half=half, names=names, dtype=dtype)


def expected_weights(finished, folder):
    """What an export must hold: a merged ``final/`` as it is, an adapter as PEFT itself merges it into the base."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import LlavaForConditionalGeneration

    if not finished.half:
        return load_file(finished.final / "model.safetensors")
    base = LlavaForConditionalGeneration.from_pretrained(finished.base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(base, finished.final).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_export_takes_it(finished, tmp_path):
    from llamafactory.train.tuner import export_model
    from safetensors.torch import load_file

    place = {"export_dir": str(tmp_path / "exported"), "export_device": "cpu"}
    export_model({**finished.names, **place, "template": "llava", "infer_dtype": finished.dtype})
    expected = expected_weights(finished, tmp_path / "expected")
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    original = load_file(finished.base / "model.safetensors")
    assert exported.keys() == expected.keys() == original.keys()
    assert all((exported[name] == expected[name]).all() for name in exported)
    changed = {name.split(".")[-2] for name in exported if not (exported[name] == original[name]).all()}
    assert changed >= {"q_proj", "down_proj", "linear_1"}


def test_chat_answers_as_the_run_did(finished, data):
    """The host's own chat, greedy, gives the texts in the predictions file."""
    from llamafactory.chat import ChatModel

    settings = {"template": "llava", "infer_dtype": finished.dtype, "do_sample": False, "max_new_tokens": 3}
    chat = ChatModel({**finished.names, **settings})
    records = {r["id"]: r for r in json.loads((data / "two_test.json").read_text())}
    lines = (finished.out / "predictions" / "after_two" / "two.jsonl").read_text().splitlines()
    assert len(lines) == 6
    for line in map(json.loads, lines):
        picture = str(data / records[line["id"]]["images"][0])
        answer = chat.chat([{"role": "user", "content": line["prompt"]}], images=[picture])[0]
        assert answer.response_text.strip() == line["prediction"].strip()
