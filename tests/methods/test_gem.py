"""GEM and A-GEM: the projection against all sets of active constraints in fp64, the memory's gradient, whole trainings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from custom_trainer import LORA
from peft import get_peft_model
from regularised import gap, tensors, text_tasks, train
from running import recipe
from transformers import AutoModelForCausalLM, TrainerState, TrainingArguments

from cl_plugins.base.errors import CompatibilityError, RecipeError
from cl_plugins.callbacks import ContinualLearner
from cl_plugins.callbacks.callback import make_method
from cl_plugins.methods.gem.projection import coefficients, projected


REPLAY = {"replay": {"capacity_per_task": 5}}
TASKS = ("01_one", "02_two")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best(gram, dots, margin):
    """The minimum over all choices of constraints that hold with equality, and its value."""
    gram, dots, found = np.array(gram), np.array(dots), []
    count = len(dots)
    for active in itertools.product((False, True), repeat=count):
        v = np.full(count, margin)
        free = [i for i in range(count) if not active[i]]
        if free:
            fixed = [i for i in range(count) if active[i]]
            right = -(dots[free] + gram[np.ix_(free, fixed)] @ v[fixed])
            v[free] = np.linalg.solve(gram[np.ix_(free, free)], right)
        if (v >= margin - 1e-12).all():
            found.append((0.5 * v @ gram @ v + dots @ v, v))
    return min(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_coefficients_are_the_minimum(seed, count, margin):
    rows, own = draw(count, 12, seed=seed), draw(12, seed=seed + 100)
    gram, dots = (rows @ rows.T).tolist(), (rows @ own).tolist()
    value, truth = best(gram, dots, margin)
    found = np.array(coefficients(gram, dots, margin))
    assert np.abs(found - truth).max() <= 1e-8 * max(1, np.abs(truth).max())
    assert 0.5 * found @ np.array(gram) @ found + np.array(dots) @ found == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_new_gradient_is_the_nearest_one_that_raises_no_loss(seed):
    own, references = draw(10, seed=seed), draw(3, 10, seed=seed + 50)
    references[0] = -own + 0.1 * references[0]
    (found,) = projected([own], [[row] for row in references])
    assert float((references @ found).min()) >= -1e-8
    generator = torch.Generator().manual_seed(seed)
    for _ in range(200):  # no allowed gradient is nearer
        other = found + 0.3 * torch.randn(10, generator=generator, dtype=torch.float64)
        if float((references @ other).min()) >= 0:
            assert float((other - own).norm()) >= float((found - own).norm()) - 1e-8


def test_with_one_reference_it_is_the_closed_form():
    own, reference = draw(10), draw(10, seed=1)
    reference = -reference if float(own @ reference) > 0 else reference
    truth = own - (own @ reference) / (reference @ reference) * reference
    found = projected([own[:4], own[4:].reshape(2, 3)], [[reference[:4], reference[4:].reshape(2, 3)]])
    assert (torch.cat([part.flatten() for part in found]) - truth).abs().max() <= 1e-9


def test_nothing_changes_where_no_product_is_negative():
    own = draw(10)
    assert projected([own], [[own], [2 * own]]) is None


def test_references_that_are_equal_or_zero():
    own = draw(10)
    (found,) = projected([own], [[-own], [-own], [torch.zeros(10, dtype=torch.float64)]])
    assert float(found.norm()) < 1e-4 * float(own.norm())


@dataclass
class Kept:
    """A buffer of two tasks with two samples each, all of them texts."""

    ids: torch.Tensor

    @property
    def samples(self):
        return [SimpleNamespace(task=task) for task in ("a", "a", "b", "b")]

    def __len__(self):
        return 4

    def batch(self, indices):
        ids = self.ids[list(indices)]
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < 4, -100)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.fixture
def adapted(llama):
    """A LoRA in fp64 that is not at its start."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama), LORA).double()
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, trained, Kept(torch.randint(20, 90, (4, 9), generator=torch.Generator().manual_seed(1)))


def loss_of(model, memory, samples):
    """Mean cross-entropy of the answer tokens."""
    batch = memory.batch(samples)
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits[:, 3:-1]
    targets = batch["input_ids"][:, 4:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("variant", ["gem", "agem"])
def test_gradients_that_would_raise_the_loss_of_a_past_task_are_changed(adapted, variant):
    model, trained, memory = adapted
    groups = [[0, 1], [2, 3]] if variant == "gem" else [[0, 1, 2, 3]]
    references = [torch.autograd.grad(loss_of(model, memory, group), trained) for group in groups]
    generator = torch.Generator().manual_seed(2)
    size = max(float(g.abs().max()) for g in references[0])
    for parameter, gradient in zip(trained, references[0], strict=True):
        noise = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        parameter.grad = -gradient + 0.1 * size * noise
    before = [p.grad.clone() for p in trained]
    method = make_method("gem", {"variant": variant, "samples": 4})
    context = SimpleNamespace(memory=memory, seed=7, rank=0, world_size=1)
    method.change_gradients(context, model, 3)
    truth = projected(before, references)
    assert truth is not None
    for parameter, wanted in zip(trained, truth, strict=True):
        assert (parameter.grad - wanted).abs().max() <= 1e-5 * float(
            wanted.abs().max()
        )  # the memory's loss is in fp32
    for reference in references:
        product, size = (
            sum(float((p.grad * x).sum()) for p, x in zip(trained, xs, strict=True)) for xs in (reference, before)
        )
        assert product >= -1e-5 * abs(size)


def test_gradients_that_lower_the_loss_stay(adapted):
    model, trained, memory = adapted
    gradients = torch.autograd.grad(loss_of(model, memory, [0, 1, 2, 3]), trained)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient.clone()
    context = SimpleNamespace(memory=memory, seed=7, rank=0, world_size=1)
    make_method("gem", {"variant": "agem"}).change_gradients(context, model, 1)
    assert all(torch.equal(p.grad, g) for p, g in zip(trained, gradients, strict=True))


def test_it_acts_in_a_training(llama, tmp_path):
    """The letters of the second task contradict those of the first; once these are learned, gradients conflict."""
    data = text_tasks(tmp_path / "data", train=8)
    keys = {"layout": (8, 1), "optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 20}
    method = {"name": "gem", "samples": 5}
    found = [tensors(train(llama, data, tmp_path / "gem", method, cl=REPLAY, **keys), task) for task in TASKS]
    without = [tensors(train(llama, data, tmp_path / "plain", "seqlora", **keys), task) for task in TASKS]
    assert gap(found[0], without[0]) == 0
    assert gap(found[1], without[1]) > 1e-2


def test_one_past_task_makes_both_variants_equal(llama, tmp_path):
    data = text_tasks(tmp_path / "data")
    keys = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 12, "cl": REPLAY}
    both = [
        tensors(train(llama, data, tmp_path / v, {"name": "gem", "variant": v, "samples": 5}, **keys))
        for v in ("gem", "agem")
    ]
    assert gap(*both) < 1e-4  # the memory samples come in another order


def test_without_a_buffer_it_is_refused(llama, text_data, tmp_path):
    with pytest.raises(RecipeError, match=r"capacity_per_task.*'gem' draws from the buffer"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", "gem"))


def test_a_margin_without_effect_is_refused(llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path / "run", {"name": "gem", "variant": "agem", "margin": 0.5}, cl=REPLAY)
    with pytest.raises(RecipeError, match=r"margin: has no effect"):
        tiny.checked(keys)


def test_a_callback_alone_is_refused(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama)
    learner = ContinualLearner(model, "gem", tmp_path / "s", lora=LORA, replay=REPLAY["replay"])
    arguments = TrainingArguments(str(tmp_path / "t"), use_cpu=True, report_to="none")
    with pytest.raises(CompatibilityError, match="ContinualTrainerMixin"), learner.task("one") as task:
        task.callback.on_train_begin(arguments, TrainerState(), None, model=task.model)
