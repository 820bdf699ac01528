"""The models that `make check-gpu` makes: the sizes that they stand for, and answers that do not end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import shapes


def test_no_answer_ends_before_its_longest_length(tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

    shape = shapes.TINY.shapes["7b"]
    assert not shapes.is_made(tmp_path / "base", shape)
    found = shapes.make_base(tmp_path / "base", shape, gpu=False)
    assert shapes.is_made(tmp_path / "base", shape)
    assert not shapes.is_made(tmp_path / "base", replace(shape, layers=3))
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    weight = model.get_output_embeddings().weight
    assert weight.shape == (shape.vocabulary, shape.hidden)
    assert not weight[tokenizer.all_special_ids].any()
    assert not weight[len(tokenizer) :].any()
    ids = torch.tensor([tokenizer("what do you see?")["input_ids"]])
    answer = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    assert len(answer) == 16
    assert not {*answer.tolist()} & {*tokenizer.all_special_ids}
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    assert (processor.patch_size, processor.image_processor.crop_size["height"]) == (shape.patch, shape.side)


def test_the_large_shape_is_that_of_llava_7b() -> None:
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        for name, billions in (("7b", 7.06), ("1b", 1.5)):
            config = shapes.configured(LlavaConfig.from_pretrained(shapes.demo_base()), shapes.FULL.shapes[name])
            model = LlavaForConditionalGeneration(config)
            assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.05)
