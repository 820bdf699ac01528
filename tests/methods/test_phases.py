"""A method with two trainings per task: a journal step each, rebuilt from files in between, exact after a stop."""

from __future__ import annotations

import json

import pytest
import torch
from running import NO_TESTS, go, recipe, steps
from safetensors.torch import load_file
from transformers import TrainerCallback

from cl_plugins.adapters.update import fill
from cl_plugins.contract.phase import Phase
from cl_plugins.methods.registry import METHODS
from cl_plugins.methods.seqlora import SeqLoRA


class Polished(SeqLoRA):
    """Trains its LoRA, and then the B factors alone a little more."""

    name = "polished"
    title = "Polished LoRA"
    phases = (Phase(), Phase("polish", {"max_steps": 3, "learning_rate": 1e-3}))

    def begin_phase(self, context, phase, update):
        context.base.reset()
        model = context.base.new_adapter()
        fill(model, update.load(), update.meta)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_B" in name)
        return model

    def consolidate(self, previous, update, writer):
        super().consolidate(previous, update, writer)
        writer.link(update.phase("polish"), "polish.safetensors")

    def restore(self, base, carry, route=None):
        model = super().restore(base, carry)
        if carry is not None:
            live = {n.replace(".default.", "."): p for n, p in model.named_parameters()}
            with torch.no_grad():
                for name, value in carry.load("polish.safetensors").items():
                    live[name].copy_(value)
        return model


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS.own, "polished", Polished)


KEYS = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}


@pytest.fixture(scope="module")
def whole(llama, text_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("phases") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS.own, "polished", Polished)
        go(recipe(llama, text_data, out, "polished", cl=NO_TESTS, **KEYS))
    return out


def test_each_training_is_a_step(whole):
    assert steps(whole) == [
        "train:one", "train:one:polish", "consolidate:one", "train:two", "train:two:polish", "consolidate:two", "finish",
    ]  # fmt: skip
    details = {e["step"]: e["details"] for e in map(json.loads, (whole / "journal.jsonl").read_text().splitlines())}
    assert details["train:one"]["optimizer_steps"] == 2
    assert details["train:one:polish"]["optimizer_steps"] == 3
    first, polished = (load_file(whole / "tasks" / "01_one" / f"update{name}.safetensors") for name in ("", "_polish"))
    assert set(polished) == {name for name in first if "lora_B" in name}
    assert all(not torch.equal(first[name], value) for name, value in polished.items())
    assert not list(whole.glob("tasks/*/checkpoint-*"))


@pytest.mark.parametrize("where", ["02_two", "02_two.polish"])
def test_a_stop_inside_a_phase_changes_nothing(whole, llama, text_data, tmp_path, where):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if args.output_dir.endswith(where) and state.global_step == 2:
                raise KeyboardInterrupt

    made = recipe(llama, text_data, tmp_path / "run", "polished", cl=NO_TESTS, **KEYS)
    with pytest.raises(KeyboardInterrupt):
        go(made, [Stop()])
    go(made)
    for name in ("update", "update_polish"):
        one, two = (out / "tasks" / "02_two" / f"{name}.safetensors" for out in (whole, tmp_path / "run"))
        assert one.read_bytes() == two.read_bytes()
