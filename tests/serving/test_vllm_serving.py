"""What vLLM takes of adapters; `tests/engines/test_vllm_server.py` runs it."""

from __future__ import annotations

import json

import pytest
import tiny
from running import copy_of, go

from cl_plugins.base.errors import ExportError
from cl_plugins.cli import main
from cl_plugins.run.vllm_serving import _rank, check_adapter


@pytest.fixture
def model():
    from torch import nn

    def parts(**named):
        made = nn.Module()
        for name, part in named.items():
            made.add_module(name, part)
        return made

    inner = parts(vision_tower=parts(q_proj=nn.Linear(1, 1)), language_model=parts(q_proj=nn.Linear(1, 1)))
    return parts(model=inner, lm_head=nn.Linear(1, 1))


def test_loras_outside_of_the_language_model_are_refused_by_name(model, tmp_path):
    check_adapter(model, {"model.language_model.q_proj": 8, "lm_head": 512}, tmp_path)
    with pytest.raises(ExportError, match=r"outside of the language model \(model.vision_tower\)"):
        check_adapter(model, {"model.vision_tower.q_proj": 8, "model.language_model.q_proj": 8}, tmp_path)


def test_a_model_of_texts_has_no_outside(model, tmp_path):
    check_adapter(model.model.language_model, {"model.layers.0.self_attn.q_proj": 8}, tmp_path)


def test_ranks_above_the_largest_are_refused(model, tmp_path):
    with pytest.raises(ExportError, match="rank 513, and vLLM takes ranks up to 512"):
        check_adapter(model, {"lm_head": 513}, tmp_path)


def test_the_rank_of_an_adapter_is_the_largest_of_its_modules(tmp_path):
    config = {"r": 16, "rank_pattern": {"lm_head": 48, "q_proj": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert _rank(tmp_path) == 48
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "rank_pattern": None}))
    assert _rank(tmp_path) == 16


def test_an_export_keeps_the_names_of_the_weights_of_the_base(llava, data, tmp_path, capsys):
    """vLLM knows the names of the hub's LLaVA, which Transformers 5 changes in memory."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    base = copy_of(llava, tmp_path / "base")
    named = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in load_file(llava / "model.safetensors").items()
    }
    (base / "model.safetensors").unlink()
    save_file(named, base / "model.safetensors", metadata={"format": "pt"})
    run, out = tmp_path / "run", tmp_path / "export"
    go(tiny.recipe(base, data, run, "inclora", ("one",), max_steps=2) | {"cl": block()})
    assert main(["export", str(run), "--to", "adapter", "--vllm", "--out", str(out)]) == 0
    assert str(out / "base") in capsys.readouterr().out
    for folder in (run / "final", out / "base"):
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert set(file.keys()) == set(named)


def block():
    return {"stream": tiny.stream(("one",)), "method": {"name": "inclora"}, "eval": {"scope": "none"}}
