"""The buffer is tokenised into one data set, whatever the number of past tasks: the same samples in the same order."""

from __future__ import annotations

import json

import marked
import pytest
from running import go

from cl_plugins.contract.carry import Carry, carry_directory
from cl_plugins.host import training_rows
from cl_plugins.replay.store import Buffer


TASKS = ("one", "two", "three", "four")


def by_task(task_name, buffer, args, template, module, like=None, origins=None):
    """One data set for each past task, joined; without the checks."""
    from datasets import Dataset, concatenate_datasets
    from llamafactory.data.processor import SupervisedDatasetProcessor

    parts = []
    for task in buffer.tasks:
        rows = [
            training_rows._aligned(training_rows.as_files(record, buffer.path), like)
            for sample, record in buffer.entries()
            if sample.task == task
        ]
        data = (origins or {}).get(task, args).data
        processor = SupervisedDatasetProcessor(template=template, data_args=data, **module)
        aligned = Dataset.from_list(rows)
        parts.append(
            aligned.map(
                processor.preprocess_dataset, batched=True, remove_columns=aligned.column_names,
                keep_in_memory=True, load_from_cache_file=False,
            )
        )  # fmt: skip
    return concatenate_datasets(parts)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four tasks with pictures, the first of which has none."""
    folder = marked.build(tmp_path_factory.mktemp("mixed") / "data", TASKS, pictures=True)
    for split in ("train", "test"):
        file = folder / f"one_{split}.json"
        records = json.loads(file.read_text())
        for record in records:
            del record["images"]
            record["messages"][0]["value"] = record["messages"][0]["value"].replace("<image>", "")
        file.write_text(json.dumps(records))
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in ("train", "test"):
        del info[f"one_{split}"]["columns"]["images"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def recipe(llava, data, out, method):
    keys = marked.recipe(
        llava, data, out, method, TASKS, replay={"capacity_per_task": 3}, pictures=True,
        cl={"task_overrides": {"two": {"cutoff_len": 200}}}, max_steps=3, per_device_train_batch_size=2,
    )  # fmt: skip
    del keys["additional_target"]  # the first task has no picture to project
    return keys


@pytest.fixture(scope="module")
def finished(llava, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    go(recipe(llava, data, out, "der"))
    return out


@pytest.fixture(scope="module")
def session(llava, data, finished):
    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse

    keys = recipe(llava, data, finished, "der")
    keys.pop("cl")
    return Session(parse({**keys, "dataset": "four_train"}))


@pytest.mark.parametrize("many", [1000, 3, 1])
def test_the_samples_are_those_of_a_data_set_for_each_task(finished, session, monkeypatch, many):
    from cl_plugins.host.task_args import for_data

    buffer = Buffer.open(Carry.open(carry_directory(finished)))
    assert len(buffer.tasks) == len(TASKS)
    assert len(buffer.samples) > len(TASKS)
    like = session.training_set("four", session.args)[0]["train_dataset"]
    origins = {"two": for_data(session.args, {"cutoff_len": 200})}
    given = ("four", buffer, session.args, session.template, session.tokenizer_module, like, origins)
    monkeypatch.setattr(training_rows, "_MANY", many)
    found, wanted = training_rows.load_buffer(*given), by_task(*given)
    assert found.features == wanted.features
    assert found.to_list() == wanted.to_list()
    assert any(row["images"] for row in found)
    assert not all(row["images"] for row in found)


def test_there_is_one_table_and_nothing_is_prepared_for_each_task(finished, session, monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise AssertionError("a data set was prepared")

    monkeypatch.setattr(datasets.Dataset, "map", refuse)
    buffer = Buffer.open(Carry.open(carry_directory(finished)))
    found = training_rows.load_buffer("four", buffer, session.args, session.template, session.tokenizer_module)
    assert found.data.column("input_ids").num_chunks == 1


@pytest.mark.parametrize("method", ["der", "seqlora"])
def test_training_is_the_same_to_the_last_bit(method, llava, data, tmp_path, monkeypatch):
    monkeypatch.setattr("cl_plugins.replay.store.now", lambda: "2030-01-01T00:00:00+00:00")
    results = []
    for name in ("together", "by_task"):
        out = tmp_path / name
        go(recipe(llava, data, out, method))
        paths = [path for folder in ("carry", "tasks") for path in (out / folder).rglob("*.safetensors")]
        results.append({str(path.relative_to(out)): path.read_bytes() for path in paths})
        monkeypatch.setattr(training_rows, "load_buffer", by_task)
    assert len(results[0]) >= len(TASKS)
    assert results[0] == results[1]


def test_integers_of_different_widths_are_joined():
    """The masks of packed samples count the samples of a pack: above 127 they do not fit into eight bits."""
    from datasets import Dataset, List, Value

    own = Dataset.from_dict(
        {"input_ids": [[1, 2]], "attention_mask": [[1, 128]], "labels": [[1, 2]], "images": [None]}
    )
    memory = Dataset.from_dict(
        {"input_ids": [[3], [4]], "attention_mask": [[1], [1]], "labels": [[3], [4]], "images": [None, ["a.png"]]}
    )
    own = own.cast_column("attention_mask", List(Value("int64")))
    memory = memory.cast_column("attention_mask", List(Value("int8")))
    assert own.features["attention_mask"] != memory.features["attention_mask"]
    both = training_rows.joined(own, memory, [1, 0])
    assert both["input_ids"][:] == [[1, 2], [4], [3]]
    assert both["attention_mask"][:] == [[1, 128], [1], [1]]
    assert both["images"][:] == [None, ["a.png"], None]
