"""Row state: what is chosen at the prompt holds for a conversation, whoever shares its batch and whoever calls the model."""

from __future__ import annotations

import pytest
import torch
from row_prompts import PAD, PICTURE, SETTINGS, answers, batch, cut, decoded, pixels, prompts
from transformers import AutoModelForCausalLM, DynamicCache, LlavaForConditionalGeneration

from cl_plugins.adapters.bank import Chosen, Expert, Experts, attach
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.kept import Kept
from cl_plugins.adapters.places import find_decoder, find_tower
from cl_plugins.adapters.rows import state_of
from cl_plugins.adapters.structure import Structure
from cl_plugins.base.errors import CompatibilityError, RunStateError
from cl_plugins.generation.decode import Decoder


EXPERTS = 4
LAYERS = ("q_proj", "down_proj")


def routed(model, trained=False, kind="text"):
    """A base with four strong experts, one of which is chosen per row from the sum of its features' signs."""
    base = HeldBase(model)
    generator = torch.Generator().manual_seed(0)
    layers = {}

    def begin(rows):
        from cl_plugins.adapters.features import of_rows

        values, there = of_rows(state, rows, kind)
        text = rows.text
        score = (text.double() * 30).sum(1).abs() + (values.double() * 30).sum(1).abs() * there
        chosen = (score.long() % EXPERTS).cpu()
        rows.kept.update(expert=chosen, route=[f"expert {int(i)}" for i in chosen])

    def gate(x):
        return Chosen(torch.full((len(x),), -1) if state.off else state.current.kept["expert"])

    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in LAYERS and "vision" not in name:
            trunks = [torch.randn(2, layer.in_features, generator=generator) for _ in range(EXPERTS)]
            experts = [
                Expert(torch.randn(layer.out_features, 2, generator=generator), i, 2.0, trained)
                for i in range(EXPERTS)
            ]
            layers[name] = Experts(trunks, experts, [trained] * EXPERTS, gate)
    attach(base, layers)
    state = base.rows(begin)
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
    base, state = routed(text_model)
    yield text_model, state
    base.reset()


@pytest.fixture(params=["text", "vision"])
def seeing(seeing_model, request):
    base, state = routed(seeing_model, kind=request.param)
    yield seeing_model, state
    base.reset()


def test_one_row_alone_or_thirty_with_padding(text):
    model, state = text
    rows = prompts(30)
    together, routes = answers(model, state, rows)
    assert len(set(routes)) > 2
    for row, answer, route in zip(rows, together, routes, strict=True):
        assert answers(model, state, [row]) == ([answer], [route])


def test_the_expert_matters(text):
    """Without the choice the same prompts are answered otherwise, or nothing here would prove anything."""
    model, state = text
    rows = prompts(30)
    with state.base_alone():
        plain = model.generate(**batch(rows), **SETTINGS)[:, max(map(len, rows)) :]
    assert [cut(r) for r in plain.tolist()] != answers(model, state, rows)[0]


@pytest.mark.parametrize("pictures", [lambda i: 1, lambda i: i % 3, lambda i: i % 2], ids=["one", "several", "some"])
def test_pictures_and_texts_in_one_batch(seeing, pictures):
    model, state = seeing
    rows = prompts(12, pictures)
    seen = pixels(rows)
    together, routes = answers(model, state, rows, seen)
    assert len(set(routes)) > 1
    for row, one, answer, route in zip(rows, seen, together, routes, strict=True):
        assert answers(model, state, [row], [one]) == ([answer], [route])


def test_with_and_without_a_cache(text):
    model, state = text
    rows = prompts(8)
    assert answers(model, state, rows) == answers(model, state, rows, use_cache=False)


def test_a_choice_without_cache_holds_for_one_call_of_generate_only(text):
    model, state = text
    first, second = prompts(4), prompts(4, seed=9)
    expected = answers(model, state, second)
    answers(model, state, first, use_cache=False)
    assert answers(model, state, second, use_cache=False) == expected


def test_beams_and_several_sequences_keep_their_rows(text):
    model, _ = text
    rows = prompts(5)
    inputs = batch(rows)
    more = {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True}
    together = model.generate(**inputs, **{**SETTINGS, **more})[:, inputs["input_ids"].shape[1] :].tolist()
    for number, row in enumerate(rows):
        alone = model.generate(**batch([row]), **{**SETTINGS, **more})[:, len(row) :].tolist()
        assert [cut(x) for x in alone] == [cut(x) for x in together[2 * number : 2 * number + 2]]


BEGINNING = [1, 30, 31]  # shorter than the rest of every prompt


def with_beginning(count):
    """Prompts that begin alike, every second one with a picture, and their pictures."""
    rows = [[*BEGINNING, *p[1:]] for p in prompts(count, lambda i: i % 2)]
    return rows, pixels(rows)


@pytest.mark.parametrize("decided_by", [None, "expert"])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_our_decoder_answers_as_generate_does(seeing, size, decided_by, monkeypatch):
    """In parts, with finished rows dropped; what they begin with is computed once per expert, where it alone decides."""
    model, state = seeing
    rows, seen = with_beginning(12)
    alone = [answers(model, state, [row], [one]) for row, one in zip(rows, seen, strict=True)]
    monkeypatch.setattr(state, "decided_by", decided_by)
    found = decoded(model, rows, seen, size)
    assert [(text, route) for text, route in found] == [(" ".join(map(str, a[0])), r[0]) for a, r in alone]


def test_what_prompts_begin_with_is_computed_once_per_expert(seeing, monkeypatch):
    model, state = seeing
    rows, seen = with_beginning(12)
    read, towers, projected = [], [], []
    handles = [
        find_decoder(model).register_forward_pre_hook(
            lambda module, args, kwargs: read.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
        ),
        find_tower(model)[1].encoder.register_forward_hook(lambda *_: towers.append(1)),
        model.model.multi_modal_projector.register_forward_hook(lambda *_: projected.append(1)),
    ]
    monkeypatch.setattr(state, "decided_by", "expert")
    found = decoded(model, rows, seen, 5)
    for handle in handles:
        handle.remove()
    experts = {route for _, route in found}
    assert len(experts) > 1
    assert read.count((1, len(BEGINNING))) == len(experts)
    parts = [shape for shape in read if shape[1] > len(BEGINNING)]
    assert sum(count for count, _ in parts) == 12
    assert max(length for _, length in parts) == max(map(len, rows)) - len(BEGINNING)
    assert 0 < len(towers) <= len(parts)  # once per part, although the choice is taken in a forward of its own
    assert len(projected) == len(towers)


def test_other_pictures_are_looked_at_although_some_have_been_seen(seeing_model):
    """As in a model that calls its tower for the pictures and again for the videos."""
    base, state = routed(seeing_model, kind="vision")
    try:
        rows = prompts(2, lambda i: 1)
        first, second = (batch([row], [one]) for row, one in zip([rows[0]] * 2, pixels(rows), strict=True))
        with torch.no_grad():
            expected = seeing_model(**second).logits
            kept, _ = state.choose(second)
            _, seen = state.choose(first)
            with state.giving(kept, seen):
                assert torch.equal(seeing_model(**second).logits, expected)
    finally:
        base.reset()


def test_texts_with_a_picture_in_their_padding(seeing, monkeypatch):
    """As LLaMA-Factory's collator makes a batch of texts for a model that sees."""
    model, state = seeing
    monkeypatch.setattr(state, "decided_by", "expert")
    texts = [[*BEGINNING, *p[1:]] for p in prompts(4)]
    alone = [answers(model, state, [row]) for row in texts]
    rests = [row[len(BEGINNING) :] for row in texts]
    inputs = batch([[PICTURE] * 4 + row for row in rests], [torch.zeros(len(rests), 3, 16, 16)])
    inputs["attention_mask"][inputs["input_ids"] == PICTURE] = 0
    decoder = Decoder(model, BEGINNING, max_new_tokens=6, eos_token_ids=(2,), pad_token_id=PAD)
    with torch.no_grad(), state.recording() as seen:
        found = decoder.answer([inputs])
    assert [(cut(ids), route) for ids, route in zip(found, seen[0]["route"], strict=True)] == [
        (ids, route) for (ids,), (route,) in alone
    ]


def test_conversations_in_several_threads_do_not_mix(text):
    from concurrent.futures import ThreadPoolExecutor

    model, state = text
    rows = prompts(16)
    expected = [answers(model, state, [row]) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: answers(model, state, [row]), rows)) == expected


def test_a_cache_that_somebody_else_filled_is_refused(text_model, text):
    model, state = text
    cache = DynamicCache()
    with torch.no_grad(), state.base_alone():
        model(input_ids=torch.tensor([[1, 20, 21]]), past_key_values=cache, use_cache=True)
    with pytest.raises(CompatibilityError, match="key-value cache"):
        model(input_ids=torch.tensor([[22]]), past_key_values=cache, use_cache=True)


def test_the_tower_runs_once_also_for_hidden_states(seeing_model):
    base, state = routed(seeing_model, kind="hidden")
    calls = []
    try:
        layer = seeing_model.model.vision_tower.get_submodule(
            next(n for n, _ in seeing_model.model.vision_tower.named_modules() if n.endswith("layers.0"))
        )
        handle = layer.register_forward_hook(lambda *_: calls.append(1))
        rows = prompts(3, lambda i: 1)
        found, routes = answers(seeing_model, state, rows, pixels(rows))
        handle.remove()
        assert len(calls) == 1
        for row, one, answer, route in zip(rows, pixels(rows), found, routes, strict=True):
            assert answers(seeing_model, state, [row], [one]) == ([answer], [route])
    finally:
        base.reset()


@pytest.mark.parametrize("kind", ["vision", "text", "hidden"])
def test_features_of_a_training_batch_are_those_of_the_prompt(seeing_model, kind):
    """Padding on either side, the answer, the other rows and the experts change nothing."""
    plain = HeldBase(seeing_model)
    rows, seen = prompts(4, lambda i: i % 2), None
    seen = pixels(rows)
    alone = [plain.features(batch([row], [one]), kind) for row, one in zip(rows, seen, strict=True)]
    answered = [[*row, 50, 2] for row in rows]
    width = max(map(len, answered))
    inputs = {
        "input_ids": torch.tensor([a + [PAD] * (width - len(a)) for a in answered]),
        "attention_mask": torch.tensor([[1] * len(a) + [0] * (width - len(a)) for a in answered]),
        "labels": torch.tensor([[-100] * (len(a) - 2) + a[-2:] + [-100] * (width - len(a)) for a in answered]),
        "pixel_values": torch.cat(seen),
    }
    base, _ = routed(seeing_model)
    values, there = base.features(inputs, kind)
    base.reset()
    assert there.tolist() == ([bool(len(one)) for one in seen] if kind == "vision" else [True] * 4)
    for number, (one, has) in enumerate(alone):
        if has:
            assert torch.allclose(values[number], one[0], rtol=1e-4, atol=1e-5)


def test_reset_takes_the_row_state_off(text_model):
    before = Structure.of(text_model)
    base, _ = routed(text_model)
    assert state_of(text_model) is not None
    with pytest.raises(RunStateError, match="`forward` of '' is still replaced"):
        before.check(text_model)
    base.reset()
    assert state_of(text_model) is None
    assert "forward" not in vars(text_model)
    before.check(text_model)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_layers_see_the_rows_of_their_forward(llama, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(llama)
        routed(model, trained=True)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.train()
        for seed in (1, 5):  # two micro-batches, one after the other
            inputs = batch(prompts(6, seed=seed))
            model(**inputs, labels=inputs["input_ids"].clone().masked_fill(_first(inputs), -100)).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if n.endswith(("cl_a", "cl_b"))})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-6), name


def _first(inputs):
    """All but the last token."""
    mask = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    mask[:, -1] = False
    return mask


def test_a_second_forward_before_the_backward_is_refused_under_checkpointing(llama):
    model = AutoModelForCausalLM.from_pretrained(llama)
    routed(model, trained=True)
    inputs = batch(prompts(3))
    given = {**inputs, "labels": inputs["input_ids"].masked_fill(_first(inputs), -100)}
    model.train()
    (model(**given).loss + model(**given).loss).backward()  # nothing is computed again
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    del_me = model(**given).loss
    with pytest.raises(CompatibilityError, match="second forward"):
        model(**given)
    del_me.backward()
    model(**given).loss.backward()
    model(**given)  # never used, and gone
    model(**given).loss.backward()


def test_packed_rows_are_refused(text):
    model, _ = text
    with pytest.raises(CompatibilityError, match="several samples"):
        model(input_ids=torch.tensor([[1, 20, 21, 22]]), attention_mask=torch.tensor([[1, 1, 2, 2]]))


def test_settings_of_generate_that_would_change_the_choice_are_refused(text):
    import copy

    from transformers import StaticCache

    model, state = text
    config = copy.deepcopy(model.generation_config)
    config.prefill_chunk_size = 4
    cache = StaticCache(config=model.config, max_cache_len=64)
    for settings, message in (
        ({"prefill_chunk_size": 4}, "`prefill_chunk_size`, with which the choice would be taken from the first part"),
        ({"generation_config": config}, "`prefill_chunk_size`"),
        ({"cache_implementation": "static"}, "`cache_implementation='static'`, whose attention mask"),
        ({"prompt_lookup_num_tokens": 3}, "`prompt_lookup_num_tokens`, with which guessed tokens"),
        ({"assistant_early_exit": 1}, "`assistant_early_exit`, with which guessed tokens"),
        ({"assistant_model": model}, "`assistant_model`, with which guessed tokens"),
        ({"past_key_values": cache}, "`a static cache`, whose attention mask"),
    ):
        with pytest.raises(CompatibilityError, match=message):
            answers(model, state, prompts(2), **settings)
    inputs = batch(prompts(2))
    with pytest.raises(CompatibilityError, match="does not say which tokens are padding"):
        model(**{**inputs, "attention_mask": inputs["attention_mask"][:, None, None]})


def test_kept_rows_are_selected_and_joined():
    a = Kept(expert=torch.tensor([0, 1, 2]), route=["a", "b", "c"])
    b = Kept(expert=torch.tensor([3]), route=["d"])
    joined = Kept.join([a.select([2, 0]), b])
    assert joined["expert"].tolist() == [2, 0, 3]
    assert joined["route"] == ["c", "a", "d"]
    assert joined.rows == 3
