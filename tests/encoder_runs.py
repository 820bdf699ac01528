"""Recipes with `encoders:` over tiny encoders, and their data: what the suites share that carry such recipes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_encoders import CONFIGS

from cl_plugins.crossmodal.media import write_wav


CLASSES = ("ant", "bee", "cat", "dog")
ENCODERS = {
    "picture": {"kind": "vision", "config": {**CONFIGS["vit"], "num_hidden_layers": 2}},
    "sound": {
        "kind": "audio",
        "sampling_rate": 8000,
        "seconds": 0.05,
        "config": {**CONFIGS["wav2vec2"], "num_hidden_layers": 2},
    },
    "words": {"kind": "text", "config": {**CONFIGS["bert"], "num_hidden_layers": 2}},
}
REPLAY = {"capacity_total": 10, "selection": "class_balanced"}


def build(folder: Path, train: int = 10, test: int = 6) -> Path:
    """Two steps of two classes that every modality shows; some samples lack a modality.

    Args:
        folder: An existing folder.
        train: Training samples per step.
        test: Test items per step.
    """
    info = {}
    for step in (1, 2):
        for split, count in (("train", train), ("test", test)):
            records = []
            for i in range(count):
                number = 2 * (step - 1) + i % 2
                name = f"{step}_{split}_{i}"
                Image.new("RGB", (16, 16), (60 * number, 40, 255 - 60 * number)).save(folder / f"{name}.png")
                write_wav(folder / f"{name}.wav", np.sin(np.arange(400) * 0.1 * (number + 1)) * 0.5, 8000)
                record = {"id": name, "label": CLASSES[number], "words": f"{CLASSES[number]} {i}"}
                record |= {"picture": f"{name}.png", "sound": f"{name}.wav"}
                if i == 3:
                    del record["sound"]
                records.append(record)
            (folder / f"{step}_{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
            info[f"{step}_{split}"] = {"file_name": f"{step}_{split}.jsonl"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def recipe(
    data: Path, out: Path, method: dict | None = None, *, cl: dict | None = None, **keys: Any
) -> dict[str, Any]:
    """A recipe of the two steps.

    Args:
        data: From `build`.
        out: The run's directory.
        method: ``cl.method``; crossmodal by default.
        cl: Further keys of the block.
        **keys: Further keys of the recipe.
    """
    tasks = [{"name": n, "train": f"{i}_train", "test": f"{i}_test"} for i, n in enumerate(("one", "two"), start=1)]
    block = {"stream": {"name": "toy", "tasks": tasks}, "method": method or {"name": "crossmodal"}}
    return {
        "encoders": ENCODERS,
        "classifier": {"blocks": 2, "experts": 4, "bottleneck": 4, "projection": 8},
        "dataset_dir": str(data),
        "output_dir": str(out),
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 0.02,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "save_steps": 2,
        "cl": {**block, "replay": REPLAY, "eval": {"zero_shot": False}, **(cl or {})},
        **keys,
    }
