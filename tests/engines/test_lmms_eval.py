"""lmms-eval itself: its tasks on the model in memory, and the files that it writes."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import tiny
from running import go, load

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main


pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms_eval is not installed"),
]
TASK = """\
task: tiny_seen
dataset_path: parquet
dataset_kwargs: {data_files: {test: seen.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: !function tiny_utils.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs: {max_new_tokens: 3, until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
PICTURES = "def pictures(doc):\n    return [doc['picture'].convert('RGB')] if doc['picture'] is not None else []\n"
CHOICES = """\
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: choices.json}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: ["A", "B"]
metadata: {version: 1.0}
"""
GONE = TASK.replace("tiny_seen", "tiny_gone").replace("seen.parquet", "gone.parquet")


@pytest.fixture(scope="module")
def tasks(mixed, tmp_path_factory):
    """A folder with the first task's test set as tasks of lmms-eval; pictures as LLaMA-Factory hands them on."""
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pictures

    folder, rows = tmp_path_factory.mktemp("tasks"), []
    for record in json.loads((mixed / "one_test.json").read_text()):
        picture = Pictures.open(mixed / record["images"][0]).resize((32, 32)) if record["images"] else None
        question, answer = (turn["value"] for turn in record["messages"])
        rows.append({"picture": picture, "question": question, "answer": answer})
    features = Features({"picture": Image(), "question": Value("string"), "answer": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(folder / "seen.parquet")
    (folder / "choices.json").write_text('{"question": "A or B?", "answer": 0}\n')
    (folder / "tiny_utils.py").write_text(PICTURES)
    for name, text in (("seen", TASK), ("choices", CHOICES), ("gone", GONE)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def with_probe(llava, mixed, out, tasks, task):
    keys = tiny.recipe(llava, mixed, out, "seqlora", ("one",), max_steps=2)
    probe = {"name": "seen", "harness": f"lmms_eval:{task}", "include_path": str(tasks)}
    keys["cl"]["eval"] = {"probes": [probe], "max_new_tokens": 3}
    return keys


@pytest.fixture(scope="module")
def measured(llava, mixed, tasks, tmp_path_factory):
    """A finished run with a probe, and what lmms-eval gave it for each row."""
    import lmms_eval.evaluator

    found, original = [], lmms_eval.evaluator.simple_evaluate
    lmms_eval.evaluator.simple_evaluate = lambda **given: found.append(original(**given)) or found[-1]
    out = tmp_path_factory.mktemp("run") / "run"
    try:
        go(with_probe(llava, mixed, out, tasks, "tiny_seen"))
    finally:
        lmms_eval.evaluator.simple_evaluate = original
    return out, found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_answers_are_those_that_the_run_gives_to_the_same_questions(measured):
    from importlib.metadata import version

    out, _ = measured
    for row in ("zero_shot", "after_one"):
        own, asked = lines(out / f"predictions/{row}/one.jsonl"), lines(out / f"probes/{row}/seen.jsonl")
        assert [(line["prompt"], line["prediction"]) for line in asked] == [
            (line["prompt"], line["prediction"]) for line in own
        ]
        kept = load(out, f"probes/{row}/seen.score.json")
        assert kept["extra"]["harness"] == f"lmms_eval {version('lmms_eval')}"
        right = sum(line["prediction"] == line["reference"] for line in asked)
        assert kept["score"] == pytest.approx(100 * right / len(asked))
    probe = load(out, "metrics.json")["probes"]["seen"]
    assert (probe["n"], probe["scorer"]) == (6, "lmms_eval:tiny_seen:exact_match,none@1.0")
    assert probe["rows"]["after_one"]["difference_interval"] is not None


def test_the_files_that_it_writes_can_be_imported_and_scored(measured, tmp_path, capsys):
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker

    out, found = measured
    results = dict(found[-1])
    samples = results.pop("samples")
    tracker = EvaluationTracker(output_path=str(tmp_path / "written"))
    tracker.general_config_tracker.log_experiment_args("tiny", "", "", None, False)
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20261127_080000")
    tracker.save_results_samples(task_name="tiny_seen", samples=samples["tiny_seen"])
    (aggregated,) = (tmp_path / "written").rglob("*_results.json")
    (answers,) = (tmp_path / "written").rglob("*_samples_tiny_seen.jsonl")
    score = load(out, "probes/after_one/seen.score.json")["score"]
    target = tmp_path / "imported"
    assert (
        main(["matrix", "import", f"tiny_seen={aggregated}", "--method", "m", "--stream", "s", "--out", str(target)])
        == 0
    )
    assert load(target, "matrix.json")["scores"] == [[pytest.approx(score)]]
    capsys.readouterr()
    assert main(["score", str(answers), "--scorer", "exact_match", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["score"] == pytest.approx(score)
    from cl_plugins.evaluation.answers import read_answers

    items = read_answers(answers)
    assert [item.prompt for item in items] == [line["prompt"] for line in lines(out / "probes/after_one/seen.jsonl")]


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("tiny_choices", "asks for log-likelihoods"),
        ("tiny_gone", r"lmms_eval:tiny_gone cannot be loaded \(FileNotFoundError"),
        ("tiny_unknown", r"lmms_eval:tiny_unknown cannot be loaded"),
    ],
)
def test_tasks_that_cannot_be_asked_are_found_before_the_base_loads(llava, mixed, tasks, tmp_path, task, what):
    with pytest.raises(DataError, match=what):
        go(with_probe(llava, mixed, tmp_path / "run", tasks, task))
    assert not (tmp_path / "run" / "journal.jsonl").exists()
