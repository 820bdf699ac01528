"""The Medical-CL benchmark: its recipes, one cell on a miniature, the ledger, and tables from the ledger alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from llamafactory.train.tuner import run_exp

from benchmarks.medical_cl import run, tables, tiny
from benchmarks.medical_cl.cells import RECIPES, Scale, make_cells, recipe_files
from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.cli.hosts import host
from cl_plugins.methods.registry import list_methods
from cl_plugins.sweep import unchanged
from cl_plugins.sweep.ledger import Entry, read_ledger
from cl_plugins.sweep.reads import read_all


ROOT = Path(__file__).resolve().parents[2]
TASKS = ["path", "sur", "cell", "rad"]
ZERO = [36.01, 31.45, 4.99, 12.86]
INCLORA = [
    [68.85, None, None, None],
    [63.83, 53.43, None, None],
    [59.93, 51.62, 84.34, None],
    [53.58, 47.12, 75.58, 18.12],
]
SEQFULL = [
    [61.17, None, None, None],
    [59.85, 58.03, None, None],
    [59.24, 56.47, 82.09, None],
    [54.54, 57.54, 80.27, 16.20],
]


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_every_method_of_the_package_has_a_recipe():
    own = {entry.name for entry in list_methods() if entry.distribution == "cl-plugins"}
    own.remove("crossmodal")  # for classifiers on encoders, which answer no questions
    assert own <= {read(path)["cl"]["method"]["name"] for path in recipe_files().values()}


EXAMPLES = sorted(path.stem for path in (ROOT / "examples/yaml/medical_cl").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_recipe_of_the_benchmark(example):
    name = {"seqfull_zero2": "seqfull", "seqfull_zero3": "seqfull", "replay": "seqlora_replay"}.get(example, example)
    one, other = read(RECIPES / f"{name}.yaml"), read(ROOT / f"examples/yaml/medical_cl/{example}.yaml")
    differing = {key for key in one | other if one.get(key) != other.get(key)}
    assert differing == {"output_dir"} | ({"deepspeed"} if example == "seqfull_zero3" else set())


GATED = frozenset({"lora_rank", "lora_alpha", "lora_dropout"})  # as the papers of these methods say
PROMPTS = frozenset(
    {"learning_rate", "lora_target", "lora_rank", "additional_target"}
)  # only prompts or weights train
OWN_KEYS = {
    "multitask": {"max_steps"},
    **dict.fromkeys(("der", "gem", "ilora"), frozenset({"use_reentrant_gc"})),
    **dict.fromkeys(("branchlora", "clmoe", "mr_lora", "smolora"), GATED),
    **dict.fromkeys(("l2p", "modalprompt", "osf"), PROMPTS),
}


def test_the_lora_methods_differ_in_the_method_alone():
    inclora = read(RECIPES / "inclora.yaml")
    for name, path in recipe_files().items():
        keys = read(path)
        if name in ("inclora_paper_lr", "seqfull"):
            continue
        differing = {key for key in keys | inclora if keys.get(key) != inclora.get(key)} - {"output_dir", "cl"}
        assert differing == OWN_KEYS.get(name, set()), name
        block = {key: value for key, value in keys["cl"].items() if key != "replay"}
        assert {**block, "method": None} == {**inclora["cl"], "method": None}, name


# --- cells --------------------------------------------------------------------------------------------------------------


def one(tmp_path, changes=(), seed=0, order="paper", name="inclora", scale=None):
    (cell,) = make_cells([name], [seed], [order], scale or Scale("full", tmp_path), changes=changes)
    return cell


def test_a_changed_recipe_is_a_new_cell(tmp_path):
    cell = one(tmp_path)
    assert one(tmp_path).id == cell.id
    assert re.fullmatch(r"inclora-s0-paper-[0-9a-f]{8}", cell.id)
    for change in ("learning_rate=2e-4", "cl.eval.max_new_tokens=4", "cl.method.consolidate=stack"):
        assert one(tmp_path, [change]).id != cell.id, change
    for change in ("logging_steps=1", "save_steps=7", "preprocessing_num_workers=2"):
        assert one(tmp_path, [change]).id == cell.id, change
    assert one(tmp_path, seed=1).id != cell.id
    assert one(tmp_path, order="path,sur,cell,rad").id == cell.id
    other = one(tmp_path, order="rad,cell,sur,path")
    assert "rad-cell-sur-path" in other.id
    assert other.order == ("rad", "cell", "sur", "path")
    assert other.started()["cl"]["order"] == ["rad", "cell", "sur", "path"]


def test_a_changed_stream_is_a_new_cell(tmp_path):
    text = (ROOT / "src/cl_plugins/streams/builtin/medical_cl.yaml").read_text(encoding="utf-8")
    ids = []
    for old, new in (("", ""), ("scorer: bleu", "scorer: token_f1"), ("title: Pathology", "title: Other")):
        (tmp_path / "stream.yaml").write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        ids.append(one(tmp_path, [f"cl.stream={tmp_path / 'stream.yaml'}"]).id)
    assert ids[0] != ids[1], "another scorer"
    assert ids[0] == ids[2], "only a title"


def test_other_data_are_a_new_cell(tmp_path):
    ids = set()
    for digest in ("a", "b"):
        (tmp_path / "manifest.json").write_text(json.dumps({"datasets": {"x": {"sha256": digest, "raw": [1]}}}))
        ids.add(one(tmp_path, [f"dataset_dir={tmp_path}"]).id)
    assert len(ids) == 2


def test_a_new_recipe_needs_no_code(tmp_path):
    shutil.copy(RECIPES / "inclora.yaml", tmp_path / "mine.yaml")
    assert list(recipe_files(tmp_path)) == ["mine"]
    with pytest.raises(RecipeError, match="Recipes: mine"):
        make_cells(["yours"], [0], ["paper"], Scale("full", tmp_path), tmp_path)
    with pytest.raises(RecipeError, match="List each of these once"):
        one(tmp_path, order="path,sur")


def test_joint_training_keeps_its_share_of_steps(tmp_path):
    small = tiny.scale(tmp_path, steps=5)
    assert one(tmp_path, scale=small).keys["max_steps"] == 5
    assert one(tmp_path, scale=small, name="multitask").keys["max_steps"] == 20
    assert "lora_rank" not in one(tmp_path, scale=small, name="seqfull").keys


# --- one cell -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One cell of IncLoRA at the tiny scale, in this process; the folder, and how often it was started."""
    folder = tmp_path_factory.mktemp("bench")
    started = []

    def launch(cell, recipe, log):
        started.append(cell.id)
        run_exp({**read(recipe), "cl": read(recipe)["cl"]})
        return True

    words = ["--scale", "tiny", "--recipes", "inclora", "--steps", "2", "--set", "cl.eval.max_items=6"]
    words += ["cl.eval.max_new_tokens=8", "--saves", str(folder / "saves"), "--ledger", str(folder / "ledger")]
    assert run.main(words, launch) == 0
    return folder, words, started, launch


def test_the_ledger_says_what_was_run_on_what(bench):
    folder, _, started, _ = bench
    (entry,) = read_ledger(folder / "ledger" / "tiny")
    assert entry.path.stem == entry.content["cell"]["id"] == started[0]
    record = entry.content["run"]
    assert {"versions", "hardware", "base", "data", "seconds", "peak_memory_bytes", "sizes"} <= set(record)
    assert record["base"]["sha256"]
    assert record["versions"]["llamafactory"]
    assert set(entry.content["update_bytes"]) == set(TASKS)
    assert min(entry.content["update_bytes"].values()) > 1000
    assert entry.content["step_seconds"]["train:sur"] > 0
    for rules, scorer in (("own", "bleu@1"), ("peer", "peer:medical_cl:rad@1")):
        found = entry.scores(rules)
        assert found["matrix"]["scorers"]["rad"] == scorer
        assert found["matrix"]["scores"][3][3] is not None
        assert found["scores"]["after_rad"]["path"]["interval"]


def test_a_finished_cell_is_not_run_again(bench, capsys, monkeypatch):
    folder, words, started, launch = bench
    before = {path: path.read_bytes() for path in (folder / "ledger").rglob("*.json")}
    assert run.main(words, launch) == 0
    assert len(started) == 1
    assert "finished before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (folder / "ledger").rglob("*.json")} == before
    # Without its entry, the run itself is still finished and only entered again.
    (path,) = before
    path.unlink()
    monkeypatch.setattr(unchanged, "in_own_process", lambda *asked: read_all(*asked, host))  # spares a start
    assert run.main(words, launch) == 0
    assert len(started) == 1
    assert json.loads(path.read_text())["own"] == json.loads(before[path])["own"]


def test_a_failed_cell_stops_nothing_and_is_not_entered(bench, capsys):
    folder, words, _, _ = bench
    words = ["--scale", "tiny", "--recipes", "inclora", "seqlora", "--steps", "3", *words[words.index("--saves") :]]
    tried = []
    assert run.main(words, lambda cell, recipe, log: tried.append(cell.id) or False) == 1
    assert len(tried) == 2
    assert capsys.readouterr().out.count("FAILED") == 2
    assert len(list((folder / "ledger" / "tiny").glob("*.json"))) == 1


def test_tables_need_the_ledger_alone(bench, tmp_path, capsys):
    folder, *_ = bench
    shutil.copytree(folder / "ledger", tmp_path / "ledger")
    assert tables.main(["--scale", "tiny", "--ledger", str(tmp_path / "ledger"), "--out", str(tmp_path / "out")]) == 0
    out = tmp_path / "out" / "tiny"
    for name in ("README.md", "paper_rules/table1.tex", "paper_rules/table2.md", "own_rules/table2.tex"):
        assert (out / name).is_file(), name
    for name in ("paper_rules/curves.png", "own_rules/compare.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG"), name
    (entry,) = read_ledger(tmp_path / "ledger" / "tiny")
    last = entry.scores("peer")["matrix"]["scores"][-1]
    cells = [f"{value:.2f}" for value in last]
    assert f"| Rad | {' | '.join(cells)} |" in (out / "paper_rules/table2.md").read_text()
    page = (out / "README.md").read_text()
    assert "nothing about the methods" in page
    assert "peer:medical_cl:rad@1" in page.replace("\\", "")


# --- tables from a ledger that holds the paper's own numbers ------------------------------------------------------------------


def entry(recipe, scores, seed=0, sha="a" * 64, stream="medical_cl", order_name="paper", tasks=TASKS, **run_info):
    matrix = {"format": 1, "stream": stream, "method": recipe, "tasks": tasks, "n": dict.fromkeys(tasks, 100)}
    matrix |= {"scorers": {task: f"peer:{stream}:{task}@1" for task in tasks}, "scores": scores}
    matrix["zero_shot"] = ZERO if tasks == TASKS else [None] * len(tasks)
    results = {"matrix": matrix, "metrics": {"format": 1, "metrics": {}}, "scores": {}}
    content = {
        "format": 1,
        "cell": {"id": f"{recipe}-{seed}-{sha[:4]}", "recipe": recipe, "method": recipe, "seed": seed, "order": TASKS}
        | {"order_name": order_name, "scale": "full", "sha256": sha, "recipe_sha256": sha, "data": ""},
        "run": {
            "format": 1,
            "recipe": {"cl": {}},
            "stream": {"name": stream, "tasks": [{"name": task} for task in tasks]},
            "method": recipe,
            "seed": seed,
            "base": {"sha256": "b"},
            "data": {},
        }
        | run_info,
        "step_seconds": {"train:path": 1.0},
        "update_bytes": {"path": 10},
        "own": results,
        "peer": results,
    }
    return Entry(Path(f"{content['cell']['id']}.json"), content)


def test_the_papers_cells_give_the_papers_printed_tables(tmp_path):
    tables.write_tables([entry("seqfull", SEQFULL), entry("inclora", INCLORA)], tmp_path, "full")
    two = (tmp_path / "paper_rules/table2.md").read_text()
    for row in (
        "| Zero-shot | 36.01 | 31.45 | 4.99 | 12.86 | 21.33 | 21.11 |",
        "| Path | 68.85 | – | – | – | 68.85 | 68.85 |",
        "| Sur | 63.83 | 53.43 | – | – | 58.63 | 58.63 |",
        "| Cell | 59.93 | 51.62 | 84.34 | – | 65.30 | 65.30 |",
        "| Rad | 53.58 | 47.12 | 75.58 | 18.12 | 48.60 | 48.57 |",
        "| paper: Path | 68.85 | – | – | – | 68.85 | 68.84 |",
        "| paper: Rad | 53.58 | 47.12 | 75.58 | 18.12 | 48.60 | 48.57 |",
    ):
        assert row in two, row
    assert (
        "| Rad | 54.54 | 57.54 | 80.27 | 16.20 | 52.14 | 52.09 |" in (tmp_path / "paper_rules/table3.md").read_text()
    )
    one = (tmp_path / "paper_rules/table1.md").read_text().splitlines()
    assert one[-2].startswith("| inclora | 53.58 | 47.12 | 75.58 | 18.12 | 68.85 | 58.63 | 65.30 | 48.60 |")
    assert one[-1].startswith("| seqfull | 54.54 |")
    source = (tmp_path / "paper_rules/table1.tex").read_text()
    assert r"& \multicolumn{4}{c}{Last} & \multicolumn{4}{c}{Average} \\" in source
    assert r"\cmidrule(lr){2-5} \cmidrule(lr){6-9}" in source
    assert "avg, as printed" not in (tmp_path / "own_rules/table2.md").read_text()


def test_table_1_on_the_papers_own_stream_has_the_papers_rows(tmp_path):
    tasks = ["rs", "med", "ad", "sci", "fin"]
    scores = [[80.0 + k] * (k + 1) + [None] * (4 - k) for k in range(5)]
    tables.write_tables([entry("inclora", scores, stream="mllm_cl", tasks=tasks)], tmp_path, "full")
    page = (tmp_path / "paper_rules/table1.md").read_text()
    assert "| inclora | 84.00 | 84.00 | 84.00 | 84.00 | 84.00 | 80.00 | 81.00 | 82.00 | 83.00 | 84.00 |" in page
    assert "| paper: SeqFull | 79.10 | 61.22 | 52.36 | 50.52 | 91.29 | 77.06 | 72.75 | 66.09 | 62.49 | 67.44 |" in page
    assert "| paper: MR-LoRA, replay | 79.87 |" in page
    assert "| Method | Last RS | Last Med |" in page


def test_seeds_become_means_and_other_orders_stay_out(tmp_path):
    moved = [[None if v is None else v + 2 for v in row] for row in INCLORA]
    other = entry("inclora", INCLORA, seed=2, order_name="rad-cell-sur-path")
    tables.write_tables([entry("inclora", INCLORA), entry("inclora", moved, seed=1), other], tmp_path, "tiny")
    two = (tmp_path / "paper_rules/table2.md").read_text()
    assert "| Path | 69.85 ± 12.71 | – | – | – |" in two
    assert "| Zero-shot | 36.01 |" in two, "what does not differ has no interval"
    assert "paper:" not in two, "drawn pictures do not stand beside the paper"
    assert json.loads((tmp_path / "paper_rules/compare.json").read_text())["groups"][0]["finished"] == 3


def test_versions_of_a_recipe_bases_and_data_are_told_apart(tmp_path):
    two = [entry("inclora", INCLORA), entry("inclora", SEQFULL, seed=1, sha="c" * 64, base={"sha256": "x"})]
    tables.write_tables(two, tmp_path, "full")
    page = (tmp_path / "README.md").read_text()
    assert "Several versions of inclora" in page
    assert "2 different base models" in page
    names = {path.name for path in (tmp_path / "paper_rules").glob("stages_*.md")}
    assert names == {"stages_inclora_aaaaaaaa.md", "stages_inclora_cccccccc.md"}


def test_ledgers_of_several_streams_or_damaged_ones_are_refused(tmp_path, capsys):
    with pytest.raises(DataError, match="several streams: medical_cl, other"):
        tables.write_tables([entry("a", INCLORA), entry("b", INCLORA, stream="other")], tmp_path, "full")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.json").write_text("{")
    assert tables.main(["--ledger", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "x.json" in capsys.readouterr().err
    assert tables.main(["--ledger", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
