"""The recipes for ``llava-1.5-7b`` on that model without weights: what is trained, and how long an image is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llava_7b import config_7b, without_weights
from recipe_files import continual, host_keys, paper_recipes


PROJECTOR = (1024 + 1) * 4096 + (4096 + 1) * 4096
# per layer: q, k, v, o are 4096 x 4096; gate and up 4096 -> 11008; down back
LORA_PER_RANK = 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
LANGUAGE_MODEL = 2 * 32064 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _trained(path: Path, parse_task: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """The model as the host prepares it for the recipe's first task, and its trainable parameters by name."""
    from llamafactory.model.adapter import init_adapter

    args = parse_task(path, continual(path).stream.task_names[0])
    model = without_weights()
    model = init_adapter(model.config, model, args.model, args.finetuning, True)
    return model, {name: p for name, p in model.named_parameters() if p.requires_grad}


def _count(parameters: dict[str, Any], part: str) -> int:
    return sum(p.numel() for name, p in parameters.items() if part in name)


#: A rank is read off the recipe; two of them show that the counts follow it, and test_recipe_files.py checks each.
KEYS = ("finetuning_type", "lora_target", "additional_target", "freeze_vision_tower", "freeze_multi_modal_projector",
        "freeze_language_model")  # fmt: skip


def _distinct(finetuning_type: str) -> list[Path]:
    """One recipe for each choice of what is trained; the others would only repeat the same model."""
    found: dict[str, Path] = {}
    for path in paper_recipes():
        keys = host_keys(path)
        if keys["finetuning_type"] == finetuning_type and (finetuning_type == "full" or "lora_rank" in keys):
            found.setdefault(str([keys.get(key) for key in KEYS]), path)
    return list(found.values())


LORA = _distinct("lora")
FULL = _distinct("full")


def test_numbers_in_the_docs() -> None:
    assert PROJECTOR == 20_979_712
    assert (16 * LORA_PER_RANK, 8 * LORA_PER_RANK) == (39_976_960, 19_988_480)
    assert LANGUAGE_MODEL == 6_738_939_904
    text = Path("examples/yaml/README.md").read_text(encoding="utf-8")
    for number in (PROJECTOR, 16 * LORA_PER_RANK, 8 * LORA_PER_RANK, LANGUAGE_MODEL):
        assert f"{number:,}" in text


def test_the_host_finds_the_seven_linear_layers_and_the_projector() -> None:
    from llamafactory.model.model_utils.misc import find_all_linear_modules
    from llamafactory.model.model_utils.visual import get_forbidden_modules

    model = without_weights()
    assert set(find_all_linear_modules(model, freeze_vision_tower=True)) == LINEAR
    only = SimpleNamespace(freeze_vision_tower=False, freeze_multi_modal_projector=True, freeze_language_model=False)
    assert get_forbidden_modules(model.config, only) == {"multi_modal_projector"}
    projectors = {name for name, _ in model.named_modules() if name.endswith("multi_modal_projector")}
    assert len(projectors) == 1


@pytest.mark.parametrize("path", LORA, ids=str)
def test_lora_sits_on_the_language_model_and_the_projector_is_trained_if_asked_for(
    path: Path, parse_task: Callable[..., Any]
) -> None:
    import torch

    model, trained = _trained(path, parse_task)
    rank = host_keys(path)["lora_rank"]
    adapted = [name.removesuffix(".lora_A.default.weight") for name in trained if ".lora_A." in name]
    assert len(adapted) == 224
    assert Counter(name.split(".")[-1] for name in adapted) == dict.fromkeys(LINEAR, 32)
    assert _count(trained, ".lora_") == rank * LORA_PER_RANK
    projector = PROJECTOR if "additional_target" in host_keys(path) else 0
    assert _count(trained, "multi_modal_projector") == projector
    assert sum(p.numel() for p in trained.values()) == rank * LORA_PER_RANK + projector
    assert not any("vision_tower" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("path", FULL, ids=str)
def test_full_trains_all_but_the_vision_tower(path: Path, parse_task: Callable[..., Any]) -> None:
    model, trained = _trained(path, parse_task)
    assert _count(trained, "multi_modal_projector") == PROJECTOR
    assert sum(p.numel() for p in trained.values()) == LANGUAGE_MODEL + PROJECTOR
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("vision_tower" in name for name in frozen)


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
@pytest.mark.parametrize("size", [(1280, 720), (64, 64), (512, 2048)], ids=str)
def test_an_image_is_576_tokens_and_fits(path: Path, size: tuple[int, int], parse_task: Callable[..., Any]) -> None:
    from llamafactory.data.mm_plugin import get_mm_plugin
    from PIL import Image
    from transformers import CLIPImageProcessor

    config = continual(path)
    args = parse_task(path, config.stream.task_names[0])
    processor = SimpleNamespace(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_center_crop=True
        ),
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        image_max_pixels=args.model.image_max_pixels,
        image_min_pixels=args.model.image_min_pixels,
    )
    plugin = get_mm_plugin(name="llava", image_token="<image>")
    turn = {"role": "user", "content": "<image>What is this?"}
    (message,) = plugin.process_messages([turn], [Image.new("RGB", size)], [], [], processor)
    assert message["content"].count("<image>") == 576 == config_7b().image_seq_length
    answer = max(config.max_new_tokens(task) for task in config.stream.task_names)
    assert 576 + answer + 1024 <= args.data.cutoff_len  # and 1,024 for the question


def test_a_recipe_that_leaves_out_the_projector_is_noticed(parse_task: Callable[..., Any]) -> None:
    """The counts above can fail: without `additional_target` the host trains no projector and says nothing."""
    from llamafactory.model.adapter import init_adapter

    path = Path("examples/yaml/mllm_cl/inclora.yaml")
    args = parse_task(path, "rs", {"additional_target": None, "freeze_multi_modal_projector": False})
    model = without_weights()
    model = init_adapter(model.config, model, args.model, args.finetuning, True)
    assert not any("multi_modal_projector" in n for n, p in model.named_parameters() if p.requires_grad)
