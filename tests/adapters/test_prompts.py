"""Soft prompts in the language model: outside nothing is longer, and a row's answer depends on that row alone."""

from __future__ import annotations

import pytest
import torch
from row_prompts import PAD, SETTINGS, answers, batch, cut, decoded, pixels, prompts
from transformers import AutoConfig, AutoModelForCausalLM, LlavaForConditionalGeneration

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.prompts import places, position_problem, put_in, recipe_problems
from cl_plugins.adapters.structure import Structure
from cl_plugins.base.errors import CompatibilityError


POOL, COUNT = 5, 3


def prompted(model, trained=False, strength=1.0):
    """A base with five sets of three vectors; a row's words and pictures decide which it gets."""
    base = HeldBase(model)
    generator = torch.Generator().manual_seed(0)
    width = model.get_input_embeddings().weight.shape[1]
    pool = strength * torch.randn(POOL, COUNT, width, generator=generator)
    base.register("cl_pool", pool.to(model.dtype), trained=trained)

    def begin(rows):
        values, there = rows.vision
        score = (rows.text.double() * 30).sum(1).abs() + (values.double() * 30).sum(1).abs() * there
        chosen = (score.long() % POOL).cpu()
        rows.kept.update(chosen=chosen, route=[str(int(i)) for i in chosen])

    state = base.rows(begin)
    put_in(base, state, lambda rows: model.cl_pool[rows.kept["chosen"].to(model.cl_pool.device)])
    model.eval()
    return base, state


@pytest.fixture(scope="module")
def text_model(llama):
    return AutoModelForCausalLM.from_pretrained(llama)


@pytest.fixture(scope="module")
def seeing_model(llava):
    return LlavaForConditionalGeneration.from_pretrained(llava)


@pytest.fixture
def text(text_model):
    base, state = prompted(text_model)
    yield text_model, state
    base.reset()


@pytest.fixture
def seeing(seeing_model):
    base, state = prompted(seeing_model)
    yield seeing_model, state
    base.reset()


def test_places_of_a_row_padded_on_the_left_and_one_on_the_right():
    attended = torch.tensor([[False, False, True, True], [True, True, True, False]])
    source, keep = places(attended, 2)
    assert source.tolist() == [[0, 1, 2, 4, 5, 3], [0, 4, 5, 1, 2, 3]]
    assert keep.tolist() == [[0, 1, 2, 5], [0, 3, 4, 5]]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_the_logits_are_those_of_embeddings_with_the_vectors_written_in(llama, padding):
    """In fp64 against a row that somebody has put together by hand."""
    model = AutoModelForCausalLM.from_pretrained(llama).double()
    base, state = prompted(model)
    rows = [row[:9] for row in prompts(4) if len(row) >= 9] if padding == "none" else prompts(4)
    inputs = batch(rows)
    if padding == "right":
        inputs = {name: torch.stack([x.roll(int(m.sum()), 0) for x, m in zip(v, inputs["attention_mask"], strict=True)]) for name, v in inputs.items()}  # fmt: skip
    if padding == "left":  # as `generate` has it; rotary angles are in fp32, whatever the model is in
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with state.recording() as seen, torch.no_grad():
        got = model(**inputs)
    chosen = [int(i) for kept in seen for i in kept["chosen"]]
    pool = model.cl_pool.detach().clone()
    base.reset()
    assert got.logits.shape[:2] == inputs["input_ids"].shape
    for number, row in enumerate(rows):
        embedded = model.get_input_embeddings()(torch.tensor(row))
        whole = torch.cat([embedded[:1], pool[chosen[number]], embedded[1:]])[None]
        with torch.no_grad():
            truth = model(inputs_embeds=whole).logits[0]
        truth = torch.cat([truth[:1], truth[1 + COUNT :]])
        own = got.logits[number][inputs["attention_mask"][number].bool()]
        assert (own - truth).abs().max() <= 1e-9 * truth.abs().max()


def test_the_loss_is_that_of_the_callers_labels(text):
    model, _ = text
    inputs = batch(prompts(6))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :-3] = -100
    with torch.no_grad():
        output = model(**inputs, labels=labels, output_hidden_states=True)
    logits = output.logits[:, :-1].reshape(-1, output.logits.shape[-1])
    truth = torch.nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1), ignore_index=-100)
    assert output.loss == pytest.approx(float(truth), rel=1e-5)
    assert {tuple(h.shape[:2]) for h in output.hidden_states} == {tuple(inputs["input_ids"].shape)}


def test_one_row_alone_or_thirty_with_padding(text):
    model, state = text
    rows = prompts(30)
    together, routes = answers(model, state, rows)
    assert len(set(routes)) > 2
    for row, answer, route in zip(rows, together, routes, strict=True):
        assert answers(model, state, [row]) == ([answer], [route])


def test_the_vectors_matter(text):
    model, state = text
    rows = prompts(30)
    with state.base_alone():
        plain = model.generate(**batch(rows), **SETTINGS)[:, max(map(len, rows)) :]
    assert [cut(r) for r in plain.tolist()] != answers(model, state, rows)[0]


def test_with_and_without_a_cache(seeing):
    model, state = seeing
    rows = prompts(8, lambda i: i % 2)
    seen = pixels(rows)
    assert answers(model, state, rows, seen) == answers(model, state, rows, seen, use_cache=False)


@pytest.mark.parametrize("pictures", [lambda i: 1, lambda i: i % 3, lambda i: i % 2], ids=["one", "several", "some"])
def test_pictures_and_texts_in_one_batch(seeing, pictures):
    model, state = seeing
    rows = prompts(12, pictures)
    seen = pixels(rows)
    together, routes = answers(model, state, rows, seen)
    assert len(set(routes)) > 1
    for row, one, answer, route in zip(rows, seen, together, routes, strict=True):
        assert answers(model, state, [row], [one]) == ([answer], [route])


@pytest.mark.parametrize("size", [1, 5, 12])
def test_our_decoder_answers_as_generate_does(seeing, size):
    model, state = seeing
    rows = [[*p[:1], 30, 31, *p[1:]] for p in prompts(12, lambda i: i % 2)]
    seen = pixels(rows)
    alone = [answers(model, state, [row], [one]) for row, one in zip(rows, seen, strict=True)]
    found = decoded(model, rows, seen, size)
    assert list(found) == [(" ".join(map(str, a[0])), r[0]) for a, r in alone]


def test_beams_keep_their_rows(text):
    model, _ = text
    rows = prompts(5)
    more = {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True}
    inputs = batch(rows)
    together = model.generate(**inputs, **{**SETTINGS, **more})[:, inputs["input_ids"].shape[1] :].tolist()
    for number, row in enumerate(rows):
        alone = model.generate(**batch([row]), **{**SETTINGS, **more})[:, len(row) :].tolist()
        assert [cut(x) for x in alone] == [cut(x) for x in together[2 * number : 2 * number + 2]]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_those_without_checkpointing(llama, reentrant):
    found = []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(llama)
        prompted(model, trained=True, strength=0.1)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.train()
        inputs = batch(prompts(6))
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        labels[:, :-3] = -100
        model(**inputs, labels=labels).loss.backward()
        found.append(model.cl_pool.grad.clone())
    assert found[0].abs().max() > 0
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-7)


def test_reset_takes_the_prompts_off(text_model):
    before = Structure.of(text_model)
    inputs = batch(prompts(3))
    with torch.no_grad():
        plain = text_model(**inputs).logits
    base, _ = prompted(text_model)
    with torch.no_grad():
        assert not torch.equal(text_model(**inputs).logits, plain)
    base.reset()
    before.check(text_model)
    with torch.no_grad():
        assert torch.equal(text_model(**inputs).logits, plain)


def test_a_cache_of_fixed_length_is_refused(text_model):
    base = HeldBase(text_model)
    state = base.rows(lambda rows: rows.kept.update(one=[0] * rows.count))
    put_in(base, state, lambda rows: torch.zeros(rows.count, COUNT, 32))
    with pytest.raises(CompatibilityError, match="`cache_implementation='static'`, whose attention mask"):
        text_model.generate(**batch(prompts(2)), **SETTINGS, cache_implementation="static")
    base.reset()


def test_multimodal_rotary_positions_are_refused_with_the_reason(tmp_path):
    config = AutoConfig.for_model("qwen2_vl")
    config.text_config.rope_parameters = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    config.save_pretrained(tmp_path)
    (problem,) = recipe_problems({"model_name_or_path": str(tmp_path)})
    assert problem.where == "model_name_or_path"
    assert "multimodal rotary positions (qwen2_vl)" in problem.what
    assert recipe_problems({"model_name_or_path": str(tmp_path / "missing")}) == []


def test_an_ordinary_base_is_not_refused(llava, llama):
    assert recipe_problems({"model_name_or_path": str(llava)}) == []
    assert position_problem(AutoConfig.from_pretrained(llama), "base") is None


def test_padding_id_is_that_of_the_tiny_models(text_model):
    assert text_model.config.pad_token_id == PAD
