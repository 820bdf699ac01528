"""Raw files of every benchmark, taken the way a user takes them: `cl-plugins data prepare`, then `llamafactory-cli train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import llava_raw
import pytest
import text_raw
import tiny
import yaml
from launch import execute, launch
from raw_medical_cl import miniature

from cl_plugins.cli import main
from cl_plugins.evaluation.items import read_predictions
from cl_plugins.streams import builtin_streams


def medical_cl(raw: Path) -> Path:
    miniature.make_raw(raw, seed=0)
    return raw


def medical_cl_parquet(raw: Path) -> Path:
    """Path and Rad as parquet, Sur as frames."""
    miniature.make_path_parquet(raw / "path")
    miniature.make_sur_frames(raw / "sur")
    miniature.make_cell(raw / "cell")
    miniature.make_rad_parquet(raw / "rad")
    return raw


def medical_cl_pickles(raw: Path) -> Path:
    """Path as pickles, Sur as frames that count from 1, Rad with its archives unpacked."""
    miniature.make_path_pickle(raw / "path")
    miniature.make_sur_frames(raw / "sur", first=1)
    miniature.make_cell(raw / "cell")
    miniature.make_rad(raw / "rad")
    for archive in (raw / "rad").glob("*_images.zip"):
        assert main(["data", "unpack", str(archive), "--out", str(archive.with_suffix(""))]) == 0
        archive.unlink()
    return raw


#: Name of the case -> stream and what writes its raw files.
RAW: dict[str, tuple[str, Callable[[Path], Path]]] = {
    **{name: (name, build) for name, build in {**llava_raw.RAW, **text_raw.RAW}.items()},
    "medical_cl": ("medical_cl", medical_cl),
    "medical_cl, parquet and frames": ("medical_cl", medical_cl_parquet),
    "medical_cl, pickles and folders": ("medical_cl", medical_cl_pickles),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(RAW))
def test_from_raw_files_to_a_matrix(case: str, tmp_path: Path) -> None:
    name, build = RAW[case]
    model, data, out = tiny.build_llava(tmp_path / "llava"), tmp_path / "data", tmp_path / "out"
    words = ["data", "prepare", name, "--raw", str(build(tmp_path / "raw")), "--out", str(data), "--workers", "1"]
    execute([str(Path(sys.executable).with_name("cl-plugins")), *words])

    stream = yaml.safe_load(builtin_streams()[name])
    for task in stream["tasks"]:
        task["max_new_tokens"] = 2
    names = [task["name"] for task in stream["tasks"]]
    block = {"stream": stream, "eval": {"zero_shot": False, "scope": "seen", "max_items": 4}}
    launch(
        tiny.recipe(model, data, out, "inclora", max_steps=2, per_device_eval_batch_size=8, cl=block),
        tmp_path,
        processes=1,
    )

    matrix = json.loads((out / "matrix.json").read_text())
    assert matrix["tasks"] == names
    assert None not in matrix["scores"][-1]
    journal = (out / "journal.jsonl").read_text()
    assert all(task in journal for task in names)
    assert (out / "report.md").is_file()
    for task in stream["tasks"]:
        answered = read_predictions(out / "predictions" / f"after_{names[-1]}" / f"{task['name']}.jsonl")
        test = (data / f"{task['test']}.jsonl").read_text(encoding="utf-8").splitlines()
        assert {item.id for item in answered} <= {json.loads(line)["id"] for line in test}
        assert answered
