"""LwF: the distillation against a plain reference, the teacher without a second base, and what a run does with them."""

from __future__ import annotations

import gc

import pytest
import tiny
import torch
from regularised import gap, in_layouts, logged, same_files, tensors, text_tasks, train
from running import NO_TESTS, go
from torch.autograd import gradcheck

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.methods.lwf import LwF, distillation, echo_loss, unshifted_distillation


def drawn(seed, dtype=torch.float64, shape=(2, 5, 7)):
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


LABELS = torch.tensor([[-100, -100, 3, 4, -100], [-100, 1, 6, 2, 0]])


def reference(new, old, labels, temperature, shift):
    """Position by position, word by word."""
    total, count = 0.0, 0
    for b in range(labels.shape[0]):
        for p in range(labels.shape[1] - shift):
            if labels[b, p + shift] == -100:
                continue
            z, y = (old[b, p] / temperature).tolist(), (new[b, p] / temperature).tolist()
            e, d = [torch.tensor(v, dtype=torch.float64).exp() for v in (z, y)]
            q, r = e / e.sum(), d / d.sum()
            total += float((q * (q / r).log()).sum())
            count += 1
    return temperature**2 * total / count


# --- the functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_equals_a_plain_reference(temperature):
    new, old = drawn(1), drawn(2)
    expected = reference(new, old, LABELS, temperature, 1)
    assert float(distillation(new, old, LABELS, temperature)) == pytest.approx(expected, abs=1e-10)
    late = reference(new, old, LABELS, temperature, 0)
    assert float(unshifted_distillation(new, old, LABELS, temperature)) == pytest.approx(late, abs=1e-10)
    assert abs(late - expected) > 1e-3


def test_gradients():
    new, old = drawn(1).requires_grad_(), drawn(2)
    assert gradcheck(lambda z: distillation(z, old, LABELS, 2.0), [new])
    assert gradcheck(lambda z: unshifted_distillation(z, old, LABELS, 2.0), [new])
    assert gradcheck(lambda z: echo_loss(z, LABELS), [new])


def test_only_the_rows_that_predict_answer_tokens_are_taught():
    new, old = drawn(1).requires_grad_(), drawn(2).requires_grad_()
    distillation(new, old, LABELS).backward()
    assert old.grad is None
    taught = new.grad.abs().sum(-1) > 0
    assert taught.tolist() == [[False, True, True, False, False], [True, True, True, True, False]]


def test_a_pupil_that_equals_its_teacher_has_nothing_to_learn():
    new = drawn(1).requires_grad_()
    value = distillation(new, new.detach().clone(), LABELS)
    assert value.item() == 0.0
    value.backward()
    assert float(new.grad.abs().max()) < 1e-15


def test_extreme_logits_stay_finite():
    new = torch.tensor([[[1e4, -1e4, 0.0]] * 2], requires_grad=True)
    value = distillation(new, -new.detach(), torch.tensor([[-100, 1]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(new.grad).all()


def test_without_an_answer_it_is_zero():
    new = drawn(1).requires_grad_()
    none = torch.full_like(LABELS, -100)
    value = distillation(new, drawn(2), none) + echo_loss(new, none)
    assert value.item() == 0.0
    value.backward()
    assert not new.grad.any()


def test_half_precision_logits_are_compared_in_fp32():
    new, old = drawn(1, torch.bfloat16), drawn(2, torch.bfloat16)
    value = distillation(new, old, LABELS)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(reference(new.double(), old.double(), LABELS, 2.0, 1), rel=1e-5)


def test_echo_is_the_cross_entropy_of_the_token_that_was_just_read():
    logits = drawn(1)
    picked = [-logits[b, p].log_softmax(-1)[LABELS[b, p]] for b, p in (LABELS != -100).nonzero().tolist()]
    assert float(echo_loss(logits, LABELS)) == pytest.approx(float(torch.stack(picked).mean()), abs=1e-10)


def test_lengths_that_do_not_fit():
    for f in (distillation, unshifted_distillation):
        with pytest.raises(CompatibilityError, match="do not match"):
            f(drawn(1), drawn(2), LABELS[:, :4])


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("lwf") / "data")


@pytest.fixture(scope="module")
def run(llama, texts, tmp_path_factory):
    """``run(options, ...)``: a run of two tasks; equal ones are made once."""
    made = {}

    def one(options=None, name="lwf", **more):
        key = repr((options, name, more))
        if key not in made:
            out = tmp_path_factory.mktemp("lwf") / "run"
            made[key] = train(llama, texts, out, {"name": name, **(options or {})}, **more)
        return made[key]

    return one


STRONG = {"alpha": 300.0}  # three steps of plain SGD go a short way


def test_alpha_0_is_sequential_lora(run):
    assert same_files(run(name="seqlora"), run({"alpha": 0}), "tasks/*/update.safetensors")
    assert same_files(run(name="seqlora"), run({"alpha": 0}), "final/model.safetensors")


def test_the_first_task_is_sequential_loras_and_the_second_is_not(run):
    assert same_files(run(name="seqlora"), run(), "tasks/01_one/update.safetensors")
    assert gap(tensors(run(STRONG)), tensors(run(name="seqlora"))) > 1e-3


def test_the_batch_layout_does_not_matter_for_answers_of_equal_length(llama, tmp_path):
    (whole, *others), without = in_layouts(llama, tmp_path, {"name": "lwf", **STRONG})
    assert max(gap(other, whole) for other in others) < 1e-4
    assert gap(without, whole) > 1e-2


def test_gradient_checkpointing_gives_the_same_run(run):
    other = run(STRONG, disable_gradient_checkpointing=True)
    assert gap(tensors(other), tensors(run(STRONG))) < 1e-6


def test_it_is_logged_and_begins_at_zero(run):
    values = logged(run(STRONG), "lwf")
    assert values[0] == 0.0
    assert min(values[1:]) > 0
    assert logged(run(STRONG), "lwf", "01_one") == []


def test_a_task_of_one_step_is_no_dead_term(run):
    assert (run(max_steps=1) / "final").is_dir()


def test_dropout_of_the_pupil_is_the_same_with_and_without_a_teacher(run):
    """The teacher draws nothing from the generator: with a weight that does nothing the weights stay equal."""
    tiny_weight = run({"alpha": 1e-30}, lora_dropout=0.3)
    assert same_files(tiny_weight, run(name="seqlora", lora_dropout=0.3), "tasks/*/update.safetensors")


def test_easycl_adds_an_echo(run):
    out = run({"faithful": "easycl"})
    assert logged(out, "echo")[0] > 0
    assert gap(tensors(out), tensors(run())) > 1e-2


def test_mixed_precision_is_the_same_for_teacher_and_pupil(data, tmp_path, tmp_path_factory):
    """Under bf16 both forwards round alike: the term is exactly zero at the first step."""
    half = tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")
    out = tmp_path / "run"
    go(tiny.recipe(half, data, out, {"name": "lwf", "alpha": 1.0}, ("one", "two"), cl=NO_TESTS, bf16=True))
    values = logged(out, "lwf")
    assert values[0] == 0.0
    assert values[-1] > 0


# --- the teacher ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(llava, data, tmp_path_factory):
    """A run looked at from inside: what the teacher computes with, and how much memory tensors hold."""
    seen = {"teacher": [], "base": [], "modes": [], "bytes": [], "grads": [], "drift": []}
    patch = pytest.MonkeyPatch()
    ask = LwF._teacher_logits

    def storages():
        held = {}
        for thing in gc.get_objects():
            if type(thing) in (torch.Tensor, torch.nn.Parameter):
                held[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        return sum(held.values())

    def asked(self, context, carry, model, batch):
        before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        modes = [m.training for m in model.modules()]
        gc.collect()
        held = storages()
        logits = ask(self, context, carry, model, batch)
        gc.collect()
        seen["bytes"].append(storages() - held)
        seen["modes"].append(modes == [m.training for m in model.modules()] and any(modes))
        seen["drift"].append(all(torch.equal(before[n], p) for n, p in model.named_parameters() if p.requires_grad))
        seen["grads"].append(logits.requires_grad)
        frozen, teacher = self._cached[1], {}
        seen["teacher_bytes"] = sum(t.numel() * t.element_size() for t in frozen.values())
        seen["logit_bytes"] = logits.numel() * logits.element_size()
        seen["base_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
        seen["shared"] = {t.data_ptr() for t in frozen.values()} & {p.data_ptr() for p in model.parameters()}
        for name, tensor in frozen.items():
            teacher[name] = tensor.clone()
        seen["teacher"].append(teacher)
        if batch.step == 3:
            seen["inputs"], seen["logits"] = {k: v for k, v in batch.inputs.items() if k != "labels"}, logits
        return logits

    patch.setattr(LwF, "_teacher_logits", asked)
    out = tmp_path_factory.mktemp("lwf") / "run"
    recipe = tiny.recipe(llava, data, out, {"name": "lwf"}, ("one", "two"), cl=NO_TESTS, lora_dropout=0.2)
    try:
        go(recipe)
    finally:
        patch.undo()
    return seen | {"out": out}


def test_there_is_no_second_base(watched):
    """The first call adds the carried tensors and the logits, later ones the logits only."""
    slack = 4096
    assert watched["bytes"][0] <= watched["teacher_bytes"] + watched["logit_bytes"] + slack
    assert max(watched["bytes"][1:]) <= watched["logit_bytes"] + slack
    assert watched["teacher_bytes"] + watched["logit_bytes"] < 0.8 * watched["base_bytes"]


def test_the_teacher_is_frozen_and_apart_from_the_pupil(watched):
    assert watched["shared"] == set()
    assert watched["grads"] == [False] * 4
    for later in watched["teacher"][1:]:
        assert all(torch.equal(later[n], t) for n, t in watched["teacher"][0].items())
    assert any("multi_modal_projector" in name for name in watched["teacher"][0])


def test_asking_the_teacher_changes_neither_weights_nor_modes(watched):
    assert all(watched["drift"])
    assert all(watched["modes"])


def test_the_teacher_is_the_model_that_ended_the_last_task(watched, llava, data, tmp_path):
    """Its logits are those of the consolidated model of a run that stops there."""
    from transformers import LlavaForConditionalGeneration

    out = tmp_path / "run"
    go(tiny.recipe(llava, data, out, {"name": "lwf"}, ("one",), cl=NO_TESTS, lora_dropout=0.2))
    model = LlavaForConditionalGeneration.from_pretrained(out / "final").eval()
    with torch.no_grad():
        expected = model(**watched["inputs"]).logits
    assert (watched["logits"] - expected).abs().max() <= 1e-5 * expected.abs().max()
