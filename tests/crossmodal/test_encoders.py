"""Encoders cut into blocks: exact, frozen, and refused where the cut is not known."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import CONFIGS, batch_of, classifier, encoder, inputs_of
from transformers import GPT2Config, GPT2Model

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.crossmodal.encoders import BlockedEncoder, config_of, load_encoder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_one_after_the_other_are_the_encoder(name, blocks):
    whole, inputs = encoder(name), inputs_of(name)
    cut = BlockedEncoder(whole, blocks)
    assert sum(map(len, cut.blocks)) == 4
    with torch.no_grad():
        state = cut.begin(inputs)
        for block in range(blocks):
            cut.advance(state, block)
        assert torch.equal(cut.finish(state), whole(**inputs).last_hidden_state)


def test_an_encoder_stays_frozen_and_without_dropout():
    cut = BlockedEncoder(encoder("bert"), 2).train()
    assert not any(p.requires_grad for p in cut.parameters())
    assert not any(module.training for module in cut.modules())


@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "whisper", "bert", "ast"])
def test_an_encoder_is_loaded_from_a_folder(name, tmp_path):
    from transformers import WhisperConfig, WhisperModel

    if name == "whisper":
        torch.manual_seed(0)
        made = WhisperModel(WhisperConfig(**{**CONFIGS[name], "vocab_size": 60, "pad_token_id": 1}))
        made.save_pretrained(tmp_path)
        made = made.encoder.eval()
    else:
        made = encoder(name).eval()
        made.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path)).eval()
    with torch.no_grad():
        expected, found = (e(**inputs_of(name)).last_hidden_state for e in (made, loaded))
    assert torch.allclose(expected, found, atol=1e-6)


def test_frames_are_the_tokens_of_one_sample():
    names = ("vit", "bert")
    model, batch = classifier(names, adapters="none"), batch_of(names)
    single = model(**batch)
    twice = {**batch, "vit.pixel_values": batch["vit.pixel_values"][:, None].expand(-1, 2, -1, -1, -1)}
    assert torch.allclose(model(**twice).joint, single.joint, atol=1e-6)
    assert classifier(names)(**twice).logits.shape == (3, 2)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(CompatibilityError, match="4 layers, which cannot be cut into 5 blocks"):
        BlockedEncoder(encoder("vit"), 5, "picture")
    other = GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9))
    with pytest.raises(CompatibilityError, match=r"gpt2.*cannot be cut"):
        BlockedEncoder(other, 1)
    with pytest.raises(CompatibilityError, match="cannot be made"):
        config_of({"model_type": "no_such_thing"})
