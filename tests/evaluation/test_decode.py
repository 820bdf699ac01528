"""The decoder for plain models says what `transformers` says, and leaves alone what it does not know."""

from __future__ import annotations

import pytest

from cl_plugins.generation import generate as generation
from cl_plugins.generation.beginning import common_beginning
from cl_plugins.generation.decode import PREFILL_TOKENS, TEXT_MODELS, is_plain
from cl_plugins.generation.generate import generate, length_sorted_batches, parts_by_tokens


class Collator:
    """Pads on the left, as the host's does; counts what it is given."""

    def __init__(self, pad):
        self.pad, self.rows = pad, []

    def __call__(self, features):
        import torch

        self.rows.append([f["input_ids"] for f in features])
        longest = max(len(f["input_ids"]) for f in features)

        def padded(key, value):
            return torch.tensor([[value] * (longest - len(f[key])) + f[key] for f in features])

        batch = {"input_ids": padded("input_ids", self.pad), "attention_mask": padded("attention_mask", 0)}
        if "pixel" in features[0]:
            batch["pixel_values"] = torch.stack([f["pixel"] for f in features])
        return {**batch, "labels": torch.zeros(1)}


def prompts_of(count, shared=6, seed=0, first=10):
    import random

    dice = random.Random(seed)
    beginning = [dice.randrange(first, 90) for _ in range(shared)]
    return [beginning + [dice.randrange(first, 90) for _ in range(dice.randrange(2, 40))] for _ in range(count)]


def answered(model, tokenizer, prompts, batch_size, eos, max_new_tokens=12, pixels=None, media=()):
    features = [{"input_ids": p, "attention_mask": [1] * len(p)} for p in prompts]
    if pixels is not None:
        features = [{**f, "pixel": pixel} for f, pixel in zip(features, pixels, strict=True)]
    batches = length_sorted_batches([len(p) for p in prompts], batch_size)
    collator, found = Collator(tokenizer.pad_token_id), {}

    def on_batch(position, answers):
        found.update(zip(batches[position], (one.text for one in answers), strict=True))

    generate(
        model,
        tokenizer,
        collator,
        features,
        prompts,
        batches=batches,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos,
        media_token_ids=media,
        on_batch=on_batch,
    )
    return [found[i] for i in range(len(prompts))], collator


def one_by_one(model, tokenizer, prompts, eos, max_new_tokens=12, pixels=None):
    """Each prompt alone, without padding, through the model's own generate."""
    import torch

    texts = []
    for i, prompt in enumerate(prompts):
        more = {} if pixels is None else {"pixel_values": pixels[i][None]}
        ids = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=max_new_tokens, eos_token_id=list(eos), pad_token_id=tokenizer.pad_token_id, **more,
        )  # fmt: skip
        texts.append(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))
    return texts


@pytest.fixture(scope="module")
def text_model(llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(llama).eval(), AutoTokenizer.from_pretrained(llama)


@pytest.fixture(scope="module")
def picture_model(llava):
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(llava).eval(), AutoTokenizer.from_pretrained(llava)


def ends(texts, tokenizer, prompts, model):
    """Frequent tokens, so that answers end at different lengths."""
    from collections import Counter

    counts = Counter(i for text in texts for i in set(tokenizer.encode(text, add_special_tokens=False)[2:]))
    return [i for i, _ in counts.most_common(3)]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("limit", [16, 100000])
def test_texts_of_a_text_model(text_model, batch_size, limit, monkeypatch):
    monkeypatch.setitem(PREFILL_TOKENS, "cpu", limit)
    model, tokenizer = text_model
    prompts = prompts_of(23)
    free = one_by_one(model, tokenizer, prompts, [2])
    eos = [2, *ends(free, tokenizer, prompts, model)]
    expected = one_by_one(model, tokenizer, prompts, eos)
    assert (
        len({len(tokenizer.encode(t, add_special_tokens=False)) for t in expected}) > 3
    )  # rows end at different steps
    assert is_plain(model)
    texts, collator = answered(model, tokenizer, prompts, batch_size, eos)
    assert texts == expected
    read = sorted(len(row) for rows in collator.rows for row in rows)
    assert read == sorted(len(p) - 6 for p in prompts)  # the beginning is not read again


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_texts_of_every_architecture(name, text_model, monkeypatch):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setitem(PREFILL_TOKENS, "cpu", 64)
    _, tokenizer = text_model
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        name, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=3,
        sliding_window=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    prompts = prompts_of(9, seed=1)
    expected = one_by_one(model, tokenizer, prompts, [2])
    assert is_plain(model)
    assert len(set(expected)) > 4
    assert answered(model, tokenizer, prompts, 4, [2])[0] == expected


def test_texts_of_a_model_with_pictures(picture_model):
    import torch

    model, tokenizer = picture_model
    image = model.config.image_token_index
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.randn(3, 16, 16, generator=generator) for _ in range(11)]
    prompts = [p[:4] + [image] * 4 + p[4:] for p in prompts_of(11, shared=4)]
    assert is_plain(model)
    expected = one_by_one(model, tokenizer, prompts, [2], pixels=pixels)
    assert len(set(expected)) > 5
    texts, collator = answered(model, tokenizer, prompts, 4, [2], pixels=pixels, media=[image])
    assert texts == expected
    assert all(row[:4] == [image] * 4 for rows in collator.rows for row in rows)


def test_other_models_answer_by_their_own_generate(text_model, monkeypatch):
    model, tokenizer = text_model
    prompts = prompts_of(7)
    expected, _ = answered(model, tokenizer, prompts, 3, [2])
    monkeypatch.setattr(generation, "is_plain", lambda model: False)
    monkeypatch.setattr(generation, "Decoder", lambda *args, **kwargs: None)
    texts, collator = answered(model, tokenizer, prompts, 3, [2])
    assert texts == expected
    assert sorted(len(row) for rows in collator.rows for row in rows) == sorted(map(len, prompts))


def test_what_is_not_plain(text_model):
    import copy

    model, _ = text_model
    changed = copy.copy(model)
    for change in (
        {"model_type": "gemma2"},
        {"sliding_window": 128},
        {"_attn_implementation_internal": "flash_attention_2"},
    ):
        changed.config = copy.deepcopy(model.config)
        for name, value in change.items():
            setattr(changed.config, name, value)
        assert not is_plain(changed), change
    changed.config = model.config
    changed.generation_config = copy.deepcopy(model.generation_config)
    assert is_plain(changed)
    changed.generation_config.repetition_penalty = 1.1
    assert not is_plain(changed)


@pytest.mark.parametrize(("tower", "plain"), [("clip_vision_model", True), ("pixtral", False)])
def test_a_tower_that_needs_more_than_pictures_is_not_plain(picture_model, monkeypatch, tower, plain):
    model, _ = picture_model
    monkeypatch.setattr(model.config.vision_config, "model_type", tower, raising=False)
    assert is_plain(model) == plain


def test_state_of_model_and_tokenizer_is_put_back_after_an_error(text_model):
    model, tokenizer = text_model
    tokenizer.padding_side = "right"
    model.train()
    model.config.use_cache = False

    def fail(position, texts):
        raise KeyError(position)

    prompts = prompts_of(3)
    features = [{"input_ids": p, "attention_mask": [1] * len(p)} for p in prompts]
    with pytest.raises(KeyError):
        generate(model, tokenizer, Collator(3), features, prompts, batches=[[0, 1, 2]], max_new_tokens=2, eos_token_ids=[2], on_batch=fail)  # fmt: skip
    assert (tokenizer.padding_side, model.training, model.config.use_cache) == ("right", True, False)
    model.eval()
    model.config.use_cache = True


@pytest.mark.parametrize(("prompts", "never", "shared"), [
    ([[1, 2, 3, 4], [1, 2, 3, 5]], [], [1, 2, 3]),
    ([[1, 2, 3], [1, 2, 3, 4]], [], [1, 2]),  # every prompt keeps a token of its own
    ([[1, 2, 3, 4], [1, 2, 3, 5]], [2], [1]),
    ([[1, 2], [3, 4], [1, 2]], [], []),
    ([[1, 2, 3]], [], []),
    ([], [], []),
])  # fmt: skip
def test_common_beginning(prompts, never, shared):
    import numpy as np

    assert common_beginning(prompts, never) == shared
    assert common_beginning([np.array(p, dtype=np.int32) for p in prompts], never) == shared


def test_parts_by_tokens():
    lengths = [50, 40, 30, 30, 5]
    assert parts_by_tokens([0, 1, 2, 3, 4], lengths, 100) == [[0, 1], [2, 3, 4]]
    assert parts_by_tokens([0, 1, 2], lengths, 10) == [[0], [1], [2]]
    assert parts_by_tokens([], lengths, 10) == []
