"""Engines: bitsandbytes and DeepSpeed, on the CPU. `make test-engines`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
