"""Result files of evaluation harnesses become a matrix; files here are small ones in the layouts that they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.matrix import AccuracyMatrix
from cl_plugins.run.importing import import_results
from cl_plugins.run.result_files import Measured, read_result_file


def lm_eval(path, mmlu=None, **more):
    results = {}
    if path is not None:
        results["vqa_path"] = {"alias": "vqa_path", "name": "vqa_path", "sample_len": 120, "acc,none": path, "acc_stderr,none": 0.03, "acc_norm,none": 0.9}  # fmt: skip
    if mmlu is not None:
        results["mmlu"] = {"alias": "mmlu", "acc,none": mmlu, "acc_stderr,none": "N/A"}
    found = {
        "results": results,
        "versions": {"vqa_path": 1.0, "mmlu": 2},
        "higher_is_better": {"vqa_path": {"acc": True}, "mmlu": {"acc": True}},
        "n-samples": {"vqa_path": {"original": 200, "effective": 120}},
        "lm_eval_version": "0.4.13",
    }
    return {**found, **more}


def evalscope_1(score, name="mmlu", metric="AverageAccuracy"):
    subset = {"name": "default", "score": score, "num": 50}
    category = {"name": ["default"], "num": 50, "score": score, "macro_score": score, "subsets": [subset]}
    return {
        "name": f"m@{name}",
        "dataset_name": name,
        "dataset_pretty_name": name.upper(),
        "dataset_description": "x",
        "model_name": "m",
        "score": score,
        "metrics": [{"name": metric, "num": 50, "score": score, "macro_score": score, "categories": [category]}],
        "analysis": "N/A",
    }


def evalscope_2(score, direction="higher_is_better"):
    def metric(name, value, direction):
        identity = {"name": name, "aggregation": "mean", "dimensions": {}}
        return {
            "identity": identity,
            "legacy_name": None,
            "num": 40,
            "score": value,
            "macro_score": value,
            "categories": [],
            "semantics": {"semantic_id": "x", "metric_name": name, "kind": "quality", "direction": direction},
        }

    return {
        "schema_version": 2,
        "name": "m@ocr",
        "dataset_name": "ocr",
        "model_name": "m",
        "metrics": [metric("wer", 12.5, "lower_is_better"), metric("acc", score, direction)],
        "primary_metric_identity": {"name": "acc", "aggregation": "mean", "dimensions": {}},
        "num": 40,
    }


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def numbers(path):
    return [(each.task, each.metric, each.value, each.percent, each.n) for each in read_result_file(path)]


def test_lm_evaluation_harness(tmp_path):
    found = read_result_file(write(tmp_path, "results_2026.json", lm_eval(0.75, 0.25)))
    assert [(m.task, m.metric, m.value, m.percent, m.n) for m in found] == [
        ("vqa_path", "acc,none", 0.75, False, 120),
        ("vqa_path", "acc_norm,none", 0.9, False, 120),
        ("mmlu", "acc,none", 0.25, False, None),
    ]
    assert found[0].scorer == "lm_eval:vqa_path:acc,none"


def test_lmms_eval(tmp_path):
    content = {
        "results": {
            "mmmu_val": {"alias": "mmmu_val", "mmmu_acc,none": 0.31, "mmmu_acc_stderr,none": "N/A"},
            "cap": {"alias": "cap", " ": " ", "bleu,none": 27.5, "bleu_stderr_clt,none": 0.4},
        },
        "lmms_eval_version": "0.7.2",
        "n-samples": {"mmmu_val": {"original": 900, "effective": 900}},
    }
    found = read_result_file(write(tmp_path, "20260801_results.json", content))
    assert [(m.scorer, m.value, m.percent) for m in found] == [
        ("lmms_eval:mmmu_val:mmmu_acc,none", 0.31, False),
        ("lmms_eval:cap:bleu,none", 27.5, True),
    ]


RECORDED = Path(__file__).parent / "lmms_eval_files"  # written by lmms_eval 0.7.3, see tests/engines/test_lmms_eval.py


def test_files_that_lmms_eval_has_written(tmp_path, capsys):
    results = RECORDED / "20261127_080000_results.json"
    (found,) = read_result_file(results)
    assert found == Measured("lmms_eval", "tiny_seen", "exact_match,none", 1 / 6, False, 6)
    out = tmp_path / "out"
    words = ["matrix", "import", f"tiny_seen={results}", "--method", "m", "--stream", "s", "--out", str(out)]
    assert main(words) == 0
    assert AccuracyMatrix.read(out / "matrix.json").scores == [[pytest.approx(100 / 6)]]
    answers = RECORDED / "20261127_080000_samples_tiny_seen.jsonl"
    items = read_answers(answers)
    assert [(item.prompt, item.prediction, item.reference) for item in items[:2]] == [
        ("<image>red: what colour is this picture?", "C th)", "B"),
        ("red: what colour is this picture?", "C", "A"),
    ]
    capsys.readouterr()
    assert main(["score", str(answers), "--scorer", "exact_match", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(100 / 6)


def test_evalscope_of_both_layouts(tmp_path):
    assert numbers(write(tmp_path, "mmlu.json", evalscope_1(0.6))) == [("mmlu", "AverageAccuracy", 0.6, False, 50)]
    found = read_result_file(write(tmp_path, "ocr.json", evalscope_2(0.5)))
    assert [(m.metric, m.value, m.lower) for m in found] == [("acc:mean", 0.5, False), ("wer:mean", 12.5, True)]


def test_ms_swift_eval_with_each_backend(tmp_path):
    about = {"time": "x", "model": "/somewhere/m", "adapters": [], "result_path": "/etc/passwd", "eval_limit": None}
    line = {"Native": [evalscope_1(0.6)], **about}
    assert numbers(write(tmp_path, "eval_result.jsonl", json.dumps(line) + "\n"))[0][:3] == (
        "mmlu",
        "AverageAccuracy",
        0.6,
    )
    line = {"OpenCompass": {"gsm8k": {"accuracy": "53.98"}}, **about}
    assert numbers(write(tmp_path, "o.jsonl", json.dumps(line))) == [("gsm8k", "accuracy", 53.98, True, None)]
    line = {"VLMEvalKit": {"MMBench": {"acc": {"split": "none", "Overall": "0.65", "logic": "0.5"}}}, **about}
    assert numbers(write(tmp_path, "v.jsonl", json.dumps(line))) == [
        ("MMBench", "Overall", 0.65, None, None),
        ("MMBench", "logic", 0.5, None, None),
    ]


def test_vlmevalkit(tmp_path):
    table = '"split","Overall","AR"\n"test","0.61","0.7"\n"validation","0.62","0.71"\n'
    path = write(tmp_path, "llava_MMMU_acc.csv", table)
    assert [(task, metric, value) for task, metric, value, _, _ in numbers(path)] == [
        ("llava_MMMU", "test/Overall", 0.61),
        ("llava_MMMU", "test/AR", 0.7),
        ("llava_MMMU", "validation/Overall", 0.62),
        ("llava_MMMU", "validation/AR", 0.71),
    ]
    path = write(tmp_path, "llava_ChartQA_acc.csv", '"Overall","human"\n"18.2","20.1"\n')
    assert numbers(path)[0] == ("llava_ChartQA", "Overall", 18.2, None, None)
    path = write(tmp_path, "llava_OCR_score.json", {"Final Score": 318, "note": "text"})
    assert numbers(path) == [("llava_OCR", "Final Score", 318.0, None, None)]


def test_a_matrix_out_of_result_files(tmp_path, capsys):
    words = []
    for row, path, mmlu in (("zero_shot", 0.5, 0.4), ("path", 0.9, 0.3), ("rad", 0.7, 0.2)):
        words.append(f"{row}={write(tmp_path, f'{row}/results.json', lm_eval(path, mmlu))}")
        score = {"zero_shot": "12.5", "path": "10", "rad": "40"}[row]
        table = f'"Overall"\n"{score}"\n'
        words.append(f"{row}={write(tmp_path, f'{row}/llava_VQARAD_acc.csv', table)}")
    out = tmp_path / "theirs"
    more = ["--task", "path=vqa_path", "rad=VQARAD", "general=mmlu", "--method", "theirs", "--stream", "demo"]
    assert main(["matrix", "import", *words, *more, "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "theirs on demo" in shown
    matrix = AccuracyMatrix.read(out / "matrix.json")
    assert matrix.tasks == ["path", "rad", "general"]
    assert matrix.test_only == ["general"]
    assert matrix.zero_shot == [50.0, 12.5, 40.0]
    assert matrix.scores == [[90.0, 10.0, 30.0], [70.0, 40.0, pytest.approx(20.0)]]
    assert matrix.scorers == {
        "path": "lm_eval:vqa_path:acc,none",
        "rad": "vlmevalkit:VQARAD:Overall",
        "general": "lm_eval:mmlu:acc,none",
    }
    assert matrix.n == {"path": 120}
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert metrics["last"]["value"] == pytest.approx(55.0)
    assert main(["status", str(out), "--verify"]) == 0


def imported(tmp_path, files, **more):
    pairs = [(row, write(tmp_path, f"{number}.json", content)) for number, (row, content) in enumerate(files)]
    return import_results(pairs, tmp_path / "out", method="m", stream="s", **more)


def test_without_names_the_columns_are_the_tasks_of_the_files(tmp_path):
    matrix = imported(tmp_path, [("vqa_path", lm_eval(0.5, 0.25))], metrics={"vqa_path": "acc_norm"})
    assert (matrix.tasks, matrix.test_only) == (["vqa_path", "mmlu"], ["mmlu"])
    assert matrix.scores == [[90.0, 25.0]]


def test_fractions_of_vlmevalkit_are_not_taken_for_percentages(tmp_path):
    path = write(tmp_path, "m_A_acc.csv", '"Overall"\n"0.61"\n')
    given = {"method": "m", "stream": "s", "names": {"a": "A"}}
    with pytest.raises(DataError, match="--scale 100"):
        import_results([("a", path)], tmp_path / "no", **given)
    assert import_results([("a", path)], tmp_path / "yes", **given, scale=100).scores == [[61.0]]


@pytest.mark.parametrize(
    ("files", "more", "what"),
    [
        ([("path", lm_eval(0.5))], {}, "no file has measured 'path'"),
        ([("path", lm_eval(0.5))], {"names": {"rad": "vqa_path"}}, "names the row 'path', which is no column"),
        ([("path", lm_eval(0.5))], {"names": {"path": "nothing"}}, "no file has measured 'nothing'"),
        ([("path", lm_eval(0.5))], {"names": {"path": "vqa_path"}, "metrics": {None: "f1"}}, "has no metric 'f1'"),
        ([("path", lm_eval(0.5))], {"names": {"path": "vqa_path"}, "metrics": {"rad": "acc"}}, "unknown task 'rad'"),
        ([("path", lm_eval(12.5))], {"names": {"path": "vqa_path"}}, "which is no score"),
        ([("path", lm_eval(0.5))] * 2, {"names": {"path": "vqa_path"}}, "measures path again"),
        ([("zero_shot", lm_eval(0.5))], {"names": {"path": "vqa_path"}}, "no row after a training"),
        ([("../x", lm_eval(0.5))], {"names": {"../x": "vqa_path"}}, "is '../x'"),
        (
            [("path", lm_eval(0.5, higher_is_better={"vqa_path": {"acc": False}}))],
            {"names": {"path": "vqa_path"}},
            "better when it is lower",
        ),
        (
            [("zero_shot", lm_eval(0.5)), ("path", evalscope_1(0.5, "vqa_path"))],
            {"names": {"path": "vqa_path"}},
            "by different measures",
        ),
    ],
)
def test_what_does_not_fit(tmp_path, files, more, what):
    with pytest.raises(DataError) as error:
        imported(tmp_path, files, **more)
    assert what in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("r.json", "", "is not JSON"),
        ("r.json", "{", "is not JSON"),
        ("r.json", "3", "not a JSON object"),
        ("r.json", "{}", "holds no score"),
        ("r.json", {"results": {"t": 3}}, "a form that is not known"),
        ("r.json", {"results": {"t": {"acc,none": "x"}}}, "results.t.acc,none"),
        ("r.json", '{"results": {"t": {"acc,none": NaN}}}', "no finite number"),
        ("r.json", {"metrics": [{}], "dataset_name": "d"}, "a form that is not known"),
        ("r.json", {"metrics": [{"score": "x"}], "dataset_name": "d"}, "metrics[0].score"),
        ("r.jsonl", '{"Native": []}\n{"Native": []}\n', "holds 2 evaluations"),
        ("r.jsonl", '{"Native": []}\n{"Nat\n', "line 2"),
        ("r.csv", "a,b\n1\n", "line 2: has 1 fields"),
        ("r.csv", 'a,b\n"1,2\n', "cannot be read as CSV"),
        ("r.csv", "", "holds no score"),
        ("r.json", "[" * 100000, "is not JSON"),
    ],
)
def test_damaged_files_give_one_error_with_their_place(tmp_path, name, content, what):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        read_result_file(path)
    assert what in str(error.value), error.value
    assert str(path) in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_result_file(tmp_path / "no.json")
    (tmp_path / "x.json").write_bytes(b"\x80\x04\x95")
    with pytest.raises(DataError, match="cannot be read"):
        read_result_file(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["a.csv", "path=b.json"], "is given together with other files"),
        (["a.csv"], "--scorer"),
        (["a.csv", "--scorer", "x", "--task", "a=b"], "is given with a CSV file"),
        (["path=b.json", "--task", "a"], "Write TASK=NAME"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, words, what):
    code = main(["matrix", "import", *words, "--method", "m", "--stream", "s", "--out", str(tmp_path / "out")])
    assert code == 2
    assert what in " ".join(capsys.readouterr().err.split())
