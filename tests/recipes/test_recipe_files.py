"""Every YAML under examples/ and benchmarks/ is one that LLaMA-Factory and cl_plugins accept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipe_files import ROOT, continual, host_keys, paper_recipes, read, recipes, yaml_files

from cl_plugins.host.arguments import problems_of
from cl_plugins.host.facts import capability_problems, run_facts
from cl_plugins.methods import get_method
from cl_plugins.streams import load_stream


CONTINUAL = [path for path in recipes() if "cl" in read(path)]
STREAMS = [path for path in yaml_files() if "tasks" in read(path)]
MEDICAL = Path("examples/yaml/medical_cl")


def test_every_file_is_a_recipe_or_a_stream() -> None:
    assert set(yaml_files()) == set(recipes()) | set(STREAMS)


def test_the_recipes_for_real_hardware_are_there() -> None:
    names = {str(path.relative_to("examples/yaml")) for path in paper_recipes()}
    assert names >= {
        "medical_cl/inclora.yaml",
        "medical_cl/inclora_paper_lr.yaml",
        "medical_cl/seqfull_zero2.yaml",
        "medical_cl/seqfull_zero3.yaml",
        "mllm_cl/inclora.yaml",
        "mllm_cl/seqfull_zero2.yaml",
    }


def test_stream_files_load() -> None:
    for path in STREAMS:
        load_stream(str(path))


@pytest.mark.parametrize("path", CONTINUAL, ids=str)
def test_has_no_problem_that_can_be_seen_without_loading(path: Path) -> None:
    assert problems_of(read(path)) == []


@pytest.mark.parametrize("path", CONTINUAL, ids=str)
def test_method_is_able_to_do_it(path: Path) -> None:
    config = continual(path)
    method = get_method(config.method)
    facts = run_facts(host_keys(path), config.stream)
    assert capability_problems(config.method, method.capabilities, facts) == []
    assert method(method.config_class(**config.method_options)).problems(facts) == []


@pytest.mark.parametrize("path", CONTINUAL, ids=str)
def test_host_accepts_the_keys_of_every_task(path: Path, parse_task: Callable[..., Any]) -> None:
    config = continual(path)
    for task in config.stream.tasks:
        args = parse_task(path, task.name)
        assert args.data.dataset == list(task.train)
        assert args.training.learning_rate == pytest.approx(float(read(path)["learning_rate"]))


def test_host_accepts_the_recipes_without_cl() -> None:
    from llamafactory.hparams import parser

    for path in sorted(set(recipes()) - set(CONTINUAL)):
        parser.HfArgumentParser(parser._TRAIN_ARGS).parse_dict(
            {**read(path), "use_cpu": True}
        )  # raises on unknown keys


@pytest.mark.parametrize("path", recipes(), ids=str)
def test_output_directories_and_files_it_names(path: Path) -> None:
    keys = host_keys(path)
    assert not Path(keys["output_dir"]).is_absolute()
    if "deepspeed" in keys:
        assert (ROOT / keys["deepspeed"]).is_file()


def test_no_two_recipes_write_into_one_directory() -> None:
    places = [host_keys(path)["output_dir"] for path in recipes()]
    assert len(places) == len(set(places))


# --- the hyper-parameters of the papers -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
def test_common_hyper_parameters(path: Path, parse_task: Callable[..., Any]) -> None:
    args = parse_task(path, continual(path).stream.task_names[0])
    assert args.model.model_name_or_path == "llava-hf/llava-1.5-7b-hf"
    assert args.data.template == "llava"
    assert args.training.optim == "adamw_torch"
    assert args.training.lr_scheduler_type == "cosine"
    assert args.training.get_warmup_steps(2000) == 200
    assert args.training.bf16
    assert args.data.cutoff_len == 16384
    assert args.model.image_max_pixels == 262144


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
def test_global_batch_and_what_is_trained(path: Path, parse_task: Callable[..., Any]) -> None:
    args = parse_task(path, continual(path).stream.task_names[0])
    per_gpu = args.training.per_device_train_batch_size * args.training.gradient_accumulation_steps
    if continual(path).method == "inclora":
        assert per_gpu == 64  # one GPU
        assert args.finetuning.additional_target == ["multi_modal_projector"]
        assert args.finetuning.lora_rank == (16 if path.parts[2] == "medical_cl" else 8)
        assert args.finetuning.lora_alpha == 2 * args.finetuning.lora_rank
    else:
        assert per_gpu * 4 == 16  # four GPUs
        assert args.finetuning.finetuning_type == "full"
        assert args.finetuning.freeze_vision_tower
        assert not args.finetuning.freeze_multi_modal_projector
        assert not args.finetuning.freeze_language_model
        assert "deepspeed" in host_keys(path)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("medical_cl/inclora", 1e-4),
        ("medical_cl/inclora_paper_lr", 1e-6),
        ("medical_cl/seqfull_zero2", 1e-6),
        ("medical_cl/seqfull_zero3", 1e-6),
        ("mllm_cl/inclora", 8e-5),
        ("mllm_cl/seqfull_zero2", 1e-6),
    ],
)
def test_learning_rate(name: str, rate: float) -> None:
    assert float(host_keys(Path(f"examples/yaml/{name}.yaml"))["learning_rate"]) == rate


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
def test_length_of_training(path: Path, parse_task: Callable[..., Any]) -> None:
    tasks = continual(path).stream.task_names
    lengths = [parse_task(path, task).training for task in tasks]
    if path.parts[2] == "medical_cl":
        assert [t.max_steps for t in lengths] == [2000] * 4
    else:
        assert [t.max_steps for t in lengths] == [-1] * 5
        assert [t.num_train_epochs for t in lengths] == [1, 3, 1, 2, 1]


def test_the_two_learning_rate_presets_differ_in_nothing_else() -> None:
    one, other = read(MEDICAL / "inclora.yaml"), read(MEDICAL / "inclora_paper_lr.yaml")
    assert {key for key in one if one[key] != other.get(key)} == {"learning_rate", "output_dir"}
    assert set(one) == set(other)
