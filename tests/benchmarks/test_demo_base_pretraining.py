"""The pretraining of the demo base, and the shipped base as that code sees it."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.demo_base import model as base_model
from benchmarks.demo_base import pretrain
from benchmarks.demo_base.corpus import make_pictures, questions, scale_of
from benchmarks.demo_base.photographs import GROUPS, PHOTOGRAPHS
from cl_plugins.data.demo.sources import STREAM_SOURCES
from cl_plugins.data.demo.stream import base_dir


BASE = base_dir()

needs_photographs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("skimage", "sklearn")),
    reason="the photographs are missing",
)


@pytest.fixture(scope="module")
def loaded():
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    return LlavaForConditionalGeneration.from_pretrained(BASE).eval(), LlavaProcessor.from_pretrained(BASE)


def test_the_notice_names_every_photograph():
    notice = (BASE / "NOTICE").read_text()
    assert all(photo.source.file in notice and photo.source.licence in notice for photo in PHOTOGRAPHS)


def test_the_tokenizer_keeps_the_words_of_the_stream(loaded):
    tokenizer = loaded[1].tokenizer
    assert tokenizer.decode(tokenizer.encode(pretrain.DEMO_WORDS, add_special_tokens=False)) == pretrain.DEMO_WORDS


def test_the_prompt_is_what_the_host_renders(loaded):
    template_module = pytest.importorskip("llamafactory.data.template")
    tokenizer = loaded[1].tokenizer
    template = template_module.TEMPLATES["llava"]
    user = "<image>\nHow bright is this picture?"
    ids, reply = template.encode_oneturn(
        tokenizer, [{"role": "user", "content": user}, {"role": "assistant", "content": "B"}]
    )
    assert ids == tokenizer.encode(base_model.prompt(user), add_special_tokens=False)
    assert reply == [*tokenizer.encode("B", add_special_tokens=False), tokenizer.eos_token_id]


def test_the_processor_scales_as_the_script_does(loaded):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    batch = loaded[1](text="<image>", images=Image.fromarray(picture), return_tensors="pt")
    assert (batch["input_ids"] == loaded[0].config.image_token_id).sum() == base_model.IMAGE_TOKENS
    torch.testing.assert_close(batch["pixel_values"], pretrain.to_tensor([picture]), atol=1e-5, rtol=0)


@needs_photographs
def test_it_reads_pictures_answers_with_a_letter_and_stops(loaded):
    model, processor = loaded
    pictures = make_pictures(150, seed=99)
    scale = scale_of(pictures)
    asked = [questions(picture, scale) for picture in pictures]
    accuracy = pretrain.letter_accuracy(model, processor.tokenizer, pictures, asked)
    # By chance: a third, a half, a quarter.
    bright, many, colour = (
        "How bright is this picture?",
        "Are there many pieces in this picture?",
        "Which colour has this picture?",
    )
    assert accuracy[bright] > 70
    assert accuracy[many] > 80
    assert accuracy[colour] > 50
    blind = [dataclasses.replace(picture, image=np.full_like(picture.image, 128)) for picture in pictures]
    unseen = pretrain.letter_accuracy(model, processor.tokenizer, blind, asked)
    assert unseen[bright] < 55
    assert unseen[many] < 75
    processor.tokenizer.padding_side = "left"
    users = [next(user for user, answer in pairs if len(answer) == 1) for pairs in asked[:24]]
    batch = processor(
        text=[base_model.prompt(user) for user in users],
        images=[Image.fromarray(picture.image) for picture in pictures[:24]],
        return_tensors="pt",
        padding=True,
    )
    ids = model.generate(**batch, do_sample=False, max_new_tokens=8)[:, batch["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert all(text in set("ABCDEF") for text in texts)
    assert all(processor.tokenizer.eos_token_id in row for row in ids.tolist())


def test_no_picture_of_the_stream_was_used_for_pretraining():
    used = {(photo.source.module, photo.source.file) for photo in PHOTOGRAPHS}
    assert not used & {(source.module, source.file) for source in STREAM_SOURCES}
    assert {photo.group for photo in PHOTOGRAPHS} == set(range(len(GROUPS)))


@needs_photographs
@pytest.mark.slow
def test_the_script_is_deterministic_and_learns():
    def once():
        model, tokenizer, _ = pretrain.pretrain(pictures=120, vision_steps=2, short_steps=2, full_steps=2, quiet=True)
        return model.state_dict(), tokenizer

    (first, tokenizer), (second, again) = once(), once()
    assert tokenizer.get_vocab() == again.get_vocab()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.manual_seed(0)
    fresh = base_model.make_model(tokenizer).state_dict()
    for part in ("vision_tower", "multi_modal_projector", "language_model"):
        assert any(not torch.equal(value, fresh[name]) for name, value in first.items() if part in name), part


@needs_photographs
def test_every_answer_is_among_the_options():
    pictures = make_pictures(60, seed=3)
    scale = scale_of(pictures)
    for picture in pictures:
        for user, answer in questions(picture, scale):
            assert user.startswith("<image>\n")
            if "Answer with the letter." in user:
                assert f"\n{answer}. " in user
            else:
                assert answer.endswith(".")
