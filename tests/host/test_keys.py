from __future__ import annotations

import dataclasses

import pytest

from cl_plugins.host import keys


def _wheres(problems):
    return [problem.where for problem in problems]


def test_the_table_covers_every_key_of_the_host_once():
    from llamafactory.hparams import (
        DataArguments,
        FinetuningArguments,
        GeneratingArguments,
        ModelArguments,
        TrainingArguments,
    )

    homes = (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments)
    expected = {field.name for home in homes for field in dataclasses.fields(home) if field.init}
    table = keys.key_table()
    assert {info.key for info in table} == expected
    assert len(table) == len(expected)
    assert all(info.reason and info.home for info in table)
    assert {info.kind for info in table} == {"per_task", "per_run", "refused"}


def test_no_key_is_listed_twice_and_no_list_has_a_misspelling():
    listed = [
        key for groups in (keys._PER_TASK, keys._PER_RUN) for members in groups.values() for key in members.split()
    ]
    listed += keys._REFUSED
    assert len(listed) == len(set(listed))
    renamed_between_versions = {
        "group_by_length",
        "master_addr",
        "master_port",
        "include_tokens_per_second",
        "save_safetensors",
        "logging_dir",
        "overwrite_output_dir",
        "preserve_thinking",
        "sortish_sampler",
        "use_asft_loss",
        "use_hyper_parallel",
        "use_eaft_loss",
        "eaft_alpha",
        "train_sampling_strategy",
        "project",
        "trackio_space_id",
        "warmup_ratio",
    }
    known = {info.key for info in keys.key_table()}
    assert set(listed) - known <= renamed_between_versions


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("learning_rate", "per_task"),
        ("num_train_epochs", "per_task"),
        ("max_steps", "per_task"),
        ("max_samples", "per_task"),
        ("per_device_train_batch_size", "per_task"),
        ("lr_scheduler_type", "per_task"),
        ("warmup_steps", "per_task"),
        ("logging_steps", "per_task"),
        ("save_steps", "per_task"),
        ("cutoff_len", "per_task"),
        ("model_name_or_path", "per_run"),
        ("template", "per_run"),
        ("quantization_bit", "per_run"),
        ("bf16", "per_run"),
        ("flash_attn", "per_run"),
        ("deepspeed", "per_run"),
        ("finetuning_type", "per_run"),
        ("lora_rank", "per_run"),
        ("lora_target", "per_run"),
        ("additional_target", "per_run"),
        ("output_dir", "per_run"),
        ("seed", "per_run"),
        ("tokenized_path", "refused"),
        ("eval_dataset", "refused"),
        ("val_size", "refused"),
        ("do_eval", "refused"),
        ("do_predict", "refused"),
        ("eval_strategy", "per_task"),
        ("eval_steps", "per_task"),
        ("load_best_model_at_end", "per_task"),
        ("metric_for_best_model", "per_task"),
        ("early_stopping_steps", "per_task"),
        ("eval_on_start", "refused"),
        ("adapter_name_or_path", "refused"),
        ("create_new_adapter", "refused"),
        ("resume_from_checkpoint", "refused"),
        ("export_dir", "refused"),
        ("push_to_hub", "refused"),
        ("use_dora", "refused"),
        ("use_kt", "refused"),
    ],
)
def test_the_kinds_that_the_documentation_promises(key, kind):
    assert keys.kind_of(key).kind == kind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenized_path", "cache/tok"),
        ("eval_dataset", "x"),
        ("val_size", 0.1),
        ("do_eval", True),
        ("do_predict", True),
        ("predict_with_generate", True),
        ("eval_on_start", True),
        ("adapter_name_or_path", "saves/old"),
        ("create_new_adapter", True),
        ("resume_from_checkpoint", "out/checkpoint-1"),
        ("export_dir", "out"),
        ("push_to_hub", True),
        ("dataset", "alpaca"),
        ("streaming", True),
        ("max_new_tokens", 8),
        ("temperature", 0.2),
        ("use_mca", True),
        ("use_hyper_parallel", True),
    ],
)
def test_a_refused_key_that_is_set_is_one_problem_with_reason_and_remedy(recipe, key, value):
    problems = keys.check({**recipe, key: value})
    assert _wheres(problems) == [key]
    assert keys.kind_of(key).reason in problems[0].what
    assert problems[0].fix


def test_values_that_ask_for_nothing_pass(recipe):
    harmless = {
        "do_eval": False,
        "do_predict": False,
        "val_size": 0,
        "overwrite_output_dir": True,
        "eval_dataset": None,
        "eval_strategy": "no",
        "resume_from_checkpoint": None,
        "load_best_model_at_end": False,
        "push_to_hub": False,
        "early_stopping_steps": None,
        "do_sample": False,
        "use_dora": False,
        "max_new_tokens": 1024,
    }
    assert keys.check({**recipe, **harmless}) == []
    assert keys.check({**recipe, "eval_strategy": False}) == []  # YAML 1.1 reads `no` so
    assert _wheres(keys.check({**recipe, "skip_special_tokens": False})) == ["skip_special_tokens"]


UNTESTED = [key for members in keys._UNTESTED.values() for key in members.split()]


@pytest.mark.parametrize("key", [*UNTESTED, "auto_find_batch_size", "train_from_scratch", "pure_bf16"])
def test_what_no_test_has_run_is_refused_whatever_the_method(recipe, key):
    for finetuning_type in ("lora", "full"):
        problems = keys.check({**recipe, key: True, "finetuning_type": finetuning_type})
        assert _wheres(problems) == [key]
        assert "test" in problems[0].what or "memory" in problems[0].what
    assert keys.check({**recipe, key: False}) == []
    assert _wheres(keys.check_overrides({"a": {key: True}})) == [f"cl.task_overrides.a.{key}"]


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise", "apollo_adamw"])
def test_optimizers_that_step_before_a_penalty_can_be_added(recipe, optim):
    problems = keys.check({**recipe, "optim": optim})
    assert [problem.where for problem in problems] == ["optim"]
    assert "during the backward" in problems[0].what
    assert [p.where for p in keys.check_overrides({"a": {"optim": optim}})] == ["cl.task_overrides.a.optim"]
    assert keys.check({**recipe, "optim": "adamw_torch"}) == []


def test_all_problems_come_at_once_and_misspellings_name_the_nearest_key(recipe):
    del recipe["do_train"]
    raw = {**recipe, "stage": "pt", "lerning_rate": 1e-3, "val_size": 0.2, "do_eval": True}
    problems = {problem.where: problem for problem in keys.check(raw)}
    assert set(problems) == {"stage", "do_train", "lerning_rate", "val_size", "do_eval"}
    assert "'learning_rate'" in problems["lerning_rate"].fix
    assert "missing" in problems["do_train"].what


def test_unknown_keys_pass_where_the_host_lets_them_pass(recipe, monkeypatch):
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    assert keys.check({**recipe, "my_own_note": 1}) == []


def test_overrides_take_per_task_keys_only():
    fine = {"path": {"max_steps": 5, "learning_rate": 1e-3, "num_train_epochs": 2}, "rad": {}}
    assert keys.check_overrides(fine) == []
    bad = {
        "path": {"seed": 1, "max_step": 3, "val_size": 0.1, "lora_rank": 4},
        "rad": {"model_name_or_path": "x", "use_dora": True},
        "sur": 7,
    }
    problems = {problem.where: problem for problem in keys.check_overrides(bad)}
    prefix = "cl.task_overrides."
    assert set(problems) == {
        prefix + tail
        for tail in (
            "path.seed",
            "path.max_step",
            "path.val_size",
            "path.lora_rank",
            "rad.model_name_or_path",
            "rad.use_dora",
            "sur",
        )
    }
    assert "'max_steps'" in problems[prefix + "path.max_step"].fix
    assert "same for the whole run" in problems[prefix + "path.seed"].what
    assert "derived from it" in problems[prefix + "path.seed"].what
    assert _wheres(keys.check_overrides({"a": {"seed": 1}}, where="cl.stream.tasks")) == ["cl.stream.tasks.a.seed"]


def test_a_key_that_nobody_listed_follows_the_rule():
    assert keys.kind_of("adam_something_new").kind == "per_run"  # unknown home: the safe side
    assert keys.kind_of("save_on_each_node").kind == "per_task"
    assert keys.kind_of("vllm_maxlen").kind == "per_run"
    assert keys.kind_of("no_such_key").home == ""


def test_every_key_that_names_a_place_is_known_as_a_path():
    named = [
        info.key
        for info in keys.key_table()
        if info.key.endswith(("_dir", "_path", "_folder", "_logdir")) and info.kind != "refused"
    ]
    inference = ("export_", "kt_", "adapter_", "overwrite_")  # nothing of a run reads them; and no place
    assert [key for key in named if key not in keys.PATH_KEYS and not key.startswith(inference)] == []
    assert keys.PATH_KEYS <= {info.key for info in keys.key_table()}
