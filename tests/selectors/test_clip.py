"""CLIP features: those of the model itself, whatever batch, padding or answer a prompt comes with."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from PIL import Image
from running import NO_TESTS, go, load
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.plain_base import PlainBase
from cl_plugins.base.errors import CompatibilityError, RecipeError, RunStateError
from cl_plugins.contract.carry import Carry
from cl_plugins.selectors import make_selector
from cl_plugins.selectors.clip import Clip


QUESTION = {"question_after": "USER:", "question_before": "ASSISTANT:"}
ASKED = ["what colour is this picture?", "yes or no", "the square? A. B. C. D."]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("models") / "clip")


def build_clip(folder, size=16, mean=(0.48145466, 0.4578275, 0.40821073), seed=0):
    """A CLIP of a few thousand parameters."""
    from tokenizers import processors
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(seed)
    tokenizer = tiny.build_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    text = {"vocab_size": len(tokenizer), "hidden_size": 24, "max_position_embeddings": 16, **shared, **ends}
    vision = {"hidden_size": 16, "image_size": size, "patch_size": 8, **shared}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=list(mean)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(llava):
    return HeldBase(LlavaForConditionalGeneration.from_pretrained(llava))


def prompts(base, pictures=(1, 0, 2), side="left", answers=False, asked=ASKED):
    """A batch of questions with their pictures."""
    import numpy as np

    processor = AutoProcessor.from_pretrained(base.model.config._name_or_path)
    processor.tokenizer.padding_side = side
    rng = np.random.default_rng(0)
    drawn = [[Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype("uint8")) for _ in range(n)] for n in pictures]
    words = [f"{tiny.SYSTEM} USER: {'<image>' * n}{q} ASSISTANT:" for n, q in zip(pictures, asked, strict=True)]
    texts = [f"{w} red</s>" for w in words] if answers else words
    given = {"images": [p for row in drawn for p in row]} if sum(pictures) else {}
    inputs = dict(processor(text=texts, return_tensors="pt", padding=True, **given))
    if answers:
        tokens = len(processor.tokenizer(" red</s>", add_special_tokens=False)["input_ids"])
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            at = mask.nonzero()[-tokens:, 0]
            labels[row, at] = inputs["input_ids"][row, at]
        inputs["labels"] = labels
    inputs.pop("token_type_ids", None)
    return inputs, drawn


def truth(folder, drawn, asked=ASKED):
    """What CLIP itself gives for pictures and questions."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pictures = AutoImageProcessor.from_pretrained(folder)
    images, texts = [], []
    with torch.no_grad():
        for row in drawn:
            seen = [model.vision_model(**pictures(p, return_tensors="pt")).pooler_output for p in row]
            images.append(torch.stack([model.visual_projection(v)[0] for v in seen]).mean(0) if seen else None)
        for question in asked:
            pooled = model.text_model(**_of(tokenizer(question, return_tensors="pt", truncation=True, max_length=16)))
            texts.append(model.text_projection(pooled.pooler_output)[0])
    return images, torch.stack(texts)


def _of(inputs):
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("answers", [False, True])
def test_features_are_those_of_clip(base, clip, side, answers):
    selector = make_selector({"kind": "anchors", "features": "clip", "clip": str(clip), **QUESTION})
    inputs, drawn = prompts(base, side=side, answers=answers)
    image, text = (base.features(inputs, look) for look in selector.looks)
    images, texts = truth(clip, drawn)
    assert image[1].tolist() == [True, False, True]
    assert text[1].tolist() == [True] * 3
    assert torch.allclose(text[0], texts, atol=1e-5)
    for got, wanted, there in zip(image[0], images, image[1], strict=True):
        assert torch.allclose(got, wanted, atol=1e-5) if there else not got.any()


def test_the_text_before_its_projection(base, clip):
    selector = make_selector({"kind": "anchors", "features": "clip_text_pooled", "clip": str(clip), **QUESTION})
    inputs, drawn = prompts(base)
    pooled, there = base.features(inputs, selector.looks[0])
    _, projected = truth(clip, drawn)
    assert there.tolist() == [True] * 3
    assert pooled.shape[1] == selector.clip.width("clip_text_pooled") != selector.clip.width("clip_text")
    assert torch.allclose(CLIPModel.from_pretrained(clip).text_projection(pooled), projected, atol=1e-5)


def test_the_question_is_cut_out_of_the_prompt(base, clip):
    from cl_plugins.adapters.row_features import Rows

    inputs, _ = prompts(base)
    rows = Rows(base.model, inputs, True, {})
    assert Clip(str(clip), "USER:", "ASSISTANT:").questions(rows) == ASKED
    whole = Clip(str(clip)).questions(rows)
    assert all(
        w.startswith(tiny.SYSTEM[:20]) and w.endswith(f"{q} ASSISTANT:") for w, q in zip(whole, ASKED, strict=True)
    )


def test_of_a_whole_prompt_the_end_is_kept(base, clip):
    selector = make_selector({"kind": "anchors", "features": "clip_text", "clip": str(clip)})
    inputs, _ = prompts(base, (0, 0, 0))
    values, _ = base.features(inputs, selector.looks[0])
    assert (values[0] - values[1]).abs().max() > 1e-3  # the prompts differ at their end only


def test_pictures_are_brought_to_the_size_and_scale_of_clip(base, tmp_path):
    """A CLIP of twice the size and another mean: as its own processor would prepare the same picture."""
    folder = build_clip(tmp_path / "other", size=32, mean=(0.5, 0.4, 0.3))
    selector = make_selector({"kind": "anchors", "features": "clip_image", "clip": str(folder)})
    inputs, drawn = prompts(base, (1, 1, 1))
    values, _ = base.features(inputs, selector.looks[0])
    images, _ = truth(folder, drawn)
    cosines = torch.nn.functional.cosine_similarity(values, torch.stack(images))
    assert cosines.min() > 0.98  # the processor rounds to whole grey values after resizing
    same = make_selector({"kind": "anchors", "features": "clip_image", "clip": str(folder)})
    assert same.identity() == selector.identity()


def test_texts_alone_have_no_picture_but_its_width(base, clip):
    selector = make_selector({"kind": "prototype", "features": ["vision", "clip"], "clip": str(clip)})
    inputs, _ = prompts(base, (0, 0, 0))
    mixed, _ = prompts(base)
    widths = {selector.join([base.features(i, look) for look in selector.looks]).shape[1] for i in (inputs, mixed)}
    assert len(widths) == 1


def test_a_run_with_clip_features(llava, data, clip, tmp_path):
    """Trained, answered, and taken up at another site with the same CLIP only."""

    def method(folder):
        return {"name": "hide", "selector": {"kind": "anchors", "features": "clip", "clip": str(folder), **QUESTION}}

    keys = tiny.recipe(llava, data, tmp_path / "run", method(clip), ("one", "two"), max_steps=2)
    go(keys)
    lines = [json.loads(x) for x in (tmp_path / "run/predictions/after_two/one.jsonl").read_text().splitlines()]
    assert {line["route"] for line in lines} <= {"one", "two"}
    meta = load(tmp_path / "run", "carry/carry.json")["meta"]["selector"]
    assert meta["features"] == ["clip_image", "clip_text"]
    carried = Carry.open(tmp_path / "run" / "carry").load("selector.safetensors")
    assert carried["sums"].shape == (2, 2 * 12)
    assert carried["counts"].tolist() == [[24.0, 24.0]] * 2
    other = build_clip(tmp_path / "other", seed=1)
    keys["output_dir"] = str(tmp_path / "site")
    keys["cl"] = {
        **keys["cl"],
        "method": method(other),
        "only": "three",
        "carry_from": str(tmp_path / "run"),
        **NO_TESTS,
    }
    keys["cl"]["stream"] = tiny.stream()
    with pytest.raises(RunStateError, match="was made with the selector"):
        go(keys)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"features": "clip"}, r"selector\.clip: is missing"),
        ({"features": "text", "clip": "x"}, "does not use it"),
        ({"features": ["clip", "clip_text"], "clip": "x"}, "names something twice"),
        ({"features": "clip", "clip": "no/such/folder"}, "there is no folder 'no/such/folder'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_loads(llava, data, tmp_path, selector, message):
    method = {"name": "single_task", "selector": {"kind": "ridge", **selector}}
    with pytest.raises(RecipeError, match=message):
        tiny.checked(tiny.recipe(llava, data, tmp_path / "run", method))


def test_a_folder_that_holds_no_clip_is_said(base, llava, tmp_path):
    inputs, _ = prompts(base)
    for folder, message in ((llava, "type 'llava'"), (tmp_path, "cannot be loaded")):
        look = make_selector({"kind": "anchors", "features": "clip_text", "clip": str(folder)}).looks[0]
        with pytest.raises(CompatibilityError, match=message):
            base.features(inputs, look)


def test_a_base_that_gets_patches_is_refused(base, clip):
    from cl_plugins.adapters.pictures import Shown
    from cl_plugins.adapters.row_features import Rows

    inputs, _ = prompts(base, (1, 1, 1))
    rows = Rows(base.model, {**inputs, "pixel_values": torch.zeros(12, 192)}, True, {})
    rows.shown.append(Shown(rows, False, torch.zeros(3, 16)))
    with pytest.raises(CompatibilityError, match=r"\(12, 192\)"):
        Clip(str(clip)).image(rows)


@pytest.mark.parametrize("features", ["clip_image", "clip_text"])
def test_pictures_of_their_own_sizes_are_seen_without_padding(clip, tmp_path, features):
    import tiny_towers
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = tiny_towers.build_pixtral(tmp_path / "pixtral")
    pixtral, processor = (
        PlainBase(LlavaForConditionalGeneration.from_pretrained(folder), None),
        AutoProcessor.from_pretrained(folder),
    )
    processor.tokenizer.padding_side = "left"
    generator = torch.Generator().manual_seed(0)
    sizes = ((64, 32, 3), (32, 64, 3), (64, 64, 3))
    pictures = [
        Image.fromarray(torch.randint(0, 256, s, generator=generator, dtype=torch.uint8).numpy()) for s in sizes
    ]
    look = make_selector({"kind": "anchors", "features": features, "clip": str(clip)}).looks[0]

    def values(those):
        text = [f"USER: [IMG]{'question ' * i}ASSISTANT:" for i in those]
        inputs = processor(text=text, images=[[pictures[i]] for i in those], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        return pixtral.features(inputs, look)[0]

    alone = torch.cat([values([i]) for i in range(3)])
    torch.testing.assert_close(values([0, 1, 2]), alone, rtol=0, atol=1e-5)
