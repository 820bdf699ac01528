"""`compare --with` and `list published` on the command line."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny


TASKS = ("path", "sur", "cell", "rad")


@pytest.fixture(scope="module")
def medical(tmp_path_factory, llava):
    """A finished run over tasks with the names of Medical-CL, scored by the strict scorers."""
    from llamafactory.train.tuner import run_exp

    folder = tmp_path_factory.mktemp("medical")
    data = tiny.build_data(folder / "data", TASKS, train=8, test=4)
    stream = tiny.stream(TASKS) | {"name": "medical_cl"}
    scorers = {"path": "contains", "sur": "choice_accuracy", "cell": "choice_accuracy", "rad": "bleu"}
    for task in stream["tasks"]:
        task["scorer"] = scorers[task["name"]]
    run_exp(tiny.recipe(llava, data, folder / "run", tasks=TASKS, max_steps=2, cl={"stream": stream}))
    return folder / "run"


def test_the_kept_answers_are_scored_by_the_papers_rules(cli, medical, tmp_path):
    before = {path: path.read_bytes() for path in medical.rglob("*") if path.is_file()}
    code, out, err = cli("compare", medical, "--with", "li2025/inclora", "--out", tmp_path / "out")
    assert code == 0, err
    assert {path: path.read_bytes() for path in medical.rglob("*") if path.is_file()} == before
    assert max(map(len, out.splitlines())) <= 80
    flat = " ".join(out.split())
    assert "bleu@1 -> peer:medical_cl:rad@1" in flat
    assert "48.57, its cells give 48.60" in flat
    content = json.loads((tmp_path / "out" / "published.json").read_text())["comparisons"][0]
    lines = {line["place"]: line for line in content["lines"]}
    assert lines["rad, after rad"]["theirs"] == 18.12
    assert lines["path, after rad"]["interval"] is not None


def test_json_is_all_there_is(cli, medical):
    code, out, _ = cli("compare", medical, "--with", "li2025/seqfull", "--json")
    assert code == 0
    assert json.loads(out)["comparisons"][0]["with"] == "li2025/seqfull"


def test_without_answers_the_metrics_do_not_match(cli, medical, tmp_path):
    copy = shutil.copytree(medical, tmp_path / "copy")
    (copy / "journal.jsonl").unlink()  # it names the answers by their hashes: without them the run is damaged
    for folder in ("carry", "final", "tasks"):  # and with these it would be a run that lost its journal
        shutil.rmtree(copy / folder, ignore_errors=True)
    for path in copy.glob("predictions/*/rad.jsonl"):
        path.unlink()
    code, _, err = cli("compare", copy, "--with", "li2025/inclora")
    assert code == 1
    flat = " ".join(err.split())
    assert "rad is scored with bleu@1 here" in flat
    assert "LLaMA-Factory's BLEU-4: over characters" in flat


def test_wrong_words(cli, medical):
    code, _, err = cli("compare", medical)
    assert code == 2
    assert "--out" in err
    code, _, err = cli("compare", medical, "--with", "li2025/inclorra")
    assert code == 2
    assert "Did you mean 'inclora'" in " ".join(err.split())
    code, _, err = cli("compare", medical, "--json", "--out", "x")
    assert code == 2
    code, _, err = cli("compare", medical, "--with", "li2025/lora")
    assert code == 1
    assert "is about mllm_cl" in " ".join(err.split())


def test_list_published(cli):
    code, out, _ = cli("list", "published")
    assert code == 0
    assert "li2025" in out
    assert max(map(len, out.splitlines())) <= 80
    value = json.loads(cli("list", "published", "--json")[1])["published"]
    sources = {entry["name"]: entry for entry in value}
    assert "li2025/inclora" in sources["li2025"]["tables"][0]["entries"]
    assert sources["li2025"]["inconsistencies"] == 9
