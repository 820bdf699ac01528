"""The Fisher values of EWC against a naive loop, and what computing them leaves behind: nothing."""

from __future__ import annotations

import pytest
import torch

from cl_plugins.base.errors import TrainingError
from cl_plugins.methods.ewc import fisher_diagonal
from cl_plugins.methods.samples import chosen_samples


@pytest.fixture
def model(llama):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(llama)
    config.attention_dropout = 0.5
    return AutoModelForCausalLM.from_pretrained(llama, config=config, dtype=torch.float64)


def samples(count=5, length=9):
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in range(count):
        ids = torch.randint(10, 60, (1, length), generator=generator)
        labels = ids.clone()
        labels[:, : 3 + n % 4] = -100
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def some(model):
    """Parameters of several layers, one of them not used by the loss."""
    unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    return [model.model.layers[0].self_attn.q_proj.weight, model.model.layers[1].mlp.up_proj.weight, unused]


def naive(model, parameters, batches, weigh=lambda loss: 1.0):
    total = [torch.zeros_like(p) for p in parameters]
    for batch in batches:
        model.zero_grad()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        picked = [(p, int(t)) for p, t in enumerate(batch["labels"][0, 1:]) if t != -100]
        loss = -torch.stack([logits[p].log_softmax(-1)[t] for p, t in picked]).mean()
        loss.backward()
        for t, p in zip(total, parameters, strict=True):
            if p.grad is not None:
                t += weigh(loss.detach()) * p.grad**2
    model.zero_grad()
    return [t / len(batches) for t in total]


@pytest.mark.parametrize("by_likelihood", [False, True])
def test_fisher_equals_a_naive_loop(model, by_likelihood):
    model.eval()
    parameters = some(model)
    weigh = (lambda loss: torch.exp(-loss)) if by_likelihood else (lambda loss: 1.0)
    expected = naive(model, parameters, samples(), weigh)
    model.train()
    found = fisher_diagonal(model, parameters, samples(), by_likelihood=by_likelihood)
    for f, e in zip(found, expected, strict=True):
        # the loss is the model's own, which is computed in fp32 whatever the weights
        assert torch.allclose(f, e, rtol=1e-5, atol=1e-5 * float(e.abs().max()))
    assert found[0].any()
    assert not found[2].any()


def test_it_is_not_the_square_of_the_mean_gradient(model):
    parameters = some(model)[:1]
    batches = samples()
    each = fisher_diagonal(model, parameters, batches)[0]
    whole = {k: torch.cat([b[k] for b in batches]) for k in batches[0]}
    assert float(fisher_diagonal(model, parameters, [whole])[0].sum()) < 0.7 * float(each.sum())


def test_fisher_leaves_the_model_as_it_was(model):
    model.train()
    model.model.layers[0].eval()
    parameters = some(model)
    modes, grads = [m.training for m in model.modules()], torch.full_like(parameters[0], 3.0)
    parameters[0].grad = grads.clone()
    state = torch.get_rng_state()
    fisher_diagonal(model, parameters, samples(2))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(parameters[0].grad, grads)
    assert all(p.grad is None for p in model.parameters() if p is not parameters[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mode_comes_back_after_an_error(model):
    model.train()
    with pytest.raises(KeyError):
        fisher_diagonal(model, some(model), [{}])
    assert all(m.training for m in model.modules())


def test_gradient_checkpointing_changes_nothing(model):
    model.train()
    parameters = some(model)
    plain = fisher_diagonal(model, parameters, samples(2))
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    for a, b in zip(plain, fisher_diagonal(model, parameters, samples(2)), strict=True):
        assert torch.equal(a, b)


def test_samples_without_an_answer_are_passed_over(model):
    parameters, batches = some(model), samples(2)
    empty = {**batches[0], "labels": torch.full_like(batches[0]["labels"], -100)}
    first_only = torch.full_like(empty["labels"], -100)
    first_only[0, 0] = 12  # nothing predicts the first token
    more = [batches[0], empty, {**empty, "labels": first_only}, batches[1]]
    for a, b in zip(
        fisher_diagonal(model, parameters, batches), fisher_diagonal(model, parameters, more), strict=True
    ):
        assert torch.equal(a, b)
    with pytest.raises(TrainingError, match="none of the samples"):
        fisher_diagonal(model, parameters, [empty])


def test_the_sum_is_in_fp32_for_half_precision_weights(model):
    half = model.to(torch.bfloat16)
    assert fisher_diagonal(half, some(half)[:1], samples(1))[0].dtype == torch.float32


def test_a_gradient_that_is_not_finite_is_an_error(model):
    parameters = some(model)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match="not finite"):
        fisher_diagonal(model, parameters, samples(1))


def test_the_samples_are_chosen_by_the_seed_alone():
    state = torch.get_rng_state()
    chosen = chosen_samples(50, 20, 7)
    assert chosen == chosen_samples(50, 20, 7) != chosen_samples(50, 20, 8)
    assert len(set(chosen)) == 20
    assert max(chosen) > 20
    assert sorted(chosen_samples(5, 20, 7)) == [0, 1, 2, 3, 4]
    assert torch.equal(torch.get_rng_state(), state)
