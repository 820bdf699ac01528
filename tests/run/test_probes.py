"""Probes: tests outside of the stream, before the first task and after every task, and no part of the metrics."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
from running import digest, go, journal, load, recipe, steps

from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.cli import main
from cl_plugins.evaluation.results import read_results
from cl_plugins.methods.registry import make_method
from cl_plugins.recipe import parse_cl
from cl_plugins.run.plan import make_plan
from cl_plugins.run.status import collect


GENERAL = {"name": "general", "test": "three_test", "scorer": "choice_accuracy", "options_column": "options"}
SAFETY = {"name": "safety", "test": ["three_test", "two_test"], "scorer": "contains", "after": "last"}


def block(*probes, method="seqlora", tasks=("one", "two"), **settings):
    return {
        "stream": tiny.stream(tasks),
        "method": {"name": method},
        "eval": {"probes": list(probes), **settings},
    }


def with_probes(llama, text_data, out, *probes, cl=None, **keys):
    found = recipe(llama, text_data, out, "seqlora", cl={"eval": {"probes": list(probes)}}, **keys)
    found["cl"].update(cl or {})
    return found


def test_the_plan_has_them_before_the_first_task_and_after_the_tests_of_each():
    plan = [step.key for step in make_plan(parse_cl(block(GENERAL, SAFETY)), make_method("seqlora", {}))]
    assert plan == [
        *("evaluate:zero_shot:one", "evaluate:zero_shot:two", "probe:zero_shot:general", "probe:zero_shot:safety"),
        *("train:one", "consolidate:one", "evaluate:after_one:one", "probe:after_one:general"),
        *("train:two", "consolidate:two", "evaluate:after_two:one", "evaluate:after_two:two"),
        *("probe:after_two:general", "probe:after_two:safety"),
        "finish",
    ]
    joint = [
        step.key
        for step in make_plan(parse_cl(block(GENERAL, SAFETY, method="multitask")), make_method("multitask", {}))
    ]
    assert joint[-3:] == ["probe:joint:general", "probe:joint:safety", "finish"]
    first = [s.key for s in make_plan(parse_cl({**block(GENERAL, SAFETY), "only": "one"}), make_method("seqlora", {}))]
    assert [key for key in first if key.startswith("probe")] == [
        *("probe:zero_shot:general", "probe:zero_shot:safety", "probe:after_one:general", "probe:after_one:safety")
    ]


@pytest.mark.parametrize(
    ("probe", "where", "what"),
    [
        ({**GENERAL, "name": "one"}, "probes[0].name", "'one' is also a task of the stream"),
        ({**GENERAL, "name": "zero_shot"}, "probes[0].name", "is 'zero_shot'"),
        ({**GENERAL, "train": "one_train"}, "probes[0].train", "is not a known key"),
        ({**GENERAL, "scorer": "nothing"}, "probes[0].scorer", "nothing"),
        ({"name": "general"}, "probes[0]", "has neither `test` nor `harness`"),
        ({**GENERAL, "harness": "lm_eval:x"}, "probes[0]", "has both"),
        ({"name": "general", "harness": "eval:x"}, "probes[0].harness", "is 'eval:x'"),
        ({"name": "general", "harness": "lm_eval:x", "scorer": "bleu"}, "probes[0].scorer", "decides that itself"),
        ({**GENERAL, "metric": "acc"}, "probes[0].metric", "is given without `harness`"),
        ("three_test", "probes[0]", "is 'three_test'"),
        ({**GENERAL, "overrides": {"learning_rate": 1.0}}, "overrides.learning_rate", "does not concern the data"),
        ({**GENERAL, "overrides": {"dataset_dirr": "x"}}, "overrides", "dataset_dirr"),
        ({**GENERAL, "test": "four_test"}, "four_test", "dataset_info.json"),
    ],
)
def test_what_is_refused(llama, text_data, tmp_path, probe, where, what):
    keys = with_probes(llama, text_data, tmp_path / "run", probe)
    with pytest.raises(RecipeError) as caught:
        tiny.checked(keys)
    assert any(where in str(p) and what in str(p) for p in caught.value.problems), caught.value


def test_names_that_occur_twice_and_a_run_that_tests_nothing_are_refused(llama, text_data, tmp_path):
    with pytest.raises(RecipeError, match="'General' is also the name of probe 1"):
        parse_cl(block(GENERAL, {**GENERAL, "name": "General"}))
    with pytest.raises(RecipeError, match="`scope: none`"):
        parse_cl(block(GENERAL, scope="none"))


def test_a_validation_set_is_no_probe(llama, text_data, tmp_path):
    keys = with_probes(llama, text_data, tmp_path / "run", GENERAL, eval_strategy="steps", eval_steps=1)
    keys["cl"]["stream"]["tasks"][0]["valid"] = "three_test"
    with pytest.raises(RecipeError, match="test set 'three_test' of task 'general'"):
        tiny.checked(keys)


@pytest.fixture(scope="module")
def finished(llama, text_data, tmp_path_factory):
    """A finished run with two probes, and its recipe."""
    out = tmp_path_factory.mktemp("probed") / "run"
    keys = with_probes(llama, text_data, out, GENERAL, SAFETY, max_steps=6)
    go(keys)
    return keys, out


def test_metrics_have_the_drift_and_the_matrix_does_not(finished):
    _, out = finished
    assert load(out, "matrix.json")["tasks"] == ["one", "two"]
    metrics = load(out, "metrics.json")
    general, safety = metrics["probes"]["general"], metrics["probes"]["safety"]
    assert (general["scorer"].split("@")[0], general["n"]) == ("choice_accuracy", 6)
    assert (list(general["rows"]), list(safety["rows"])) == (
        ["zero_shot", "after_one", "after_two"],
        ["zero_shot", "after_two"],
    )
    assert safety["n"] == 12
    start = general["rows"]["zero_shot"]
    assert start["difference"] is None
    for row in ("after_one", "after_two"):
        part = general["rows"][row]
        assert part["difference"] == part["score"] - start["score"]
        assert part["difference_interval"][0] <= part["difference"] <= part["difference_interval"][1]
    answers = [(out / "probes" / row / "general.jsonl").read_text() for row in ("zero_shot", "after_two")]
    assert answers[0] != answers[1]  # the trained model has answered
    last = metrics["metrics"]["last"]["value"]
    assert last == pytest.approx(sum(load(out, "matrix.json")["scores"][1]) / 2)


def test_every_answer_is_kept_and_the_journal_has_its_hash(finished):
    _, out = finished
    entry = next(entry for entry in journal(out) if entry["step"] == "probe:after_one:general")
    assert set(entry["artefacts"]) == {f"probes/after_one/general{end}" for end in (".jsonl", ".score.json")}
    lines = (out / "probes" / "after_one" / "general.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert not list(out.rglob("*.parts"))
    assert collect(out, verify=True)["damaged"] == []


def test_status_lists_them(finished, capsys):
    _, out = finished
    assert main(["status", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "probe after two" in shown
    assert "general" in shown


def test_a_changed_score_file_or_metric_is_noticed(finished, tmp_path):
    _, out = finished
    for name in ("probes/after_one/general.score.json", "metrics.json"):
        copy = shutil.copytree(out, tmp_path / name.replace("/", "-"))
        value = json.loads((copy / name).read_text())
        if name == "metrics.json":
            from cl_plugins.records.results import MetricsRecord

            value["probes"]["general"]["rows"]["after_one"]["score"] = 99.0
            (copy / name).write_text(MetricsRecord.text({k: v for k, v in value.items() if k != "format"}))
        else:
            value["score"] = 99.0
            (copy / name).write_text(json.dumps(value))
        with pytest.raises(RunStateError, match=r"general|metrics"):
            read_results(copy)


def test_stopped_after_every_step_it_gives_the_same_bytes(finished, tmp_path):
    keys, out = finished
    again = tmp_path / "run"
    stopped = {**keys, "output_dir": str(again), "cl": {**keys["cl"], "stop_after": 1}}
    for _ in range(40):
        go(stopped)
        if steps(again)[-1] == "finish":
            break
    assert steps(again) == steps(out)
    for path in sorted((out / "probes").rglob("*.json*")):
        assert digest(path) == digest(again / path.relative_to(out))
    assert load(again, "metrics.json") == load(out, "metrics.json")


def test_asked_to_stop_inside_a_probe_it_keeps_what_was_answered(llama, text_data, tmp_path, finished, monkeypatch):
    """Test sets of 12 items in batches of four: after the first batch of `safety` the run is asked to stop."""
    from cl_plugins.run import evaluate as step

    keys, out = finished
    again, asked, made = tmp_path / "run", [], step.answer
    keys = {**keys, "output_dir": str(again)}

    def answer(state, each, tests, backend):
        if each.key == "probe:zero_shot:safety" and not asked:
            asked.append(each.key)
            given = backend.answer

            def one_batch(tests, batches, limit, on_batch):
                def told(*found):
                    state.stop.asked = True
                    on_batch(*found)

                return given(tests, batches, limit, told)

            monkeypatch.setattr(backend, "answer", one_batch, raising=False)
        return made(state, each, tests, backend)

    monkeypatch.setattr(step, "answer", answer)
    with pytest.raises(SystemExit) as caught:
        go(keys)
    assert caught.value.code == 75
    assert asked
    assert (again / "probes" / "zero_shot" / "safety.parts").is_dir()
    monkeypatch.setattr(step, "answer", made)
    go(keys)
    assert digest(again / "probes/zero_shot/safety.jsonl") == digest(out / "probes/zero_shot/safety.jsonl")
    assert not list(again.rglob("*.parts"))


@pytest.fixture
def begun(llama, text_data, tmp_path):
    """A run with a probe after its first task."""
    keys = with_probes(llama, text_data, tmp_path / "run", GENERAL)
    go({**keys, "cl": {**keys["cl"], "stop_after": 7}})
    assert steps(tmp_path / "run")[-1] == "probe:after_one:general"
    return json.loads(json.dumps(keys))


def test_a_probe_that_is_measured_may_not_change(begun):
    begun["cl"]["eval"]["probes"][0]["scorer"] = "contains"
    with pytest.raises(RunStateError, match="another recipe"):
        go(begun)
    begun["cl"]["eval"]["probes"] = []
    with pytest.raises(RunStateError, match="another recipe"):
        go(begun)


def test_a_probe_may_be_added_and_is_measured_from_there(begun):
    """The model of task one is still the latest one."""
    begun["cl"]["eval"]["probes"] += [{**SAFETY, "after": "every"}]
    go(begun)
    found = load(begun["output_dir"], "metrics.json")["probes"]["safety"]["rows"]
    assert list(found) == ["zero_shot", "after_one", "after_two"]
    assert found["after_one"]["difference"] is not None


def test_rows_that_have_passed_stay_empty_when_a_probe_is_added(finished, tmp_path, caplog):
    keys, out = finished
    again = shutil.copytree(out, tmp_path / "run")
    keys = json.loads(json.dumps({**keys, "output_dir": str(again)}))
    keys["cl"]["eval"]["probes"].append({**GENERAL, "name": "late", "test": "two_test"})
    caplog.set_level("WARNING", "cl_plugins")
    go(keys)
    found = load(again, "metrics.json")["probes"]["late"]["rows"]
    assert list(found) == ["zero_shot", "after_two"]
    assert found["after_two"]["difference"] is not None
    assert "probe:after_one:late can no longer be measured" in caplog.text
    states = {step["step"]: step["state"] for step in collect(again)["steps"]}
    assert states["probe:after_one:late"] == "not measured"
    assert load(again, "matrix.json") == load(out, "matrix.json")


def test_without_zero_shot_there_is_a_score_and_no_difference(llama, text_data, tmp_path):
    keys = with_probes(llama, text_data, tmp_path / "run", GENERAL)
    keys["cl"]["eval"]["zero_shot"] = False
    go(keys)
    rows = load(tmp_path / "run", "metrics.json")["probes"]["general"]["rows"]
    assert list(rows) == ["after_one", "after_two"]
    assert [row["difference"] for row in rows.values()] == [None, None]


@pytest.mark.parametrize("method", [{"name": "mslora_cr", "inference": "first_k"}, {"name": "single_task"}])
def test_a_method_that_is_told_the_task_answers_with_its_latest(llama, text_data, tmp_path, monkeypatch, method):
    from cl_plugins.run.state import RunState

    asked = []
    made = RunState.route
    monkeypatch.setattr(
        RunState, "route", lambda self, carry, task: asked.append((task, made(self, carry, task))) or asked[-1][1]
    )
    keys = recipe(llama, text_data, tmp_path / "run", method, cl={"eval": {"probes": [GENERAL]}})
    go(keys)
    assert {route for task, route in asked if task == "general"} == {None}  # the model of the latest task
    if method["name"] == "mslora_cr":
        assert {route for task, route in asked if task == "one"} > {None}
    else:
        rows = load(tmp_path / "run", "metrics.json")["probes"]["general"]["rows"]
        assert list(rows) == ["zero_shot", "after_one", "after_two"]


def test_a_selector_chooses_for_a_probe(llama, text_data, tmp_path):
    method = {"name": "single_task", "selector": {"kind": "prototype", "features": "text"}}
    go(recipe(llama, text_data, tmp_path / "run", method, cl={"eval": {"probes": [GENERAL]}}))
    lines = (tmp_path / "run" / "probes" / "after_two" / "general.jsonl").read_text().splitlines()
    assert {json.loads(line)["route"] for line in lines} <= {"one", "two"}
    score = load(tmp_path / "run", "probes/after_two/general.score.json")
    assert sum(score["extra"]["routes"].values()) == 6
    assert "selected" not in score["extra"]


def test_plan_counts_them(llama, text_data, tmp_path, capsys):
    from cl_plugins.cli.plan import make, show

    value = make(with_probes(llama, text_data, tmp_path / "run", GENERAL, SAFETY))
    assert [(p["probe"], p["times"], p["test_items"], p["answers"]) for p in value["probes"]] == [
        ("general", 3, 6, 18),
        ("safety", 2, 12, 24),
    ]
    assert next(step["key"] for step in value["steps"] if step["kind"] == "probe") == "probe:zero_shot:general"
    show(value)
    shown = capsys.readouterr().out
    assert "18 answers in all" in shown
    assert "probe zero shot" in shown


def test_validate_reads_their_records(llama, text_data, tmp_path):
    from cl_plugins.cli.validate import check_recipe

    data = shutil.copytree(text_data, tmp_path / "data")
    records = json.loads((data / "three_test.json").read_text())
    records[2]["messages"] = records[2]["messages"][:1]
    (data / "three_test.json").write_text(json.dumps(records))
    problems, _ = check_recipe(with_probes(llama, data, tmp_path / "run", GENERAL))
    assert any("three_test" in str(problem) for problem in problems), problems


def test_a_run_of_a_version_without_probes_goes_on(llama, text_data, tmp_path):
    from cl_plugins.records.run import read_run, write_run

    keys = recipe(llama, text_data, tmp_path / "run", "seqlora")
    go({**keys, "cl": {**keys["cl"], "stop_after": 3}})
    value = read_run(tmp_path / "run")
    value["recipe"]["cl"]["eval"].pop("probes")
    write_run(tmp_path / "run", value)
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"
    assert "probes" not in load(tmp_path / "run", "metrics.json")


def test_the_model_card_has_them(finished):
    _, out = finished
    card = (out / "final" / "README.md").read_text()
    score = load(out, "metrics.json")["probes"]["general"]["rows"]["after_two"]["score"]
    assert "| general (choice_accuracy@2) |" in card
    assert f"{score:.2f}" in card
