"""The one checker: what a run needs is looked at before the base loads, all tasks' data included."""

from __future__ import annotations

import json
import math

import pytest
import tiny
from running import copy_of, go, recipe, steps

from cl_plugins.base.errors import ClPluginsError, RecipeError
from cl_plugins.cli import main


def wheres(keys):
    with pytest.raises(RecipeError) as caught:
        tiny.checked(keys)
    return {p.where: f"{p.what} {p.fix}" for p in caught.value.problems}


@pytest.fixture
def keys(llama, text_data, tmp_path):
    return recipe(llama, text_data, tmp_path / "run")


# --- keys and environment


def test_a_good_recipe_has_no_problem(keys):
    checked = tiny.checked(keys)
    assert {**checked.host_keys, "cl": keys["cl"]} == keys
    assert checked.config.options is not None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lora_rank", 0, "smallest allowed value is 1"),
        ("gradient_accumulation_steps", 0, "smallest allowed value is 1"),
        ("per_device_eval_batch_size", -1, "smallest allowed value is 1"),
        ("max_samples", 0, "smallest allowed value is 1"),
        ("learning_rate", -1e-4, "smallest allowed value is 0"),
        ("learning_rate", math.nan, "finite"),
        ("learning_rate", "nan", "finite"),
        ("weight_decay", math.inf, "finite"),
        ("lora_dropout", 1.5, "largest allowed value is 1"),
        ("seed", -1, "smallest allowed value is 0"),
        ("seed", 2**32, "largest allowed value"),
        ("report_to", "tensorbord", "Did you mean 'tensorboard'?"),
        ("report_to", ["none", "dvclive"], "`pip install dvclive`"),
    ],
)
def test_values_that_nothing_can_be_trained_with(keys, key, value, said):
    assert said in wheres({**keys, key: value})[key]
    if key not in ("report_to", "seed", "lora_rank", "lora_dropout", "per_device_eval_batch_size"):
        keys["cl"]["task_overrides"] = {"two": {key: value}}
        assert said in wheres(keys)[f"cl.task_overrides.two.{key}"]


@pytest.mark.parametrize(("key", "value"), [("report_to", "none"), ("report_to", "all"), ("learning_rate", "1e-4")])
def test_values_that_are_left_alone(keys, key, value):
    tiny.checked({**keys, key: value})


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("ACCELERATE_USE_FSDP", "true", {}),
        ("ACCELERATE_USE_FSDP", "1", {"fsdp_config": {"fsdp_version": 2}}),
        ("ACCELERATE_USE_DEEPSPEED", "true", {}),
        ("ACCELERATE_USE_MEGATRON_LM", "true", {}),
        ("ACCELERATE_MIXED_PRECISION", "fp16", {}),
        ("ACCELERATE_MIXED_PRECISION", "bf16", {}),
        ("ACCELERATE_MIXED_PRECISION", "fp16", {"bf16": True}),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", {}),
        ("USE_MCA", "1", {}),
        ("USE_RAY", "1", {}),
    ],
)
def test_engines_that_the_environment_chooses(keys, monkeypatch, name, value, more):
    monkeypatch.setenv(name, value)
    assert name in wheres({**keys, **more})


def test_a_recipe_is_checked_before_ray_starts(keys, monkeypatch):
    """The host parses it in Ray's workers only, and waits for them first; without `cl` it is none of our business."""
    from llamafactory.train import tuner

    started = []
    monkeypatch.setattr(tuner, "_ray_training_function", lambda *args, **kwargs: started.append(args))
    monkeypatch.setenv("USE_RAY", "1")
    with pytest.raises(RecipeError, match="USE_RAY"):
        tuner.run_exp(dict(keys))
    assert started == []
    tuner.run_exp({key: value for key, value in keys.items() if key != "cl"})
    assert len(started) == 1


def test_what_accelerate_launch_sets_for_ddp_is_fine(keys, monkeypatch):
    for name, value in {
        "ACCELERATE_USE_FSDP": "false",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }.items():
        monkeypatch.setenv(name, value)
    tiny.checked({**keys, "bf16": True})
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    tiny.checked(keys)


@pytest.mark.parametrize("name", ["after_one", "After_x", "joint", "Zero_Shot"])
def test_names_of_rows_are_no_names_of_tasks(keys, name):
    keys["cl"]["stream"]["tasks"][0]["name"] = name
    assert "cl.stream.tasks[0].name" in wheres(keys)


@pytest.mark.parametrize("name", ["CON", "nul", "a.", "aux.v2", "Com1", "lpt9.x"])
def test_names_that_no_file_can_have_on_windows(keys, name):
    keys["cl"]["stream"]["tasks"][0]["name"] = name
    with pytest.raises(RecipeError, match="cannot be the name of a file on Windows"):
        tiny.checked(keys)


@pytest.mark.parametrize("name", ["a ", " a", "a b", "a:b", "a\n", "", ".a", "-a", "é", "a/b", "a" * 101, "a\u200b"])
def test_other_names_that_are_refused(keys, name):
    keys["cl"]["stream"]["tasks"][0]["name"] = name
    assert "cl.stream.tasks[0].name" in wheres(keys)


@pytest.mark.parametrize("name", ["console", "nulls", "com10", "a.b", "a_", "A-1", "0", "com"])
def test_names_that_only_look_like_them(keys, name):
    keys["cl"]["stream"]["tasks"][0]["name"] = name
    tiny.checked(keys)


def test_names_that_differ_in_case_only_are_one_name_on_some_disks(keys):
    keys["cl"]["stream"]["tasks"] = [{**keys["cl"]["stream"]["tasks"][0], "name": name} for name in ("Rad", "rad")]
    with pytest.raises(RecipeError, match="'rad' is also the name of task 1"):
        tiny.checked(keys)


def test_options_that_are_no_numbers(keys):
    keys["cl"]["method"] = {"name": "ewc", "weight": math.nan}
    assert "finite" in wheres(keys)["cl.method.weight"]
    keys["cl"]["method"] = {"name": "ewc", "weight": "inf"}
    assert "finite" in wheres(keys)["cl.method.weight"]


# --- the adapter, on the base without weights


@pytest.mark.parametrize("target", ["q_proj,embed_tokens", ["q_proj", "embed_tokens"], "embed_tokens"])
def test_a_lora_on_embeddings(keys, target):
    found = wheres({**keys, "lora_target": target})
    assert "embed_tokens" in found["lora_target"]


def test_a_lora_on_a_convolution(llava, data, tmp_path):
    keys = tiny.recipe(llava, data, tmp_path / "run", freeze_vision_tower=False, lora_target="q_proj,patch_embedding")
    assert "patch_embedding" in wheres(keys)["lora_target"]


@pytest.mark.parametrize(
    "change",
    [
        {"additional_target": "embed_tokens"},
        {"lora_target": "q_proj,lm_head"},
        {"additional_target": "embed_tokens,lm_head"},
    ],
)
def test_weights_that_the_base_shares(change, llama, text_data, tmp_path):
    tied = tiny.build_llama(tmp_path / "tied", tied=True)
    assert "tied embeddings" in wheres({**recipe(tied, text_data, tmp_path / "run"), **change})["lora_target"]
    tiny.checked(recipe(tied, text_data, tmp_path / "run"))
    tiny.checked({**recipe(llama, text_data, tmp_path / "run"), **change})


def test_modules_that_the_base_does_not_have(keys):
    assert "cannot put a LoRA" in wheres({**keys, "lora_target": "q_porj"})["lora_target"]
    assert "projektor" in " ".join(wheres({**keys, "additional_target": "projektor"}).values())


def test_the_check_of_the_adapter_seeds_and_starts_nothing(keys, monkeypatch):
    import torch
    from llamafactory.hparams import parser

    monkeypatch.setattr(parser, "get_train_args", lambda *a: pytest.fail("the host's arguments were parsed"))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    tiny.checked(keys)
    assert torch.equal(torch.get_rng_state(), state)


# --- data of all tasks, before the base loads


@pytest.fixture
def no_base(monkeypatch):
    """Whoever loads the base fails the test."""
    import llamafactory.model
    import llamafactory.train.tuner

    monkeypatch.setattr(llamafactory.model, "load_model", lambda *a, **k: pytest.fail("the base was loaded"))


def late(folder, kind):
    """A second training set that nothing can be trained on; name of the problem's task."""
    info = json.loads((folder / "dataset_info.json").read_text())
    records = json.loads((folder / "two_train.json").read_text())
    entry = dict(info["two_train"])
    if kind == "wrong tags":
        entry["tags"] = {"user_tag": "user", "assistant_tag": "assistant"}
    elif kind == "numbers":
        records = [{"instruction": "a?", "input": "", "output": 3} for _ in records]
        entry = {"file_name": "late.json"}
    elif kind == "another split":
        entry["split"] = "test"
    elif kind == "ranking":
        entry["ranking"] = True
    elif kind == "answers cut off":
        records = [
            {**r, "messages": [{"from": "human", "value": "one " * 200}, {"from": "gpt", "value": "A"}]}
            for r in records
        ]
    elif kind == "pictures of a table":
        (folder / "late.csv").write_text("instruction,input,output,images\n" + "<image>a?,,yes,images/no.png\n" * 4)
        entry = {
            "file_name": "late.csv",
            "columns": {"prompt": "instruction", "query": "input", "response": "output", "images": "images"},
        }
    if kind != "pictures of a table":
        (folder / "late.json").write_text(json.dumps(records))
        entry["file_name"] = "late.json"
    info["two_train"] = entry
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    "kind", ["wrong tags", "numbers", "another split", "ranking", "answers cut off", "pictures of a table"]
)
def test_an_unusable_training_set_of_a_later_task(kind, llava, data, tmp_path, no_base, capsys):
    folder = copy_of(data, tmp_path / "data")
    late(folder, kind)
    keys = tiny.recipe(llava, folder, tmp_path / "run", tasks=("one", "two"), max_steps=1, cutoff_len=128)
    with pytest.raises(ClPluginsError) as caught:
        go(keys)
    assert "two" in str(caught.value)
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    (tmp_path / "r.json").write_text(json.dumps(keys))
    assert main(["validate", str(tmp_path / "r.json"), "--json"]) == 2
    (found,) = json.loads(capsys.readouterr().out).values()
    assert [p["what"] for p in found["problems"]] == [p.what for p in caught.value.problems]


def test_all_problems_of_all_tasks_at_once(llava, data, tmp_path, no_base):
    folder = copy_of(data, tmp_path / "data")
    late(folder, "wrong tags")
    tests = json.loads((folder / "one_test.json").read_text())
    tests[0]["id"] = tests[1]["id"]
    (folder / "one_test.json").write_text(json.dumps(tests))
    keys = tiny.recipe(llava, folder, tmp_path / "run", max_steps=1)
    keys["cl"]["task_overrides"] = {"three": {"lr_scheduler_type": "no_such_schedule"}}
    with pytest.raises(RecipeError) as caught:
        go(keys)
    assert [p.where for p in caught.value.problems] == ["task three", "task 'two'", "task 'one'"]


def test_a_task_of_texts_does_not_train_a_projector(llava, data, tmp_path, no_base):
    folder = copy_of(data, tmp_path / "data")
    info = json.loads((folder / "dataset_info.json").read_text())
    records = json.loads((folder / "two_train.json").read_text())
    for record in records:
        del record["images"]
        record["messages"][0]["value"] = "what colour is this?"
    (folder / "two_train.json").write_text(json.dumps(records))
    info["two_train"]["columns"] = {"messages": "messages"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    keys = tiny.recipe(llava, folder, tmp_path / "run", additional_target="multi_modal_projector", max_steps=1)
    with pytest.raises(ClPluginsError, match="task 'two': has no picture"):
        go(keys)


def test_references_are_scored_before_the_base_loads(llama, text_data, tmp_path, no_base):
    folder = copy_of(text_data, tmp_path / "data")
    tests = json.loads((folder / "two_test.json").read_text())
    tests[2]["messages"][1]["value"] = "a colour that is none of them"
    (folder / "two_test.json").write_text(json.dumps(tests))
    with pytest.raises(ClPluginsError) as caught:
        go(recipe(llama, folder, tmp_path / "run"))
    assert "names no option" in str(caught.value) or "option" in str(caught.value)


def test_a_scorer_that_gives_its_references_too_little_is_named(llama, text_data, tmp_path, caplog):
    from cl_plugins.run.reading import reference_problems
    from cl_plugins.streams import Task

    class One:
        id, prompt, reference, options, fields = "a", "?", "yes", None, {}

    caplog.set_level("WARNING", "cl_plugins")
    assert reference_problems(Task(name="t", scorer="exact_match"), [One()]) == []
    assert not caplog.records
    assert reference_problems(Task(name="t", scorer="bleu"), [One()]) == []
    assert "this is the upper bound" in caplog.text


def test_training_sets_are_prepared_once(llama, text_data, tmp_path, monkeypatch):
    from llamafactory.data import loader

    seen, merged = [], loader._get_merged_dataset
    monkeypatch.setattr(
        loader, "_get_merged_dataset", lambda names, *a, **k: seen.append(names) or merged(names, *a, **k)
    )
    go(recipe(llama, text_data, tmp_path / "run", cl={"eval": {"scope": "none"}}))
    assert [names for names in seen if names] == [["one_train"], ["two_train"]]
    assert steps(tmp_path / "run")[-1] == "finish"


def test_neat_packing_does_not_reach_the_answers(llama, text_data, tmp_path):
    answers = []
    for name, more in (("plain", {}), ("neat", {"packing": True, "neat_packing": True})):
        out = tmp_path / name
        go(recipe(llama, text_data, out, tasks=("one",), max_steps=1, **more))
        answers.append((out / "predictions" / "zero_shot" / "one.jsonl").read_text())
        assert steps(out)[-1] == "finish"
    assert answers[0] == answers[1]


def test_neat_packing_leaves_later_data_sets_alone(llama, text_data, tmp_path):
    """The host turns small integers off for packs, and does not turn them on again."""
    from datasets import Dataset

    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse

    keys = recipe(llama, text_data, tmp_path / "run", tasks=("one",), packing=True, neat_packing=True)
    del keys["cl"]
    session = Session(parse({**keys, "dataset": "one_train"}))
    packed = session.training_set("one", session.args)[0]["train_dataset"]
    assert packed.features["attention_mask"].feature.dtype == "int64"
    later = Dataset.from_dict({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]})
    assert later.features["input_ids"].feature.dtype == "int32"
    assert later.features["attention_mask"].feature.dtype == "int8"
