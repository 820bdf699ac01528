"""``--scale tiny``: the whole benchmark on a CPU, in minutes.

The raw files are drawn by `miniature`, converted by ``cl-plugins data prepare`` like the real ones, and learned by the
small base that the demo ships. The numbers say nothing about the methods; that every part works is what is shown.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from benchmarks.medical_cl import miniature
from benchmarks.medical_cl.cells import Scale
from cl_plugins.base.errors import DataError, Problem
from cl_plugins.cli import main as cl_plugins


BASE_FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)


def scale(saves: Path, steps: int = 10) -> Scale:
    """What replaces the keys of the recipes.

    Args:
        saves: Folder of the runs; the data and the base lie in it.
        steps: Optimizer steps per task.
    """
    every = {
        "model_name_or_path": str(saves / "base"),
        "dataset_dir": str(saves / "data"),
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 64,
        "gradient_accumulation_steps": 1,
        "lora_rank": 8,
        "cutoff_len": 384,
        "save_strategy": "no",
        "use_cpu": True,
        **dict.fromkeys(("bf16", "flash_attn", "image_max_pixels", "save_steps", "save_total_limit", "ddp_timeout")),
        **dict.fromkeys(("deepspeed", "preprocessing_num_workers", "dataloader_num_workers")),
    }
    # A model of 1.5 million parameters wants larger steps than one of 7 billion.
    return Scale("tiny", saves, every, rate=20.0, full_rate=300.0, max_items=60)


def prepare(saves: Path, seed: int = 0) -> None:
    """Draw the raw files, convert them, and put the base beside them; what is there already stays.

    Args:
        saves: Folder of the tiny benchmark.
        seed: Seed of what is drawn.

    Raises:
        DataError: The raw files could not be converted.
    """
    base = saves / "base"
    if not (base / BASE_FILES[-1]).is_file():
        base.mkdir(parents=True, exist_ok=True)
        for name in BASE_FILES:
            with as_file(files("cl_plugins.data.demo") / "base" / name) as source:
                shutil.copyfile(source, base / name)
    raw, data = saves / "raw", saves / "data"
    if not (raw / "made.json").is_file():
        miniature.make_raw(raw, seed)
        (raw / "made.json").write_text(json.dumps({"seed": seed}), encoding="utf-8")
    words = ["data", "prepare", "medical_cl", "--raw", str(raw), "--out", str(data), "--workers", "1"]
    if cl_plugins(words) != 0:
        fix = "The lines above say what is wrong."
        raise DataError(Problem(str(raw), "could not be converted.", fix))
