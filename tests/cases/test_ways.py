"""Ways of starting and of looking back: a notebook, another folder, the shell's words, hubs by environment, v1."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import threading

import pytest
import tiny
import yaml
from running import NO_TESTS, go, load, recipe, steps, weights

from cl_plugins.base.errors import ClPluginsError, RecipeError, RunStateError


def test_a_notebook(llama, text_data, tmp_path):
    """Several runs in one process, inside an event loop and in a thread, and the cell again: the bytes of a run alone."""

    def made(name, **more):
        return recipe(llama, text_data, tmp_path / name, cl=NO_TESTS, max_steps=1, **more)

    given = made("alone")
    before = json.dumps(given, sort_keys=True, default=str)
    go(given)
    assert json.dumps(given, sort_keys=True, default=str) == before

    async def cell():
        go(made("loop"))

    asyncio.run(cell())
    thread = threading.Thread(target=go, args=(made("thread"),))
    thread.start()
    thread.join()
    go(made("thread"))  # finished: nothing is done
    assert weights(tmp_path / "alone") == weights(tmp_path / "loop") == weights(tmp_path / "thread")
    with pytest.raises(RunStateError, match="warmup_steps"):
        go(made("thread", warmup_steps=1))


def test_a_relative_base_looked_at_from_another_folder(llama, text_data, tmp_path, monkeypatch, capsys):
    from cl_plugins.cli import main

    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(llama, project / "models" / "text")
    shutil.copytree(text_data, project / "d")
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    go(recipe("models/text", "d", "runs/one", cl=NO_TESTS, max_steps=1, tasks=("one",)))
    monkeypatch.chdir(elsewhere)
    words = ["export", "../project/runs/one", "--to", "adapter", "--out", "found"]
    assert main(words) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "models/text" in said
    assert "there is no folder" in said
    assert "another base" not in said
    assert main([*words, "--model", "../project/models/text"]) == 0


WORDS = {
    "cl={}": lambda r: r["cl"]["method"]["name"] == "inclora",  # nothing is set
    "cl.eval.max_items=null": lambda r: r["cl"]["eval"].get("max_items") is None,
    "cl.task_overrides.one.max_steps=1": lambda r: r["cl"]["task_overrides"] == {"one": {"max_steps": 1}},
    "cl.method=seqlora": lambda r: r["cl"]["method"] == "seqlora",  # the name alone
    "cl.method.name=seqlora": lambda r: r["cl"]["method"]["name"] == "seqlora",
    "cl.order=[two,one]": lambda r: r["cl"]["order"] == ["two", "one"],
    "cl.eval.max_items=2 cl.eval.max_items=3": lambda r: r["cl"]["eval"]["max_items"] == 3,
}
REFUSED = ["cl.stream.tasks.0.max_new_tokens=5", "cl.stream.tasks[0].max_new_tokens=5", "+cl.eval.max_items=2", "++cl.eval.max_items=2", "~cl.eval", "--cl.eval.max_items=2",
           "cl.eval.scope=All", "cl.order=two,one", "CL.eval.max_items=2", "cl=null"]  # fmt: skip


@pytest.fixture
def shell(llama, text_data, tmp_path, monkeypatch):
    """The recipe as the host's parser leaves it, for words behind a YAML."""
    from llamafactory.hparams import parser

    path = tmp_path / "r.yaml"
    keys = recipe(llama, text_data, tmp_path / "run", method="inclora", cl=NO_TESTS)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(keys, default=str))))

    def read(words):
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), *words.split()])
        return parser.get_train_args()[1].cl

    return read


@pytest.mark.parametrize("words", WORDS)
def test_words_of_the_shell(words, shell):
    assert WORDS[words]({"cl": shell(words)})


@pytest.mark.parametrize("words", REFUSED)
def test_words_that_are_never_ignored(words, shell):
    with pytest.raises((ClPluginsError, ValueError)):
        shell(words)


@pytest.mark.parametrize(
    "name", ["USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB", "ALLOW_EXTRA_ARGS", "DISABLE_VERSION_CHECK"]
)
def test_variables_of_hubs_change_nothing_for_local_files(name, llama, text_data, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "1")
    go(recipe(llama, text_data, tmp_path / "run", cl=NO_TESTS, max_steps=1, tasks=("one",)))
    assert steps(tmp_path / "run")[-1] == "finish"
    assert load(tmp_path / "run", "run.json")["recipe"]["cl"]["method"]["name"] == "inclora"


def test_the_v1_engine_is_refused(llama, text_data, tmp_path, monkeypatch):
    monkeypatch.setenv("USE_V1", "1")
    with pytest.raises(RecipeError, match="USE_V1"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run"))


def test_a_recipe_of_the_web_interface(llama, text_data, tmp_path):
    """LlamaBoard writes every default; `dataset` alone is refused."""
    board = {
        "bf16": False, "ddp_timeout": 180000000, "enable_thinking": True, "flash_attn": "auto", "include_num_input_tokens_seen": True,
        "gradient_accumulation_steps": 1, "lora_alpha": 16, "lora_dropout": 0, "max_grad_norm": 1.0, "max_samples": 100000,
        "num_train_epochs": 1.0, "optim": "adamw_torch", "packing": False, "plot_loss": True, "preprocessing_num_workers": 1,
        "save_steps": 100, "trust_remote_code": True, "warmup_steps": 0,
    }  # fmt: skip
    keys = recipe(llama, text_data, tmp_path / "run", **board)
    tiny.checked(keys)
    with pytest.raises(RecipeError) as caught:
        tiny.checked({**keys, "dataset": "one_train"})
    assert [problem.where for problem in caught.value.problems] == ["dataset"]


@pytest.mark.parametrize("key", ["group_by_length", "visual_inputs"])
def test_keys_of_older_recipes_get_no_misleading_hint(key, llama, text_data, tmp_path):
    from cl_plugins.host.keys import kind_of

    if kind_of(key).home:
        pytest.skip("the installed Transformers has this key")
    with pytest.raises(RecipeError) as caught:
        tiny.checked(recipe(llama, text_data, tmp_path / "run", **{key: True}))
    (problem,) = caught.value.problems
    assert problem.where == key
    assert "Did you mean" not in problem.fix


def test_a_tracker_that_is_not_installed(llama, text_data, tmp_path, monkeypatch):
    from cl_plugins.host import facts

    monkeypatch.setattr(facts, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"report_to: names 'tensorboard', but its package is not installed"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", report_to="tensorboard"))
