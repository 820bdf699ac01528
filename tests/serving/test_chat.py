"""``cl: {model: RUN/final}`` in LLaMA-Factory's chat and API: the answers of the run, and refusals with a way out."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
from apart import TASKS
from served_models import ROUTED, RUNS, TOKENS, kinds, request, streamed

from cl_plugins.base.errors import RecipeError, RunStateError


def chat_model(final, **keys):
    from llamafactory.chat import ChatModel

    return ChatModel({"cl": {"model": str(final)}, **keys})


@pytest.mark.parametrize("name", kinds(RUNS))
def test_chat_answers_as_the_run_did(finished, name):
    """Nothing but `cl.model` is needed: base, template and precision are those of the run."""
    run = finished(name)
    chat = chat_model(run.final, do_sample=False, max_new_tokens=TOKENS)
    for item in run.items:
        pictures = [str(item.picture)] if item.picture is not None else None
        answer = chat.chat([{"role": "user", "content": item.question}], images=pictures)[0]
        assert answer.response_text.strip() == item.answer.strip()
    first = run.items[0]
    parts = chat.stream_chat([{"role": "user", "content": first.question}], images=[str(first.picture)])
    assert "".join(parts).strip() == first.answer.strip()


@pytest.mark.parametrize("name", ["routed by row", "routed by token"])
def test_the_api_answers_many_at_once(finished, name, monkeypatch):
    """Four conversations at a time, streamed and whole, with and without pictures: none gets another one's choice."""
    from fastapi.testclient import TestClient
    from llamafactory.api.app import create_app

    monkeypatch.setenv("MAX_CONCURRENT", "4")
    monkeypatch.setenv("API_VERBOSE", "0")
    run = finished(name)
    app = create_app(chat_model(run.final))

    def ask(job):
        item, stream = job
        body = request(item, stream=stream)
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        if stream:
            return streamed(answer.text.splitlines())
        return answer.json()["choices"][0]["message"]["content"]

    jobs = [(item, bool(number % 2)) for number, item in enumerate(run.items * 2)]
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, jobs))
    assert [text.strip() for text in found] == [item.answer.strip() for item, _ in jobs]


def test_several_answers_of_one_prompt(finished):
    """Sampling repeats the prompt's row."""
    run = finished("routed by row")
    chat = chat_model(run.final, max_new_tokens=2)
    message = [{"role": "user", "content": run.items[0].question}]
    found = chat.chat(message, images=[str(run.items[0].picture)], num_return_sequences=3)
    assert len(found) == 3


def test_the_recipe_is_given_in_a_file_and_on_the_command_line(finished, monkeypatch, tmp_path):
    import sys

    from llamafactory.hparams import get_infer_args

    (tmp_path / "chat.yaml").write_text("cl: {model: nowhere}\ndo_sample: false\n")
    final = finished("routed by token").final
    monkeypatch.setattr(sys, "argv", ["cli", str(tmp_path / "chat.yaml"), f"cl.model={final}", "max_new_tokens=5"])
    model_args, data_args, finetuning_args, generating_args = get_infer_args()
    assert model_args.model_name_or_path == str(finished("routed by token").base)
    assert (data_args.template, finetuning_args.finetuning_type) == ("llava", "lora")
    assert (generating_args.do_sample, generating_args.max_new_tokens) == (False, 5)
    assert model_args.infer_dtype == "float32"
    assert model_args.adapter_name_or_path is None


def test_keys_of_the_recipe_win(finished):
    from llamafactory.hparams import get_infer_args

    keys = {"cl": {"model": str(finished("routed by token").final)}, "template": "vicuna", "image_max_pixels": 9999}
    model_args, data_args, *_ = get_infer_args(keys)
    assert data_args.template == "vicuna"
    assert model_args.image_max_pixels == 9999


# --- refusals ---------------------------------------------------------------------------------------------------


def refused(call, *args):
    with pytest.raises(RecipeError) as caught:
        call(*args)
    return {problem.where: f"{problem.what} {problem.fix}" for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("keys", "where", "way_out"),
    [
        ({"infer_backend": "vllm"}, "infer_backend", "huggingface"),
        ({"infer_backend": "sglang"}, "infer_backend", "--to tasks"),
        ({"export_dir": "x"}, "export_dir", "cl_plugins.load"),
        ({"use_unsloth": True}, "use_unsloth", "Remove"),
        ({"adapter_name_or_path": "x"}, "adapter_name_or_path", "Keep one"),
    ],
)
def test_what_a_routed_model_cannot_do(finished, keys, where, way_out):
    from llamafactory.hparams import get_infer_args

    found = refused(get_infer_args, {"cl": {"model": str(finished(ROUTED[0]).final)}, **keys})
    assert list(found) == [where]
    assert way_out in found[where]


def test_everything_is_said_at_once(finished):
    from llamafactory.hparams import get_infer_args

    keys = {"export_dir": "x", "infer_backend": "vllm", "adapter_name_or_path": "y"}
    found = refused(get_infer_args, {"cl": {"model": str(finished(ROUTED[0]).final)}, **keys})
    assert set(found) == {"export_dir", "infer_backend", "adapter_name_or_path"}


def test_export_is_refused_before_anything_loads(finished, tmp_path):
    from llamafactory.train.tuner import export_model

    keys = {"cl": {"model": str(finished(ROUTED[0]).final)}, "export_dir": str(tmp_path / "out")}
    assert list(refused(export_model, keys)) == ["export_dir"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["model_name_or_path", "adapter_name_or_path"])
def test_a_routed_folder_under_another_key(finished, llava, data, tmp_path, key):
    """Chat, export, evaluation and training, with a YAML and with words, with `cl` and without."""
    from llamafactory.hparams import get_infer_args, get_train_args, parser

    final = str(finished("routed by row").final)
    plain = {"model_name_or_path": str(llava), "template": "llava", "finetuning_type": "lora", key: final}
    for call in (get_infer_args, parser._parse_eval_args):
        found = refused(call, plain)
        assert list(found) == [key]
        assert f"cl: {{model: {final}}}" in found[key]
    assert list(refused(get_infer_args, [f"--{key}", final, "--template=llava"])) == [key]
    assert list(refused(get_infer_args, [f"--{key}={final}"])) == [key]
    recipe = tiny.recipe(llava, data, tmp_path / "run", tasks=TASKS[:1])
    assert "cl.carry_from" in refused(get_train_args, {**recipe, key: final})[key]
    recipe.pop("cl")
    assert list(refused(get_train_args, {**recipe, key: final, "dataset": "one_train"})) == [key]


def test_a_finished_model_is_not_trained(finished, llava, data, tmp_path):
    from llamafactory.hparams import get_train_args

    recipe = tiny.recipe(llava, data, tmp_path / "run", tasks=TASKS[:1])
    found = refused(get_train_args, {**recipe, "cl": {"model": str(finished("merged").final)}})
    assert "cl.carry_from" in found["cl.model"]


@pytest.mark.parametrize(
    ("block", "keys", "where", "text"),
    [
        ({"stream": "medical_cl"}, {}, "cl.stream", "not a known key"),
        ({"model": 3}, {}, "cl.model", "final/"),
        ({}, {"model_name_or_path": "/elsewhere"}, "model_name_or_path", "whole model"),
    ],
)
def test_a_block_that_says_more_than_which_model(finished, block, keys, where, text):
    from llamafactory.hparams import get_infer_args

    given = {"cl": {"model": str(finished("merged").final), **block}, **keys}
    assert text in refused(get_infer_args, given)[where]


def test_another_base_and_a_damaged_folder_are_refused(finished, tmp_path):
    from llamafactory.hparams import get_infer_args

    final = finished("routed by token").final
    other = tiny.build_llava(tmp_path / "other", seed=1)
    with pytest.raises(RunStateError, match="belongs to another base"):
        get_infer_args({"cl": {"model": str(final)}, "model_name_or_path": str(other)})
    copy = shutil.copytree(final, tmp_path / "copy")
    file = next((copy / "carry").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunStateError, match=re.escape(str(file))):
        get_infer_args({"cl": {"model": str(copy)}})
    with pytest.raises(RunStateError, match="no finished model"):
        get_infer_args({"cl": {"model": str(tmp_path)}})


def test_other_models_load_as_before(finished, llava):
    """The hook of the adapter is for arguments that name a finished model, and for no other."""
    from llamafactory.chat import ChatModel

    from cl_plugins.adapters.rows import state_of

    assert state_of(chat_model(finished("routed by row").final).engine.model) is not None
    plain = ChatModel({"model_name_or_path": str(llava), "template": "llava", "infer_dtype": "float32"})
    assert state_of(plain.engine.model) is None
    assert not [n for n, _ in plain.engine.model.named_buffers() if "cl_" in n]
