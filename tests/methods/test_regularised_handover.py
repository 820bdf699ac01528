"""EWC, LwF and SEFE over sites that share nothing but the carry: Fisher values, teacher and positions arrive."""

from __future__ import annotations

import shutil

import pytest
import tiny
from regularised import logged, text_tasks, train
from running import copy_of, load, weights


TASKS = ("one", "two", "three")
METHODS = {
    "ewc": ({"name": "ewc", "weight": 1e3}, {"fisher.safetensors"}),
    "ewc-prism": ({"name": "ewc", "weight": 1e3, "faithful": "prism"}, {"fisher.safetensors", "anchors.safetensors"}),
    "lwf": ({"name": "lwf", "alpha": 300.0}, {"adapter.safetensors"}),
    "sefe": (
        {"name": "sefe", "weight": 200.0},
        {f"positions/{n:02d}_{t}.safetensors" for n, t in enumerate(TASKS, 1)},
    ),
}


@pytest.mark.parametrize("case", METHODS)
def test_the_chain_over_three_sites_equals_one_run(case, llama, tmp_path):
    method, carried = METHODS[case]
    data = text_tasks(tmp_path / "data", TASKS)
    whole = train(llama, data, tmp_path / "whole", method, TASKS, max_steps=2)
    carry = None
    for number, task in enumerate(TASKS):
        place = tmp_path / f"site_{number}"
        stream = tiny.stream(TASKS)
        block = {"only": task, "stream": stream, **({"carry_from": str(carry)} if carry else {})}
        own = copy_of(data, place / "data")
        for other in TASKS:
            if other != task:
                (own / f"{other}_train.json").unlink()
        out = train(llama, own, place / "run", method, TASKS, cl=block, max_steps=2)
        carry = copy_of(out / "carry", place / "received" / "carry").parent
        shutil.rmtree(out / "tasks")
    assert carried <= set(load(out, "carry/carry.json")["files"])
    files = [
        {p.relative_to(run): p.read_bytes() for p in (run / "carry").rglob("*.safetensors")} for run in (whole, out)
    ]
    assert files[0] == files[1]
    assert weights(out) == weights(whole)
    name = method["name"]
    assert logged(whole, name, "03_three")[-1] > 0
