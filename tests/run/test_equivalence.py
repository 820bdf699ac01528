"""A chain of one task is a plain LLaMA-Factory run, and a recipe without ``cl`` is none of our business."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tiny


def plain(model, data, out, method="seqlora", **more):
    keys = tiny.recipe(model, data, out, method, **more)
    keys.pop("cl")
    keys["dataset"] = "one_train"
    return keys


@pytest.mark.parametrize("method", ["seqlora", "inclora", "single_task"])
def test_chain_of_one_task_is_a_plain_lora_run(run, llava, data, tmp_path, method):
    """Same adapter bytes, though zero-shot generation came before and evaluation after."""
    more = {"lora_dropout": 0.1, "max_steps": 6}
    run(plain(llava, data, tmp_path / "plain", **more))
    run(tiny.recipe(llava, data, tmp_path / "chain", method, ("one",), **more))
    expected = (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "chain" / "tasks" / "01_one" / "update.safetensors").read_bytes() == expected


def test_chain_of_one_task_is_a_plain_full_run(run, llava, data, tmp_path):
    from safetensors.torch import load_file

    run(plain(llava, data, tmp_path / "plain", "seqfull"))
    run(tiny.recipe(llava, data, tmp_path / "chain", "seqfull", ("one",)))
    expected = load_file(tmp_path / "plain" / "model.safetensors")
    got = load_file(tmp_path / "chain" / "final" / "model.safetensors")
    assert expected.keys() == got.keys()
    assert all((expected[name] == got[name]).all() for name in expected)
    base = load_file(llava / "model.safetensors")
    changed = {name for name in base if (base[name] != got[name]).any()}
    assert any("projector" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)


def test_text_only_chain(run, llama, text_data, tmp_path):
    keys = tiny.recipe(llama, text_data, tmp_path / "plain", "seqlora", text_only=True)
    keys.pop("cl")
    run({**keys, "dataset": "one_train"})
    run(tiny.recipe(llama, text_data, tmp_path / "chain", "inclora", ("one", "two"), text_only=True))
    expected = (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "chain" / "tasks" / "01_one" / "update.safetensors").read_bytes() == expected
    assert json.loads((tmp_path / "chain" / "matrix.json").read_text())["scores"][1][1] is not None


def test_seeds_differ_between_tasks_unless_asked_otherwise(run, llava, data, tmp_path):
    """Two tasks with the same data: the same seed would start task 2 from task 1's initial A (host-facts 9)."""
    from safetensors.torch import load_file

    def first_a(out, task):
        tensors = load_file(out / "tasks" / task / "update.safetensors")
        return next(v for k, v in sorted(tensors.items()) if "lora_A" in k)

    tasks = [{"name": n, "train": "one_train", "test": "one_test", "scorer": "choice_accuracy"} for n in ("x", "y")]
    block = {"stream": {"name": "same", "tasks": tasks}, "eval": {"scope": "none"}}
    tiny_lr = {"learning_rate": 1e-9, "max_steps": 1}
    run(tiny.recipe(llava, data, tmp_path / "own", "inclora", cl=block, **tiny_lr))
    run(tiny.recipe(llava, data, tmp_path / "peers", "inclora", cl={**block, "seed_per_task": False}, **tiny_lr))
    own = [first_a(tmp_path / "own", t) for t in ("01_x", "02_y")]
    peers = [first_a(tmp_path / "peers", t) for t in ("01_x", "02_y")]
    assert (peers[0] - peers[1]).abs().max() < 1e-6
    assert (own[0] - own[1]).abs().max() > 1e-2
    assert (own[0] - peers[0]).abs().max() == 0


def without_the_package(farm):
    """A folder that has everything that is installed here but this package; ``python -S`` reads no other."""
    farm.mkdir()
    for folder in {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}:
        for path in Path(folder).iterdir():
            if "cl_plugins" not in path.name and path.suffix != ".pth" and not (farm / path.name).exists():
                (farm / path.name).symlink_to(path)
    return farm


TRAIN = """
import json, sys
from llamafactory.train.tuner import run_exp
run_exp(json.load(open(sys.argv[1])))
from importlib import metadata, util
installed = any(found.name == "cl-plugins" for found in metadata.distributions())
print(json.dumps([installed, util.find_spec("cl_plugins") is not None, "cl_plugins.host.activation" in sys.modules]))
"""
WAYS = {  # environment, and what is to be seen: is it installed, can it be imported, was it switched on
    "active": ({}, [True, True, True]),
    "off": ({"CL_PLUGINS_AUTOLOAD": "0"}, [True, True, False]),
    "no plugins at all": ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, [True, True, False]),
    "not installed": ({}, [False, False, False]),
}
FAST = ("off", "not installed")  # against a run in this process, where the plugin is on


@pytest.fixture(scope="module")
def here(llava, data, tmp_path_factory):
    """The adapter that LLaMA-Factory trains in this process."""
    from llamafactory.train.tuner import run_exp

    assert "cl_plugins.host.activation" in sys.modules
    out = tmp_path_factory.mktemp("here") / "out"
    run_exp(plain(llava, data, out, max_steps=2))
    return hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in WAYS])
def test_without_cl_the_bytes_are_the_same_with_the_plugin_off_and_not_installed(name, here, llava, data, tmp_path):
    env, seen = WAYS[name]
    recipe, out = tmp_path / "recipe.json", tmp_path / "out"
    recipe.write_text(json.dumps(plain(llava, data, out, max_steps=2)))
    command = [sys.executable, "-c", TRAIN, str(recipe)]
    if name == "not installed":
        command.insert(1, "-S")
        env = {"PYTHONPATH": str(without_the_package(tmp_path / "farm"))}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == seen
    assert hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest() == here
