"""Terms that join the loss: worth the same whatever the batch layout, clipped with the rest, logged, guarded."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from running import NO_TESTS, go
from safetensors.torch import load_file

from cl_plugins.base.errors import TrainingError
from cl_plugins.methods import OneLoRA, registry
from cl_plugins.training.terms import add_gradient


class Pull(OneLoRA):
    """Pulls every LoRA factor towards one half: a penalty that is large and easy to see."""

    name = "pull"
    title = "Pull"
    weight = 1.0
    calls = 0

    def penalties(self, context, model):
        type(self).calls += 1
        terms = [((p - 0.5) ** 2).sum() for n, p in model.named_parameters() if "lora_" in n]
        return {"pull": type(self).weight * torch.stack(terms).sum()}


@pytest.fixture
def pull(monkeypatch):
    """The method under its name, as if a package had registered it."""

    class Fresh(Pull):
        pass

    monkeypatch.setitem(registry.METHODS.own, "pull", Fresh)
    return Fresh


@pytest.fixture
def train(llama, tmp_path):
    data = tiny.build_data(tmp_path / "data", ("one", "two"), train=4, test=1, text_only=True)

    def one(name, tasks=("one",), layout=(4, 1), data=data, **keys):
        defaults = {
            "max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        }  # fmt: skip
        batch, accumulate = layout
        out = tmp_path / name
        go(
            tiny.recipe(
                llama, data, out, "pull", tasks, text_only=True, cl=dict(NO_TESTS), per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulate, **{**defaults, **keys},
            )
        )  # fmt: skip
        return out

    return one


def update(out, task="01_one"):
    return load_file(out / "tasks" / task / "update.safetensors")


def gap(a, b):
    """Largest difference, relative to the largest value."""
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-12)) for n in a)


def test_the_gradient_does_not_depend_on_the_batch_layout(pull, train, tmp_path):
    """One-token answers: the loss itself is then the same mean for 8 x 1 and 1 x 8 (host-facts 13)."""
    eight = tiny.build_data(tmp_path / "eight", ("one",), train=8, test=1, text_only=True)
    layouts = [(8, 1), (4, 2), (2, 4), (1, 8)]
    outs = [update(train(f"{b}x{a}", layout=(b, a), data=eight)) for b, a in layouts]
    assert pull.calls == len(layouts)  # once per optimizer step, not once per micro-batch
    assert max(gap(out, outs[0]) for out in outs[1:]) < 1e-4
    pull.weight = 0.0
    pull.calls = 0
    without = update(train("without", layout=(8, 1), data=eight))
    assert gap(without, outs[0]) > 1e-2  # the penalty is what was compared


def test_the_size_of_the_step_is_that_of_the_penaltys_own_gradient(pull, train):
    pull.weight = 0.0
    without = update(train("without"))
    pull.weight = 1.0
    with_penalty = update(train("with"))
    start = update(train("start", learning_rate=1e-12))
    for name, value in with_penalty.items():
        expected = without[name] - 0.1 * 2 * (start[name] - 0.5)
        assert torch.allclose(value, expected, atol=1e-5), name


def test_it_is_clipped_with_the_rest(pull, train):
    start, clipped = update(train("start", learning_rate=1e-12)), update(train("clipped", max_grad_norm=0.01))
    moved = torch.stack([(clipped[n] - start[n]).square().sum() for n in start]).sum().sqrt()
    assert float(moved) == pytest.approx(0.1 * 0.01, rel=1e-2)  # learning rate times the largest norm


def test_it_is_logged_beside_the_loss(pull, train):
    out = train("logged", max_steps=2, logging_steps=1)
    state = json.loads((out / "tasks" / "01_one" / "trainer_state.json").read_text())
    logs = [entry["penalty/pull"] for entry in state["log_history"] if "loss" in entry]
    assert len(logs) == 2
    assert logs[0] > logs[1] > 0


@pytest.mark.parametrize(("value", "said"), [("nan", "is nan"), ("inf", "is inf")])
def test_a_penalty_that_is_not_finite(pull, train, value, said):
    pull.weight = float(value)
    with pytest.raises(TrainingError, match=f"'pull' {said} at step 1"):
        train("bad")


@pytest.mark.parametrize("constant", [False, True], ids=["weight 0", "constant"])
def test_a_penalty_of_zero_is_an_error_from_the_second_task_on(pull, train, monkeypatch, constant):
    pull.weight = 0.0
    if constant:
        monkeypatch.setattr(pull, "penalties", lambda *args: {"pull": torch.zeros(())})
    train("first")
    with pytest.raises(TrainingError, match="task 'two': the penalties pull were zero at every step"):
        train("second", ("one", "two"))


def test_no_penalty_at_the_first_task_is_fine(pull, train, monkeypatch):
    monkeypatch.setattr(pull, "penalties", lambda self, context, model: {})
    train("none")


def test_a_scaler_multiplies_the_penalty_like_the_loss():
    """Recipes with fp16 are refused; what a custom trainer scales must come out right all the same."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=64.0), torch.optim.SGD([weight], lr=1.0)
    scaler.scale(weight.square().sum()).backward()
    add_gradient([(3 * weight).sum()], [weight], scaler)
    scaler.unscale_(optimizer)
    assert weight.grad.tolist() == [2.0 + 3.0, -4.0 + 3.0]
