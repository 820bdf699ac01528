"""Every YAML under examples/ and benchmarks/ is one that LLaMA-Factory and cl_plugins accept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recipe_files import (
    PAPER,
    ROOT,
    continual,
    encoder_recipes,
    first_alike,
    host_keys,
    paper_recipes,
    problems_of,
    read,
    recipes,
    yaml_files,
)

from cl_plugins.encoders.host import EncoderHost
from cl_plugins.host.facts import capability_problems, run_facts
from cl_plugins.methods import get_method
from cl_plugins.run.check import check
from cl_plugins.streams import load_stream


CONTINUAL = [path for path in recipes() if "cl" in read(path)]
STREAMS = [path for path in yaml_files() if "tasks" in read(path)]
MEDICAL = Path("examples/yaml/medical_cl")


def test_every_file_is_a_recipe_or_a_stream() -> None:
    others = {Path("benchmarks/seen.yaml")}  # the rows of a table
    assert set(yaml_files()) == set(recipes()) | set(encoder_recipes()) | set(STREAMS) | others


@pytest.mark.parametrize("path", encoder_recipes(), ids=str)
def test_recipes_with_encoders_are_valid(path: Path) -> None:
    assert check(EncoderHost(), read(path), data=False).config.method


def test_the_recipes_for_real_hardware_are_there() -> None:
    names = {str(path.relative_to("examples/yaml")) for path in paper_recipes()}
    assert names >= {
        "medical_cl/inclora.yaml",
        "medical_cl/inclora_paper_lr.yaml",
        "medical_cl/seqfull_zero2.yaml",
        "medical_cl/seqfull_zero3.yaml",
    }
    for folder in set(PAPER) - {"mslora_cr_6", "mslora_cr_8"}:
        assert names >= {
            f"{folder}/{name}.yaml"
            for name in ("moelora", "branchlora", "clmoe", "smolora", "hide", "disco", "l2p", "modalprompt", "mr_lora")
        }
    for folder in set(PAPER) - {"medical_cl"}:
        assert names >= {f"{folder}/{name}.yaml" for name in ("seqlora", "inclora", "seqfull_zero2")}


def test_the_readme_says_of_every_recipe_where_it_has_run() -> None:
    table = (
        (ROOT / "examples" / "yaml" / "README.md").read_text(encoding="utf-8").partition("## What has run where")[2]
    )
    rows = [
        line.split("|")[1] for line in table.partition("\n\nFor the recipes")[0].splitlines() if line.startswith("|")
    ]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    paths = [path.relative_to("examples/yaml") for path in recipes() if path.parts[:2] == ("examples", "yaml")]
    assert [str(path) for path in paths if str(path) not in named and f"{path.parts[0]}/" not in named] == []


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
    for task in config.stream.tasks if config.block.only is None else [config.stream.task(config.block.only)]:
        args = parse_task(path, task.name)
        assert args.data.dataset == list(config.stream.task(first_alike(config, task.name)).train)
        rate = config.overrides_for(task.name).get("learning_rate", read(path)["learning_rate"])
        assert args.training.learning_rate == pytest.approx(float(rate))


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


@dataclass(frozen=True)
class Hyper:
    """What a recipe takes from its source: see the comments in the recipes."""

    rate: float
    batch: int  # samples an optimizer step, over all GPUs
    gpus: int = 1
    rank: int | None = None
    alpha: int | None = None
    projector: bool = True
    warmup: int = 200  # of 2,000 steps


FULL = Hyper(1e-6, 16, gpus=4)
OURS = Hyper(8e-5, 64, rank=8, alpha=16)
HYPER = {
    "medical_cl/inclora": Hyper(1e-4, 64, rank=16, alpha=32),
    "medical_cl/inclora_paper_lr": Hyper(1e-6, 64, rank=16, alpha=32),
    "medical_cl/seqfull_zero2": FULL,
    "medical_cl/seqfull_zero3": FULL,
    "medical_cl/mslora_cr": Hyper(1e-4, 64, rank=16, alpha=32),
    "medical_cl/olora": Hyper(1e-4, 64, rank=16, alpha=32),
    "medical_cl/replay": Hyper(1e-4, 64, rank=16, alpha=32),
    "mllm_cl/replay": Hyper(8e-5, 64, rank=16, alpha=32),
    "mllm_cl/inclora": OURS,
    "mllm_cl/seqfull_zero2": FULL,
    "mllm_cl/seqlora": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl_ability/inclora": OURS,
    "mllm_cl_ability/seqfull_zero2": FULL,
    "mllm_cl_ability/seqlora": Hyper(2e-4, 16, rank=32, alpha=64, warmup=60),
    "coin/inclora": OURS,
    "coin/seqfull_zero2": FULL,
    "coin/seqlora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "ucit/inclora": OURS,
    "ucit/seqfull_zero2": FULL,
    "ucit/seqlora": Hyper(2e-4, 64, rank=16, alpha=32, warmup=60),
    "medical_cl/moelora": Hyper(1e-4, 64, rank=16, alpha=32),
    "medical_cl/moelora_replay": Hyper(1e-4, 64, rank=16, alpha=32),
    "mllm_cl/seqlora_replay": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl/seqfull_zero2_replay": FULL,
    "mllm_cl/olora": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl/olora_replay": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl/moelora": Hyper(2e-5, 64, rank=35, alpha=70, warmup=60),
    "mllm_cl/moelora_replay": Hyper(2e-5, 64, rank=35, alpha=70, warmup=60),
    "mllm_cl_ability/moelora": Hyper(2e-4, 16, rank=32, alpha=64, warmup=60),
    "coin/moelora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "ucit/moelora": Hyper(2e-4, 64, rank=18, alpha=36, warmup=60),
    "mllm_cl/branchlora": Hyper(2e-5, 64, rank=128, alpha=256, warmup=60),
    "mllm_cl/smolora": Hyper(2e-5, 64, rank=128, alpha=256, warmup=60),
    "mllm_cl/clmoe": Hyper(2e-5, 64, rank=160, alpha=320, warmup=60),
    "mllm_cl_ability/branchlora": Hyper(2e-4, 16, rank=128, alpha=256, warmup=60),
    "mllm_cl_ability/smolora": Hyper(2e-4, 16, rank=128, alpha=256, warmup=60),
    "mllm_cl_ability/clmoe": Hyper(2e-4, 16, rank=32, alpha=64, warmup=60),
    "ucit/branchlora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "ucit/smolora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "ucit/clmoe": Hyper(2e-4, 64, rank=96, alpha=192, warmup=60),
    "medical_cl/branchlora": Hyper(1e-4, 64, rank=128, alpha=256),
    "medical_cl/smolora": Hyper(1e-4, 64, rank=128, alpha=256),
    "medical_cl/clmoe": Hyper(1e-4, 64, rank=32, alpha=64),
    "mllm_cl/mr_lora": Hyper(2e-5, 64, rank=128, alpha=256, warmup=60),
    "ucit/mr_lora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "coin/mr_lora": Hyper(2e-4, 64, rank=128, alpha=256, warmup=60),
    "medical_cl/mr_lora": Hyper(1e-4, 64, rank=128, alpha=256),
    "mllm_cl/hide_replay": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "medical_cl/hide": Hyper(1e-4, 64, rank=16, alpha=32),
    "medical_cl/disco": Hyper(1e-4, 64, rank=16, alpha=32),
    "mllm_cl/hide": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl/disco": Hyper(2e-5, 64, rank=32, alpha=64, warmup=60),
    "mllm_cl_ability/hide": Hyper(2e-4, 16, rank=32, alpha=64, warmup=60),
    "mllm_cl_ability/disco": Hyper(2e-4, 16, rank=32, alpha=64, warmup=60),
    "coin/hide": Hyper(2e-4, 64, rank=8, alpha=16, warmup=60),
    "coin/disco": Hyper(2e-4, 64, rank=8, alpha=16, warmup=60),
    "ucit/hide": Hyper(2e-4, 96, rank=8, alpha=16, warmup=60),
    "ucit/disco": Hyper(2e-4, 64, rank=16, alpha=32, warmup=60),
    "mslora_cr_8/inclora": Hyper(2e-4, 24, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_8/seqlora": Hyper(2e-4, 24, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_8/mslora_cr": Hyper(2e-4, 24, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_8/seqfull_zero2": FULL,
    "mslora_cr_6/inclora": Hyper(2e-4, 32, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_6/seqlora": Hyper(2e-4, 32, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_6/mslora_cr": Hyper(2e-4, 32, rank=64, alpha=64, projector=False, warmup=60),
    "mslora_cr_6/seqfull_zero2": FULL,
}
#: Epochs per task, as the papers or their code have them; None for those that count steps.
EPOCHS = {
    "mllm_cl": (1, 3, 1, 2, 1),
    "mllm_cl_ability": (3, 1, 1, 3),
    "mslora_cr_8": (3, 4, 4, 1, 1, 1, 6, 9),
    "mslora_cr_6": (3, 4, 1, 1, 6, 9),
    "coin": (1,) * 8,
    "ucit": (1,) * 6,
}


def _name(path: Path) -> str:
    return path.relative_to("examples/yaml").with_suffix("").as_posix()


CHECKED = [path for path in paper_recipes() if _name(path) in HYPER]


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
def test_common_hyper_parameters(path: Path, parse_task: Callable[..., Any]) -> None:
    args = parse_task(path, continual(path).stream.task_names[0])
    assert args.model.model_name_or_path == "llava-hf/llava-1.5-7b-hf"
    assert args.data.template == "llava"
    assert args.training.optim == "adamw_torch"
    assert args.training.lr_scheduler_type == "cosine"
    assert args.training.bf16
    assert args.model.image_max_pixels == 262144


def test_the_table_holds_every_recipe_of_the_first_three_methods() -> None:
    methods = ("seqlora", "inclora", "seqfull_zero2")
    assert {f"{folder}/{name}" for folder in EPOCHS for name in methods} <= set(HYPER)
    assert {_name(path) for path in CHECKED} == set(HYPER)


@pytest.mark.parametrize("path", CHECKED, ids=str)
def test_hyper_parameters_are_those_of_the_source(path: Path, parse_task: Callable[..., Any]) -> None:
    expected = HYPER[_name(path)]
    assert float(host_keys(path)["learning_rate"]) == expected.rate
    args = parse_task(path, continual(path).stream.task_names[0])
    per_gpu = args.training.per_device_train_batch_size * args.training.gradient_accumulation_steps
    assert per_gpu * expected.gpus == expected.batch
    assert args.training.get_warmup_steps(2000) == expected.warmup
    if expected.rank is None:
        assert args.finetuning.finetuning_type == "full"
        assert args.finetuning.freeze_vision_tower
        assert not args.finetuning.freeze_multi_modal_projector
        assert not args.finetuning.freeze_language_model
        assert "deepspeed" in host_keys(path)
    else:
        assert (args.finetuning.lora_rank, args.finetuning.lora_alpha) == (expected.rank, expected.alpha)
        wanted = ["multi_modal_projector"] if expected.projector else None
        assert args.finetuning.additional_target == wanted


#: Rows of Table 1 of Li et al. 2025 on the domain stream of MLLM-CL -> recipe without and with replay; docs/benchmarks/
#: mllm_cl.md lists them.
TABLE_1 = {
    "LoRA": ("seqlora", "seqlora_replay"),
    "MoELoRA": ("moelora", "moelora_replay"),
    "O-LoRA": ("olora", "olora_replay"),
    "L2P": ("l2p", "l2p_replay"),
    "ModalPrompt": ("modalprompt", "modalprompt_replay"),
    "HiDe-LLaVA": ("hide", "hide_replay"),
    "IncLoRA": ("inclora", "replay"),
    "SeqFull": ("seqfull_zero2", "seqfull_zero2_replay"),
}


@pytest.mark.parametrize("row", TABLE_1)
def test_the_page_lists_the_recipes_of_table_1(row: str) -> None:
    page = (ROOT / "docs" / "benchmarks" / "mllm_cl.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {row} |")]
    assert re.findall(r"`([^`]+)\.yaml`", line) == list(TABLE_1[row])


def test_the_row_of_mr_lora_has_replay_only() -> None:
    """Its router trains on kept samples; the table has no row of it without replay."""
    page = (ROOT / "docs" / "benchmarks" / "mllm_cl.md").read_text(encoding="utf-8")
    assert "| MR-LoRA | - | `mr_lora.yaml` |" in page
    assert read(Path("examples/yaml/mllm_cl/mr_lora.yaml"))["cl"]["replay"] == {"capacity_per_task": 20}


@pytest.mark.parametrize("row", TABLE_1)
def test_replay_is_all_that_a_row_with_it_has_more(row: str) -> None:
    one, other = (read(Path(f"examples/yaml/mllm_cl/{name}.yaml")) for name in TABLE_1[row])
    block, more = one.pop("cl"), other.pop("cl")
    assert more.pop("replay") == {"capacity_per_task": 20}
    assert more == block
    # the paper's rank of IncLoRA is 8 without replay and 16 with it
    changed = {"output_dir", *(["lora_rank"] if row == "IncLoRA" else [])}
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == changed


@pytest.mark.parametrize("path", paper_recipes(), ids=str)
def test_length_of_training(path: Path, parse_task: Callable[..., Any]) -> None:
    tasks = continual(path).stream.task_names
    lengths = [parse_task(path, task).training for task in tasks]
    if path.parts[2] == "medical_cl":
        assert [t.max_steps for t in lengths] == [2000] * 4
    else:
        assert [t.max_steps for t in lengths] == [-1] * len(tasks)
        assert tuple(t.num_train_epochs for t in lengths) == EPOCHS[path.parts[2]]


@pytest.mark.parametrize("method", ["seqlora", "inclora"])
def test_the_tasks_of_mslora_cr_that_differ(method: str, parse_task: Callable[..., Any]) -> None:
    path = Path(f"examples/yaml/mslora_cr_8/{method}.yaml")
    found = {task: parse_task(path, task).training for task in continual(path).stream.task_names}
    small = {task for task, args in found.items() if args.per_device_train_batch_size == 16}
    assert small == {"ham", "nmi", "iu_x_ray"}
    assert {task for task, args in found.items() if args.learning_rate == 2e-5} == {"ham"}


def test_the_two_learning_rate_presets_differ_in_nothing_else() -> None:
    one, other = read(MEDICAL / "inclora.yaml"), read(MEDICAL / "inclora_paper_lr.yaml")
    assert {key for key in one if one[key] != other.get(key)} == {"learning_rate", "output_dir"}
    assert set(one) == set(other)


# --- texts ------------------------------------------------------------------------------------------------------------

TEXT = {
    "standard_cl": ("meta-llama/Llama-2-7b-hf", 64, "constant"),
    "trace": ("meta-llama/Llama-2-7b-chat-hf", 32, "cosine"),
}
TEXT_RECIPES = [path for path in recipes() if path.parts[:2] == ("examples", "yaml") and path.parts[2] in TEXT]


@pytest.mark.parametrize("path", TEXT_RECIPES, ids=str)
def test_recipes_for_texts_have_the_authors_settings(path: Path, parse_task: Callable[..., Any]) -> None:
    base, batch, schedule = TEXT[path.parts[2]]
    config = continual(path)
    first, *others = config.stream.task_names
    args = parse_task(path, others[0])
    assert args.model.model_name_or_path == base
    assert args.training.lr_scheduler_type == schedule
    assert args.training.get_warmup_steps(2000) == 0
    samples = args.training.per_device_train_batch_size * args.training.gradient_accumulation_steps
    if path.stem == "seqfull_zero2":
        assert args.finetuning.finetuning_type == "full"
        gpus = {"standard_cl": 4, "trace": 8}[path.parts[2]]
        assert samples * gpus == {"standard_cl": 64, "trace": 256}[path.parts[2]]
        return
    assert samples == batch
    lora = args.finetuning
    assert (lora.lora_rank, lora.lora_alpha, lora.lora_dropout, lora.lora_target) == (8, 32, 0.1, ["q_proj", "v_proj"])
    assert args.training.learning_rate == 1e-4
    assert parse_task(path, first).training.learning_rate == (1e-3 if path.parts[2] == "standard_cl" else 1e-4)


def test_the_orders_of_the_standard_benchmark_are_there() -> None:
    orders = [
        continual(Path(f"examples/yaml/standard_cl/olora{end}.yaml")).stream for end in ("", "_order2", "_order3")
    ]
    assert [stream.task_names for stream in orders] == [
        ("dbpedia", "amazon", "yahoo", "agnews"),
        ("dbpedia", "amazon", "agnews", "yahoo"),
        ("yahoo", "amazon", "agnews", "dbpedia"),
    ]
