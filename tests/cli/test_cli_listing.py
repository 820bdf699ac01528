"""`list` shows what is declared; `docs keys` is the page that is committed."""

from __future__ import annotations

import json
from pathlib import Path

from cl_plugins.cli.docs import keys_page
from cl_plugins.methods.registry import MethodEntry, get_method, list_methods


KEYS_PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def test_everything_at_80_columns(cli):
    code, out, _ = cli("list")
    assert code == 0
    for word in ("Methods", "Streams", "Scorers", "inclora", "medical_cl", "exact_match@2"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 80


def test_methods_fit_on_a_screen_by_group(cli):
    code, out, _ = cli("list", "methods")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [entry.name for entry in list_methods()]
    assert len(lines) <= len(names) + 6, "a line for each method and each group"
    group, found = "", {}
    for line in lines[1:]:
        if line.startswith("    "):
            found[line.split()[0]] = group
        else:
            group = line.strip()
    assert sorted(found) == sorted(names)
    some = {"ewc": "One LoRA", "multitask": "One LoRA", "olora": "A LoRA per task", "single_task": "A LoRA per task"}
    assert some.items() <= found.items()
    assert found["moelora"].startswith("Routed")
    assert found["seqfull"] == "Full fine-tuning"


def test_the_group_of_a_method_follows_from_what_it_declares():
    from cl_plugins.methods import Capabilities, LoRAChain, OneLoRA

    def group(base, **able):
        return type("Mine", (base,), {"capabilities": Capabilities(**able)}).family()

    assert group(OneLoRA) == "one_lora"
    assert group(LoRAChain) == "lora_per_task"
    assert group(OneLoRA, schedule="independent") == "lora_per_task"
    assert group(OneLoRA, answers="by_sample") == group(LoRAChain, answers="by_sample") == "routed"
    assert group(OneLoRA, answers="by_sample", low_rank=False) == "prompts"
    assert group(OneLoRA, finetuning_types=("full",)) == group(OneLoRA, low_rank=False) == "full"


def test_one_method_with_everything(cli):
    code, out, _ = cli("list", "methods", "moelora")
    assert code == 0
    assert max(len(line) for line in out.splitlines() if "/" not in line) <= 80
    for word in ("experts:", "faithful:", "default 8", "reveals", "DeepSpeed", "card", "README.md", "NeurIPS 2024"):
        assert word in out
    (entry,) = json.loads(cli("list", "methods", "moelora", "--json")[1])["methods"]
    assert entry["family"] == "routed"
    assert Path(entry["card"]).is_file()
    code, out, _ = cli("list", "streams", "medical_cl")
    assert code == 0
    assert "medical_cl" in out
    assert "mllm_cl" not in out


def test_a_name_that_does_not_exist(cli):
    code, _, error = cli("list", "methods", "moelorra")
    assert code != 0
    assert "Did you mean 'moelora'?" in error


def test_methods_with_their_capabilities(cli):
    code, out, _ = cli("list", "methods", "--json")
    assert code == 0
    (value,) = json.loads(out).values()
    shown = {entry["name"]: entry for entry in value}
    assert {"seqlora", "inclora", "seqfull", "single_task", "multitask"} <= set(shown)
    for name, entry in shown.items():
        able = get_method(name).capabilities
        assert entry["carries"] == able.carries
        assert tuple(entry["finetuning_types"]) == able.finetuning_types
        assert tuple(entry["zero_stages"]) == able.zero_stages
    assert [option["key"] for option in shown["inclora"]["options"]] == ["consolidate"]


def test_broken_methods_name_their_package(cli, monkeypatch):
    broken = MethodEntry("mine", "some-package", None, "ImportError: no module named nothing")
    monkeypatch.setattr("cl_plugins.methods.registry.list_methods", lambda: [*list_methods(), broken])
    code, out, _ = cli("list", "methods")
    assert code == 0
    assert "mine  BROKEN" in out
    assert "some-package" in out
    assert "no module named nothing" in out
    assert "no module named nothing" in cli("list", "methods", "mine")[1]
    assert json.loads(cli("list", "methods", "--json")[1])["methods"][-1]["error"] == broken.error


def test_streams_with_their_tasks(cli):
    value = json.loads(cli("list", "streams", "--json")[1])["streams"]
    medical = next(entry for entry in value if entry["name"] == "medical_cl")
    assert [task["name"] for task in medical["tasks"]] == ["path", "sur", "cell", "rad"]
    assert all(task["scorer"] for task in medical["tasks"])


def test_scorers_with_their_versions(cli):
    value = json.loads(cli("list", "scorers", "--json")[1])["scorers"]
    assert {"name", "distribution", "error", "version", "summary"} == set(value[0])
    assert "choice_accuracy" in [entry["name"] for entry in value]


def test_the_committed_page_of_keys_is_the_generated_one(cli):
    code, out, _ = cli("docs", "keys")
    assert code == 0
    assert out == keys_page()
    assert KEYS_PAGE.read_text(encoding="utf-8") == out, "run: cl-plugins docs keys > docs/keys.md"


def test_the_page_has_every_key_of_the_block():
    from dataclasses import fields

    from cl_plugins.config import CLBlock, EvalConfig
    from cl_plugins.streams import Stream, Task

    page = keys_page()
    for field in fields(CLBlock):
        assert f"`cl.{field.name}" in page
    for field in fields(EvalConfig):
        assert f"`cl.eval.{field.name}" in page
    for field in fields(Stream):
        assert f"`cl.stream.{field.name}" in page
    for field in fields(Task):
        assert f"`cl.stream.tasks[].{field.name}`" in page
    assert "`cl.method.consolidate`" in page
