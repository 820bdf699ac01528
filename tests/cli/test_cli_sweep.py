"""`sweep`: the command line, its refusals, and a whole sweep of small runs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from cl_plugins.base.errors import Problem
from cl_plugins.cli import sweep as command
from cl_plugins.cli.hosts import host
from cl_plugins.run import data_sets
from cl_plugins.sweep import checks, unchanged
from cl_plugins.sweep.reads import read_all


#: Stands in for the launch command: copies the files of a finished run; the seed that is told to fail ends with 3.
LAUNCH = """
import json, shutil, sys
from pathlib import Path
import yaml
recipe = yaml.safe_load(open(sys.argv[-1]))
with open({calls!r}, "a") as file:
    file.write(json.dumps(recipe) + "\\n")
if recipe["seed"] == 13:
    sys.exit(3)
shutil.copytree({run!r}, recipe["output_dir"], dirs_exist_ok=True)
"""


@pytest.fixture
def made(inclora, tmp_path, monkeypatch):
    """A launch command that makes copies of a finished run; the words of a sweep; and what was started."""
    program, calls = tmp_path / "launch.py", tmp_path / "calls"
    program.write_text(LAUNCH.format(calls=str(calls), run=str(inclora.root)))
    checked = []

    def check(files, quick):
        checked.append((len(files), quick))
        return {str(file): ([], []) for file in files}

    monkeypatch.setattr(checks, "in_own_process", check)
    monkeypatch.setattr(unchanged, "in_own_process", lambda recipes, hashes: read_all(recipes, hashes, host))
    monkeypatch.setattr(command, "_gpus", lambda: [])
    words = ["sweep", inclora.recipe, "--out", tmp_path / "out", "--launcher", f"{sys.executable} {program}"]

    def started():
        found = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        calls.unlink(missing_ok=True)
        return found

    return words, started, checked


def test_a_sweep_runs_checks_enters_and_compares(cli, made, tmp_path):
    words, started, checked = made
    code, out, err = cli(*words, "--seeds", "0-1", "--orders", "given", "three,two,one", "max_steps=3")
    assert code == 0, err
    recipes = started()
    assert [r["seed"] for r in recipes] == [0, 0, 1, 1]
    assert [r["cl"].get("order") for r in recipes] == [None, ["three", "two", "one"]] * 2
    assert {r["max_steps"] for r in recipes} == {3}
    assert checked == [(1, False), (1, True)], "data once, each order once, before anything is started"
    assert "4 runs, 4 to do" in out
    assert "(4 of 4)" in out
    assert "4 of 4 runs are finished" in out
    assert len(list((tmp_path / "out" / "ledger").glob("*.json"))) == 4
    compared = json.loads((tmp_path / "out" / "comparison" / "compare.json").read_text())
    assert len(compared["runs"]) == 4
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    code, out, _ = cli(*words, "--seeds", "0-1", "--orders", "given", "three,two,one", "max_steps=3")
    assert (code, started()) == (0, [])
    assert out.count("finished before") == 4


def test_the_comparison_is_that_of_the_runs(cli, made, tmp_path):
    words, _, _ = made
    code, _, err = cli(*words, "--seeds", "0-1")
    assert code == 0, err
    runs = [path.parent for path in sorted((tmp_path / "out" / "runs").glob("*/journal.jsonl"))]
    assert len(runs) == 2
    assert cli("compare", *runs, "--out", tmp_path / "compared")[0] == 0
    of_ledger, of_runs = (
        json.loads((folder / "compare.json").read_text())
        for folder in (tmp_path / "out" / "comparison", tmp_path / "compared")
    )
    assert of_ledger["groups"] == of_runs["groups"]
    assert of_ledger["runs"] == of_runs["runs"]


def test_a_failed_run_stops_nothing(cli, made, tmp_path):
    words, started, _ = made
    code, out, _ = cli(*words, "--seeds", "13,0")
    assert code == 1
    assert len(started()) == 2
    assert "1 of 2 runs are finished" in out
    assert "exit code 3" in out
    (note,) = (tmp_path / "out" / "runs").glob("*.failed.json")
    assert json.loads(note.read_text())["cell"]["seed"] == 13
    assert len(json.loads((tmp_path / "out/comparison/compare.json").read_text())["runs"]) == 1
    code, out, _ = cli(*words, "--seeds", "13,0", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["failed", "finished"]


def test_list_starts_nothing(cli, made, tmp_path):
    words, started, checked = made
    code, out, _ = cli(*words, "--seeds", "0-2", "--list", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [(entry["seed"], entry["state"]) for entry in listed] == [(0, "to do"), (1, "to do"), (2, "to do")]
    assert (started(), checked, (tmp_path / "out").exists()) == ([], [], False)


@pytest.fixture
def copies(inclora, tmp_path):
    """Words that give a sweep copies of data and base, and the copies."""
    keys = yaml.safe_load(Path(inclora.recipe).read_text())
    data = Path(shutil.copytree(keys["dataset_dir"], tmp_path / "data"))
    base = Path(shutil.copytree(keys["model_name_or_path"], tmp_path / "base"))
    return [f"dataset_dir={data}", f"model_name_or_path={base}"], data, base


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


def test_other_data_or_another_base_at_the_same_place_are_no_result(cli, made, copies, tmp_path):
    """Edited test sets and replaced weights once gave the table of the old ones, as "finished before"."""
    words, started, _ = made
    more, data, base = copies
    words = [*words, "--seeds", "0-1"]
    code, _, err = cli(*words, *more)
    assert code == 0, err
    assert len(started()) == 2
    kept = contents(tmp_path / "out")
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    code, out, err = cli(*words, f"dataset_dir={moved}", more[1])
    assert (code, out.count("finished before")) == (0, 2), err

    file = next(iter(data.glob("one_test*.json*")))
    for changed, told, more_now in (
        (file, f"data set 'one_test', files.{file.name}", more),
        (base / "model.safetensors", "the base's sha256", more),
        (moved / "dataset_info.json", "dataset_info.json", [f"dataset_dir={moved}", more[1]]),
    ):
        before = changed.read_bytes()
        if changed.suffix == ".safetensors":
            changed.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        elif changed is file:
            changed.write_text(json.dumps(json.loads(before)[::-1]))
        else:
            changed.unlink()
        code, out, err = cli(*words, *more_now)
        assert code == 1, out
        assert told in " ".join(err.split())
        assert "Traceback" not in err
        code, out, _ = cli(*words, *more_now, "--list")
        assert [line.split()[0] for line in out.splitlines()[:2]] == ["changed"] * 2
        assert told in " ".join(out.split())
        listed = json.loads(cli(*words, *more_now, "--list", "--json")[1])
        assert all(each["state"] == "changed" and each["changed"] for each in listed)
        changed.write_bytes(before)
    assert started() == []
    assert contents(tmp_path / "out").items() >= {p: b for p, b in kept.items() if "comparison" not in p.parts}.items()
    assert cli(*words, *more)[0] == 0, "as it was, it counts again"


def test_a_finished_run_that_is_not_in_the_ledger_is_compared_as_well(cli, made, copies, tmp_path):
    words, started, _ = made
    more, data, _ = copies
    assert cli(*words, "--seeds", "0", *more)[0] == 0
    started()
    (entry,) = (tmp_path / "out" / "ledger").glob("*.json")
    entry.unlink()
    file = next(iter(data.glob("one_test*.json*")))
    file.write_text(json.dumps(json.loads(file.read_text())[::-1]))
    code, _, err = cli(*words, "--seeds", "0", *more)
    assert code == 1
    assert "data set 'one_test'" in err
    assert (started(), entry.exists()) == ([], False)


def test_each_file_is_hashed_once_for_all_runs(cli, made, copies, tmp_path, monkeypatch):
    words, _, _ = made
    more, data, _ = copies
    every = [*words, "--seeds", "0-2", "--orders", "given", "three,two,one", *more]
    assert cli(*every)[0] == 0
    hashed = []
    monkeypatch.setattr(data_sets, "sha256", lambda path, real=data_sets.sha256: (hashed.append(path), real(path))[1])
    assert cli(*every)[0] == 0
    assert 0 < len(hashed) == len({*hashed})
    assert {path.parent for path in hashed} == {data}
    hashed.clear()
    assert cli(*every)[0] == 0
    assert hashed == []


def test_all_that_is_wrong_with_the_words_at_once(cli, made, tmp_path):
    words, started, _ = made
    bad = ["--seeds", "x", "--jobs", "0", "--json", "seed=3", "output_dir=o", "cl.order=[a]", "cl.method.rank=4"]
    code, _, err = cli(*words[:2], tmp_path / "no.yaml", *words[2:], "--methods", "seqlora", *bad)
    assert code == 2
    assert started() == []
    for word in ("'x' is no seed", "--jobs", "--list", "seed=3", "output_dir=o", "cl.order=[a]", "no.yaml"):
        assert word in err, word
    assert "cl.method.rank=4" in err
    assert "8 problems" in err


def test_recipes_that_cannot_be_are_refused_before_the_first_run(cli, made, monkeypatch):
    words, started, _ = made
    code, _, err = cli(*words, "--methods", "inclora,inclorra,ewcc", "--orders", "given", "one")
    assert code == 2
    assert "Did you mean 'inclora'?" in err
    assert "Did you mean 'ewc'?" in err
    assert "List each of these once" in err

    def check(files, quick):
        return {str(file): ([Problem("lora_rank", "is 0.", "Give a number.")], []) for file in files}

    monkeypatch.setattr(checks, "in_own_process", check)
    code, _, err = cli(*words, "--methods", "inclora,seqlora")
    assert code == 2
    assert "inclora: lora_rank, seqlora: lora_rank" in err
    assert started() == []


def test_a_cluster_needs_submitit(cli, made, monkeypatch):
    words, started, _ = made
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = cli(*words, "--cluster", "slurm")
    assert code == 2
    assert "pip install submitit" in err
    code, _, err = cli(*words, "--cluster-set", "timeout_min=3")
    assert code == 2
    assert "is given without `--cluster`" in err
    code, _, err = cli(*words, "--cluster", "slurm", "--cluster-set", "timeout_min", "--jobs", "2", "--devices", "0")
    assert code == 2
    assert "3 problems" in err
    assert started() == []


def test_runs_at_once_share_no_port(cli, made, monkeypatch):
    words, started, _ = made
    monkeypatch.setenv("MASTER_PORT", "29500")
    code, _, err = cli(*words, "--seeds", "0-1", "--jobs", "2")
    assert code == 2
    assert "MASTER_PORT" in err
    assert started() == []


def test_the_gpus_of_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert command._gpus() == ["3", "5"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert command._gpus() == []


@pytest.mark.slow
def test_two_methods_at_once_for_real(cli, llama, text_data, tmp_path, monkeypatch):
    """Through `llamafactory-cli`, two processes at a time, and one recipe that fails while it runs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    keys = tiny.recipe(llama, text_data, tmp_path / "unused", "inclora", ("one", "two"), text_only=True, max_steps=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(keys))
    words = ["sweep", recipe, "--methods", "seqlora,inclora", "--seeds", "3", "--out", tmp_path / "out"]
    code, out, err = cli(*words, "--jobs", "2")
    assert code == 0, out + err
    assert "2 of 2 runs are finished" in out
    compared = json.loads((tmp_path / "out" / "comparison" / "compare.json").read_text())
    assert {run["method"] for run in compared["runs"]} == {"seqlora", "inclora"}
    assert {run["seed"] for run in compared["runs"]} == {3}
    for entry in (tmp_path / "out" / "ledger").glob("*.json"):
        content = json.loads(entry.read_text())
        matrix = json.loads((tmp_path / "out" / "runs" / entry.stem / "matrix.json").read_text())
        assert content["own"]["matrix"] == matrix
    code, out, err = cli(*words)
    assert (code, out.count("finished before")) == (0, 2), err
    code, _, err = cli(*words[:3], "seqfull", *words[4:])
    assert code == 2
    assert "seqfull: finetuning_type" in err.replace("\n", " ")
    assert not Path(tmp_path / "unused").exists()
