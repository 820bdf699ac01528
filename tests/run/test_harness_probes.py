"""Probes of evaluation harnesses on the model in memory, with stand-ins that have the signatures of the originals."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import tiny
from running import go, load, recipe, steps

from cl_plugins.base.errors import DataError, RecipeError, RunStateError
from cl_plugins.recipe import parse_cl
from cl_plugins.run.harness_run import read_results
from cl_plugins.run.status import collect
from cl_plugins.streams import Probe


FAKES = Path(__file__).parents[1] / "fakes" / "harnesses"


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKES))
    import fake_harness

    fake_harness.install(monkeypatch)
    return fake_harness


def with_probes(llama, text_data, out, *probes, method="seqlora", **settings):
    return recipe(llama, text_data, out, method, cl={"eval": {"probes": list(probes), **settings}})


def test_the_short_form_names_the_probe_after_its_task():
    block = {"stream": tiny.stream(("one",)), "method": {"name": "seqlora"}}
    found = parse_cl({**block, "eval": {"probes": ["lm_eval:arc_easy", "lmms_eval:mmmu/val"]}}).eval.probes
    assert [(p.name, p.harness_task) for p in found] == [
        ("arc_easy", ("lm_eval", "arc_easy")),
        ("mmmu_val", ("lmms_eval", "mmmu/val")),
    ]
    assert parse_cl({**block, "eval": {"probes": "lm_eval:arc_easy"}}).eval.probes == found[:1]


def test_a_harness_that_is_not_installed_is_refused_with_the_install_line(llama, text_data, tmp_path, monkeypatch):
    for name in ("lm_eval", "lmms_eval"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("cl_plugins.run.harness.find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        tiny.checked(with_probes(llama, text_data, tmp_path, "lm_eval:arc_easy", "lmms_eval:mme"))
    text = str(caught.value)
    assert "lm_eval is not installed" in text
    assert "pip install 'cl-plugins[lm-eval]'" in text
    assert "pip install 'cl-plugins[lmms-eval]'" in text


def test_several_processes_and_other_backends_are_refused(llama, text_data, tmp_path, fakes, monkeypatch):
    monkeypatch.setattr("cl_plugins.run.harness.ranks.world_size", lambda: 2)
    with pytest.raises(RecipeError, match="does not go with 2 processes"):
        tiny.checked(with_probes(llama, text_data, tmp_path, "lm_eval:colours"))
    monkeypatch.undo()
    fakes.install(monkeypatch)
    with pytest.raises(RecipeError, match="runs on the model in memory"):
        tiny.checked(with_probes(llama, text_data, tmp_path, "lm_eval:colours", backend="vllm"))


def test_an_unknown_task_is_found_before_the_base_loads(llama, text_data, tmp_path, fakes):
    with pytest.raises(DataError, match=r"lm_eval:colors cannot be loaded \(KeyError"):
        go(with_probes(llama, text_data, tmp_path / "run", "lm_eval:colors"))
    assert not (tmp_path / "run" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("choices", "lmms_eval:choices asks for log-likelihoods"),
        ("gone", r"lmms_eval:gone cannot be loaded \(FileNotFoundError: no file gone.parquet\)"),
    ],
)
def test_tasks_of_lmms_eval_that_cannot_be_asked_are_found_before_the_base_loads(
    llama, text_data, tmp_path, fakes, task, what
):
    with pytest.raises(DataError, match=what):
        go(with_probes(llama, text_data, tmp_path / "run", f"lmms_eval:{task}"))
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_a_library_that_does_not_belong_to_the_harness_is_found_before_the_base_loads(
    llama, text_data, tmp_path, fakes, monkeypatch
):
    def missing():
        raise ModuleNotFoundError("No module named 'filelock._api'")

    monkeypatch.setattr(sys.modules["lmms_eval.evaluator"], "_enable_reentrant_filelocks", missing)
    with pytest.raises(DataError) as caught:
        go(with_probes(llama, text_data, tmp_path / "run", "lmms_eval:colours"))
    assert "No module named 'filelock._api'" in str(caught.value)
    assert "pip install 'cl-plugins[lmms-eval]'" in str(caught.value)


def test_the_version_of_a_harness_is_that_of_its_package(fakes, monkeypatch):
    from cl_plugins.run import harness

    monkeypatch.setattr(harness, "version", {"lmms_eval": "0.7.3"}.__getitem__)
    assert harness.version_of("lmms_eval") == "0.7.3"  # which has no __version__


def test_a_run_with_a_harness(llama, text_data, tmp_path, fakes):
    out = tmp_path / "run"
    go(with_probes(llama, text_data, out, {"name": "colours", "harness": "lm_eval:colours", "num_fewshot": 0}))
    assert [key for key in steps(out) if key.startswith("probe")] == [
        f"probe:{row}:colours" for row in ("zero_shot", "after_one", "after_two")
    ]
    probe = load(out, "metrics.json")["probes"]["colours"]
    assert probe["scorer"] == "lm_eval:colours:acc,none@1.0"
    assert probe["n"] == 8
    start = probe["rows"]["zero_shot"]["score"]
    for row in ("after_one", "after_two"):
        part = probe["rows"][row]
        assert part["difference"] == part["score"] - start
        assert part["difference_interval"] is not None
    lines = [json.loads(line) for line in (out / "probes/after_two/colours.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"colours/{number}" for number in range(8)]
    assert lines[0]["prompt"] == "what colour is red?"
    assert sum(line["score"] for line in lines) / 8 == probe["rows"]["after_two"]["score"]
    kept = load(out, "probes/after_two/colours.score.json")
    assert kept["extra"]["harness"] == "lm_eval 0.4.13"
    assert fakes.CALLS[0] == {"task": "colours", "limit": None, "batch_size": 4, "num_fewshot": 0, "training": False}
    assert collect(out, verify=True)["damaged"] == []


def test_it_changes_no_generator_and_no_other_number(llama, text_data, tmp_path, fakes):
    """The harness seeds all generators and puts the model into another mode."""
    random.seed(5)
    expected = random.Random(5).random()
    from cl_plugins.run.harness import calm

    with calm():
        random.seed(0)
    assert random.random() == expected
    outs = [tmp_path / "with", tmp_path / "without"]
    go(with_probes(llama, text_data, outs[0], "lm_eval:colours"))
    go(with_probes(llama, text_data, outs[1]))
    assert load(outs[0], "matrix.json") == load(outs[1], "matrix.json")


def test_stopped_and_resumed_it_gives_the_same(llama, text_data, tmp_path, fakes):
    whole, again = tmp_path / "whole", tmp_path / "again"
    go(with_probes(llama, text_data, whole, "lm_eval:colours"))
    keys = with_probes(llama, text_data, again, "lm_eval:colours")
    keys["cl"]["stop_after"] = 2
    for _ in range(20):
        go(keys)
        if steps(again)[-1] == "finish":
            break
    assert load(again, "metrics.json") == load(whole, "metrics.json")


def test_a_model_that_chooses_per_row_is_asked_one_by_one(llama, text_data, tmp_path, fakes):
    go(with_probes(llama, text_data, tmp_path / "run", "lm_eval:colours", method={"name": "moelora", "experts": 2}))
    assert {call["batch_size"] for call in fakes.CALLS} == {1}


def test_the_limit_is_that_of_the_run(llama, text_data, tmp_path, fakes):
    go(with_probes(llama, text_data, tmp_path / "run", "lm_eval:colours", max_items=3))
    assert {call["limit"] for call in fakes.CALLS} == {3}
    probe = load(tmp_path / "run", "metrics.json")["probes"]["colours"]
    assert (probe["n"], probe["rows"]["zero_shot"]["max_items"]) == (3, 3)


def test_a_harness_that_fails_names_the_probe_and_the_run_can_go_on(llama, text_data, tmp_path, fakes):
    keys = with_probes(llama, text_data, tmp_path / "run", {"name": "bad", "harness": "lm_eval:fails"})
    with pytest.raises(RunStateError) as caught:
        go(keys)
    assert "probe 'bad' (lm_eval:fails)" in str(caught.value)
    assert "ValueError: the data of the task are gone" in str(caught.value)
    assert "and more" not in str(caught.value)
    keys["cl"]["eval"]["probes"] = []
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"


def test_lmms_eval_asks_with_pictures(llava, data, tmp_path, fakes):
    keys = tiny.recipe(llava, data, tmp_path / "run", "seqlora", ("one",), max_steps=2)
    keys["cl"]["eval"] = {"probes": [{"name": "seen", "harness": "lmms_eval:colours"}], "max_new_tokens": 3}
    go(keys)
    probe = load(tmp_path / "run", "metrics.json")["probes"]["seen"]
    assert probe["n"] == 8
    assert list(probe["rows"]) == ["zero_shot", "after_one"]
    lines = (tmp_path / "run" / "probes" / "after_one" / "seen.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prediction"] for line in lines}) >= 1
    # the same model, pictures and words as the host's prompts of the run
    assert all("<image>" not in json.loads(line)["prompt"] for line in lines)


def results(**more):
    rows = [{"doc_id": i, "target": "A", "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {}}}, "filtered_resps": ["A"], "filter": "none", "acc": 1.0} for i in range(4)]  # fmt: skip
    found = {"results": {"t": {"alias": "t", "acc,none": 1.0}}, "samples": {"t": rows}, "versions": {"t": 2}}
    return {**found, **more}


def read(found, **options):
    return read_results(Probe(name="p", harness="lm_eval:t", **options), found, None, "probe 'p'")


@pytest.fixture
def installed(fakes):
    return fakes


@pytest.mark.parametrize(
    ("more", "options", "what"),
    [
        ({}, {"metric": "f1"}, "did not measure the metric 'f1'"),
        ({"results": {"t": {"alias": "t"}}}, {}, "did not measure a metric"),
        ({"higher_is_better": {"t": {"acc": False}}}, {}, "better when it is lower"),
        ({"results": {"t": {"acc,none": 12.5}}}, {}, "no score from 0 to 100"),
        ({"results": {"t": {"acc,none": float("nan")}}}, {}, "no score from 0 to 100"),
        ({"results": {}}, {}, "a form that is not known"),
        ({"results": {"t": {"acc,none": "N/A"}}}, {}, "a form that is not known"),
        ({"samples": {"t": [{}]}}, {}, "a form that is not known"),
    ],
)
def test_results_that_are_no_score(installed, more, options, what):
    with pytest.raises(RunStateError, match=what):
        read(results(**more), **options)


def test_results_of_one_task(installed):
    score, lines = read(results())
    assert (score.score, score.n, score.scorer, score.interval_method) == (100.0, 4, "lm_eval:t:acc,none@2", "wilson")
    assert lines[0] == {"id": "t/0", "prompt": "q", "prediction": "A", "reference": "A", "score": 100.0}


def test_bleu_is_a_percentage_already_and_a_mean_of_a_group_may_be_another(installed):
    score, _ = read(results(results={"t": {"bleu,none": 31.5, "bleu_stderr,none": 1.0}}), metric="bleu")
    assert score.score == 31.5
    assert score.interval == pytest.approx((31.5 - 1.96, 31.5 + 1.96))
    assert score.items == ()  # no item has a BLEU of its own: a difference has no interval
    score, lines = read(results(results={"t": {"acc,none": 0.8}}))
    assert score.interval == (0.0, 100.0)
    assert score.interval_method == "not known"
    assert len(lines) == 4
