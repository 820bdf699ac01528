"""EWC: the penalty against a plain reference, and what a run carries and does with it."""

from __future__ import annotations

import pytest
import sealed
import tiny
import torch
from launch import launch
from regularised import gap, in_layouts, logged, same_files, tensors, text_tasks, train
from running import NO_TESTS, go
from safetensors.torch import load_file, save_file
from torch.autograd import gradcheck

from cl_plugins.base.errors import CompatibilityError, RunStateError
from cl_plugins.contract.carry import Carry, CarryWriter, TaskUpdate
from cl_plugins.contract.task import TaskContext
from cl_plugins.methods.ewc import EWC, EWCConfig, quadratic_penalty
from cl_plugins.methods.ewc.method import _joint_anchors
from cl_plugins.streams import Task


SHAPES = [(3, 4), (4, 3), (5,), (2, 2, 2)]


def drawn(seed, shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


# --- the penalty ------------------------------------------------------------------------------------------------------


def test_the_penalty_equals_a_plain_reference():
    now, then, fisher = drawn(1), drawn(2), [f.square() for f in drawn(3)]
    expected = 0.0
    for x, y, f in zip(now, then, fisher, strict=True):
        for i in range(x.numel()):
            expected += 0.5 * float(f.view(-1)[i]) * (float(x.view(-1)[i]) - float(y.view(-1)[i])) ** 2
    assert float(quadratic_penalty(now, then, fisher)) == pytest.approx(expected, abs=1e-10)


def test_the_penaltys_gradient():
    now, then, fisher = drawn(1), drawn(2), [f.square() for f in drawn(3)]
    leaves = [x.requires_grad_() for x in now]
    assert gradcheck(lambda *x: quadratic_penalty(x, then, fisher), leaves)
    gradients = torch.autograd.grad(quadratic_penalty(leaves, then, fisher), leaves)
    for g, x, y, f in zip(gradients, leaves, then, fisher, strict=True):
        assert torch.allclose(g, f * (x - y), atol=1e-12)


def test_at_the_anchors_it_is_zero_and_so_is_its_gradient():
    now = [x.requires_grad_() for x in drawn(1)]
    value = quadratic_penalty(now, [x.detach().clone() for x in now], [f.square() for f in drawn(3)])
    assert value.item() == 0.0
    assert all(not g.any() for g in torch.autograd.grad(value, now))


def test_anchors_and_fisher_values_are_constants():
    now, then, fisher = ([x.requires_grad_() for x in drawn(s)] for s in (1, 2, 3))
    quadratic_penalty(now, then, fisher).backward()
    assert all(x.grad is not None for x in now)
    assert all(x.grad is None for x in (*then, *fisher))


def test_half_precision_weights_are_compared_in_the_precision_of_the_fisher_values():
    now = [torch.full((4,), 1.0, dtype=torch.bfloat16, requires_grad=True)]
    then, fisher = [torch.full((4,), 1.001)], [torch.full((4,), 2.0)]
    value = quadratic_penalty(now, then, fisher)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(4 * 1e-6, rel=1e-3)
    value.backward()
    assert now[0].grad.dtype == torch.bfloat16


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("ewc") / "data", ("one", "two", "three"))


@pytest.fixture(scope="module")
def run(llama, texts, tmp_path_factory):
    """``run(options, ...)``: a run of two tasks; equal ones are made once."""
    made = {}

    def one(options=None, name="ewc", **more):
        key = repr((options, name, more))
        if key not in made:
            out = tmp_path_factory.mktemp("ewc") / "run"
            made[key] = train(llama, texts, out, {"name": name, **(options or {})}, **more)
        return made[key]

    return one


def test_weight_0_is_sequential_lora(run):
    plain, zero = run(name="seqlora"), run({"weight": 0})
    assert same_files(plain, zero, "tasks/*/update.safetensors")
    assert same_files(plain, zero, "final/model.safetensors")
    assert not list(zero.rglob("fisher.safetensors"))


def test_the_first_task_is_sequential_loras(run):
    assert same_files(run(name="seqlora"), run({"weight": 1e3}), "tasks/01_one/update.safetensors")
    assert not same_files(run(name="seqlora"), run({"weight": 1e3}), "tasks/02_two/update.safetensors")


def test_the_step_is_that_of_the_formula(run):
    """Step 1 starts at the anchors, so the penalty acts at step 2 only: minus lr * weight * F (theta_1 - theta*)."""
    steps = {n: {"cl": {"task_overrides": {"two": {"max_steps": n}}}} for n in (1, 2)}
    options = {"weight": 1e3}
    start, fisher = tensors(run(options), "01_one"), tensors(run(options), "01_one", "fisher")
    after_1, after_2 = (tensors(run(options, **steps[n])) for n in (1, 2))
    without = tensors(run({"weight": 0}, **steps[2]))
    assert gap(after_1, tensors(run({"weight": 0}, **steps[1]))) == 0
    seen = 0.0
    for name, value in after_2.items():
        expected = without[name] - 0.1 * 1e3 * fisher[name] * (after_1[name] - start[name])
        assert torch.allclose(value, expected, atol=1e-6), name
        seen = max(seen, float((value - without[name]).abs().max()))
    assert seen > 1e-4


def test_a_large_weight_holds_the_weights_back(run):
    """Against the same tensors, each by its Fisher value."""

    def moved(out):
        start, end = tensors(out, "01_one"), tensors(out)
        fisher = tensors(run({"weight": 1e3}), "01_one", "fisher")
        return sum(float((fisher[n] * (end[n] - start[n]).square()).sum()) for n in start)

    assert moved(run({"weight": 1e3})) < 0.9 * moved(run({"weight": 0}))


def test_the_batch_layout_does_not_matter(llama, tmp_path):
    (whole, *others), without = in_layouts(llama, tmp_path, {"name": "ewc", "weight": 1e3})
    assert max(gap(other, whole) for other in others) < 1e-4
    assert gap(without, whole) > 1e-2


def test_gradient_checkpointing_gives_the_same_run(run):
    other = run({"weight": 1e3}, disable_gradient_checkpointing=True)
    assert gap(tensors(other), tensors(run({"weight": 1e3}))) < 1e-6
    assert gap(tensors(other, name="fisher"), tensors(run({"weight": 1e3}), name="fisher")) < 1e-6


def test_the_carry_holds_the_online_sum(run):
    out = run({"weight": 1e3, "gamma": 0.5})
    first, second = tensors(out, "01_one", "fisher"), tensors(out, "02_two", "fisher")
    carried = load_file(out / "carry" / "fisher.safetensors")
    assert carried.keys() == tensors(out).keys()
    assert all(torch.allclose(carried[n], 0.5 * first[n] + second[n], rtol=1e-6) for n in carried)
    assert all((v >= 0).all() and v.dtype == torch.float32 for v in carried.values())
    assert sum(float(v.sum()) for v in first.values()) > 0
    assert not (out / "carry" / "anchors.safetensors").exists()


def test_it_is_logged(run):
    values = logged(run({"weight": 1e3}), "ewc")
    assert values[0] == 0.0
    assert values[-1] > 0
    assert logged(run({"weight": 1e3}), "ewc", "01_one") == []


def test_a_task_of_one_step_is_no_dead_penalty(run):
    assert (run({"weight": 1e3}, max_steps=1) / "final").is_dir()


def test_easycl_logs_a_number_that_nothing_is_learned_from(run):
    out = run({"weight": 1e3, "faithful": "easycl"})
    assert same_files(out, run({"weight": 0}), "tasks/*/update.safetensors")
    assert logged(out, "ewc")[-1] > 0


def test_mammoth_has_no_half_and_weighs_by_likelihood(run):
    out, plain = run({"weight": 1e3, "faithful": "mammoth"}), run({"weight": 1e3})
    fisher, ours = tensors(out, "01_one", "fisher"), tensors(plain, "01_one", "fisher")
    assert all((fisher[n] <= ours[n]).all() for n in ours)
    assert sum(float(v.sum()) for v in fisher.values()) < 0.5 * sum(float(v.sum()) for v in ours.values())
    start, end = tensors(out, "01_one"), tensors(run({"weight": 1e3, "faithful": "mammoth"}, max_steps=2))
    assert start.keys() == end.keys()
    two = run({"weight": 1e3, "faithful": "mammoth"}, cl={"task_overrides": {"two": {"max_steps": 2}}})
    one = run({"weight": 1e3, "faithful": "mammoth"}, cl={"task_overrides": {"two": {"max_steps": 1}}})
    moved = tensors(one)
    expected = sum(float((fisher[n] * (moved[n] - start[n]).square()).sum()) for n in start)
    assert logged(two, "ewc")[1] == pytest.approx(1e3 * expected, rel=1e-4)


def test_prism_keeps_one_anchor_for_each_task(run):
    """The one quadratic that is carried has the gradient of the sum of the tasks' quadratics."""
    out = run({"weight": 1e3, "faithful": "prism"}, tasks=("one", "two", "three"))
    numbered = ("01_one", "02_two", "03_three")
    fisher, thetas = [[tensors(out, task, kind) for task in numbered] for kind in ("fisher", "update")]
    total, anchors = (load_file(out / "carry" / f"{n}.safetensors") for n in ("fisher", "anchors"))
    for name in total:
        point = thetas[0][name] + 0.1
        one = sum(f[name].double() * (point - t[name]).double() for f, t in zip(fisher, thetas, strict=True))
        joint = total[name].double() * (point - anchors[name]).double()
        assert torch.allclose(joint, one, rtol=1e-4, atol=1e-6 * float(one.abs().max())), name
    assert gap(tensors(out), tensors(run({"weight": 1e3}, tasks=("one", "two", "three")))) == 0  # two tasks: the same
    assert gap(tensors(out, "03_three"), tensors(run({"weight": 1e3}, tasks=("one", "two", "three")), "03_three")) > 0


def test_elements_without_any_fisher_value_get_the_latest_anchor():
    theta, zero, some = {"x": torch.tensor([1.0, 2.0])}, torch.zeros(2), torch.tensor([0.0, 3.0])
    joint = _joint_anchors(theta, {"x": zero}, {"x": torch.tensor([5.0, 6.0])}, {"x": some})
    assert joint["x"].tolist() == [1.0, 6.0]


def test_the_projector_is_protected_too(llava, data, tmp_path):
    out = tmp_path / "run"
    go(tiny.recipe(llava, data, out, {"name": "ewc", "fisher_samples": 4}, ("one", "two"), cl=NO_TESTS))
    fisher = load_file(out / "carry" / "fisher.safetensors")
    assert fisher.keys() == load_file(out / "carry" / "adapter.safetensors").keys()
    projector = [v for n, v in fisher.items() if "multi_modal_projector" in n]
    assert len(projector) == 4
    assert all(v.any() for v in projector)


@pytest.mark.slow
def test_two_processes_draw_the_samples_of_one(llava, data, tmp_path):
    """Five samples do not divide by two; each rank takes its share and all get the same mean."""
    single, double = tmp_path / "single", tmp_path / "double"
    method = {"name": "ewc", "fisher_samples": 5, "weight": 1e3}
    # plain gradient descent: Adam's first step makes a full step of any gradient, also of one that is rounding alone
    plain = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    make = {"tasks": ("one", "two"), "cl": NO_TESTS, **plain}
    go(tiny.recipe(llava, data, single, method, per_device_train_batch_size=8, **make))
    launch(tiny.recipe(llava, data, double, method, per_device_train_batch_size=4, **make), tmp_path)
    for task in ("01_one", "02_two"):
        for name in ("update", "fisher"):
            a, b = tensors(single, task, name), tensors(double, task, name)
            difference = sum(float((a[n] - b[n]).double().square().sum()) for n in a) ** 0.5
            assert difference <= 1e-4 * sum(float(a[n].double().square().sum()) for n in a) ** 0.5, (task, name)


# --- refusals ---------------------------------------------------------------------------------------------------------


def context(carry, data=()):
    return TaskContext(Task(name="two"), 2, 0, None, carry, data)


def test_data_without_a_length_are_refused_at_the_first_step():
    with pytest.raises(CompatibilityError, match="streamed"):
        EWC(EWCConfig()).penalties(context(None, data=None), torch.nn.Linear(2, 2))


@pytest.fixture
def carry(tmp_path):
    """A carry of a model with one LoRA tensor."""

    def make(fisher, files=("fisher.safetensors",)):
        save_file({"x.lora_A.weight": torch.ones(2, 3)}, tmp_path / "adapter.safetensors")
        if files:
            save_file(fisher, tmp_path / "fisher.safetensors")
        sealed.make_carry(tmp_path, ["one"], "ewc")
        return Carry.open(tmp_path)

    return make


class Adapted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.x = torch.nn.Module()
        self.x.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(3, 2, bias=False)})


@pytest.mark.parametrize(
    ("fisher", "files", "said"),
    [
        ({"x.lora_A.weight": torch.zeros(2, 3)}, ("fisher.safetensors",), "zeros only"),
        ({"y": torch.ones(2, 3)}, ("fisher.safetensors",), r"no Fisher values of 1 trained.*x\.lora_A"),
        ({}, (), "made with `weight: 0`"),
    ],
)
def test_a_carry_that_cannot_protect(carry, fisher, files, said):
    with pytest.raises(RunStateError, match=said):
        EWC(EWCConfig()).penalties(context(carry(fisher, files)), Adapted())


def test_fisher_values_are_read_once_per_task(carry, monkeypatch):
    held = carry({"x.lora_A.weight": torch.ones(2, 3)})
    method, model, here = EWC(EWCConfig(weight=2.0)), Adapted(), context(held)
    first = method.penalties(here, model)["ewc"]
    expected = (model.x.lora_A["default"].weight - 1).square().sum().item()
    assert first.item() == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(Carry, "load", lambda *_: pytest.fail("read again"))
    assert method.penalties(here, model)["ewc"].item() == first.item()


def test_a_task_whose_statistics_are_gone(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "update.safetensors")
    update = TaskUpdate(tmp_path / "update.safetensors", {}, "one")
    with pytest.raises(RunStateError, match="fisher"):
        EWC(EWCConfig()).consolidate(None, update, CarryWriter(tmp_path / "carry"))
