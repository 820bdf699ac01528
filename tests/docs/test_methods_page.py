"""The tables of `docs/methods.md` are the generated ones, and say what a method declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cl_plugins.cli.docs import methods_tables
from cl_plugins.methods import list_methods


PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def rows(table):
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.strip().splitlines()]
    return {line[0].strip("` "): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_the_page_has_the_generated_tables():
    shown = PAGE.split("<!-- methods -->\n")[1].split("<!-- /methods -->")[0]
    assert shown == methods_tables(), "paste the output of `cl-plugins docs methods`"


def test_every_method_has_a_row_by_hand_and_two_generated_ones():
    costs, support = map(rows, methods_tables().strip().split("\n\n"))
    ours = {entry.name: entry.value for entry in list_methods() if entry.distribution == "cl-plugins"}
    assert set(costs) == set(support) == set(ours)
    for name, method in ours.items():
        able = method.capabilities
        assert f"| `{name}` |" in PAGE.partition("<!-- methods -->")[0]
        assert (costs[name]["step cost"], costs[name]["memory"]) == (able.step_cost, able.memory)
        assert all(kind in support[name]["base"] for kind in able.quantised)
        assert all(kind in support[name]["trains"] for kind in able.finetuning_types)
        assert all(f"ZeRO-{stage}" in support[name]["DeepSpeed"] for stage in able.zero_stages)
        assert able.needs in support[name]["needs"]


def test_what_is_declared_is_what_is_shown(monkeypatch):
    from cl_plugins.methods.ewc import EWC

    declared = dataclasses.replace(EWC.capabilities, needs_modality=True, zero_stages=(3,), step_cost="twice as much")
    monkeypatch.setattr(EWC, "capabilities", declared)
    costs, support = map(rows, methods_tables().strip().split("\n\n"))
    assert costs["ewc"]["step cost"] == "twice as much"
    assert (support["ewc"]["needs"], support["ewc"]["DeepSpeed"]) == ("a modality label on every task", "ZeRO-3")


def test_what_joins_the_loss_is_asked_of_the_method():
    support = rows(methods_tables().strip().split("\n\n")[1])
    found = {name: row["adds to the loss"] for name, row in support.items()}
    assert {name for name, words in found.items() if "penalty" in words} == {"ewc", "olora", "mslora_cr", "sefe"}
    assert {name for name, words in found.items() if "logits" in words} == {
        "lwf",
        "der",
        "l2p",
        "modalprompt",
        "ilora",
        "branchlora",
        "crossmodal",
    }
