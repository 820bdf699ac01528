"""Finished runs of every kind of ``final/``, on questions with and without pictures."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny
from apart import TASKS, build
from running import go
from served_models import RUNS, TOKENS


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Three tasks whose questions tell them apart; every second one of them has no picture."""
    return build(tmp_path_factory.mktemp("data") / "mixed", mixed=True)


@pytest.fixture(scope="session")
def half_llava(tmp_path_factory):
    """Folder of a tiny LLaVA-shaped model in bf16."""
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


@pytest.fixture(scope="session")
def finished(llava, half_llava, mixed, tmp_path_factory):
    """A finished run by its name in `RUNS`."""
    found = {}

    def get(name):
        if name not in found:
            spec = RUNS[name]
            half = spec.get("half", False)
            out = tmp_path_factory.mktemp("served") / "run"
            base = half_llava if half else llava
            rate = spec.get("rate", 1e-2)  # short, so that the answers stay different
            block = {"eval": {"max_new_tokens": TOKENS, "zero_shot": False}, **spec.get("block", {})}
            go(
                tiny.recipe(
                    base, mixed, out, spec["method"], TASKS, max_steps=2, learning_rate=rate, bf16=half, cl=block
                )
            )
            found[name] = SimpleNamespace(out=out, final=out / "final", base=base, half=half, items=items(out, mixed))
        return found[name]

    return get


def items(out, data):
    """Every test item of the last row: question, picture (or None), and the answer that the run gave."""
    found = []
    for task in TASKS:
        records = {r["id"]: r for r in json.loads((data / f"{task}_test.json").read_text())}
        for line in (out / "predictions" / "after_three" / f"{task}.jsonl").read_text().splitlines():
            told = json.loads(line)
            record = records[told["id"]]
            picture = data / record["images"][0] if record["images"] else None
            question = record["messages"][0]["value"]
            found.append(SimpleNamespace(task=task, question=question, picture=picture, answer=told["prediction"]))
    assert len({item.answer for item in found}) > 1, "the answers tell nothing"
    return found
