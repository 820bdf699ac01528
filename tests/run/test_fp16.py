"""Training in fp16, whose gradients are scaled. It needs a GPU; here Accelerate is told to scale and to cast on the CPU."""

from __future__ import annotations

import json

import pytest
import tiny


TASKS = ("one", "two")
METHODS = (
    "seqlora",
    {"name": "inclora", "consolidate": "stack"},
    "single_task",
    "multitask",
)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The weights of `llava`, rounded."""
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="float16")


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Accelerate's fp16 on the CPU, with a gradient scaler; the scales it had, one per optimizer step."""
    import torch
    from accelerate import Accelerator

    make, scales = Accelerator.__init__, []

    class Scaler(torch.amp.GradScaler):
        def update(self, new_scale=None):
            scales.append(self.get_scale())
            super().update(new_scale)

    def made(self, *args, **kwargs):
        make(self, *args, **kwargs)
        if self.state.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, Scaler("cpu", init_scale=2.0**12)

    monkeypatch.setattr(Accelerator, "__init__", made)
    return scales


def keys(model, data, out, method, **more):
    return tiny.recipe(model, data, out, method, TASKS, **{"fp16": True, "use_cpu": None, **more})


def losses(run):
    return [
        entry["loss"]
        for path in sorted(run.glob("tasks/*/trainer_log.jsonl"))
        for entry in map(json.loads, path.read_text().splitlines())
        if "loss" in entry
    ]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m if isinstance(m, str) else m["name"])
def test_it_trains_and_answers_as_in_fp32(method, run, llava, half, data, tmp_path, on_the_cpu):
    """The base is loaded in fp16, gradients are scaled, answers are made under autocast in fp16."""
    run(keys(half, data, tmp_path / "half", method, logging_steps=1))
    assert on_the_cpu
    assert set(on_the_cpu) == {2.0**12}  # no step was skipped
    run(keys(llava, data, tmp_path / "whole", method, logging_steps=1, fp16=None, use_cpu=True))
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "whole"), rel=2e-2)
    manifest = json.loads((tmp_path / "half" / "final" / "MANIFEST.json").read_text())
    assert (manifest["dtype"], manifest["autocast"]) == ("float16", "float16")
    matrix = json.loads((tmp_path / "half" / "matrix.json").read_text())
    assert matrix["scores"][-1][-1] is not None


def test_a_run_that_was_stopped_goes_on_with_the_same_weights(run, half, data, tmp_path, on_the_cpu):
    from safetensors.torch import load_file

    method = METHODS[1]
    run(keys(half, data, tmp_path / "whole", method))
    stopped = keys(half, data, tmp_path / "parts", method)
    stopped["cl"]["stop_after"] = 2
    run(stopped)
    run(keys(half, data, tmp_path / "parts", method))
    one, other = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(value.equal(other[key]) for key, value in one.items())


def test_without_a_scaler_nothing_is_trained(run, llava, data, tmp_path):
    """Accelerate trains in fp16 on a CPU without scaling and without a word."""
    from cl_plugins.base.errors import TrainingError

    with pytest.raises(TrainingError, match=r"fp16: scales no gradients on this device \(cpu\)"):
        run(keys(llava, data, tmp_path / "run", "seqlora"))
    assert "train:" not in (tmp_path / "run" / "journal.jsonl").read_text()


def test_what_it_does_not_go_with_is_refused_together(run, llava, data, tmp_path):
    from cl_plugins.base.errors import RecipeError

    with pytest.raises(RecipeError) as caught:
        run(keys(llava, data, tmp_path / "run", "ewc", bf16=True, use_cpu=True))
    said = str(caught.value)
    assert "fp16: is not tested with 'ewc'" in said
    assert "fp16: scales no gradients on the CPU" in said
    assert "fp16: is set together with `bf16`" in said
    assert not (tmp_path / "run").exists()


def test_a_subclass_that_changes_gradients_is_not_what_was_tested():
    from cl_plugins.methods.seqlora.method import SeqLoRA

    class Clipping(SeqLoRA):
        def change_gradients(self, context, model, step):
            """Would see the scale."""

    assert SeqLoRA(SeqLoRA.config_class()).trains_in_fp16
    assert not Clipping(SeqLoRA.config_class()).trains_in_fp16
