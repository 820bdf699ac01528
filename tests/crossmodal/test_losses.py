"""Each loss against a naive computation in fp64, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_encoders import batch_of, classifier

from cl_plugins.crossmodal import losses, usage


torch.manual_seed(3)
ROWS, K, WIDTH = 5, 3, 4
PARTS = torch.randn(ROWS, K, WIDTH, dtype=torch.double)
JOINT = torch.randn(ROWS, WIDTH, dtype=torch.double)
EVERYONE = torch.ones(ROWS, K, dtype=torch.bool)
SOME = EVERYONE.clone()
SOME[0, 1] = SOME[3, 2] = False


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def close(found, expected):
    assert abs(float(found) - expected) < 1e-9


def test_joint_cross_entropy():
    new, memory = torch.randn(3, 4, dtype=torch.double), torch.randn(2, 4, dtype=torch.double)
    rows = [(new[0], 1), (new[1], 0), (new[2], 3), (memory[0], 2), (memory[1], 2)]
    expected = sum(math.log(sum(math.exp(v) for v in z.tolist())) - float(z[y]) for z, y in rows) / 5
    close(losses.joint_cross_entropy(new, torch.tensor([1, 0, 3]), memory, torch.tensor([2, 2])), expected)


def test_distillation_is_over_the_old_classes():
    new, old = torch.randn(3, 5, dtype=torch.double), torch.randn(3, 2, dtype=torch.double)
    expected = 0.0
    for row in range(3):
        p = (old[row] / 2).softmax(0)
        q = (new[row, :2] / 2).softmax(0)
        expected += 4 * sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)) / 3
    close(losses.distillation(new, old), expected)
    close(losses.distillation(torch.cat([old, new], 1), old), 0.0)


@pytest.mark.parametrize("present", [EVERYONE, SOME])
def test_alignment_by_infonce(present):
    expected = 0.0
    for k in range(K):
        own = [i for i in range(ROWS) if present[i, k]]
        for i in own:
            scores = [math.exp(cos(PARTS[i, k], JOINT[j]) / 0.2) for j in range(ROWS)]
            expected -= math.log(scores[i] / sum(scores)) / len(own) / K
    close(losses.alignment(PARTS, JOINT, present, temperature=0.2), expected)


def test_alignment_by_the_cosine():
    pairs = [(i, k) for k in range(K) for i in range(ROWS)]
    expected = sum(1 - cos(PARTS[i, k], JOINT[i]) for i, k in pairs) / len(pairs)
    close(losses.alignment(PARTS, JOINT, EVERYONE, kind="cosine"), expected)


def test_alignment_leaves_out_a_modality_that_nobody_has():
    nobody = EVERYONE.clone()
    nobody[:, 2] = False
    found = losses.alignment(PARTS, JOINT, nobody)
    close(found, float(losses.alignment(PARTS[:, :2], JOINT, EVERYONE[:, :2])))


def test_the_contrastive_loss():
    expected = 0.0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        both = [i for i in range(ROWS) if SOME[i, first] and SOME[i, second]]
        for a, b in ((first, second), (second, first)):
            for i in both:
                scores = {j: math.exp(cos(PARTS[i, a], PARTS[j, b]) / 0.1) for j in both}
                expected -= math.log(scores[i] / sum(scores.values())) / len(both) / 2 / 3
    close(losses.contrastive(PARTS, SOME), expected)
    lonely = torch.eye(K, dtype=torch.bool)
    close(losses.contrastive(PARTS[:K], lonely), 0.0)


def naive_preservation(new, old, tau):
    def p(z, i):
        scores = [math.exp(cos(z[i], z[j]) / tau) for j in range(len(z)) if j != i]
        return [score / sum(scores) for score in scores]

    rows = range(len(new))
    return sum(sum(a * math.log(a / b) for a, b in zip(p(old, i), p(new, i), strict=True)) for i in rows) / len(new)


def test_preservation():
    old = torch.randn(ROWS, WIDTH, dtype=torch.double)
    close(losses.preservation(JOINT, old), naive_preservation(JOINT, old, 0.1))
    close(losses.preservation(JOINT, old, 0.5), naive_preservation(JOINT, old, 0.5))


def test_preservation_is_zero_for_an_unchanged_model_and_in_the_first_step():
    assert float(losses.preservation(JOINT, JOINT)) == 0
    assert float(losses.preservation(JOINT[:2], JOINT[2:4])) == 0
    assert [losses.preservation_weight(t) for t in (1, 2, 5)] == [0, 1, 2]


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, z: losses.alignment(p, z, SOME),
        lambda p, z: losses.alignment(p, z, SOME, kind="cosine"),
        lambda p, z: losses.contrastive(p, SOME) + 0 * z.sum(),
        lambda p, z: losses.preservation(z, JOINT.flip(0)) + 0 * p.sum(),
        lambda p, z: losses.distillation(z, JOINT[:, :2]) + 0 * p.sum(),
        lambda p, z: losses.joint_cross_entropy(
            p[:, 0], torch.arange(4).repeat(2)[:ROWS], z, torch.zeros(ROWS).long()
        ),
    ],
)
def test_gradients(loss):
    parts, joint = PARTS.clone().requires_grad_(), JOINT.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (parts, joint))


def test_nothing_is_learned_by_the_model_before():
    old = JOINT.clone().requires_grad_()
    new = JOINT.flip(0).clone().requires_grad_()
    (losses.preservation(new, old) + losses.distillation(new, old)).backward()
    assert old.grad is None
    assert new.grad.abs().sum() > 0


def test_the_gradient_of_an_adapter():
    model = classifier(("bert", "vit"), double=True)
    batch = batch_of(("bert", "vit"), double=True)
    up = model.adapters[0].experts[int(model(**batch).chosen[0, 0, 0, 0])].up["vit"]

    def loss(value):
        name = next(n for n, p in model.named_parameters() if p is up)
        return torch.func.functional_call(model, {name: value}, (), {**batch, "labels": torch.tensor([0, 1, 1])}).loss

    assert torch.autograd.gradcheck(loss, (up.detach().clone().requires_grad_(),))


# --- which experts are frozen


def test_frequencies_add_up_and_both_readings_are_there():
    chosen = torch.tensor(
        [[[[0, 1]], [[0, 2]], [[0, 1]]], [[[3, 2]], [[2, 1]], [[0, 1]]]]
    )  # (blocks, rows, choices, top)
    count = usage.counts(chosen, 4)
    assert count.tolist() == [[3, 2, 1, 0], [1, 2, 2, 1]]
    by_slot, by_sample = usage.frequencies(count, 2), usage.frequencies(count, 2, by="samples")
    assert torch.allclose(by_slot.sum(1), torch.ones(2).double())
    assert torch.allclose(by_sample, 2 * by_slot)
    assert float(by_sample[0, 0]) == 1
    assert usage.above(by_slot, 0.3) == [[0, 1], [1, 2]]
    assert usage.above(by_sample, 0.3) == [[0, 1, 2], [0, 1, 2, 3]]


def test_a_frozen_expert_stays_bit_for_bit_and_is_still_chosen():
    model = classifier(("bert", "vit"))
    usage.freeze(model.adapters, [[0, 2], [1]])
    before = {n: p.clone() for n, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output = model(labels=torch.tensor([0, 1, 0]), **batch_of(("bert", "vit")))
        output.loss.backward()
        optimizer.step()
    same = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    frozen = ("adapters.0.experts.0.", "adapters.0.experts.2.", "adapters.1.experts.1.", "encoders.")
    assert {n for n in before if n.startswith(frozen)} <= same
    assert not any(n.startswith(("projections", "fusion", "classifier")) for n in same)
    assert output.chosen.shape == (2, 3, 1, 2)
