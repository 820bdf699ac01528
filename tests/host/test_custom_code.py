"""A base whose config names code of its own: `final/` and checkpoints are saved with the code that was used, and no other."""

from __future__ import annotations

import json
import shutil

import pytest
from running import NO_TESTS, go, recipe, steps


NAMES = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
CONFIG = """from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODEL = """from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def change(file, **values):
    changed = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


@pytest.fixture
def base(llama, tmp_path):
    """The tiny LLaMA; its config names code, as that of a model whose class came to Transformers later."""
    folder = tmp_path / "base"
    shutil.copytree(llama, folder)
    change(folder / "config.json", auto_map=NAMES)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]})
    return folder


@pytest.mark.parametrize("method", ["seqfull", "inclora"])
def test_a_class_of_transformers_is_saved_without_code(method, base, text_data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "run"
    go(recipe(base, text_data, out, method, tasks=("one",), cl=NO_TESTS, save_strategy="steps", save_steps=1))
    assert steps(out)[-1] == "finish"
    assert not list((out / "final").glob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((out / "final" / name).read_text())
    # with and without trust: nothing is looked for that is not there
    for trust in (True, False):
        AutoModelForCausalLM.from_pretrained(out / "final", trust_remote_code=trust)
        AutoTokenizer.from_pretrained(out / "final", trust_remote_code=trust)


def test_a_class_of_the_base_is_saved_with_its_code(base, text_data, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    change(base / "config.json", model_type="own")
    change(base / "tokenizer_config.json", auto_map=None)
    (base / "configuration_own.py").write_text(CONFIG)
    (base / "modeling_own.py").write_text(MODEL)
    out = tmp_path / "run"
    go(recipe(base, text_data, out, "seqfull", tasks=("one",), cl=NO_TESTS, trust_remote_code=True))
    assert sorted(path.name for path in (out / "final").glob("*.py")) == ["configuration_own.py", "modeling_own.py"]
    shutil.rmtree(base)
    model = AutoModelForCausalLM.from_pretrained(out / "final", trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
