"""L2P: selection and pull against naive fp64 arithmetic, the pool on a base, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tiny
import torch
from row_prompts import SETTINGS, batch, cut, pixels, prompts
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.base.errors import DataError, RecipeError, RunStateError
from cl_plugins.callbacks import ContinualLearner
from cl_plugins.methods.l2p.method import L2PConfig
from cl_plugins.methods.l2p.pool import Pool
from cl_plugins.methods.l2p.selection import pull, select


SMALL = {"name": "l2p", "pool_size": 4, "prompt_length": 2, "top_k": 2}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive_cosines(query, keys):
    return [[cosine(q, k) for k in keys.tolist()] for q in query.tolist()]


def test_the_nearest_keys_are_chosen():
    query, keys = draw(7, 6), draw(5, 6, seed=1)
    truth = [sorted(range(5), key=lambda i: -row[i])[:3] for row in naive_cosines(query, keys)]
    assert select(query, keys, 3).tolist() == truth


def test_among_some_prompts_only():
    query, keys = draw(7, 6), draw(5, 6, seed=1)
    truth = [sorted((2, 3), key=lambda i: -row[i]) for row in naive_cosines(query, keys)]
    assert select(query, keys, 2, allowed=range(2, 4)).tolist() == truth


def test_prompts_that_were_used_cost_more():
    query, keys = draw(7, 6), draw(5, 6, seed=1)
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    truth = []
    for row in naive_cosines(query, keys):
        cost = [(1 - c) * h for c, h in zip(row, shares.tolist(), strict=True)]
        truth.append(sorted(range(5), key=lambda i: (cost[i], -row[i]))[:3])
    found = select(query, keys, 3, frequency=shares).tolist()
    assert found == truth
    assert {frozenset(row[:2]) for row in found} == {frozenset({1, 4})}


def test_the_prompts_of_most_rows_serve_the_batch():
    query, keys = draw(9, 6), draw(5, 6, seed=1)
    each = select(query, keys, 2)
    votes = [(-each.flatten().tolist().count(i), i) for i in range(5)]
    truth = [i for _, i in sorted(votes)[:2]]
    assert select(query, keys, 2, batchwise=True).tolist() == [truth] * 9
    assert len({tuple(row) for row in each.tolist()}) > 1


def test_the_pull_is_the_formula():
    query, keys = draw(7, 6), draw(5, 6, seed=1)
    chosen = select(query, keys, 3)
    truth = sum(row[k] for row, ids in zip(naive_cosines(query, keys), chosen.tolist(), strict=True) for k in ids) / 7
    assert float(pull(query, keys, chosen)) == pytest.approx(truth, abs=1e-9)
    leaf = keys.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda k: pull(query, k, chosen), (leaf,))
    gradient = torch.autograd.grad(pull(query, leaf, chosen), leaf)[0]
    left = [i for i in range(5) if i not in chosen.flatten().tolist()]
    assert not gradient[left].any()


@pytest.fixture(scope="module")
def model(llava):
    return LlavaForConditionalGeneration.from_pretrained(llava)


def on(model, **options):
    base = HeldBase(model)
    return base, Pool(base, L2PConfig(**{"pool_size": 6, "prompt_length": 2, "top_k": 2, **options}), 1)


def test_a_row_gets_the_prompts_of_its_own_query(model):
    """Alone or in a batch, with pictures or without, also where no row has one."""
    base, pool = on(model)
    model.eval()
    rows = prompts(10, lambda i: i % 2)
    seen = pixels(rows)

    def answers(some, pictures):
        inputs = batch(some, pictures)
        with pool._state.recording() as kept, torch.no_grad():
            ids = model.generate(**inputs, **SETTINGS)[:, inputs["input_ids"].shape[1] :].tolist()
        return [cut(row) for row in ids], [row for one in kept for row in one["prompts"].tolist()]

    together, chosen = answers(rows, seen)
    assert len({tuple(c) for c in chosen}) > 1
    for row, one, answer, ids in zip(rows, seen, together, chosen, strict=True):
        assert answers([row], [one]) == ([answer], [ids])
    base.reset()


def test_queries_are_unit_vectors_of_each_kind(model):
    base, pool = on(model)
    rows = prompts(4, lambda i: i % 2)
    parts = pool._queries.of_batch(batch(rows, pixels(rows)))
    assert parts["vision"].norm(dim=1).tolist() == pytest.approx([0, 1, 0, 1], abs=1e-6)
    assert parts["text"].norm(dim=1).tolist() == pytest.approx([1] * 4, abs=1e-6)
    assert pool._queries.width == 32 + 48
    base.reset()


def test_pictures_alone_do_not_query_for_rows_of_text(model):
    base, _ = on(model, query=("vision",))
    with pytest.raises(DataError, match=r"cl.method.query.*row without a picture.*Add `text`"), torch.no_grad():
        model(**batch(prompts(2)))
    base.reset()


def test_a_base_of_texts_has_no_vision(llama):
    model = AutoModelForCausalLM.from_pretrained(llama)
    base, pool = on(model)
    assert pool._queries.widths == {"text": 32}
    with pytest.raises(Exception, match="sees no pictures"):
        on(model, query=("vision",))
    base.reset()


def test_initial_values(model):
    words = model.get_input_embeddings().weight
    base, pool = on(model)
    found = pool.model.cl_prompts.detach().flatten(0, 1)
    assert all(bool((words == row).all(1).any()) for row in found)
    assert float(pool.model.cl_keys.detach().abs().max()) > 0.9
    base.reset()
    base, pool = on(model, faithful="peer")
    assert 0.9 < float(pool.model.cl_prompts.detach().abs().max()) <= 1
    base.reset()


def trained(out, number=1, name="one"):
    return load_file(out / "tasks" / f"{number:02d}_{name}" / "update.safetensors")


def test_only_pool_and_keys_train_and_without_pull_keys_stay(llama, text_data, tmp_path):
    go(recipe(llama, text_data, tmp_path / "with", SMALL, cl=NO_TESTS))
    assert set(trained(tmp_path / "with")) == {"cl_prompts", "cl_keys"}
    go(recipe(llama, text_data, tmp_path / "without", {**SMALL, "pull": 0}, cl=NO_TESTS))
    a, b = (trained(tmp_path / "without", number, name) for number, name in ((1, "one"), (2, "two")))
    assert torch.equal(a["cl_keys"], b["cl_keys"])
    assert not torch.equal(a["cl_prompts"], b["cl_prompts"])
    history = json.loads((tmp_path / "with" / "tasks" / "01_one" / "trainer_state.json").read_text())["log_history"]
    assert all(-0.2 <= entry["penalty/pull"] <= 0.2 for entry in history if "loss" in entry)


def test_a_task_trains_its_own_prompts_only(llama, text_data, tmp_path):
    method = {**SMALL, "task_prompts": True}
    go(recipe(llama, text_data, tmp_path / "run", method, cl=NO_TESTS, optim="sgd", learning_rate=1.0))
    first, second = (trained(tmp_path / "run", number, name) for number, name in ((1, "one"), (2, "two")))
    for name in ("cl_prompts", "cl_keys"):
        assert torch.equal(first[name][:2], second[name][:2])
        assert not torch.equal(first[name][2:], second[name][2:])


def test_frequencies_count_every_sample_of_every_task_once(llama, text_data, tmp_path):
    method = {**SMALL, "pool_size": 6, "diversify": True}
    go(recipe(llama, text_data, tmp_path / "run", method, cl=NO_TESTS))
    counts = load_file(tmp_path / "run" / "carry" / "frequency.safetensors")["counts"]
    assert int(counts.sum()) == 2 * 24 * SMALL["top_k"]
    assert int((counts > 0).sum()) > 2  # the second task uses prompts that the first did not


def test_a_pool_that_is_too_small_is_refused_before_anything_loads(llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path / "run", {**SMALL, "pool_size": 3, "task_prompts": True})
    with pytest.raises(RecipeError, match=r"pool_size.*2 tasks need 4 prompts"):
        tiny.checked(keys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 5}, r"top_k: is 5, and the pool has 4"),
        ({"query": ["picture"]}, r"query: there are no features called 'picture'"),
        ({"query": ["text", "text"]}, r"query: is empty or names something twice"),
        ({"diversify": True, "task_prompts": True}, r"diversify: does not go with `task_prompts`"),
    ],
)
def test_options_that_contradict_each_other(llama, text_data, tmp_path, options, words):
    with pytest.raises(RecipeError, match=words):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", {**SMALL, **options}))


def test_multimodal_rotary_positions_are_refused_before_anything_loads(llama, text_data, tmp_path):
    folder = tmp_path / "qwen"
    folder.mkdir()
    for path in Path(llama).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"model_name_or_path.*multimodal rotary positions"):
        tiny.checked(recipe(folder, text_data, tmp_path / "run", SMALL))


def test_a_carry_of_another_pool_is_refused(llama, text_data, tmp_path):
    def keys(out, task, method, **block):
        return recipe(llama, text_data, out, method, cl={"only": task, **NO_TESTS, **block})

    go(keys(tmp_path / "one", "one", SMALL))
    with pytest.raises(RunStateError, match="prompt_length 2; this recipe's is 3"):
        go(keys(tmp_path / "two", "two", {**SMALL, "prompt_length": 3}, carry_from=str(tmp_path / "one")))


def test_a_custom_trainer_needs_no_lora(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama)
    options = {key: value for key, value in SMALL.items() if key != "name"}
    learner = ContinualLearner(model, "l2p", tmp_path, options=options)
    assert learner.model() is model
