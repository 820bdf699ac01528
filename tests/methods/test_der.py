"""DER and DER++: the distance to stored logits against a reference, and what the method does in runs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import sealed
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError
from cl_plugins.methods import TaskContext
from cl_plugins.methods.der import DER, logit_matching, pack, unpack
from cl_plugins.methods.der.method import DERConfig


sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))

import marked
from marked import manifest


TASKS = ("one", "two")


def reference(logits, values, indices, logsumexp, divisor):
    """Equation 4 of the paper over the stored entries, token by token in plain Python."""
    total = 0.0
    for t in range(len(logits)):
        row, stored = logits[t].tolist(), values[t].tolist()
        places = indices[t].tolist() if indices is not None else range(len(stored))
        total += sum((row[j] - v) ** 2 for j, v in zip(places, stored, strict=True))
        if logsumexp is not None:
            top = max(row)
            total += (top + math.log(sum(math.exp(z - top) for z in row)) - float(logsumexp[t])) ** 2
    return total / divisor / max(len(logits), 1)


@given(st.integers(0, 9999), st.integers(0, 5), st.integers(2, 12), st.booleans(), st.booleans())
def test_equals_the_reference(seed, tokens, vocabulary, whole, total):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64)
    k = vocabulary if whole else max(1, vocabulary // 2)
    values = 3 * torch.randn(tokens, k, generator=generator, dtype=torch.float64)
    indices = None
    if not whole:
        order = [torch.randperm(vocabulary, generator=generator)[:k] for _ in range(tokens)]
        indices = torch.stack(order) if order else torch.zeros(0, k, dtype=torch.long)
    lse = torch.randn(tokens, generator=generator, dtype=torch.float64) if total else None
    for divisor in (None, 7.0):
        got = logit_matching(logits, values, indices=indices, logsumexp=lse, divisor=divisor)
        assert float(got) == pytest.approx(reference(logits, values, indices, lse, divisor or k), abs=1e-10)


def test_the_published_mean_is_that_of_mse_loss():
    """mammoth: the mean over batch and logits."""
    logits, stored = torch.randn(5, 40, dtype=torch.float64), torch.randn(5, 40, dtype=torch.float64)
    got = logit_matching(logits, stored, divisor=40)
    assert torch.allclose(got, torch.nn.functional.mse_loss(logits, stored), atol=1e-12)


def test_gradcheck():
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[0, 2], [5, 1], [3, 4]])
    values, total = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: logit_matching(z, values, indices=indices, logsumexp=total), (logits,))


def test_zero_with_a_finite_gradient_where_nothing_has_changed():
    logits = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    values, indices = logits.detach().topk(3)
    term = logit_matching(logits, values, indices=indices, logsumexp=logits.detach().logsumexp(-1))
    term.backward()
    assert float(term.detach()) == 0
    assert logits.grad.abs().max() == 0
    assert float(logit_matching(torch.zeros(0, 9), torch.zeros(0, 3), indices=torch.zeros(0, 3).long())) == 0


def test_no_gradient_goes_into_what_was_stored():
    stored = torch.randn(2, 3, requires_grad=True)
    logit_matching(torch.randn(2, 3, requires_grad=True), stored, logsumexp=stored.sum(1)).backward()
    assert stored.grad is None


def test_it_does_not_vanish_at_the_scale_of_a_vocabulary_and_the_published_mean_does():
    """The answer's own logit falls by 4: at 32,000 entries the mean over all of them sees next to nothing."""
    old = torch.randn(1, 32000)
    old[0, 7] = 15.0
    new = old.clone()
    new[0, 7] -= 4.0
    values, indices = old.topk(64)
    ours = logit_matching(new, values, indices=indices, logsumexp=old.logsumexp(-1))
    peers = logit_matching(new, old, divisor=32000)
    assert float(peers) < 1e-3
    assert float(ours) > 200 * float(peers)


def test_entries_that_were_not_stored_cannot_rise_unseen():
    old = torch.zeros(1, 100)
    old[0, 0] = 10.0
    new = old.clone()
    new[0, 50:] = 12.0
    values, indices = old.topk(10)
    if (indices >= 50).any():
        indices = torch.arange(10)[None]
        values = old.gather(1, indices)
    assert float(logit_matching(new, values, indices=indices)) == 0
    assert float(logit_matching(new, values, indices=indices, logsumexp=old.logsumexp(-1))) > 1


@given(st.integers(0, 999), st.integers(1, 4), st.sampled_from([5, 64, 300]), st.sampled_from([None, 8, 64]))
def test_stored_and_read_again(seed, tokens, vocabulary, entries):
    logits = 6 * torch.randn(tokens, vocabulary, generator=torch.Generator().manual_seed(seed))
    packed = pack(logits, entries)
    back = unpack([packed, packed])
    k = vocabulary if entries is None else min(entries, vocabulary)
    assert back.values.shape == (2 * tokens, k)
    wanted = logits if entries is None else logits.topk(k).values
    # fp16 of a log-probability: half a unit in its 11th bit
    bound = (wanted - logits.logsumexp(-1, keepdim=True)).abs() * 2**-11 + 1e-5
    assert ((back.values[:tokens] - wanted).abs() <= bound).all()
    assert torch.equal(back.values[:tokens], back.values[tokens:])
    assert torch.allclose(back.logsumexp[:tokens], logits.logsumexp(-1))
    if entries is None:
        assert back.indices is None
    else:
        assert torch.equal(logits.gather(1, back.indices[:tokens]), wanted)
        room = sum(value.numel() * value.element_size() for value in packed.values())
        assert room == tokens * (6 * k + 4)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return marked.build(tmp_path_factory.mktemp("texts") / "data", TASKS)


def run(llama, texts, out, options=None, replay=None, method="der", **keys):
    replay = replay or {"capacity_per_task": 5}
    return marked.run(llama, texts, out, {"name": method, **(options or {})}, TASKS, replay=replay, **keys)


SECOND = "tasks/02_two/update.safetensors"


def logged(out, name, task="02_two"):
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return [entry.get(f"penalty/{name}") for entry in history if "loss" in entry]


def test_weights_of_zero_are_sequential_lora(llama, texts, tmp_path):
    none = run(llama, texts, tmp_path / "none", {"alpha": 0.0, "beta": 0.0})
    plain = marked.run(llama, texts, tmp_path / "plain", tasks=TASKS)
    assert (none / SECOND).read_bytes() == (plain / SECOND).read_bytes()
    der = run(llama, texts, tmp_path / "der", {"beta": 0.0})
    assert (der / SECOND).read_bytes() != (plain / SECOND).read_bytes()
    first = "tasks/01_one/update.safetensors"
    assert (der / first).read_bytes() == (plain / first).read_bytes()


def test_the_term_begins_at_nothing_and_grows(llama, texts, tmp_path):
    """The second task starts from the model whose logits were stored; only their rounding is left."""
    out = run(llama, texts, tmp_path / "run", {"alpha": 1.0}, max_steps=4, learning_rate=1e-2)
    assert logged(out, "der", "01_one") == [None] * 4
    values = logged(out, "der")
    assert 0 <= values[0] < 1e-5
    assert values[-1] > 1e-4
    assert all(value > 0 for value in logged(out, "replay"))
    assert logged(run(llama, texts, tmp_path / "only", {"beta": 0.0}), "replay") == [None, None]


def test_it_holds_the_logits(llama, texts, tmp_path):
    """With a large weight the logits of the kept answers move less than half as far as without, late in the task."""

    def moved(name, alpha):
        keys = {"max_steps": 24, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
        out = run(llama, texts, tmp_path / name, {"alpha": alpha, "beta": 0.0}, **keys)
        return sum(logged(out, "der")[-8:]) / alpha

    assert moved("held", 10.0) < 0.5 * moved("loose", 1e-6)


def test_the_samples_are_not_mixed_into_the_training_set(llama, texts, tmp_path, monkeypatch):
    from cl_plugins.run import replaying

    sizes, load = [], replaying.load

    def note(*args):
        data = load(*args)
        sizes.append((len(data.module["train_dataset"]), len(data.memory)))
        return data

    monkeypatch.setattr(replaying, "load", note)
    run(llama, texts, tmp_path / "run")
    assert sizes == [(12, 0), (12, 5)]


@pytest.mark.parametrize("store", ["topk", "full"])
def test_what_is_stored(store, llama, texts, tmp_path):
    """Logits of this model at the answers of the kept samples, stored once and never again."""
    out = run(llama, texts, tmp_path / "run", {"store": store, "alpha": 0.1})
    kept = load_file(out / "carry" / "replay" / "memory_logits.safetensors")
    uids = {s["uid"] for s in manifest(out)}
    assert {name.rpartition("/")[0] for name in kept} == uids
    assert len(uids) == 10
    for name, value in kept.items():
        what = name.rpartition("/")[2]
        assert value.dtype == {"logprobs": torch.float16, "logsumexp": torch.float32, "indices": torch.int32}[what]
        if what == "logprobs":
            assert value.shape[0] == 2  # the letter and the end of the answer
            assert store == "full" or value.shape[1] == 64
            total = value.float().exp().sum(1)
            assert (total <= 1.001).all()
            assert store == "topk" or total == pytest.approx([1, 1], abs=1e-3)
    assert any(name.endswith("/indices") for name in kept) == (store == "topk")


def test_faithful_to_the_peer(llama, texts, tmp_path):
    full = run(llama, texts, tmp_path / "full", {"store": "full", "beta": 0.0}, max_steps=3)
    peer = run(llama, texts, tmp_path / "peer", {"store": "full", "beta": 0.0, "faithful": "peer"}, max_steps=3)
    assert (full / SECOND).read_bytes() != (peer / SECOND).read_bytes()
    vocabulary = next(
        v.shape[1]
        for n, v in load_file(peer / "carry" / "replay" / "memory_logits.safetensors").items()
        if n.endswith("logprobs")
    )
    # the first step sees the same model and the same draw: only the divisor differs
    assert logged(full, "der")[0] == pytest.approx(logged(peer, "der")[0] * vocabulary / 64, rel=1e-3)
    with pytest.raises(RecipeError, match="`store: full`"):
        run(llama, texts, tmp_path / "bad", {"faithful": "peer"})


@pytest.mark.parametrize("layout", [(2, 2), (1, 4)], ids=str)
def test_the_gradient_does_not_depend_on_the_batch_layout(layout, llama, texts, tmp_path):
    keys = {
        "max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
    }  # fmt: skip
    updates = []
    for name, (batch, accumulate) in (("whole", (4, 1)), ("parts", layout)):
        out = run(
            llama, texts, tmp_path / name, {"alpha": 2.0}, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate, **keys,
        )  # fmt: skip
        updates.append(load_file(out / SECOND))
    whole, parts = updates
    assert max(float((whole[n] - parts[n]).abs().max() / whole[n].abs().max().clamp_min(1e-9)) for n in whole) < 2e-4


def test_checkpointed_activations_give_the_same(llama, texts, tmp_path):
    on = run(llama, texts, tmp_path / "on")
    off = run(llama, texts, tmp_path / "off", disable_gradient_checkpointing=True)
    a, b = load_file(on / SECOND), load_file(off / SECOND)
    assert max(float((a[n] - b[n]).abs().max()) for n in a) < 1e-6


def test_a_carry_without_logits_is_refused(llama, texts, tmp_path):
    """The buffer of another method has samples, and nothing to hold them at."""
    first = run(llama, texts, tmp_path / "first", cl={"only": "one"})
    path = first / "carry"
    (path / "replay" / "memory_logits.safetensors").unlink()
    sealed.rehash(path)
    with pytest.raises(DataError, match="has 2 answer tokens and stored logits for 0"):
        run(llama, texts, tmp_path / "second", cl={"only": "two", "carry_from": str(first)})


def test_a_hand_over(llama, texts, tmp_path):
    chain = run(llama, texts, tmp_path / "chain")
    first = run(llama, texts, tmp_path / "first", cl={"only": "one"})
    moved = first.rename(tmp_path / "moved")
    second = run(llama, texts, tmp_path / "second", cl={"only": "two", "carry_from": str(moved)})
    assert (second / SECOND).read_bytes() == (chain / SECOND).read_bytes()


def test_without_a_runner_there_is_no_buffer():
    context = TaskContext(task=type("T", (), {"name": "one"})(), index=1, seed=0, base=None, carry=None)
    with pytest.raises(CompatibilityError, match="needs a replay buffer"):
        DER(DERConfig()).begin_task(context, torch.nn.Linear(1, 1))
    assert DER(DERConfig()).batch_terms(context, None, None) == {}
