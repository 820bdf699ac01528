"""Engines: bitsandbytes and DeepSpeed, on the CPU. `make test-engines`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import apart
import pytest
import tiny
import watched
from launch import PATIENCE, environment


WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def inputs(llava, tmp_path_factory):
    """Ids with picture tokens, and pictures, in a file."""
    import torch

    path = tmp_path_factory.mktemp("inputs") / "inputs.pt"
    torch.save(watched.inputs(llava), path)
    return path


@pytest.fixture(scope="session")
def wide_llava(tmp_path_factory):
    """A tiny LLaVA whose widths the 4-bit kernels of the CPU can use."""
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "wide", widths=(64, 64))


@pytest.fixture(scope="session")
def vllm_base(tmp_path_factory):
    """A tiny LLaVA with heads of 32, as vLLM's kernels for the CPU want them, with the names of weights of the hub's LLaVA.

    vLLM does not read the names that Transformers 5 gives to a CLIP tower that it has made itself.
    """
    from safetensors.torch import load_file, save_file

    folder = tiny.build_llava(tmp_path_factory.mktemp("models") / "base", widths=(128, 64))
    file = folder / "model.safetensors"
    named = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in load_file(file).items()
    }
    save_file(named, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Tasks in which every second question has no picture."""
    return apart.build(tmp_path_factory.mktemp("data") / "mixed", mixed=True)


@pytest.fixture(scope="session")
def carry_out(inputs, tmp_path_factory):
    """Carry out jobs (see worker.py), one after the other, in one process tree; returns nothing, leaves files."""

    def go(jobs, watched=True):
        file = tmp_path_factory.mktemp("jobs") / "jobs.json"
        file.write_text(
            json.dumps([{"inputs": str(inputs), "processes": 2, "watched": watched, **job} for job in jobs])
        )
        env = environment(DS_ACCELERATOR="cpu", PYTHONPATH=os.pathsep.join(sys.path))
        subprocess.run([sys.executable, str(WORKER), str(file)], env=env, check=True, timeout=PATIENCE * len(jobs))

    return go
