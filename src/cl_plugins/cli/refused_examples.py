"""Recipes and data sets that are refused, one for each reason; the page `docs/refused.md` shows what the checker says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def rows(count: int = 4, **more: Any) -> list[dict[str, Any]]:
    """Records that train and test without a problem.

    Args:
        count: How many.
        more: Fields that all of them get.
    """
    return [
        {"id": f"q{i}", "instruction": f"Question {i}?", "input": "", "output": "yes" if i % 2 else "no", **more}
        for i in range(count)
    ]


def chat(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    """One record of the form sharegpt."""
    return [{"id": "c0", "conversations": [{"from": role, "value": text} for role, text in turns]}]


SHAREGPT = {"formatting": "sharegpt"}
PICTURES = {"columns": {"prompt": "instruction", "response": "output", "images": "images"}}
EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@dataclass(frozen=True)
class Example:
    """Something that is refused.

    Attributes:
        shown: How the page names it.
        keys: Keys of the host that differ from the plain recipe; None removes one.
        cl: Keys of the block that differ.
        env: Environment variables.
        train: Records of the training set, or its file's text.
        test: The same for the test set.
        valid: Records of a validation set; None for a task without one.
        train_entry: What the entry of the training set in ``dataset_info.json`` has besides the file, or instead of it;
            None removes a key.
        test_entry: The same for the test set.
        task: Keys of the task in the stream.
        files: Other files of the data folder.
        base: Keys of the base's ``config.json`` that differ from the demo's.
        carried: Tasks of the carry that ``carry_from`` names, a folder next to the data.
    """

    shown: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    cl: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    train: Any = None
    test: Any = None
    valid: Any = None
    train_entry: Mapping[str, Any] = field(default_factory=dict)
    test_entry: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    carried: tuple[str, ...] = ()


def _method(name: str, **options: Any) -> dict[str, Any]:
    return {"method": {"name": name, **options}}


_TWO = {"name": "s", "tasks": [{"name": "t", "train": "train", "test": "test"}, {"name": "earlier"}]}
_ZERO = {"zero_optimization": {"stage": 2}}
_ZERO_3 = {"zero_optimization": {"stage": 3}}

RECIPES: tuple[Example, ...] = (
    Example("a key that LLaMA-Factory does not have", {"lora_rnak": 8}),
    Example("`stage: dpo`", {"stage": "dpo"}),
    Example("no `do_train`", {"do_train": None}),
    Example("a template that does not exist", {"template": "lava"}),
    Example("a tracker that does not exist", {"report_to": "tensorbord"}),
    Example("`model_name_or_path` of a folder that is not there", {"model_name_or_path": "./no/such/folder"}),
    Example("`cl.method.name=...` written flat", {"cl.method.name": "olora"}),
    Example("an unknown key under `cl`", cl={"methods": {"name": "olora"}}),
    Example("a key of the whole run for one task", cl={"task_overrides": {"t": {"lora_rank": 8}}}),
    Example("a task that does not exist", cl={"only": "u"}),
    Example("a name that rows of the matrix have", task={"name": "after_t"}),
    Example("a name that is no file name", task={"name": "../t"}),
    Example("a name that is no file name on Windows", task={"name": "nul"}),
    Example("`eval_strategy` without a validation set", {"eval_strategy": "steps"}),
    Example("early stopping without `eval_strategy`", {"early_stopping_steps": 3}),
    Example("best weights by another metric than the loss", {"eval_strategy": "steps", "metric_for_best_model": "accuracy"}, valid=rows(2)),
    Example("a test set as validation set", {"eval_strategy": "steps"}, task={"valid": "test"}),
    Example("`ilora` with early stopping", {"eval_strategy": "steps", "early_stopping_steps": 3}, cl={**_method("ilora"), "replay": {"capacity_per_task": 4}}, valid=rows(2)),
    Example("a scorer that does not exist", task={"scorer": "accuracy"}),
    Example("a number that is none", cl=_method("olora", lambda_1=float("nan"))),
    Example("`multitask` with a task's own learning rate", cl={**_method("multitask"), "task_overrides": {"t": {"learning_rate": 1e-3}}}),
    Example("`multitask` with `only`", cl={**_method("multitask"), "only": "t"}),
    Example("replay with `multitask`", cl={**_method("multitask"), "replay": {"capacity_per_task": 4}}),
    Example("replay with packing", {"packing": True}, cl={"replay": {"capacity_per_task": 4}}),
    Example("packing with a method that looks at single samples", {"packing": True}, cl=_method("l2p")),
    Example("`der` without replay", cl=_method("der")),
    Example("`mslora_cr` without modalities", cl=_method("mslora_cr")),
    Example("full fine-tuning with a LoRA method", {"finetuning_type": "full", "lora_rank": None, "lora_target": None}),
    Example("LoRA with `freeze_multi_modal_projector: false` alone", {"freeze_multi_modal_projector": False}),
    Example("a probe with the name of a task", cl={"eval": {"probes": [{"name": "t", "test": "test"}]}}),
    Example("a probe with training data", cl={"eval": {"probes": [{"name": "p", "train": "train", "test": "test"}]}}),
    Example("a probe without a test set", cl={"eval": {"probes": [{"name": "p"}]}}),
    Example("probes with `scope: none`", cl={"eval": {"scope": "none", "probes": [{"name": "p", "test": "test"}]}}),
    Example("a task of the carry behind `only`", cl={"only": "t", "stream": _TWO}, carried=("earlier",)),
    Example("a task of the carry that the stream does not have", cl={"only": "t"}, carried=("earlier",)),
    Example("options of vLLM with `backend: host`", cl={"eval": {"backend_options": {"seed": 1}}}),
)  # fmt: skip

BASES: tuple[Example, ...] = (
    Example("a LoRA on the embedding", {"lora_target": "q_proj,embed_tokens"}),
    Example("a LoRA on a convolution", {"lora_target": "q_proj,patch_embedding", "freeze_vision_tower": False}),
    Example("a module that the base does not have", {"additional_target": "multimodal_projector"}),
    Example("`lm_head` in `additional_target`, tied to the embedding", {"additional_target": "lm_head"}, base={"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}),
    Example("`lm_head` in `lora_target`, tied to the embedding", {"lora_target": "q_proj,lm_head"}, base={"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}),
    Example("label smoothing on a base with a tower", {"label_smoothing_factor": 0.1}),
    Example("a template whose words the base does not have", {"template": "qwen3"}),
    Example("a base quantised with a method that is not tested", base={"quantization_config": {"quant_method": "gptq"}}),
)  # fmt: skip

ENGINES: tuple[Example, ...] = (
    Example("`optim: galore_adamw`", {"optim": "galore_adamw"}),
    Example("`fsdp: full_shard`", {"fsdp": "full_shard"}),
    Example("FSDP by `accelerate launch`", env={"ACCELERATE_USE_FSDP": "true"}),
    Example("DeepSpeed by `accelerate launch` alone", env={"ACCELERATE_USE_DEEPSPEED": "true"}),
    Example("Megatron by `accelerate launch`", env={"ACCELERATE_USE_MEGATRON_LM": "true"}),
    Example("context or tensor parallelism by `accelerate launch`", env={"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}),
    Example("a base in bf16 with a trained projector, without `bf16`", {"additional_target": "multi_modal_projector"}, base={"dtype": "bfloat16"}),
    Example("`fp16` with a method that is not tested", {"fp16": True, "use_cpu": None}, cl=_method("ewc")),
    Example("`fp16` on the CPU", {"fp16": True}),
    Example("`fp16` with `bf16`", {"fp16": True, "bf16": True, "use_cpu": None}),
    Example("`fp16` on a quantised base", {"fp16": True, "use_cpu": None}, base={"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
    Example("fp16 by `accelerate launch`", env={"ACCELERATE_MIXED_PRECISION": "fp16"}),
    Example("`torch.compile` by `accelerate launch`", env={"ACCELERATE_DYNAMO_BACKEND": "inductor"}),
    Example("Megatron by LLaMA-Factory's `USE_MCA`", env={"USE_MCA": "1"}),
    Example("LLaMA-Factory's v1 engine by `USE_V1`", env={"USE_V1": "1"}),
    Example("Ray by LLaMA-Factory's `USE_RAY`", env={"USE_RAY": "1"}),
    Example("DeepSpeed without ZeRO", {"deepspeed": {"train_batch_size": "auto"}}),
    Example("ZeRO with offload to NVMe", {"deepspeed": {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}}),
    Example("ZeRO-2 with weights on the CPU", {"deepspeed": {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}}),
    Example("ZeRO with a method that adds penalties", {"deepspeed": _ZERO}, cl=_method("ewc")),
    Example("ZeRO with separate memory batches", {"deepspeed": _ZERO}, cl={"replay": {"capacity_per_task": 4, "mixing": "separate"}}),
    Example("ZeRO-3 with a selection by features", {"deepspeed": _ZERO_3, "use_cpu": None}, cl={"replay": {"capacity_per_task": 4, "selection": "herding"}}),
    Example("ZeRO-3 with `use_cpu`", {"deepspeed": _ZERO_3}),
    Example("ZeRO on a quantised base", {"deepspeed": _ZERO}, base={"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
)  # fmt: skip

DATA: tuple[Example, ...] = (
    Example("a data set that `dataset_info.json` does not define", task={"train": "trian"}),
    Example("a file that does not exist", train_entry={"file_name": "no.json"}),
    Example("an entry without a place", train_entry={"file_name": None}),
    Example("a file that is not JSON", train="no"),
    Example("a JSON list with a byte order mark", train="\ufeff[]"),
    Example("an empty list", train=[]),
    Example("pictures that do not exist", train=rows(images=["no.png"]), train_entry=PICTURES),
    Example("fewer pictures than `<image>`", train=rows(instruction="<image>What?", images=[]), train_entry=PICTURES),
    Example("a PostScript file called `scan.png`", test=rows(1, instruction="<image>What?", images=["scan.png"]), test_entry=PICTURES, files={"scan.png": EPS}),
    Example("training data with other tags than the entry says", train=chat(("human", "a?"), ("gpt", "yes")), train_entry={**SHAREGPT, "tags": {"role_tag": "role"}}),
    Example("a training set whose records are all dropped", train=chat(("human", "a?"), ("human", "b?"), ("gpt", "yes")), train_entry=SHAREGPT),
    Example("preference pairs as training data", train=rows(chosen="yes", rejected="no"), train_entry={"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}),
    Example("training questions longer than `cutoff_len`", {"cutoff_len": 64}, train=rows(instruction="a long question " * 40, output="yes " * 40)),
    Example("test questions longer than `cutoff_len`", {"cutoff_len": 64}, test=rows(instruction="a long question " * 40)),
    Example("`num_samples` of a test set", test_entry={"num_samples": 2}),
    Example("a test set without an answer", test=[*rows(2), {"id": "x", "instruction": "?", "input": "", "output": None}]),
    Example("an empty answer in a test set", test=[*rows(2), {"id": "x", "instruction": "?", "input": "", "output": ""}]),
    Example("numbers as answers", test=[{**row, "output": 3} for row in rows()]),
    Example("two user turns in a row in a test set", test=chat(("human", "a?"), ("human", "b?"), ("gpt", "yes")), test_entry=SHAREGPT),
    Example("ids that repeat in a test set", test=[{**row, "id": "same"} for row in rows()]),
    Example("a scorer of choices without options", test=rows(1), task={"scorer": "choice_accuracy"}),
    Example("an options column that is missing", task={"options_column": "choices"}),
    Example("options that cannot be read", test=rows(1, options="yes or no"), task={"options_column": "options", "scorer": "choice_accuracy"}),
    Example("an answer that is none of the options", test=rows(1, options=["left", "right"]), task={"options_column": "options", "scorer": "choice_accuracy"}),
)  # fmt: skip

GROUPS: dict[str, tuple[Example, ...]] = {
    "Recipes": RECIPES,
    "Bases": BASES,
    "Engines and the environment": ENGINES,
    "Data": DATA,
}
