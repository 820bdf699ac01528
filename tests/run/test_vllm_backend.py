"""The vLLM backend against a stand-in with vLLM's calls: same texts as the model in memory, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from running import copy_of

from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError
from cl_plugins.cli import main
from cl_plugins.generation.vllm import _library, sampling_rules


TASKS = ("one", "two")
FAKES = Path(__file__).parents[1] / "fakes"


@pytest.fixture
def vllm(monkeypatch):
    import sys

    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    import vllm

    yield vllm
    sys.modules.pop("vllm", None)


def recipe(llava, data, out, method="inclora", **settings):
    block = {"eval": {"max_new_tokens": 3, **settings}}
    return tiny.recipe(llava, data, out, method, TASKS, cl=block, max_steps=3)


def predictions(out):
    return {str(p.relative_to(out)): p.read_text() for p in sorted(out.glob("predictions/*/*.jsonl"))}


@pytest.fixture(scope="module")
def by_the_host(llava, data, tmp_path_factory):
    from llamafactory.train.tuner import run_exp

    made = {}

    def get(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp("host") / method
            run_exp(recipe(llava, data, made[method], method))
        return made[method]

    return get


@pytest.mark.parametrize("method", ["inclora", "seqfull", "single_task"])
def test_the_same_predictions(method, llava, data, vllm, by_the_host, run, tmp_path):
    options = {"gpu_memory_utilization": 0.5}
    run(recipe(llava, data, tmp_path / "out", method, backend="vllm", backend_options=options))
    assert predictions(tmp_path / "out") == predictions(by_the_host(method))
    # one engine for the base and one for each task's model, whatever the number of test sets
    assert len(vllm.STARTED) == 3
    assert all(engine.ended for engine in vllm.STARTED)
    given = [engine.given for engine in vllm.STARTED]
    assert given[0]["model"] == str(llava)
    assert given[1]["model"] != given[2]["model"]
    assert {(g["dtype"], g["seed"], g["gpu_memory_utilization"]) for g in given} == {("float32", 7, 0.5)}
    assert all(g["limit_mm_per_prompt"] == {"image": 1} for g in given)
    sampling = vllm.STARTED[0].calls[0][1]
    assert (sampling.temperature, sampling.max_tokens, sampling.stop_token_ids[0]) == (0.0, 3, 2)
    assert not (tmp_path / "out" / "merged_for_vllm").exists()


def with_rules(llava, folder, **rules):
    """A copy of a base whose generation config says more."""
    base = copy_of(llava, folder)
    file = base / "generation_config.json"
    own = json.loads(file.read_text()) | rules
    file.unlink()
    file.write_text(json.dumps(own))
    return base


@pytest.mark.parametrize("rules", [{"eos_token_id": list(range(2, 400))}, {"repetition_penalty": 1.5}])
def test_the_base_has_its_own_rules_of_generation(rules, llava, data, vllm, run, tmp_path):
    """What ends an answer is replaced, as for the model in memory, and a penalty is followed."""
    base = with_rules(llava, tmp_path / "base", **rules)
    for backend in ("host", "vllm"):
        run(recipe(base, data, tmp_path / backend, backend=backend, max_new_tokens=6))
    found = predictions(tmp_path / "host")
    assert predictions(tmp_path / "vllm") == found
    assert {e.calls[0][1].repetition_penalty for e in vllm.STARTED} == {rules.get("repetition_penalty", 1.0)}
    said = [json.loads(line)["prediction"] for text in found.values() for line in text.splitlines()]
    assert max(map(len, said)) > 3


def test_rules_that_vllm_does_not_have(llava, data, vllm, run, tmp_path):
    base = with_rules(llava, tmp_path / "base", no_repeat_ngram_size=2)
    with pytest.raises(CompatibilityError, match="does not follow no_repeat_ngram_size: 2 in the base's"):
        run(recipe(base, data, tmp_path / "out", backend="vllm"))
    assert not (tmp_path / "out" / "tasks").exists()
    assert vllm.STARTED == []


def test_rules_that_evaluation_replaces():
    assert sampling_rules({"num_beams": 4, "repetition_penalty": 1.05}) == {"repetition_penalty": 1.05}


def test_what_vllm_cannot_load_is_told(llava, data, vllm, run, tmp_path):
    options = {"max_model_len": 4096}
    with pytest.raises(CompatibilityError) as error:
        run(recipe(llava, data, tmp_path / "out", backend="vllm", backend_options=options))
    text = str(error.value)
    assert (
        f"cl.eval.backend: vLLM 0.0-fake cannot load {llava} (User-specified max_model_len (4096) is greater" in text
    )
    assert "the derived max_model_len)." in text


def test_what_vllm_cannot_answer_is_told(llava, data, vllm, by_the_host, monkeypatch, tmp_path, capsys):
    def dead(self, *args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(vllm.LLM, "generate", dead)
    words = ["evaluate", str(by_the_host("inclora")), "--backend", "vllm", "--out", str(tmp_path / "out")]
    assert main(words) != 0
    assert "vLLM 0.0-fake cannot answer (RuntimeError)." in capsys.readouterr().err
    assert all(engine.ended for engine in vllm.STARTED)


@pytest.mark.parametrize("chosen", [None, "ext://sys.stdout"])
def test_the_log_of_vllm_leaves_stdout_unless_the_user_says_so(chosen, vllm, monkeypatch):
    import sys

    monkeypatch.setenv("VLLM_LOGGING_STREAM", str(chosen))
    if chosen is None:
        monkeypatch.delenv("VLLM_LOGGING_STREAM")
    sys.modules.pop("vllm")
    assert _library().LOG == (chosen or "ext://sys.stderr")


def test_evaluating_a_finished_run(llava, data, vllm, by_the_host, tmp_path, capsys):
    root = by_the_host("inclora")
    assert main(["evaluate", str(root), "--backend", "vllm", "--out", str(tmp_path / "out"), "--json"]) == 0
    capsys.readouterr()
    own = {k: v for k, v in predictions(root).items() if "after_two" in k}
    assert predictions(tmp_path / "out") == own
    assert len(vllm.STARTED) == 1


def test_large_test_sets_are_given_in_large_pieces(llava, data, vllm, by_the_host, tmp_path, monkeypatch, capsys):
    from cl_plugins.generation.vllm import VllmBackend

    monkeypatch.setattr(VllmBackend, "batch_size", 4)
    root = by_the_host("inclora")
    words = ["evaluate", str(root), "--backend", "vllm", "--task", "one", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    capsys.readouterr()
    assert [count for count, _ in vllm.STARTED[0].calls] == [4, 2]
    name = "predictions/after_two/one.jsonl"
    assert (tmp_path / "out" / name).read_bytes() == (root / name).read_bytes()


def test_a_merged_model_that_a_kill_left_is_used_again(llava, data, vllm, by_the_host, tmp_path, monkeypatch, capsys):
    from cl_plugins.generation.vllm import VllmBackend
    from cl_plugins.run import backends

    root, out, written = by_the_host("inclora"), tmp_path / "out", []
    export = backends.export_merged
    monkeypatch.setattr(backends, "export_merged", lambda *a: written.append(a[2]) or export(*a))
    close = VllmBackend.close
    monkeypatch.setattr(VllmBackend, "close", lambda self: None)
    words = ["evaluate", str(root), "--backend", "vllm", "--task", "one", "--out", str(out), "--json"]
    assert main(words) == 0
    monkeypatch.setattr(VllmBackend, "close", close)
    assert written[0].is_dir()
    assert main(words) == 0
    assert len(written) == 1
    assert not (out / "merged_for_vllm").exists()
    capsys.readouterr()


# --- refusals


def refused(keys, monkeypatch=None):
    with pytest.raises(RecipeError) as error:
        tiny.checked(keys)
    return str(error.value)


def test_without_vllm(llava, data, tmp_path):
    text = refused(recipe(llava, data, tmp_path, backend="vllm"))
    assert "cl.eval.backend" in text
    assert "vllm is not installed" in text
    assert "cl-plugins[vllm]" in text


def test_without_vllm_on_the_command_line(by_the_host, tmp_path, capsys):
    assert main(["evaluate", str(by_the_host("inclora")), "--backend", "vllm", "--out", str(tmp_path / "x")]) != 0
    assert "--backend" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_quantised_base(llava, data, vllm, tmp_path):
    text = refused({**recipe(llava, data, tmp_path, backend="vllm"), "quantization_bit": 4})
    assert "nothing can be merged into a quantised base" in text


def test_a_split_model(llava, data, vllm, tmp_path):
    config = tmp_path / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": "auto"}))
    assert "split over the ranks" in refused(
        {**recipe(llava, data, tmp_path, backend="vllm"), "deepspeed": str(config)}
    )


def test_several_processes(llava, data, vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes" in refused(recipe(llava, data, tmp_path, backend="vllm"))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "mslora_cr"}, "another model"),
        ({"name": "moelora", "experts": 2}, "chooses its parts for every sample"),
    ],
)
def test_a_method_that_has_no_single_merged_model(llava, data, vllm, tmp_path, method, words):
    assert words in refused(recipe(llava, data, tmp_path, method, backend="vllm"))


def test_options_that_nothing_reads(llava, data, tmp_path):
    assert "backend_options" in refused(recipe(llava, data, tmp_path, backend_options={"seed": 1}))


def test_an_unknown_backend(llava, data, tmp_path):
    assert "'vllm'" in refused(recipe(llava, data, tmp_path, backend="vlm"))


def test_nothing_is_refused_where_nothing_is_tested(llava, data, tmp_path):
    tiny.checked(recipe(llava, data, tmp_path, backend="vllm", scope="none"))


def test_videos_are_refused():
    import numpy as np

    from cl_plugins.contract.test_item import TestItem
    from cl_plugins.host.session import Session

    item = TestItem(
        "a", "p", "r", None, np.zeros(1, np.int32), {}, ("images", "videos"), engine_tokens=np.zeros(1, np.int32)
    )
    session = Session.__new__(Session)
    with pytest.raises(DataError, match="videos"):
        session.engine_prompt(item)
