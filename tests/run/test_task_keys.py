"""Every key that may differ from task to task arrives where it is used, under every schedule; paths have one meaning."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import tiny
from running import copy_of, go, load, recipe, steps

from cl_plugins.base.errors import ClPluginsError, DataError, RecipeError
from cl_plugins.host.keys import key_table
from cl_plugins.host.llama_factory import LlamaFactoryHost
from cl_plugins.host.task_args import for_data
from cl_plugins.run.task_keys import keys_of


HOST = LlamaFactoryHost()
GROUPS = ("model", "data", "training", "finetuning", "generating")
#: The loss on the validation set is measured, and weights are kept at the same steps.
BY_LOSS = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
#: Values of keys that are not numbers, and what they need beside them.
VALUES = {
    "dataset_dir": ("elsewhere", {}),
    "media_dir": ("elsewhere", {}),
    "mix_strategy": ("interleave_under", {}),
    "interleave_probs": ("0.5,0.5", {"mix_strategy": "interleave_under"}),
    "optim": ("adafactor", {}),
    "optim_args": ("eps=1", {}),
    "optim_target_modules": ("q_proj", {}),
    "lr_scheduler_type": ("cosine", {}),
    "lr_scheduler_kwargs": ({"num_cycles": 2}, {}),
    "train_sampling_strategy": ("group_by_length", {}),
    "length_column_name": ("n", {}),
    "logging_strategy": ("epoch", {}),
    "save_strategy": ("epoch", {}),
    "logging_dir": ("elsewhere", {}),
    "logging_steps": (3, {}),
    "save_steps": (7, {}),
    "dataloader_prefetch_factor": (3, {"dataloader_num_workers": 1}),
    "dataloader_persistent_workers": (True, {"dataloader_num_workers": 1}),
    "average_tokens_across_devices": (False, {}),
    "include_num_input_tokens_seen": ("all", {}),
    "packing": (True, {}),
    "warmup_ratio": (0.25, {}),
    "eval_strategy": ("steps", {}),
    **{key: (3, {"eval_strategy": "steps"}) for key in ("eval_steps", "eval_delay", "eval_accumulation_steps")},
    "greater_is_better": (False, BY_LOSS | {"load_best_model_at_end": True}),
    "load_best_model_at_end": (True, BY_LOSS),
    "metric_for_best_model": ("eval_loss", BY_LOSS),
    "early_stopping_steps": (3, BY_LOSS | {"load_best_model_at_end": True}),
}


def fields():
    from llamafactory.hparams import parser

    homes = [getattr(parser, name) for name in ("ModelArguments", "DataArguments", "TrainingArguments")]
    homes += [parser.FinetuningArguments, parser.GeneratingArguments]
    return {f.name: f for home in homes for f in dataclasses.fields(home)}


def value_of(key):
    """Another value than the default, and the keys that it needs."""
    if key in VALUES:
        return VALUES[key]
    default = fields()[key].default
    if isinstance(default, bool) or fields()[key].type in ("bool", bool):
        return not default, {}
    if isinstance(default, float):
        return 0.125, {}
    return 3, {}


def seen(args, key):
    return next(getattr(getattr(args, g), key) for g in GROUPS if hasattr(getattr(args, g), key))


def parsed(keys, task, tmp_path):
    checked = tiny.checked_block(keys)
    return HOST.task_args(keys_of(HOST, checked.host_keys, checked.config, task, tmp_path / "nowhere"))


@pytest.fixture
def keys(llama, text_data, tmp_path):
    made = recipe(llama, text_data, tmp_path / "run", "seqlora")
    for task in made["cl"]["stream"]["tasks"]:
        task["train"] = [f"{task['name']}_train", "three_train"]
        task["valid"] = ["three_test"]
    return made


@pytest.fixture(scope="module")
def per_task():
    """Every per-task key of the installed LLaMA-Factory."""
    return [info.key for info in key_table() if info.kind == "per_task"]


def given_to_one(keys, where, key, value):
    """The recipe with a key for the second task alone."""
    made = json.loads(json.dumps(keys))
    if where == "stream":
        made["cl"]["stream"]["tasks"][1]["overrides"] = {key: value}
    else:
        made["cl"]["task_overrides"] = {"two": {key: value}}
    return made


@pytest.mark.parametrize("where", ["task_overrides", "stream"])
def test_every_key_of_the_table_reaches_its_task(where, keys, per_task, tmp_path):
    lost, unchanged = [], []
    for key in per_task:
        value, more = value_of(key)
        plain = {name: given for name, given in keys.items() if name != key} | more
        own = given_to_one(plain, where, key, value)
        wanted = seen(parsed({**plain, key: value}, "two", tmp_path), key)
        unset = seen(parsed(plain, "two", tmp_path), key)
        unchanged += [key] if wanted == unset else []
        both = [seen(parsed(own, task, tmp_path), key) for task in ("one", "two")]
        lost += [key] if both != [unset, wanted] else []
    assert lost == []
    # the host turns the one off without an accelerator, and a lower loss is better whatever is written
    assert set(unchanged) == {"dataloader_pin_memory", "greater_is_better"}


@pytest.mark.parametrize("where", ["task_overrides", "stream"])
def test_joint_training_follows_keys_of_the_data_and_refuses_others_by_name(where, keys, per_task, tmp_path):
    keys["cl"]["method"] = {"name": "multitask"}
    path = "cl.stream.tasks.two" if where == "stream" else "cl.task_overrides.two"
    lost, accepted = [], []
    for key in per_task:
        value, more = value_of(key)
        without = {key, *(("max_steps",) if key == "num_train_epochs" else ())}
        plain = {name: given for name, given in keys.items() if name not in without} | more
        own = given_to_one(plain, where, key, value)
        if key not in HOST.data_keys:
            try:
                tiny.checked_block(own)
                accepted.append(key)
            except RecipeError as error:
                accepted += [key] if [p.where for p in error.problems] != [f"{path}.{key}"] else []
            continue
        config = tiny.checked_block(own).config
        names = config.stream.task("two").train
        found = for_data(parsed(plain, "joint", tmp_path), config.overrides_for("two"), names)
        wanted = seen(parsed({**plain, key: value}, "two", tmp_path), key)
        lost += [key] if seen(found, key) != wanted or found.data.dataset != list(names) else []
    assert (lost, accepted) == ([], [])


def test_a_length_at_the_top_level_decides_for_a_joint_training(keys):
    keys["cl"]["method"] = {"name": "multitask"}
    keys["cl"]["stream"]["tasks"][1]["overrides"] = {"num_train_epochs": 2, "learning_rate": 0.5}
    tiny.checked_block({**keys, "max_steps": 3, "learning_rate": 0.1})


# --- what is made of them


def test_padding_of_labels_is_that_of_the_task(llama, text_data, tmp_path, monkeypatch):
    from cl_plugins.host.trainer import ContinualTrainer

    labels, train = {}, ContinualTrainer.train

    def note(self, *args, **kwargs):
        labels[self._task] = self.data_collator.label_pad_token_id
        assert str(self.data_collator.compute_dtype) == "torch.float32"  # what loading the base has found out
        return train(self, *args, **kwargs)

    monkeypatch.setattr(ContinualTrainer, "train", note)
    block = {"task_overrides": {"one": {"ignore_pad_token_for_loss": False}}, "eval": {"scope": "none"}}
    go(recipe(llama, text_data, tmp_path / "run", "seqlora", cl=block, max_steps=1))
    assert labels == {"one": 3, "two": -100}


def test_a_joint_training_reads_each_tasks_folder(llama, text_data, tmp_path, monkeypatch):
    """Two sites with the same names of data sets."""
    from cl_plugins.host.trainer import ContinualTrainer

    sites = {}
    for task in ("one", "two"):
        sites[task] = tmp_path / task
        sites[task].mkdir()
        for split in ("train", "test"):
            (sites[task] / f"{split}.json").write_bytes((text_data / f"{task}_{split}.json").read_bytes())
        entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}}
        info = {split: {**entry, "file_name": f"{split}.json"} for split in ("train", "test")}
        (sites[task] / "dataset_info.json").write_text(json.dumps(info))
    seen_rows, init = [], ContinualTrainer.__init__

    def note(self, **kwargs):
        init(self, **kwargs)
        seen_rows.extend(tuple(row) for row in kwargs["train_dataset"]["input_ids"])

    monkeypatch.setattr(ContinualTrainer, "__init__", note)
    made = recipe(llama, sites["one"], tmp_path / "run", "multitask", max_steps=1)
    made["cl"]["stream"]["tasks"] = [
        {**t, "train": "train", "test": "test", "overrides": {"dataset_dir": str(sites[t["name"]])}}
        for t in made["cl"]["stream"]["tasks"]
    ]
    made["cl"]["task_overrides"] = {"two": {"max_samples": 5}}
    go(made)
    assert len(seen_rows) == 24 + 5
    data = load(tmp_path / "run", "run.json")["data"]
    assert set(data) == {"train", "test", "two/train", "two/test"}
    both = recipe(llama, text_data, tmp_path / "plain", "multitask", max_steps=1)
    rows = seen_rows[:]
    seen_rows.clear()
    go(both)
    assert rows == seen_rows[: 24 + 5]  # `two` comes behind `one`, in its own order
    assert steps(tmp_path / "run")[-1] == "finish"


def test_replayed_samples_keep_the_length_of_their_own_task(llama, text_data, tmp_path, monkeypatch):
    from cl_plugins.host import training_rows

    folder = copy_of(text_data, tmp_path / "data")
    records = json.loads((folder / "one_train.json").read_text())
    for record in records:
        record["messages"][0]["value"] = "one two three " * 20 + record["messages"][0]["value"]
    (folder / "one_train.json").write_text(json.dumps(records))
    stored, buffer = [], training_rows.load_buffer
    own, whole = {}, training_rows.load_with_rows

    def note_rows(task, *args):
        module, rows = whole(task, *args)
        own[task] = {tuple(row) for row in module["train_dataset"]["input_ids"]}
        return module, rows

    def note_buffer(*args):
        found = buffer(*args)
        stored.extend(zip(map(tuple, found["input_ids"]), found["labels"], strict=True))
        return found

    monkeypatch.setattr(training_rows, "load_with_rows", note_rows)
    monkeypatch.setattr(training_rows, "load_buffer", note_buffer)
    overrides = {"two": {"cutoff_len": 60, "train_on_prompt": True}}
    block = {"replay": {"capacity_per_task": 3}, "task_overrides": overrides, "eval": {"scope": "none"}}
    go(recipe(llama, folder, tmp_path / "run", "seqlora", cl=block, max_steps=1))
    assert len(stored) == 3
    for ids, labels in stored:
        assert len(ids) > 60
        assert ids in own["one"]
        assert sum(label != -100 for label in labels) == 2  # the letter and the end: `one` does not train on prompts


# --- paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_the_home_folder_is_found_in_every_path(keys, home, llama, text_data, tmp_path):
    for name, target in (("model", llama), ("data", text_data)):
        (home / name).symlink_to(target)
    (home / "stream.yaml").write_text(json.dumps(keys["cl"]["stream"]))
    (home / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    keys |= {
        "model_name_or_path": "~/model",
        "dataset_dir": "~/data",
        "media_dir": "~/data",
        "output_dir": "~/out",
        "deepspeed": "~/zero.json",
        "use_cpu": False,
    }
    keys["cl"] |= {
        "stream": "~/stream.yaml",
        "task_overrides": {"two": {"media_dir": "~/data"}},
        "only": "two",
        "carry_from": "~/earlier",
    }
    checked = tiny.checked(keys)
    found = [
        *(
            checked.host_keys[key]
            for key in ("model_name_or_path", "dataset_dir", "media_dir", "output_dir", "deepspeed")
        ),
        checked.config.block.carry_from,
        checked.config.overrides_for("two")["media_dir"],
    ]
    assert found == [str(home / name) for name in ("model", "data", "data", "out", "zero.json", "earlier", "data")]


def test_a_run_has_one_folder(llama, text_data, tmp_path, home):
    made = recipe(llama, text_data, "~/out", tasks=("one",), max_steps=1, save_strategy="steps", save_steps=1)
    go({**made, "output_dir": "~/out"})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in ("home", "here")) == ["here", "home"]
    assert list((tmp_path / "here").iterdir()) == []
    assert steps(home / "out")[-1] == "finish"
    assert (home / "out" / "tasks" / "01_one" / "trainer_log.jsonl").is_file()


# --- hashes of data files


def test_files_are_hashed_once(llama, text_data, tmp_path, monkeypatch):
    from cl_plugins.run import data_sets

    folder = copy_of(text_data, tmp_path / "data")
    hashed, sha = [], data_sets.sha256
    monkeypatch.setattr(data_sets, "sha256", lambda path: hashed.append(Path(path).name) or sha(path))
    made = recipe(llama, folder, tmp_path / "run", tasks=("one",), max_steps=1, cl={"stop_after": 1})
    go(made)
    assert sorted(hashed) == ["one_test.json", "one_train.json"]
    go(made)
    assert len(hashed) == 2
    content = (folder / "one_train.json").read_bytes()
    (folder / "one_train.json").write_bytes(content)  # the same content at another time
    del made["cl"]["stop_after"]
    go(made)
    assert hashed[2:] == ["one_train.json"]
    stat = (folder / "one_test.json").stat()
    text = (folder / "one_test.json").read_text()
    (folder / "one_test.json").write_text(text.replace("human", "HUMAN"))
    os.utime(folder / "one_test.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time of change
    with pytest.raises(ClPluginsError):
        go(made)


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": [1, 2]}', "\x00"])
def test_a_damaged_file_of_hashes_counts_as_empty(tmp_path, content):
    from cl_plugins.base.files import sha256
    from cl_plugins.run.data_sets import FileHashes

    (tmp_path / "hashes").write_text(content)
    (tmp_path / "file").write_text("x")
    hashes = FileHashes(tmp_path / "hashes")
    assert hashes(tmp_path / "file") == sha256(tmp_path / "file")
    hashes.save()
    assert list(json.loads((tmp_path / "hashes").read_text())) == [str(tmp_path / "file")]


def test_problems_of_each_part_of_a_joint_training(llama, text_data, tmp_path):
    folder = copy_of(text_data, tmp_path / "data")
    made = recipe(llama, folder, tmp_path / "run", "multitask", max_steps=1)
    made["cl"]["task_overrides"] = {"one": {"cutoff_len": 8}, "two": {"train_on_prompt": True, "mask_history": True}}
    with pytest.raises(DataError) as caught:
        go(made)
    wheres = [p.where for p in caught.value.problems]
    assert "task 'one'" in wheres
    assert "task 'two'" in wheres
