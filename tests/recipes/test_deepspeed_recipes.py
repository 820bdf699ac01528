"""DeepSpeed configurations: the files themselves, and, where DeepSpeed is installed, the host's own check of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from launch import environment, execute, free_port
from recipe_files import ROOT, continual, host_keys, recipes

from cl_plugins.host.facts import zero_stage


WITH_DEEPSPEED = [path for path in recipes() if "deepspeed" in host_keys(path)]
CONFIGS = sorted((ROOT / "examples" / "deepspeed").glob("*.json"))

# The host wants DeepSpeed in a process of a distributed launch only, so this is one, of a single process.
PARSE = """
import json, sys
from cl_plugins.host.task_args import parse
keys = json.loads(sys.argv[1])
args = parse(keys)
plugin = args.training.deepspeed_plugin
print("FOUND", json.dumps({"stage": plugin.zero_stage, "batch": args.training.per_device_train_batch_size}))
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_leaves_to_the_recipe_what_the_recipe_says(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert config[key] == "auto"
    assert config["gradient_clipping"] == "auto"
    assert config["bf16"]["enabled"] == "auto"
    assert not {"optimizer", "scheduler"} & set(config), "the recipe's optimiser and schedule are the papers'"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_file_name_says_the_stage(path: Path) -> None:
    assert path.stem == f"zero{zero_stage(str(path))}"


@pytest.mark.parametrize("path", [path for path in WITH_DEEPSPEED if path.parts[0] == "examples"], ids=str)
def test_recipe_takes_the_config_that_its_name_promises(path: Path) -> None:
    assert Path(host_keys(path)["deepspeed"]).stem in path.stem


@pytest.mark.engines
@pytest.mark.parametrize("path", WITH_DEEPSPEED, ids=str)
def test_host_accepts_the_recipe_with_deepspeed(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    task = continual(path).stream.tasks[0]
    keys = {**host_keys(path), "use_cpu": True, "dataset": ",".join(task.train), "output_dir": str(tmp_path / "out")}
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", PARSE, json.dumps(keys)]
    done = execute(command, lambda: environment(**rank, MASTER_PORT=str(free_port())), cwd=ROOT)
    found = json.loads(done.stdout.rpartition("FOUND ")[2].splitlines()[0])
    assert found == {"stage": zero_stage(keys["deepspeed"]), "batch": 1}
