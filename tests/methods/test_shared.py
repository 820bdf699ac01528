"""What must hold for every method: the shared tests over `method_cases.CASES`."""

from __future__ import annotations

import json
import math

import pytest
import tiny
from method_cases import CASES, HALF_CASES, STACKED
from watched import logits, watch


TASKS = ("one", "two", "three")


@pytest.fixture(scope="module")
def half_llava(tmp_path_factory):
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


def recipe(case, model, data, out):
    return tiny.recipe(model, data, out, dict(case.method), cl=dict(case.block), **case.keys)


@pytest.fixture(scope="module", params=[*CASES, *HALF_CASES], ids=lambda case: case.id)
def observed(request, llava, half_llava, data, tmp_path_factory):
    """A finished run of one method, watched from outside."""
    case, out = request.param, tmp_path_factory.mktemp(request.param.id) / "run"
    base = half_llava if case.half else llava
    keys = recipe(case, base, data, out)
    return {**watch(keys), "case": case, "out": out, "base": base, "keys": keys}


def test_boundary_identity(observed):
    """The model rebuilt from what was written computes what the trained model computed."""
    bound = observed["case"].boundary
    assert len(observed["before"]) == len(observed["after"]) >= 1
    for before, after in zip(observed["before"], observed["after"], strict=True):
        scale = before.abs().max()
        assert (before - after).abs().max() <= bound * scale


def test_next_task_starts_where_the_last_ended(observed):
    """A fresh update contributes exactly nothing; sequential methods start from the consolidated model."""
    from cl_plugins.methods import get_method

    if get_method(observed["case"].method["name"]).capabilities.schedule != "sequential":
        pytest.skip("only sequential methods hand something over")
    for start, end in zip(observed["fresh"][1:], observed["after"][:-1], strict=True):
        assert (start - end).abs().max() == 0


def test_training_changed_the_model(observed):
    bound = observed["case"].boundary
    for fresh, before in zip(observed["fresh"], observed["before"], strict=True):
        assert (fresh - before).abs().max() > max(1e-4, 5 * bound * before.abs().max())  # or the bound proves nothing


def test_every_trainable_tensor_changed(observed):
    for changed, trainable in zip(observed["changed"], observed["trainable"], strict=True):
        missing = set(trainable) - set(changed)
        # with all pictures' features of the last-but-one layer, nothing is left without a gradient
        assert not missing, sorted(missing)[:5]


def test_frozen_tensors_are_bit_identical(observed):
    assert observed["frozen"]
    assert all(observed["frozen"])


def test_terms_are_finite_and_act_from_the_second_task_on(observed):
    """What stands in the logs; a term that is not finite ends the training by itself."""
    expected = observed["case"].term
    for folder in sorted((observed["out"] / "tasks").iterdir())[1:]:
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        values = [v for entry in history for k, v in entry.items() if k.startswith("penalty/")]
        assert bool(values) == expected
        assert all(math.isfinite(v) for v in values)
        assert not expected or max(map(abs, values)) > 0


def test_final_opens_in_plain_transformers_and_gives_the_last_logits(observed):
    """``final/`` is the model that was evaluated last; what cannot be merged is one plain adapter on the base."""
    import torch
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    final, half = observed["out"] / "final", observed["case"].half
    kind = json.loads((final / "MANIFEST.json").read_text())["kind"]
    if kind == "peft":
        base = LlavaForConditionalGeneration.from_pretrained(observed["base"], dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, final)
    else:
        model = LlavaForConditionalGeneration.from_pretrained(final)
        assert model.config.text_config.use_cache is True
    full = observed["case"].method["name"] == "seqfull"
    assert kind == ("full" if full else "peft" if half else "merged")
    last = observed["after"][-1]
    got = logits(model, observed["ids"], observed["pixels"])
    assert (got - last).abs().max() <= (STACKED if half else 1e-5) * last.abs().max()


def test_what_a_run_leaves_behind(observed):
    out = observed["out"]
    names = "run.json journal.jsonl matrix.json metrics.json report.md report.html matrix.png forgetting.png matrix.csv matrix.tex".split()
    for name in names:
        assert (out / name).stat().st_size > 0, name
    steps = [json.loads(line)["step"] for line in (out / "journal.jsonl").read_text().splitlines()]
    assert steps[-1] == "finish"
    matrix = json.loads((out / "matrix.json").read_text())
    assert matrix["tasks"] == list(TASKS)
    assert all(v is not None for v in matrix["zero_shot"])
    for path in out.glob("predictions/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["id"].rsplit("-", 1)[1] for line in lines] == [str(i) for i in range(6)]
    assert not list(out.rglob("*.tmp"))
    assert not list(out.rglob("*.pt"))  # the trainer's pickles are gone
    assert not list(out.rglob("*.bin")) or [p.name for p in out.rglob("*.bin")] == ["training_args.bin"]


def test_carry_is_safetensors_and_json_only(observed):
    for path in (observed["out"] / "carry").rglob("*"):
        if path.parent.name == "media":  # pictures of the replay buffer
            assert observed["case"].block
            continue
        assert path.is_dir() or path.suffix in {".safetensors", ".json", ".jsonl"}


def test_only_replay_leaves_training_samples_in_the_carry(observed, data):
    """Text, id and picture of every training sample, looked for in every byte below ``carry/``."""
    carried = {p: p.read_bytes() for p in (observed["out"] / "carry").rglob("*") if p.is_file()}
    traces = [b"what colour is this picture"]
    for task in TASKS:
        traces += [f"{task}-train-{i}".encode() for i in range(24)]
        for path in data.glob(f"images/{task}_train_*.png"):
            pixels = path.read_bytes()
            traces += [pixels, pixels[pixels.index(b"IDAT") + 4 :][:64], path.name.encode()]
    found = {trace for trace in traces if any(trace in content for content in carried.values())}
    if observed["case"].block.get("replay"):
        assert len(found) > 3 * 5  # the test sees what is there
    else:
        assert found == set()


def test_a_finished_run_does_nothing_again(observed):
    from llamafactory.train.tuner import run_exp

    journal = (observed["out"] / "journal.jsonl").read_bytes()
    run_exp(dict(observed["keys"]))
    assert (observed["out"] / "journal.jsonl").read_bytes() == journal
