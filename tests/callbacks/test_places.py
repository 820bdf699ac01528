"""A LoRA in the vision tower is named in the log; the settings that the docs give leave it out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from cl_plugins.callbacks import ContinualLearner
from cl_plugins.callbacks.places import tower_share


PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def led(model, lora, out):
    """The model of the first task; the block ends untrained."""
    learner = ContinualLearner(model, "inclora", out, lora=lora)
    context = learner.task("one")
    found = context.__enter__().model
    with pytest.raises(GeneratorExit):
        context.__exit__(GeneratorExit, GeneratorExit(), None)
    return found


def test_all_linear_is_named_with_its_share(llava, tmp_path, caplog):
    model = led(
        LlavaForConditionalGeneration.from_pretrained(llava), LoraConfig(r=4, target_modules="all-linear"), tmp_path
    )
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    inside = sum(size for name, size in sizes.items() if "vision_tower" in name)
    assert 0 < inside < sum(sizes.values())
    assert tower_share(model) == ("vision_tower", inside, sum(sizes.values()))
    assert f"{inside} of {sum(sizes.values())} trained LoRA parameters" in caplog.text
    (pattern,) = re.findall(r"exclude_modules=r'([^']+)'", caplog.text)
    again = LoraConfig(r=4, target_modules="all-linear", exclude_modules=pattern)
    assert tower_share(get_peft_model(LlavaForConditionalGeneration.from_pretrained(llava), again))[1] == 0


def test_the_settings_of_the_page_train_the_language_model_and_the_projector(llava, tmp_path, caplog):
    (snippet,) = re.findall(r"```python\n(lora = LoraConfig\(.*?)```", PAGE, re.DOTALL)
    names: dict = {"LoraConfig": LoraConfig}
    exec(snippet, names)
    model = led(LlavaForConditionalGeneration.from_pretrained(llava), names["lora"], tmp_path)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert not [n for n in trained if "vision_tower" in n]
    assert not [n for n in trained if "projector" in n and "lora_" in n]
    assert [n for n in trained if "projector" in n]
    assert [n for n in trained if "language_model" in n and "lora_" in n]
    assert "vision tower" not in caplog.text


def test_a_model_of_texts_has_no_tower(llama, tmp_path, caplog):
    led(AutoModelForCausalLM.from_pretrained(llama), LoraConfig(r=4, target_modules="all-linear"), tmp_path)
    assert "vision tower" not in caplog.text
