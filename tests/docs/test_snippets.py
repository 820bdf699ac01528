"""What README and docs show is executed: recipes are checked, commands exist, Python runs, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src").glob("cl_plugins/methods/*/README.md"),
        *(ROOT / "benchmarks").glob("*/README.md"),
    ]
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8"))):
            if match.group(1) == language:
                found.append(pytest.param(match.group(2), id=f"{page.relative_to(ROOT)}-{number}"))
    return found


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml(text, tmp_path, monkeypatch):
    """Recipes parse strictly; stream files load."""
    from cl_plugins.recipe import parse_cl
    from cl_plugins.streams import load_stream

    value = yaml.safe_load(text)
    assert isinstance(value, dict)
    if "tasks" in value:
        assert load_stream(value).tasks
    if "model" in value.get("cl", {}):  # a finished model: tests/serving/test_page.py
        return
    if "cl" in value:
        block = dict(value["cl"])
        if str(block["stream"]).endswith(".yaml"):
            monkeypatch.chdir(tmp_path)
            shown = {"name": "s", "tasks": [{"name": n, "train": n, "test": n} for n in ("path", "sur")]}
            (tmp_path / block["stream"]).write_text(yaml.safe_dump(shown))
        assert parse_cl(block).stream.tasks


ON_TRAINERS = ("docs/python.md", "README.md")


@pytest.mark.parametrize("page", ON_TRAINERS)
def test_pages_on_other_trainers(llama, tmp_path, monkeypatch, page):
    """Their blocks, one after the other, with a model, a stream and settings as a reader would bring them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig

    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "what colour is this ?", "completion": word} for word in ("red", "green")]
    names: dict = {
        "stream": {name: Dataset.from_list(rows) for name in ("one", "two")},
        "tests": dict.fromkeys(("one", "two"), rows),
        "settings": SFTConfig(
            output_dir="trainer", max_steps=2, per_device_train_batch_size=2, report_to=[], bf16=False, use_cpu=True,
            save_strategy="no", disable_tqdm=True,
        ),
    }  # fmt: skip
    for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")):
        if match.group(1) == "python" and "run_exp(" not in match.group(2):
            names["model"] = AutoModelForCausalLM.from_pretrained(llama)
            exec(match.group(2), names)
    assert names["learner"].finished == ("one", "two")
    shown = {"inclora", "run", "scored", "lwf", "der", "mr_lora"} if page == "docs/python.md" else {"inclora"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == shown
    for name in shown & {"inclora" if page == "README.md" else "run"}:
        assert (tmp_path / "out" / name / "report.html").is_file()
        assert (tmp_path / "out" / name / "final" / "MANIFEST.json").is_file()


@pytest.mark.parametrize(
    "text",
    # the code of docs/crossmodal.md is that of tests/crossmodal/test_runs.py, with a run that it needs
    [p for p in blocks("python") if not p.id.startswith((*ON_TRAINERS, "docs/serving.md", "docs/crossmodal.md"))],
)
def test_python(text, monkeypatch):
    # The package that docs/extending.md is about; without its metadata, so that nothing is registered.
    folder = ROOT / "tests" / "third_party" / "lab_extras"
    spec = importlib.util.spec_from_file_location(
        "lab_extras", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    monkeypatch.setitem(sys.modules, "lab_extras", importlib.util.module_from_spec(spec))
    code = text.replace("...})", "})")
    compiled = compile(code, "snippet", "exec")
    if "run_exp(" in code:
        return  # needs a model; the call itself is what every test of a run makes
    names: dict = {}
    exec(compiled, names)
    method = names.get("MyMethod")
    if method is not None:
        import torch

        layer = torch.nn.Module()
        layer.lora_B = torch.nn.Parameter(torch.ones(2, 2))
        term = method(names["MyConfig"]()).penalties(None, layer)["size_of_b"]
        assert float(term) == pytest.approx(0.4)


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        named |= set(
            re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text(), re.MULTILINE)
            and [a or b for a, b in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text(), re.MULTILINE)]
        )
    assert named
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        card = (
            ROOT / "src" / "cl_plugins" / "methods" / path.stem / "README.md"
        )  # taken into the site by docs/hooks.py
        assert path.exists() or (path.parent.name == "methods" and card.exists()), target


def test_every_method_has_a_card():
    from cl_plugins.methods import list_methods

    for entry in list_methods():
        if entry.distribution == "cl-plugins":
            card = ROOT / "src" / "cl_plugins" / "methods" / entry.name / "README.md"
            text = card.read_text(encoding="utf-8")
            for word in ("**Idea.**", "**Options.**", "**Carry.**", "**Cost.**"):
                assert word in text, (entry.name, word)
