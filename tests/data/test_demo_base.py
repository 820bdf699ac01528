"""The base that the wheel ships: small, loadable, documented."""

from __future__ import annotations

import hashlib

import pytest
import torch

from cl_plugins.data.demo.stream import base_dir


BASE = base_dir()


@pytest.fixture(scope="module")
def loaded():
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    return LlavaForConditionalGeneration.from_pretrained(BASE).eval(), LlavaProcessor.from_pretrained(BASE)


def test_it_is_small_and_fp32(loaded):
    model, _ = loaded
    assert sum(file.stat().st_size for file in BASE.rglob("*") if file.is_file()) <= 8 * 2**20
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_readme_names_the_bytes_that_are_here():
    text = (BASE / "README.md").read_text()
    assert hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest() in text


def test_letters_are_single_tokens_and_any_text_survives(loaded):
    tokenizer = loaded[1].tokenizer
    for letter in "ABCDEF":
        assert len(tokenizer.encode(letter, add_special_tokens=False)) == 1
    text = "Häßlich 9 µm, 37 °C"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    words = ["tissue", "nuclei", "grey", "sagittal", "coronal", "axial", "midline", "stained"]
    assert all(len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1 for word in words)
