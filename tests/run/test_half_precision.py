"""A bf16 base: nothing is merged into it, since the sum of the updates would be rounded away."""

from __future__ import annotations

import json

import pytest
import tiny
import watched


TASKS = ("one", "two")
BOUND = 2e-2  # of the largest logit: a few of the steps of bf16 (2^-8), for additions in another order


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


def keys(model, data, out, method, **more):
    return tiny.recipe(model, data, out, method, TASKS, bf16=True, **more)


@pytest.fixture(scope="module")
def observed(half, data, tmp_path_factory):
    """A finished IncLoRA run, and the logits at its boundaries."""
    from llamafactory.train.tuner import run_exp

    from cl_plugins.run import runner
    from cl_plugins.training import guards

    ids, pixels = watched.inputs(half)

    def logits(model):
        value = watched.logits(model, ids, pixels)
        model.train()
        return value

    seen = {"fresh": [], "before": [], "after": [], "hooks": []}
    marks, do = guards.marks, runner.Runner._do
    patch = pytest.MonkeyPatch()

    def watched_marks(model):
        seen["before" if len(seen["fresh"]) > len(seen["before"]) else "fresh"].append(logits(model))
        return marks(model)

    def after_step(self, step, plan):
        do(self, step, plan)
        if step.kind == "consolidate":
            model = self._state.answering(self._state.carry)
            seen["after"].append(logits(model))
            seen["hooks"].append(sum(hasattr(m, "cl_past_a") for m in model.modules()))
            seen["dtypes"] = {p.dtype for p in model.parameters()}

    patch.setattr(guards, "marks", watched_marks)
    patch.setattr(runner.Runner, "_do", after_step)
    out = tmp_path_factory.mktemp("half") / "run"
    try:
        run_exp(keys(half, data, out, "inclora"))
    finally:
        patch.undo()
    return {**seen, "out": out, "logits": logits}


def test_the_past_is_kept_on_the_stack(observed):
    import torch

    assert observed["hooks"][0] > 0
    assert observed["hooks"][0] == observed["hooks"][1]
    assert torch.bfloat16 in observed["dtypes"]


def test_boundary_identity(observed):
    assert len(observed["before"]) == len(observed["after"]) == 2
    for fresh, before, after in zip(observed["fresh"], observed["before"], observed["after"], strict=True):
        assert (before - after).abs().max() <= BOUND * before.abs().max()
        # the bound must be far below what the training changed, or it would prove nothing
        assert (fresh - before).abs().max() > 5 * BOUND * before.abs().max()


def test_a_fresh_update_contributes_nothing(observed):
    assert (observed["fresh"][1] - observed["after"][0]).abs().max() <= BOUND * observed["after"][0].abs().max()


def test_final_is_one_plain_peft_adapter_and_the_last_model(observed, half):
    import torch
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    final = observed["out"] / "final"
    manifest = json.loads((final / "MANIFEST.json").read_text())
    assert manifest["kind"] == "peft"
    assert (manifest["merge_error"]["relative"], manifest["merge_error"]["dtype"]) == (0.0, "not merged")
    config = json.loads((final / "adapter_config.json").read_text())
    assert config["r"] == 2 * 4  # two tasks of rank 4
    assert config["modules_to_save"] == ["multi_modal_projector"]
    base = LlavaForConditionalGeneration.from_pretrained(half, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, final)
    last = observed["after"][-1]
    assert (observed["logits"](model) - last).abs().max() <= BOUND * last.abs().max()


def test_merging_into_it_is_refused_before_anything_is_trained(run, half, data, tmp_path):
    from cl_plugins.base.errors import ClPluginsError

    with pytest.raises(ClPluginsError, match=r"cl\.method\.consolidate"):
        run(keys(half, data, tmp_path / "run", {"name": "inclora", "consolidate": "merge"}))
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_base_that_turns_out_to_be_half_precision_is_refused_before_the_first_task(
    half, data, tmp_path, monkeypatch
):
    """The recipe says nothing about precision; what counts is what is in memory."""
    from llamafactory.train.tuner import run_exp

    from cl_plugins.base.errors import CompatibilityError
    from cl_plugins.host import base as host_base

    monkeypatch.setattr(host_base.LoadedBase, "can_merge", False)
    method = {"name": "inclora", "consolidate": "merge"}
    recipe = tiny.recipe(half, data, tmp_path / "run", method, TASKS, additional_target=None)
    with pytest.raises(CompatibilityError, match=r"cl\.method\.consolidate"):
        run_exp(recipe)
    journal = tmp_path / "run" / "journal.jsonl"
    assert not journal.exists() or "train:" not in journal.read_text()


def test_a_projector_in_fp32_on_a_bf16_base_is_refused_before_the_base_loads(run, half, data, tmp_path):
    """Without `bf16` nothing casts between the two; the host would say so in the first step."""
    from cl_plugins.base.errors import RecipeError

    with pytest.raises(RecipeError, match=r"bf16: is missing: the base is stored in bfloat16"):
        run(tiny.recipe(half, data, tmp_path / "run", "seqlora", TASKS))
    assert not (tmp_path / "run").exists()


def test_a_lora_alone_trains_on_a_bf16_base_without_the_key(run, half, data, tmp_path):
    run(tiny.recipe(half, data, tmp_path / "run", "seqlora", TASKS, additional_target=None))
    assert (tmp_path / "run" / "final").is_dir()


@pytest.mark.parametrize("unfrozen", [False, True])
def test_full_fine_tuning_of_a_bf16_base_needs_the_key_where_a_part_stays_frozen(unfrozen, run, half, data, tmp_path):
    """What is trained is fp32; where nothing is frozen, everything is."""
    from cl_plugins.base.errors import RecipeError

    keys = tiny.recipe(half, data, tmp_path / "run", "seqfull", TASKS)
    if unfrozen:
        run({**keys, "freeze_vision_tower": False, "freeze_multi_modal_projector": False})
        assert (tmp_path / "run" / "final").is_dir()
    else:
        with pytest.raises(RecipeError, match=r"bf16: is missing: .* the trained layers are kept in fp32"):
            run(keys)
