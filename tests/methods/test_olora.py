"""O-LoRA: its terms, what it must be equal to, and what is reproduced of the multimodal port."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from running import NO_TESTS, go, predictions
from safetensors.torch import load_file
from torch.autograd import gradcheck

from cl_plugins.methods.olora import norms, orthogonality


SHAPES = [((3, 7), (6, 7)), ((3, 7), (6, 7)), ((3, 9), (6, 9)), ((3, 7), (3, 7))]


def pairs(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return [draw(new) for new, _ in SHAPES], [draw(past) for _, past in SHAPES]


def reference(new, past, power=1):
    return sum(
        abs(float(x @ y)) ** power for a, b in zip(new, past, strict=True) for x in a.double() for y in b.double()
    )


# --- the functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "power"), [("l1", 1), ("squared", 2)])
def test_equals_a_plain_reference(form, power):
    new, past = pairs()
    assert float(orthogonality(new, past, form=form)) == pytest.approx(reference(new, past, power), abs=1e-10)
    assert float(orthogonality(new, past)) == pytest.approx(reference(new, past), abs=1e-10)


def test_norms_equal_a_plain_reference():
    """Root of the sum of squares of every matrix, not squared, summed over matrices of several shapes."""
    new, past = pairs(2)
    tensors = [*new, *past, new[0].T.contiguous()]
    expected = 0.0
    for tensor in tensors:
        total = 0.0
        for value in tensor.double().flatten().tolist():
            total += value * value
        expected += total**0.5
    assert float(norms(tensors)) == pytest.approx(expected, abs=1e-10)
    assert len({tuple(t.shape) for t in tensors}) < len(tensors)  # some are measured together


def test_gradients_away_from_the_kinks():
    new, past = pairs(1)
    leaves = [a.requires_grad_() for a in new]
    for form in ("l1", "squared"):
        assert gradcheck(lambda *a, form=form: orthogonality(list(a), past, form=form), leaves)
    assert gradcheck(lambda *a: norms(list(a)), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_orthogonal_rows_cost_nothing_and_have_a_finite_gradient(dtype):
    new = torch.eye(8, dtype=dtype)[:3].clone().requires_grad_()
    value = orthogonality([new], [torch.eye(8, dtype=dtype)[3:6]]) + norms([torch.zeros(3, 3, dtype=dtype)])
    assert value.item() == 0.0
    value.backward()
    assert torch.isfinite(new.grad).all()


def test_norms_at_zero():
    zero, other = torch.zeros(5, 3, requires_grad=True), torch.full((3, 4), 2.0, requires_grad=True)
    value = norms([zero, other])
    assert float(value) == pytest.approx(48**0.5)
    value.backward()
    assert not zero.grad.any()
    assert torch.isfinite(other.grad).all()


def test_the_past_is_detached():
    new, past = pairs(2)
    past = [p.requires_grad_() for p in past]
    orthogonality([a.requires_grad_() for a in new], past).backward()
    assert all(p.grad is None for p in past)


def test_what_the_functions_refuse():
    new, past = pairs()
    for a, p in (([], []), (new, past[:-1]), ([new[0]], [past[2]])):
        with pytest.raises(ValueError):
            orthogonality(a, p)
    with pytest.raises(ValueError):
        norms([])


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train(llava, data, tmp_path_factory):
    """Runs by name and options, each made once."""
    made, folder = {}, tmp_path_factory.mktemp("runs")

    def one(name, method, tasks=("one", "two"), **keys):
        if name not in made:
            made[name] = folder / name
            method = {"name": "olora", **method} if isinstance(method, dict) else method
            go(tiny.recipe(llava, data, made[name], method, tasks, **keys))
        return made[name]

    return one


def updates(out):
    return {p.parent.name: p.read_bytes() for p in sorted(out.glob("tasks/*/update.safetensors"))}


def update(out, task):
    return load_file(out / "tasks" / task / "update.safetensors")


def logged(out, name, task="02_two"):
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return [entry[f"penalty/{name}"] for entry in history if f"penalty/{name}" in entry]


def test_without_weight_it_is_inclora_bit_for_bit(train):
    plain, ours = train("plain", "inclora"), train("none", {"lambda_1": 0})
    assert updates(plain) == updates(ours)
    assert predictions(plain) == predictions(ours)
    assert (plain / "final" / "model.safetensors").read_bytes() == (ours / "final" / "model.safetensors").read_bytes()
    assert updates(plain)["02_two"] != updates(train("default", {}))["02_two"]


def test_one_task_is_plain_lora(run, train, llava, data, tmp_path):
    keys = tiny.recipe(llava, data, tmp_path / "plain")
    keys.pop("cl")
    run({**keys, "dataset": "one_train"})
    expected = (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()
    assert updates(train("single", {}, ("one",))) == {"01_one": expected}


def stacked_a(out, *tasks):
    """For each module of the last task: its A, and the A of the tasks before, one below the other."""
    files = [update(out, task) for task in tasks]
    names = [n for n in sorted(files[-1]) if "lora_A" in n]
    return [files[-1][n] for n in names], [torch.cat([f[n] for f in files[:-1]]) for n in names]


@pytest.mark.parametrize(
    ("options", "weight", "power"),
    [
        ({}, 0.5, 1),
        ({"form": "squared"}, 0.5, 2),
        ({"lambda_1": 0.25}, 0.25, 1),
        ({"faithful": "port"}, 0.05, 1),
        ({"faithful": "port", "lambda_1": 2}, 2.0, 1),
    ],
    ids=str,
)
def test_the_value_at_the_first_step(train, options, weight, power):
    """As computed by hand from the files; against two past tasks at once in the third."""
    tasks = ("one", "two", "three")
    out = train(f"start {options}", options, tasks, learning_rate=1e-12, max_steps=1, cl=NO_TESTS)
    assert logged(out, "orthogonality", "01_one") == []
    for done in (("01_one", "02_two"), ("01_one", "02_two", "03_three")):
        expected = weight * reference(*stacked_a(out, *done), power)
        assert logged(out, "orthogonality", done[-1])[0] == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_overlap(train):
    plain, ours = train("plain", "inclora"), train("default", {})
    overlap = [reference(*stacked_a(out, "01_one", "02_two")) for out in (plain, ours)]
    assert overlap[1] < 0.9 * overlap[0]


def test_stack_and_merge_agree(train):
    keys = {"optim": "sgd", "learning_rate": 1e-3}
    a, b = (update(train(c, {"consolidate": c}, **keys), "02_two") for c in ("merge", "stack"))
    assert max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-12)) for n in a) < 1e-3


def test_the_norms_act_from_the_first_task_on(train):
    out = train("norms", {"lambda_2": 0.1})
    assert len(logged(out, "norms", "01_one")) == 4
    before, after = update(train("default", {}), "01_one"), update(out, "01_one")
    size = [sum(float(t.norm()) for n, t in tensors.items() if "lora_" in n) for tensors in (before, after)]
    assert size[1] < size[0]


def test_the_port_trains_without_the_past_and_answers_with_it(train, llava, data, tmp_path):
    """Same seed, same projector, no penalty: the second task of the port starts from the base."""
    keys = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "cl": NO_TESTS}
    port = train("port", {"faithful": "port", "lambda_1": 0}, **keys)
    plain = train("chain", {"lambda_1": 0}, **keys)
    assert updates(port)["01_one"] == updates(plain)["01_one"]
    assert updates(port)["02_two"] != updates(plain)["02_two"]
    # a base with the first task's projector, and nothing else of it, is what the port trains the second task on
    from transformers import LlavaForConditionalGeneration

    base = LlavaForConditionalGeneration.from_pretrained(llava)
    first = update(port, "01_one")
    with torch.no_grad():
        for name, tensor in first.items():
            if "projector" in name:
                base.get_parameter(name.removeprefix("base_model.model.")).copy_(tensor)
    base.save_pretrained(tmp_path / "base")
    for file in llava.iterdir():
        if not (tmp_path / "base" / file.name).exists():
            (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    alone = {k: v for k, v in tiny.recipe(tmp_path / "base", data, tmp_path / "alone", **keys).items() if k != "cl"}
    from llamafactory.train.tuner import run_exp

    run_exp({**alone, "dataset": "two_train", "seed": 1007})
    assert (tmp_path / "alone" / "adapter_model.safetensors").read_bytes() == updates(port)["02_two"]
    # and both are in the model that is left
    final = load_file(port / "final" / "model.safetensors")
    original = load_file(llava / "model.safetensors")
    name = next(n for n in original if n.endswith("layers.0.mlp.up_proj.weight"))
    delta = torch.zeros_like(original[name])
    for task in ("01_one", "02_two"):
        tensors = update(port, task)
        a, b = (next(t for n, t in tensors.items() if f"layers.0.mlp.up_proj.lora_{x}" in n) for x in "AB")
        delta += 2 * b @ a
    assert torch.allclose(final[name], original[name] + delta, atol=1e-6)


def test_three_sites_end_where_one_run_ends(llava, data, tmp_path):
    tasks = ("one", "two", "three")
    go(tiny.recipe(llava, data, tmp_path / "whole", "olora", cl=dict(NO_TESTS)))
    previous = None
    for task in tasks:
        block = {**NO_TESTS, "only": task, **({"carry_from": str(previous)} if previous else {})}
        go(tiny.recipe(llava, data, tmp_path / task, "olora", cl=block))
        previous = tmp_path / task
    assert {k: v for t in tasks for k, v in updates(tmp_path / t).items()} == updates(tmp_path / "whole")
