"""Runs with `encoders:` in one comparison: seeds belong together, ablations and baselines stand apart."""

from __future__ import annotations

import json

import pytest
from encoder_runs import REPLAY, build, recipe

from cl_plugins.cli import main
from cl_plugins.encoders.launch import run_recipe


CROSSMODAL = {"name": "crossmodal"}
RUNS = {
    "full_1": (CROSSMODAL, {"replay": REPLAY}, {"seed": 1}),
    "full_2": (CROSSMODAL, {"replay": REPLAY}, {"seed": 2}),
    "plain": (CROSSMODAL, {"replay": REPLAY}, {"seed": 1, "classifier": {"adapters": "none", "projection": 8}}),
    "contrastive": ({**CROSSMODAL, "align": "contrastive"}, {"replay": REPLAY}, {"seed": 1}),
    "unfrozen": ({**CROSSMODAL, "freeze": "none"}, {"replay": REPLAY}, {"seed": 1}),
    "replay": ({"name": "seqfull"}, {"replay": REPLAY}, {"seed": 1}),
    "joint": ({"name": "multitask"}, {"replay": {}}, {"seed": 1}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "records").mkdir()
    data = build(folder / "records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_plugins.report.write_report", lambda *args: None)
        for name, (method, block, keys) in RUNS.items():
            more = {"classifier": {"blocks": 2, "experts": 4, "bottleneck": 4, "projection": 8}, **keys}
            if "blocks" not in more["classifier"]:
                more["classifier"] = {**more["classifier"], "blocks": 1}
            made = recipe(data, folder / name, dict(method), cl=dict(block), max_steps=2, save_strategy="no", **more)
            run_recipe(made)
    return folder


def groups(folder):
    return {g["label"]: g for g in json.loads((folder / "out/compare.json").read_text())["groups"]}


def test_the_method_its_ablations_and_baselines(runs, capsys):
    assert main(["compare", *(str(runs / name) for name in RUNS), "--out", str(runs / "out")]) == 0
    found = groups(runs)
    assert sorted(len(group["runs"]) for group in found.values()) == [1, 1, 1, 1, 1, 2]
    together = next(group for group in found.values() if len(group["runs"]) == 2)
    assert set(together["runs"]) == {"full_1", "full_2"}
    assert together["metrics"]["last"]["half_width"] is not None
    label = {name: next(text for text, g in found.items() if name in g["runs"]) for name in RUNS}
    assert "contrastive" in label["contrastive"]
    assert "freeze" in label["unfrozen"]
    assert "adapters" in label["plain"]
    assert "multitask" in label["joint"]
    for name in ("compare.html", "compare.md", "compare.csv", "compare.tex", "compare.png"):
        assert (runs / "out" / name).stat().st_size > 0
    text = (runs / "out/compare.md").read_text()
    assert "prompt" not in text
    assert "crossmodal" in capsys.readouterr().out


def test_names_that_are_given(runs):
    chosen = ["full_1", "full_2", "plain"]
    names = ["with", "with", "without"]
    words = ["compare", *(str(runs / name) for name in chosen), "--names", *names, "--out", str(runs / "out")]
    assert main(words) == 0
    assert {label: len(group["runs"]) for label, group in groups(runs).items()} == {"with": 2, "without": 1}
