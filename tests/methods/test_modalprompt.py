"""ModalPrompt: prototypes, closeness and terms against naive fp64 arithmetic, the prompts on a base, what it refuses."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from row_prompts import SETTINGS, batch, cut, pixels, prompts
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.methods.modalprompt.guide import Head, choose, closeness, guidance, prototype
from cl_plugins.methods.modalprompt.method import ModalPromptConfig
from cl_plugins.methods.modalprompt.prompts import Learned, TaskPrompts


SMALL = {"name": "modalprompt", "prompt_length": 2, "prompts": 2}
LENGTH, HIDDEN, SEEN, READ = 3, 5, 4, 6


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head():
    return Head(
        draw(HIDDEN, HIDDEN), draw(HIDDEN, seed=1), draw(SEEN + READ, HIDDEN, seed=2), draw(SEEN + READ, seed=3)
    )


def features(pictures=(True, False, True)):
    vision = draw(3, SEEN, seed=4) * torch.tensor(pictures)[:, None]
    return {"vision": vision, "text": draw(3, READ, seed=5)}


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_a_prototype_is_the_mean_of_the_heads_outputs():
    vectors, h = draw(LENGTH, HIDDEN, seed=9), head()
    truth = [0.0] * (SEEN + READ)
    for row in vectors.tolist():
        inner = [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(h.inner.tolist(), h.inner_bias.tolist(), strict=True)]  # fmt: skip
        inner = [x / (1 + math.exp(-x)) for x in inner]
        for i, (ws, b) in enumerate(zip(h.outer.tolist(), h.outer_bias.tolist(), strict=True)):
            truth[i] += (sum(w * x for w, x in zip(ws, inner, strict=True)) + b) / LENGTH
    assert prototype(vectors, h).tolist() == pytest.approx(truth, abs=1e-9)
    leaves = [x.requires_grad_(True) for x in (vectors, *h)]
    assert torch.autograd.gradcheck(lambda e, *rest: prototype(e, Head(*rest)), leaves)


def test_closeness_is_the_mean_of_the_cosines_that_a_row_has():
    parts, prototypes = features(), draw(4, SEEN + READ, seed=6)
    truth = []
    for v, u in zip(parts["vision"].tolist(), parts["text"].tolist(), strict=True):
        by_text = [cosine(u, p[SEEN:]) for p in prototypes.tolist()]
        by_picture = [cosine(v, p[:SEEN]) for p in prototypes.tolist()] if any(v) else by_text
        truth.append([(a + b) / 2 for a, b in zip(by_picture, by_text, strict=True)])
    found = closeness(parts, prototypes)
    assert torch.allclose(found, torch.tensor(truth, dtype=torch.float64), rtol=0, atol=1e-9)
    order = [sorted(range(4), key=lambda i: -row[i]) for row in truth]
    assert choose(found, 2).tolist() == [[row[1], row[0]] for row in order]
    assert choose(found, 9).tolist() == [row[::-1] for row in order]


def test_the_terms_are_the_formula():
    parts, own = features(), draw(SEEN + READ, seed=7).requires_grad_(True)
    values = own.tolist()
    seen = [cosine(v, values[:SEEN]) for v in parts["vision"].tolist() if any(v)]
    read = [cosine(u, values[SEEN:]) for u in parts["text"].tolist()]
    found = guidance(parts, own)
    assert float(found["vision"].detach()) == pytest.approx(1 - sum(seen) / 2, abs=1e-9)
    assert float(found["text"].detach()) == pytest.approx(1 - sum(read) / 3, abs=1e-9)
    assert torch.autograd.gradcheck(lambda p: sum(guidance(parts, p).values()), (own,))


def test_without_a_picture_the_term_is_zero_and_has_a_gradient():
    own = draw(SEEN + READ, seed=7).requires_grad_(True)
    term = guidance(features((False, False, False)), own)["vision"]
    assert float(term.detach()) == 0
    assert torch.autograd.grad(term, own)[0].abs().max() == 0


@pytest.fixture(scope="module")
def model(llava):
    return LlavaForConditionalGeneration.from_pretrained(llava)


def learned(model, count, seed=0):
    words = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    tasks = tuple("abcdefgh"[:count])
    vectors = torch.randn(count, 2, words.shape[1], generator=generator)
    return Learned(tasks, vectors, torch.randn(count, 32 + words.shape[1], generator=generator))


def test_a_row_gets_the_prompts_of_the_tasks_that_it_is_like(model):
    """Alone or in a batch, with pictures or without, also where no row has one."""
    base = HeldBase(model)
    placed = TaskPrompts(base, ModalPromptConfig(prompt_length=2, prompts=2), learned(model, 6), None)
    model.eval()
    rows = prompts(10, lambda i: i % 2)
    seen = pixels(rows)

    def answers(some, pictures):
        inputs = batch(some, pictures)
        with placed._state.recording() as kept, torch.no_grad():
            ids = model.generate(**inputs, **SETTINGS)[:, inputs["input_ids"].shape[1] :].tolist()
        return [cut(row) for row in ids], [route for one in kept for route in one["route"]]

    together, routes = answers(rows, seen)
    assert len(set(routes)) > 1
    for row, one, answer, route in zip(rows, seen, together, routes, strict=True):
        assert answers([row], [one]) == ([answer], [route])
    base.reset()


def test_a_task_that_is_told_is_followed(model):
    base = HeldBase(model)
    placed = TaskPrompts(base, ModalPromptConfig(prompt_length=2, prompts=2), learned(model, 4), None)
    model.eval()
    rows = prompts(6, lambda i: i % 2)
    with placed._state.telling("c"), placed._state.recording() as kept, torch.no_grad():
        told = model(**batch(rows, pixels(rows))).logits
    assert [row for one in kept for row in one["prompts"].tolist()] == [[2]] * 6
    assert {route for one in kept for route in one["route"]} == {"c"}
    with torch.no_grad():
        assert not torch.equal(model(**batch(rows, pixels(rows))).logits, told)
    base.reset()


def last_token_of(inputs):
    """Labels of rows whose last token is the answer."""
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    return labels


def test_in_training_the_own_prompt_stands_next_to_the_words(model):
    base = HeldBase(model)
    placed = TaskPrompts(base, ModalPromptConfig(prompt_length=2, prompts=3), learned(model, 4), "new")
    rows = prompts(5, lambda i: i % 2)
    inputs = batch(rows, pixels(rows))
    inputs["labels"] = last_token_of(inputs)
    model.train()
    model(**inputs)
    chosen = placed._state.current.kept["prompts"]
    assert chosen.shape == (5, 3)
    assert chosen[:, -1].tolist() == [4] * 5
    assert int(chosen[:, :2].max()) < 4
    parts = placed.queries.of_batch(inputs)
    close = closeness(parts, learned(model, 4).prototypes)
    assert torch.equal(chosen[:, :2], choose(close, 2))
    model.eval()
    base.reset()


def test_fresh_prompts_do_not_answer_before_they_are_trained(model):
    base = HeldBase(model)
    past = learned(model, 3)
    rows = prompts(6, lambda i: 1)
    inputs = batch(rows, pixels(rows))
    model.eval()
    TaskPrompts(base, ModalPromptConfig(prompt_length=2, prompts=1), past, None)
    with torch.no_grad():
        before = model(**inputs).logits
    base.reset()
    placed = TaskPrompts(base, ModalPromptConfig(prompt_length=2, prompts=1), past, "new")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    model.train()
    model(**inputs, labels=last_token_of(inputs))
    model.eval()
    assert placed.answers
    base.reset()


def trained(out, number=1, name="one"):
    return load_file(out / "tasks" / f"{number:02d}_{name}" / "update.safetensors")


def words_of(llama):
    return load_file(llama / "model.safetensors")["model.embed_tokens.weight"]


def begun(prompts_, words):
    """Which vectors are embeddings of tokens, as all are in the beginning."""
    return [bool((words == row).all(1).any()) for row in prompts_]


def test_the_prompts_of_every_task_train_the_last_ones_too(llama, text_data, tmp_path):
    go(recipe(llama, text_data, tmp_path / "run", SMALL, cl=NO_TESTS))
    found = [trained(tmp_path / "run", number, name) for number, name in ((1, "one"), (2, "two"))]
    heads = {"cl_head_in", "cl_head_in_bias", "cl_head_out", "cl_head_out_bias"}
    assert set(found[0]) == set(found[1]) == {"cl_prompts", *heads}
    carried = load_file(tmp_path / "run" / "carry" / "prompts.safetensors")
    for number, update in enumerate(found):
        assert not any(begun(update["cl_prompts"], words_of(llama)))
        assert torch.equal(carried["prompts"][number], update["cl_prompts"])
        truth = prototype(update["cl_prompts"], Head(*(update[name] for name in ("cl_head_in", "cl_head_in_bias", "cl_head_out", "cl_head_out_bias"))))  # fmt: skip
        assert torch.allclose(carried["prototypes"][number], truth, rtol=1e-5, atol=1e-6)


def test_peers_leave_the_last_tasks_prompts_as_they_begin(llama, text_data, tmp_path):
    method = {**SMALL, "faithful": "peer", "num_tasks": 2}
    go(recipe(llama, text_data, tmp_path / "run", method, cl=NO_TESTS))
    first, second = (trained(tmp_path / "run", number, name) for number, name in ((1, "one"), (2, "two")))
    assert not any(begun(first["cl_prompts"], words_of(llama)))
    assert all(begun(second["cl_prompts"], words_of(llama)))
    assert second["cl_head_in"].abs().max() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"query": ["hidden"]}, r"query: names `hidden`"),
        ({"image_weight": 0, "text_weight": 0}, r"text_weight: is 0 for everything"),
        ({"faithful": "peer"}, r"faithful: is 'peer', which needs the number of tasks"),
        ({"faithful": "peer", "num_tasks": 5}, r"num_tasks: is 5; the stream trains 2 tasks"),
    ],
)
def test_options_that_contradict_each_other(llama, text_data, tmp_path, options, words):
    with pytest.raises(RecipeError, match=words):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", {**SMALL, **options}))


def test_a_carry_of_other_prompts_is_refused(llama, text_data, tmp_path):
    def keys(out, task, method, **block):
        return recipe(llama, text_data, out, method, cl={"only": task, **NO_TESTS, **block})

    go(keys(tmp_path / "one", "one", SMALL))
    with pytest.raises(RunStateError, match="prompt_length 2; this recipe's is 3"):
        go(keys(tmp_path / "two", "two", {**SMALL, "prompt_length": 3}, carry_from=str(tmp_path / "one")))
