"""A run that was stopped half-way and whose files are then edited: it ends as it would have, or is refused with one error."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from edits import byte_edits, field_edits, kind_edits
from running import digest, go, recipe, weights
from uses import limited

from cl_plugins.base.errors import ClPluginsError


FILES = [
    "run.json", "journal.jsonl", ".journal.json", "matrix.json", "metrics.json", ".data_hashes.json", "predictions/after_one/one.jsonl",
    "predictions/after_one/one.score.json", "tasks/01_one/update.safetensors", "tasks/02_two/update.json",
    "tasks/02_two/update.safetensors", "tasks/02_two/replay.json", "carry/carry.json", "carry/updates/01_one.safetensors",
    "carry/replay/manifest.json", "carry/replay/samples.jsonl",
]  # fmt: skip


@pytest.fixture(scope="module")
def keys(llama, text_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("going_on") / "run"
    return recipe(llama, text_data, out, max_steps=1, cl={"replay": {"capacity_per_task": 2}})


@pytest.fixture(scope="module")
def half(keys, tmp_path_factory):
    """A copy of the run with its second task trained and not consolidated, and what comes of it."""
    out = Path(keys["output_dir"])
    go({**keys, "cl": {**keys["cl"], "stop_after": 6}})
    kept = Path(shutil.copytree(out, tmp_path_factory.mktemp("half") / "run"))
    assert json.loads((kept / "journal.jsonl").read_text().splitlines()[-1])["step"] == "train:two"
    go(keys)
    return kept, results(out)


def results(out: Path) -> dict:
    found = {str(p.relative_to(out)): digest(p) for p in sorted((out / "predictions").rglob("*.json*"))}
    return {**found, "matrix": json.loads((out / "matrix.json").read_text()), "weights": weights(out)}


@pytest.mark.parametrize("count", [pytest.param(4, id="few"), pytest.param(60, id="many", marks=pytest.mark.fuzz)])
def test_going_on(count, keys, half, tmp_path):
    kept, expected = half
    out = Path(keys["output_dir"])
    draw = random.Random("going on")
    wrong = []
    for number in range(count):
        name = FILES[number % len(FILES)] if count > len(FILES) else draw.choice(FILES)
        edits = [*byte_edits(kept / name), *kind_edits(tmp_path)]
        edits += list(field_edits(kept / name, sealed=False)) if name.endswith((".json", ".jsonl")) else []
        label, edit = draw.choice(edits)
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        edit(out / name)
        try:
            with limited(300):
                go(keys)
            if results(out) != expected:
                wrong.append(f"{name}, {label}: another result")
        except ClPluginsError as error:
            if "cl." not in str(error) and str(out) not in str(error):
                wrong.append(f"{name}, {label}: names no place: {error}")
        except BaseException as error:  # anything else, a wait without end included
            wrong.append(f"{name}, {label}: {type(error).__name__}: {error}")
    assert "\n".join(wrong) == ""
