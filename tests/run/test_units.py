"""How many optimizer steps the trainings to come will take, told from the sizes of their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from cl_plugins.host.llama_factory import LlamaFactoryHost
from cl_plugins.host.media import DataUse
from cl_plugins.host.row_counts import row_count
from cl_plugins.recipe import parse_cl
from cl_plugins.run.plan import JOINT
from cl_plugins.run.units import training_steps


@dataclass
class Training:
    """The fields of the host's arguments that decide the length."""

    max_steps: int = -1
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    world_size: int = 1


@dataclass(frozen=True)
class Args:
    training: Training


def write_sets(folder, **sizes):
    folder.mkdir(exist_ok=True)
    info = {name: {"file_name": f"{name}.json"} for name in sizes}
    for name, size in sizes.items():
        (folder / f"{name}.json").write_text(json.dumps([{"messages": []}] * size))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return {"dataset_dir": str(folder)}


def config(**cl):
    tasks = [{"name": n, "train": n, "test": n} for n in ("a", "b")]
    return parse_cl({"stream": {"name": "s", "tasks": tasks}, "method": {"name": "seqlora"}, **cl})


def steps(keys, task="b", by_itself=False, world_size=1, **cl):
    # the arguments are those of another task: what its overrides changed must not count here
    args = Args(Training(per_device_train_batch_size=77, max_steps=99, world_size=world_size))
    return training_steps(LlamaFactoryHost(), args, keys, config(**cl), task, by_itself=by_itself)


@pytest.fixture
def keys(tmp_path):
    return write_sets(tmp_path, a=20, b=100) | {"num_train_epochs": 2, "per_device_train_batch_size": 4}


def test_rows_make_steps(keys):
    assert steps(keys) == 50  # 100 rows / 4, twice
    assert steps(keys, "a") == 10
    assert steps(keys, JOINT) == 60
    assert steps(keys, world_size=2) == 26  # 12.5 steps an epoch are 13
    assert steps(keys | {"gradient_accumulation_steps": 5}) == 10
    assert steps(keys | {"max_samples": 10}) == 6
    assert steps(keys | {"max_steps": 7}) == 7


def test_a_tasks_own_keys_count(keys):
    assert steps(keys, task_overrides={"b": {"max_steps": 5}}) == 5
    assert steps(keys, task_overrides={"b": {"num_train_epochs": "1.0", "per_device_train_batch_size": 50}}) == 2
    assert steps(keys, task_overrides={"a": {"max_steps": 5}}) == 50


@pytest.mark.parametrize(
    ("replay", "count"),
    [
        ({"capacity_per_task": 8}, 54),
        ({"capacity_total": 4}, 52),
        ({"capacity_per_task": 8, "mixing": "ratio", "ratio": 0.5}, 100),
        ({"capacity_per_task": 8, "mixing": "separate"}, 50),
    ],
)
def test_kept_samples_count(keys, replay, count):
    assert steps(keys, replay=replay) == count
    assert steps(keys, "a", replay=replay) == 10
    assert steps(keys, by_itself=True, replay=replay) == 50


@pytest.mark.parametrize(
    "more", [{"packing": True}, {"streaming": True}, {"dataset_dir": "ONLINE"}, {"dataset_dir": {}}]
)
def test_what_only_loading_tells_is_unknown(keys, more):
    assert steps(keys | more) is None
    assert steps(keys | more | {"max_steps": 3}) == 3


def test_rows_of_all_kinds_of_files(tmp_path):
    import pyarrow as pa
    from pyarrow import ipc, parquet

    table = pa.table({"text": ["x\ny", "z", "w"]})
    parquet.write_table(table, tmp_path / "p.parquet")
    with ipc.new_stream(tmp_path / "s.arrow", table.schema) as writer:
        writer.write_table(table)
    with ipc.new_file(tmp_path / "f.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "c.csv").write_text('text,more\n"x\ny",1\nz,2\n')
    (tmp_path / "l.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4}\n')
    (tmp_path / "t.txt").write_text("a\nb\n")
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "folder").mkdir()
    for name in ("one", "two"):
        (tmp_path / "folder" / f"{name}.json").write_text('[{"a": 1}, {"a": 2}]')
    files = ("p.parquet", "s.arrow", "f.arrow", "c.csv", "l.jsonl", "t.txt", "broken.json", "folder")
    info = {name: {"file_name": name} for name in files}
    info |= {"hub": {"hf_hub_url": "x/y"}, "drawn": {"file_name": "l.jsonl", "num_samples": 9}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    found = {name: row_count(DataUse(name, str(tmp_path))) for name in [*info, "nowhere"]}
    assert found == {
        **{"p.parquet": 3, "s.arrow": 3, "f.arrow": 3, "c.csv": 2, "l.jsonl": 4, "folder": 4, "drawn": 9},
        **dict.fromkeys(["t.txt", "broken.json", "hub", "nowhere"]),
    }
    assert row_count(DataUse("l.jsonl", str(tmp_path), limit=3)) == 3


def test_the_display_gets_every_step(keys, monkeypatch):
    from cl_plugins.methods import get_method
    from cl_plugins.run.plan import make_plan
    from cl_plugins.run.units import units

    chosen = config()
    method = get_method(chosen.method)(chosen.options)
    state = SimpleNamespace(
        host=LlamaFactoryHost(),
        config=chosen,
        run_args=Args(Training()),
        host_keys=keys,
        method=method,
        tests=lambda task: [None] * 6,
    )
    found = units(state, make_plan(chosen, method, ()))
    assert found["train:a"] == ("train", 10)
    assert found["train:b"] == ("train", 50)
    assert found["evaluate:zero_shot:a"] == ("evaluate", 6)
    assert found["consolidate:a"] == ("consolidate", 1)
    assert found["finish"] == ("finish", 1)
