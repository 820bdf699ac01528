"""Which row a picture belongs to: the features of a batch are those of its rows, whatever the tower gives."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny_towers
import tiny_video
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from cl_plugins.adapters.bank import Chosen, Expert, Experts, attach
from cl_plugins.adapters.places import find_decoder
from cl_plugins.adapters.plain_base import PlainBase
from cl_plugins.adapters.versions import Versions
from cl_plugins.base.errors import CompatibilityError


BUILD = {
    "pixtral": (tiny_towers.build_pixtral, "[IMG]"),
    "next": (tiny_towers.build_next, "<image>"),
    "onevision": (tiny_towers.build_onevision, "<image>"),
    "qwen2_vl": (tiny_video.build_qwen2_vl, "<|vision_start|><|image_pad|><|vision_end|>"),
}
SIZES = ((64, 32), (32, 64), (64, 64), (96, 32), (50, 40), (33, 80))
PICTURES = {
    size: Image.fromarray(np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3)).astype("uint8"))
    for i, size in enumerate(SIZES)
}


class Seeing:
    """A base, and batches of rows with pictures of some sizes."""

    def __init__(self, folder: Path, picture: str) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.base, self.picture = PlainBase(self.model, None), picture
        self.processor = AutoProcessor.from_pretrained(folder)
        if "image_pad" in picture:  # the toy tokenizer calls LLaVA's token its own
            self.processor.image_token, self.processor.image_token_id = (
                "<|image_pad|>",
                self.model.config.image_token_id,
            )

    def batch(self, rows, side="left"):
        self.processor.tokenizer.padding_side = side
        texts = [f"USER: {self.picture * len(row)}what colour ASSISTANT:" for row in rows]
        pictures = [[PICTURES[size] for size in row] for row in rows if row]
        inputs = self.processor(text=texts, images=pictures, return_tensors="pt", padding=True)
        return {name: value for name, value in inputs.items() if name != "token_type_ids"}


@pytest.fixture(scope="module", params=list(BUILD))
def seeing(request, tmp_path_factory):
    build, picture = BUILD[request.param]
    return Seeing(build(tmp_path_factory.mktemp("towers") / request.param), picture)


def test_a_batch_has_the_features_of_its_rows(seeing):
    alone = {size: seeing.base.features(seeing.batch([[size]]), "vision")[0][0] for size in SIZES}
    apart = [float((alone[a] - alone[b]).abs().max()) for a, b in combinations(SIZES, 2)]
    assert min(apart) > 1e-3, "the pictures must differ for this test to say something"
    for rows in [*combinations(SIZES, 2), *combinations(SIZES, 3)]:
        for side in ("left", "right"):
            found, has = seeing.base.features(seeing.batch([[size] for size in rows], side), "vision")
            assert has.all()
            for size, value in zip(rows, found, strict=True):
                assert (value - alone[size]).abs().max() <= 1e-5, (rows, size)


def test_rows_of_no_and_of_several_pictures(seeing):
    rows = [[SIZES[0]], [], [SIZES[1], SIZES[2]], [SIZES[3]]]
    found, has = seeing.base.features(seeing.batch(rows), "vision")
    assert has.tolist() == [True, False, True, True]
    assert not found[1].any()
    for number in (0, 2, 3):
        alone, _ = seeing.base.features(seeing.batch([rows[number]]), "vision")
        if number == 2 and "batch_num_images" in seeing.batch(rows):
            continue  # the model itself cuts the only picture of a row otherwise than one of several
        assert (found[number] - alone[0]).abs().max() <= 1e-5


def test_hidden_states_of_pictures(seeing):
    alone = [seeing.base.features(seeing.batch([[size]]), "hidden")[0][0] for size in SIZES[:3]]
    found, _ = seeing.base.features(seeing.batch([[size] for size in SIZES[:3]]), "hidden")
    for one, other in zip(alone, found, strict=True):
        assert (one - other).abs().max() <= 1e-4


@pytest.fixture
def choosing(seeing):
    """The base with an expert and a projector per picture's brightness, which says who answers."""
    generator = torch.Generator().manual_seed(0)

    def begin(rows):
        values, _ = rows.vision
        rows.kept["expert"] = ((values.double() @ torch.arange(values.shape[1]).double()).abs() * 30).long().cpu() % 3

    state = seeing.base.rows(begin)
    layers = {
        name: Experts(
            [torch.randn(2, layer.in_features, generator=generator) for _ in range(3)],
            [Expert(torch.randn(layer.out_features, 2, generator=generator), i, 2.0, False) for i in range(3)],
            [False] * 3,
            lambda x: Chosen(torch.full((len(x),), -1) if state.off else state.current.kept["expert"]),
        )
        for name, layer in find_decoder(seeing.model).named_modules(prefix="model.language_model")
        if name.endswith("down_proj")
    }
    attach(seeing.base, layers)
    projector = next((n for n, _ in seeing.model.named_modules() if n.endswith("projector.linear_2")), None)
    if projector is not None:
        like = seeing.model.get_submodule(projector).weight
        own = [{"weight": torch.randn(like.shape, generator=generator)} for _ in range(3)]
        seeing.base.wrap([projector], lambda name, module: Versions(module, own, state, by_row=False))
    yield state
    seeing.base.reset()


def test_a_batch_is_answered_as_its_rows_are(seeing, choosing):
    rows = [[size] for size in SIZES]
    with torch.no_grad(), choosing.recording() as seen:
        inputs = seeing.batch(rows, "right")
        together = seeing.model(**inputs).logits
        chosen = seen[0]["expert"].tolist()
        for number, row in enumerate(rows):
            one = seeing.model(**seeing.batch([row])).logits[0]
            there = inputs["attention_mask"][number].bool()
            assert (together[number][there] - one).abs().max() <= 1e-3 * one.abs().max()
        assert [kept["expert"].item() for kept in seen[1:]] == chosen
    assert len(set(chosen)) > 1


def test_a_base_whose_pictures_cannot_be_told_apart_is_refused(seeing, monkeypatch):
    monkeypatch.setattr(seeing.model.config, "model_type", "mllama", raising=False)
    with pytest.raises(CompatibilityError, match=r"base \(mllama\).*Use features of the text"):
        seeing.base.features(seeing.batch([[SIZES[0]]]), "vision")
    values, _ = seeing.base.features(seeing.batch([[SIZES[0]]]), "text")
    assert values.any()
