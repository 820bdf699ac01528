"""The model card: what it says, that its code runs, and that the chat template takes lists of parts."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import tiny
from running import copy_of, load
from sealed import edit

from cl_plugins.base.errors import RunStateError
from cl_plugins.cli import main
from cl_plugins.run.card import base_licence, plain


KINDS = ["merged", "peft", "full", "routed by row"]


def code_of(folder):
    text = (folder / "README.md").read_text()
    (found,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_runs(kind, finished, monkeypatch, capsys):
    folder = finished(kind).out / "final"
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code_of(folder), names)
    assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_says_what_the_model_is(kind, finished):
    from huggingface_hub import ModelCard

    run = finished(kind)
    about = load(run.out, "final/MANIFEST.json")
    card = ModelCard.load(run.out / "final" / "README.md")
    assert card.data.base_model is None  # a folder of this machine is no name on the hub
    assert {"cl_plugins", "llama-factory", about["method"]} <= set(card.data.tags)
    assert card.data.library_name == {"peft": "peft", "routed": "cl_plugins"}.get(about["kind"], "transformers")
    assert card.data.pipeline_tag == "image-text-to-text"
    assert about["base"]["name"] in card.text
    assert about["files"]["README.md"]["bytes"] == (run.out / "final" / "README.md").stat().st_size
    matrix = load(run.out, "matrix.json")
    scores = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    last = dict(zip(matrix["tasks"], matrix["scores"][-1], strict=True))
    assert scores == {task: round(score, 2) for task, score in last.items() if score is not None}
    for row in matrix["scores"]:
        assert " | ".join(f"{score:.2f}" if score is not None else "" for score in row) in card.text
    value = load(run.out, "metrics.json")["metrics"]["last"].get("value")
    assert value is None or f"Last {value:.2f}" in card.text
    assert "template `llava`" in card.text
    assert "states no licence" in card.text


def test_a_prompt_of_parts_is_the_prompt_of_the_run(finished):
    """The ids of a chat with a list of parts are those that the run has asked with."""
    from PIL import Image
    from transformers import AutoProcessor

    run = finished("merged")
    folder = run.out / "final"
    processor = AutoProcessor.from_pretrained(folder)
    question = next(item.question for item in run.items if item.picture is not None).replace("<image>", "")
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    texts = [
        reader.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        for reader in (processor, processor.tokenizer)
        for content in (parts, f"<image>{question}")
    ]
    assert len(set(texts)) == 1
    assert f"USER: <image>{question} ASSISTANT:" in texts[0]
    text_only = [{"type": "text", "text": question}]
    assert "<image>" not in processor.apply_chat_template([{"role": "user", "content": text_only}], tokenize=False)
    with pytest.raises(Exception, match="takes no parts of type video"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}], tokenize=False)
    inputs = processor(text=texts[0], images=Image.new("RGB", (16, 16)), add_special_tokens=False, return_tensors="pt")
    assert (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 4
    ours = expected_ids(folder, question)
    assert [t for t in inputs["input_ids"][0].tolist() if t != 4] == [t for t in ours if t != 4]


def expected_ids(folder, question):
    """The prompt's ids by LLaMA-Factory's own template."""
    from llamafactory.data.template import TEMPLATES
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": ""}]
    return TEMPLATES["llava"].encode_oneturn(tokenizer, turns)[0]


def test_a_text_model_takes_parts_too(llama, text_data, tmp_path, monkeypatch):
    from running import NO_TESTS, go, recipe
    from transformers import AutoTokenizer

    go(recipe(llama, text_data, tmp_path / "run", "seqlora", ("one",), cl=NO_TESTS, max_steps=1))
    folder = tmp_path / "run" / "final"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "text", "text": "what colour?"}]}]
    assert "USER: what colour? ASSISTANT:" in tokenizer.apply_chat_template(chat, tokenize=False)
    assert "Nothing was measured" in (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})


def test_the_base_is_found_from_every_folder(llama, text_data, tmp_path, monkeypatch):
    from running import NO_TESTS, go, recipe

    monkeypatch.chdir(llama.parent)
    go(recipe(Path(llama.name), text_data, tmp_path / "run", "inclora", ("one",), cl=NO_TESTS, max_steps=1))
    assert load(tmp_path / "run", "final/MANIFEST.json")["base"]["name"] == str(llama)
    out = tmp_path / "adapter"
    assert main(["export", str(tmp_path / "run"), "--to", "adapter", "--out", str(out)]) == 0
    assert load(out, "adapter_config.json")["base_model_name_or_path"] == str(llama)
    monkeypatch.chdir(out)
    exec(code_of(out), {})


def test_the_licence_of_the_base_is_told_where_its_card_has_it(llama, tmp_path):
    base = copy_of(llama, tmp_path / "base")
    assert base_licence(str(base)) == {}
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama2\nlicense_link: https://x.y/z\n---\n# Base\n"
    )
    assert base_licence(str(base)) == {"license": "other", "license_name": "llama2", "license_link": "https://x.y/z"}
    for text in ("---\nlicense: [a\n---\n", "---\nlicense: {a: b}\n---\n", "no front", "---\n- a\n---\n"):
        (base / "README.md").write_text(text)
        assert base_licence(str(base)) == {}
    (base / "README.md").unlink()
    os.mkfifo(base / "README.md")
    assert base_licence(str(base)) == {}
    assert base_licence("nobody/nothing") == {}


def test_names_of_a_stream_are_no_markup():
    assert plain("a|b\n# c <script> `x` [y](z)") == r"a\|b \# c \<script\> \`x\` \[y\](z)"


# --- adapters for vLLM


@pytest.fixture(scope="module")
def two_tasks(llava, data, tmp_path_factory):
    """LoRAs per task: with a projector that every task trains, and without one."""
    from running import go

    root = tmp_path_factory.mktemp("vllm")
    method = {"name": "mslora_cr", "inference": "first_k"}
    for name, target in (("projector", "multi_modal_projector"), ("plain", None)):
        keys = tiny.recipe(llava, data, root / name, method, ("one", "two"), max_steps=2)
        keys["additional_target"] = target
        keys["cl"]["eval"] = {"scope": "none"}
        go({key: value for key, value in keys.items() if value is not None})
    return root


def started_by(told):
    """The words of the command that an export has printed."""
    return shlex.split(told[told.index("vllm serve") :].replace("\\\n", " "))


def test_adapters_without_whole_modules_need_no_other_base(two_tasks, llava, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(two_tasks / "plain"), "--to", "tasks", "--vllm", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "no module was trained as a whole" in " ".join(told.split())
    assert started_by(told) == [
        *("vllm", "serve", str(llava), "--chat-template", str(out / "chat_template.jinja"), "--dtype", "float32"),
        *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"),
        *("--lora-modules", f"one={out / '01_one'}", f"two={out / '02_two'}"),
    ]
    assert "<image>" in (out / "chat_template.jinja").read_text()
    assert not (out / "base").exists()
    assert load(out, "01_one/adapter_config.json")["base_model_name_or_path"] == str(llava)


def test_projectors_that_differ_are_refused_by_name(two_tasks, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(two_tasks / "projector"), "--to", "tasks", "--vllm", "--out", str(out)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "tasks one and two have trained multi_modal_projector" in told
    assert not out.exists()
    assert main(["export", str(two_tasks / "projector"), "--to", "merged", "--vllm", "--out", str(out)]) == 2


def test_a_shared_projector_is_merged_once_and_named(finished, tmp_path, monkeypatch, capsys):
    """The adapter on its own base gives the logits of the plain adapter on the run's base."""
    import torch
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForImageTextToText

    run, out, plain_out = finished("peft"), tmp_path / "vllm", tmp_path / "plain"
    assert main(["export", str(run.out), "--to", "adapter", "--out", str(plain_out)]) == 0
    assert main(["export", str(run.out), "--to", "adapter", "--vllm", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    told = " ".join(printed.split())
    assert "multi_modal_projector" in told
    assert "which all adapters share" in told
    rank = load(out, "adapter_config.json")["r"]
    assert started_by(printed) == [
        *("vllm", "serve", str(out / "base"), "--enable-lora", "--max-lora-rank", str({12: 16}[rank])),
        *("--lora-modules", f"vllm={out}"),
    ]
    assert (out / "base" / "chat_template.jinja").read_text() == (out / "chat_template.jinja").read_text()
    config = load(out, "adapter_config.json")
    assert config["modules_to_save"] is None
    assert config["base_model_name_or_path"] == str(out / "base")
    with safe_open(out / "adapter_model.safetensors", "pt") as file:
        assert all(".lora_A." in name or ".lora_B." in name for name in file.keys())
    ids = torch.arange(8, 28).reshape(1, -1)
    found = []
    for folder in (plain_out, out):
        base = AutoModelForImageTextToText.from_pretrained(
            load(folder, "adapter_config.json")["base_model_name_or_path"]
        )
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        projector = {n: p for n, p in model.named_parameters() if "multi_modal_projector" in n and "original" not in n}
        found.append((model(input_ids=ids).logits, [p.detach().float() for p in projector.values()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(
        torch.equal(a.to(torch.bfloat16), b.to(torch.bfloat16)) for a, b in zip(found[0][1], found[1][1], strict=True)
    )
    monkeypatch.chdir(out)
    exec(code_of(out), {})
    import cl_plugins

    loaded = cl_plugins.load(out)
    assert torch.equal(
        loaded.get_submodule("base_model.model.model.multi_modal_projector.linear_1").weight.float(), found[1][1][0]
    )
    with pytest.raises(RunStateError, match="belongs to its own base"):
        cl_plugins.load(out, base=run.base)
    assert main(["push", str(out), "--repo", "me/m", "--base", "org/base", "--yes"]) == 1
    assert "with a base of their own" in " ".join(capsys.readouterr().err.split())


def test_the_card_of_adapters_by_task_runs(two_tasks, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(["export", str(two_tasks / "projector"), "--to", "tasks", "--out", str(out)]) == 0
    monkeypatch.chdir(out)
    exec(code_of(out), {})
    assert "alone on the base, answers its task" in (out / "README.md").read_text()


# --- push


class FakeApi:
    """Stands for `huggingface_hub.HfApi`: keeps what it is given."""

    def __init__(self, error=None):
        self.repos, self.files, self.error = [], {}, error

    def create_repo(self, repo_id, *, private, exist_ok, repo_type):
        if self.error is not None:
            raise self.error
        self.repos.append((repo_id, private, exist_ok, repo_type))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, folder_path, repo_id, repo_type, commit_message):
        root = Path(folder_path)
        self.files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        self.links = [p for p in root.rglob("*") if p.is_symlink()]


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    return fake


@pytest.mark.parametrize("kind", ["peft", "routed by row", "merged"])
def test_push_uploads_the_listed_files_and_no_path_of_this_machine(kind, finished, tmp_path, api, capsys):
    run = copy_of(finished(kind).out, tmp_path / "run")
    (run / "final" / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in (run / "final").rglob("*") if p.is_file()}
    words = ["--repo", "me/model", "--private", "--yes", *(["--base", "org/base"] if kind != "merged" else [])]
    assert main(["push", str(run), *words]) == 0
    assert api.repos == [("me/model", True, True, "model")]
    about = load(run, "final/MANIFEST.json")
    assert set(api.files) == {*about["files"], "MANIFEST.json"}
    assert not any("predictions" in name or "replay" in name for name in api.files)
    path = about["base"]["name"].encode()
    assert not [name for name, raw in api.files.items() if path in raw]
    assert b"/tmp/" not in b"".join(raw for name, raw in api.files.items() if name.endswith((".json", ".md")))
    told = capsys.readouterr().out
    assert "README.md" in told
    assert "https://hub.example/me/model" in told
    assert {p: p.read_bytes() for p in (run / "final").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in run.iterdir() if "push" in p.name) == []
    if kind != "merged":
        assert b"base_model: org/base" in api.files["README.md"]
        assert json.loads(api.files["MANIFEST.json"])["base"]["name"] == "org/base"
    received = tmp_path / "received"
    for name, raw in api.files.items():
        (received / name).parent.mkdir(parents=True, exist_ok=True)
        (received / name).write_bytes(raw)
    from cl_plugins.run.final import open_final

    open_final(received).verify()


@pytest.mark.parametrize(("answer", "uploaded"), [("y", True), ("n", False), ("", False)])
def test_push_asks_first(answer, uploaded, finished, api, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    code = main(["push", str(finished("merged").out), "--repo", "me/model"])
    assert (code, bool(api.repos)) == ((0, True) if uploaded else (1, False))
    assert "model.safetensors" in capsys.readouterr().out


def test_push_refuses_what_others_could_not_open(finished, tmp_path, api, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    run = finished("peft").out

    def told(*words):
        code = main(["push", *map(str, words)])
        return code, " ".join(capsys.readouterr().err.split())

    assert "a folder of this machine" in told(run, "--repo", "me/m", "--yes")[1]
    assert told(run, "--repo", "me/m/x", "--base", "/models/x", "--yes")[1].count("Give") == 2
    assert "where nobody can be asked" in told(finished("merged").out, "--repo", "me/m")[1]
    assert "holds no finished model" in told(tmp_path, "--repo", "me/m", "--yes")[1]
    broken = copy_of(finished("merged").out / "final", tmp_path / "broken")
    (broken / "config.json").write_text("{}")
    assert "differs from its hash" in told(broken, "--repo", "me/m", "--yes")[1]
    hidden = copy_of(finished("merged").out / "final", tmp_path / "hidden")
    (hidden / "replay").mkdir()
    (hidden / "replay/samples.jsonl").write_text("{}")
    record = {"sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "bytes": 2}
    edit(hidden / "MANIFEST.json", lambda c: c["files"].update({"replay/samples.jsonl": record}))
    assert "never uploaded" in told(hidden, "--repo", "me/m", "--yes")[1]
    assert api.repos == []


def test_an_error_of_the_hub_is_one_message(finished, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: FakeApi(OSError("no network")))
    assert main(["push", str(finished("merged").out), "--repo", "me/model", "--yes"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "could not be uploaded (no network)" in told
    assert "hf auth login" in told
