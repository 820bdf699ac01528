"""`status`, `report`, `score`, `compare`: what a run has left behind."""

from __future__ import annotations

import json

import pytest
import sealed

from cl_plugins.evaluation.items import read_predictions
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.run.journal import Journal


def test_status_of_a_finished_run(cli, inclora, runs, monkeypatch):
    monkeypatch.chdir(runs)
    code, out, _ = cli("status", "inclora")
    assert code == 0
    assert "inclora on tiny, seed 7" in out
    assert "16 of 16 steps finished" in out
    assert "nobody" in out
    assert "pending" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_status_of_an_interrupted_run(cli, copied):
    journal = copied / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:7]) + "\n")
    code, out, _ = cli("status", copied)
    assert code == 0
    assert "7 of 16 steps finished" in out
    assert out.count("pending") == 9
    assert "the same command again" in out
    value = json.loads(cli("status", copied, "--json")[1])
    assert [step["state"] for step in value["steps"]] == ["finished"] * 7 + ["pending"] * 9
    assert value["steps"][6]["step"] == "train:two"
    assert value["steps"][6]["details"]["optimizer_steps"] == 4


def test_cells_that_the_carry_has_passed_by(cli, copied):
    journal = Journal(copied)
    journal.remove("evaluate:after_one:one")
    journal.rewrite()
    value = json.loads(cli("status", copied, "--json")[1])
    assert {s["step"] for s in value["steps"] if s["state"] == "not measured"} == {"evaluate:after_one:one"}


def test_status_says_who_is_at_work(cli, copied):
    import os

    from cl_plugins.base.lock import RunLock

    with RunLock(copied):
        assert f"process {os.getpid()}" in cli("status", copied)[1]
    assert "nobody" in cli("status", copied)[1]


def test_status_verifies_every_hash(cli, copied):
    code, out, _ = cli("status", copied, "--verify")
    assert code == 0
    assert "All files are present and have their hashes." in out
    file = copied / "predictions" / "after_two" / "one.jsonl"
    text = file.read_text()
    file.write_text(text.replace("one-test-0", "one-test-X"))
    (copied / "final" / "config.json").unlink()
    code, out, _ = cli("status", copied, "--verify")
    assert code == 1
    assert str(file) in out
    assert str(copied / "final" / "config.json") in out
    code, _, _ = cli("status", copied)
    assert code == 0, "without --verify nothing is read"


def test_status_verifies_the_carry(cli, copied):
    file = sorted((copied / "carry" / "updates").iterdir())[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    code, out, _ = cli("status", copied, "--verify")
    assert code == 1
    assert "differs from its hash in carry.json" in out


def test_status_without_the_methods_package(cli, copied):
    def change(record):
        record["method"] = record["recipe"]["cl"]["method"]["name"] = "somebodys_method"

    sealed.edit(copied / "run.json", change)
    code, out, _ = cli("status", copied)
    assert code == 0
    assert "16 of 16 steps finished" in out
    assert "no method called 'somebodys_method'" in " ".join(out.split())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"recipe": 1}'])
def test_a_damaged_record_is_no_run(cli, tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    code, _, err = cli("status", tmp_path)
    assert code == 1
    assert str(tmp_path / "run.json") in err


def test_report_is_made_again(cli, copied):
    page = (copied / "report.html").read_bytes()
    (copied / "report.html").unlink()
    (copied / "matrix.png").unlink()
    code, out, _ = cli("report", copied)
    assert code == 0
    assert "after training on" in out
    assert (copied / "matrix.png").is_file()
    assert len((copied / "report.html").read_bytes()) == len(page)


def test_rescoring_leaves_the_run_alone(cli, copied):
    own = {p: p.read_bytes() for p in copied.rglob("*.json*")}
    code, out, err = cli("report", copied, "--scorer", "one=exact_match", "two=token_f1")
    assert code == 0, err
    assert {p: p.read_bytes() for p in own} == own
    (folder,) = (copied / "rescored").iterdir()
    matrix = json.loads((folder / "matrix.json").read_text())
    assert matrix["scorers"] == {"one": "exact_match@2", "two": "token_f1@3", "three": "choice_accuracy@2"}
    items = read_predictions(copied / "predictions" / "after_three" / "one.jsonl")
    assert matrix["scores"][2][0] == get_scorer("exact_match").score(items).score
    assert matrix["scores"][2][2] == json.loads((copied / "matrix.json").read_text())["scores"][2][2]
    assert matrix["scores"][0][1] is None
    assert (folder / "report.html").is_file()
    assert "one with exact_match@2" in " ".join(out.split())


def test_one_scorer_for_all_tasks(cli, copied, tmp_path):
    code, _, err = cli("report", copied, "--scorer", "contains", "--out", tmp_path / "new")
    assert code == 0, err
    matrix = json.loads((tmp_path / "new" / "matrix.json").read_text())
    assert set(matrix["scorers"].values()) == {"contains@3"}
    cli("report", copied, "--scorer", "contains")
    assert (copied / "rescored" / "contains" / "matrix.json").read_bytes() == (
        tmp_path / "new" / "matrix.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--scorer", "onne=bleu"], 2, "Did you mean 'one'?"),
        (["--scorer", "one=bleuu", "two=exct_match"], 2, "2 problems"),
        (["--out", "x"], 2, "is given without `--scorer`"),
    ],
)
def test_report_refuses(cli, inclora, words, code, message):
    found, _, err = cli("report", inclora.root, *words)
    assert found == code
    assert message in err


def test_rescoring_never_goes_into_a_run(cli, copied):
    code, _, err = cli("report", copied, "--scorer", "bleu", "--out", copied)
    assert code == 1
    assert "is the directory of a run" in err


def test_missing_predictions_are_named(cli, copied):
    (copied / "predictions" / "after_two" / "one.jsonl").unlink()
    code, _, err = cli("report", copied, "--scorer", "bleu")
    assert code == 1
    assert "after_two/one.jsonl" in err


def test_score_gives_what_the_run_gave(cli, inclora):
    file = inclora.root / "predictions" / "after_three" / "one.jsonl"
    own = json.loads(file.with_suffix(".score.json").read_text())
    code, out, _ = cli("score", file, "--scorer", "choice_accuracy", "--format", "json")
    assert code == 0
    value = json.loads(out)
    assert value["score"] == own["score"]
    assert value["invalid_rate"] == own["extra"]["invalid_rate"]
    assert not any(isinstance(entry, dict | list) for entry in value.values()), "flat"
    code, out, _ = cli("score", file, "--scorer", "choice_accuracy")
    assert f"{own['score']:.2f}" in out
    assert "majority baseline" in out


def test_score_refuses(cli, inclora, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"id": "a"}\n')
    code, _, err = cli("score", file, "--scorer", "bleu")
    assert code == 2
    assert "line 1" in err
    code, _, err = cli("score", file, "--scorer", "blue")
    assert code == 2
    assert "Did you mean 'bleu'?" in err


def test_compare_needs_a_name_for_every_run(cli, inclora, seqlora, tmp_path):
    code, _, err = cli("compare", inclora.root, seqlora.root, "--out", tmp_path / "c", "--names", "only-one")
    assert code == 2
    assert "1 names for 2 runs" in err


def test_compare_two_methods(cli, inclora, seqlora, tmp_path):
    code, out, err = cli("compare", inclora.root, seqlora.root, "--out", tmp_path / "c")
    assert code == 0, err
    for root in (inclora.root, seqlora.root):
        assert root.name in out
        last = json.loads((root / "metrics.json").read_text())["metrics"]["last"]["value"]
        assert f"{last:.1f}" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    record = json.loads((inclora.root / "run.json").read_text())
    assert record["method_defaults"]["consolidate"] == record["method_options"]["consolidate"] == "auto"
    written = {path.name for path in (tmp_path / "c").iterdir()}
    assert {".md", ".png"} <= {path.suffix for path in (tmp_path / "c").iterdir()}
    assert all(name in " ".join(out.split()) for name in written)


def test_compare_with_names(cli, inclora, seqlora, tmp_path):
    words = ("compare", inclora.root, seqlora.root, "--out", tmp_path / "c", "--names", "alpha", "beta")
    code, out, err = cli(*words)
    assert code == 0, err
    assert "alpha" in out
    assert "beta" in out


def test_compare_after_a_task(cli, inclora, seqlora, tmp_path):
    words = ("compare", inclora.root, seqlora.root, "--out", tmp_path / "c", "--after")
    code, out, err = cli(*words, "two")
    assert code == 0, err
    assert "Comparison on tiny after two" in out
    assert "as it stood after 'two'" in out
    content = json.loads((tmp_path / "c" / "compare.json").read_text())
    matrix = json.loads((inclora.root / "matrix.json").read_text())
    assert (content["after"], content["tasks"]) == ("two", matrix["tasks"][:2])
    assert content["runs"][0]["metrics"]["last"] == pytest.approx(sum(matrix["scores"][1][:2]) / 2)

    code, _, err = cli(*words, "four")
    assert code == 1
    assert "has no task 'four'; it learns one, two and three" in err
    code, _, err = cli("compare", inclora.root, "--with", "li2025/inclora", "--after", "two")
    assert code == 2
    assert "--after" in err
    assert "is given with `--with`, but published results are those of whole streams." in err


def test_compare_with_a_baseline(cli, inclora, seqlora, tmp_path):
    words = ("compare", inclora.root, seqlora.root, "--out", tmp_path / "c", "--baseline")
    code, out, err = cli(*words, "seqlora")
    assert code == 0, err
    assert "Differences to seqlora" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    content = json.loads((tmp_path / "c" / "compare.json").read_text())
    ours, theirs = ({run["method"]: run for run in content["runs"]}[name] for name in ("inclora", "seqlora"))
    (group,) = content["paired"]["groups"]
    assert content["paired"]["baseline"] == theirs["label"]
    assert group["pairs"] == [{"run": ours["name"], "baseline": theirs["name"]}]
    assert group["metrics"]["last"]["mean"] == pytest.approx(ours["metrics"]["last"] - theirs["metrics"]["last"])

    code, _, err = cli(*words, "ewc")
    assert code == 1
    assert "no group has this label; the labels are: inclora" in " ".join(err.split())
    code, _, err = cli("compare", inclora.root, "--with", "li2025/inclora", "--baseline", "seqlora")
    assert code == 2
    assert "a published result has no seeds that pair with those of the runs." in " ".join(err.split())


def test_compare_never_writes_into_a_run(cli, inclora, seqlora):
    code, _, err = cli("compare", inclora.root, seqlora.root, "--out", inclora.root)
    assert code == 1
    assert "is the directory of a run" in err
