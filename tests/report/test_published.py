"""Published results: what the files say is what a checker computes, and runs compared with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_runs import dump, make_run

from cl_plugins.base.errors import DataError, RecipeError, RunStateError
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.published import (
    Cells,
    cells_of,
    check_source,
    derive,
    find_published,
    published_dir,
    read_published,
    reading,
)
from cl_plugins.report.against_published import compare_with_published
from cl_plugins.report.published_page import as_json, write_published
from cl_plugins.streams import builtin_streams, load_stream


SOURCES = {source.key: source for source in read_published()}
TASKS = ["path", "sur", "cell", "rad"]
THEIRS = [
    [68.85, None, None, None],
    [63.83, 53.43, None, None],
    [59.93, 51.62, 84.34, None],
    [53.58, 47.12, 75.58, 18.12],
]
ZERO = [36.01, 31.45, 4.99, 12.86]
RULES = dict(zip(TASKS, (f"peer:medical_cl:{task}@1" for task in TASKS), strict=True))


def entry_of(reference, table=None):
    source, key = find_published(reference)
    return next((t, e) for t, e in source.entries() if e.key == key and table in (None, t.key))


def medical(folder, scores=None, scorers=RULES, **settings):
    """A run of Medical-CL that says it was scored by the given rules."""
    settings = {"zero_shot": ZERO, "stream": "medical_cl", "bleu": ("rad",)} | settings
    run = make_run(folder, settings.pop("tasks", TASKS), scores or THEIRS, **settings)
    matrix = json.loads((run / "matrix.json").read_text())
    matrix["scorers"] = {task: scorers[task] for task in matrix["tasks"]}
    dump(run / "matrix.json", matrix)
    for path in run.glob("predictions/*/*.score.json"):
        saved = json.loads(path.read_text())
        dump(path, saved | {"scorer": scorers[path.name.removesuffix(".score.json")]})
    return run


# --- the files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(SOURCES))
def test_recorded_inconsistencies_are_the_computed_ones(key):
    computed = [
        {**vars(item), "computed": round(item.computed, 2), "printed": item.printed}
        for item in check_source(SOURCES[key])
    ]
    recorded = [
        {name: value for name, value in item.items() if name != "remark"} for item in SOURCES[key].inconsistencies
    ]
    assert recorded == computed
    assert all(item["remark"] for item in SOURCES[key].inconsistencies)


def test_the_known_ones_are_among_them():
    found = {
        (i.table, i.entry, i.printed, round(i.computed, 2), i.truncation) for i in check_source(SOURCES["li2025"])
    }
    assert ("medical_cl", "inclora", 48.57, 48.60, True) in found
    assert ("medical_cl", "seqfull", 52.09, 52.14, True) in found
    assert ("medical_cl", "inclora", 21.11, 21.33, True) in found
    assert ("mllm_cl", "seqfull", 67.44, 66.90, False) in found
    assert ("mllm_cl", "lora+replay", 36.78, 29.80, False) in found
    assert len({entry for table, entry, *_ in found if table == "mllm_cl"}) == 4, "the other 13 rows agree"


def test_a_wrong_number_is_noticed(tmp_path):
    for name, old, new in (
        ("cfroute2026", '61.13, "bwt": -14.97', '61.13, "bwt": -14.90'),
        ("li2025", "90.24", "92.24"),
    ):
        text = (published_dir() / f"{name}.json").read_text()
        assert text.count(old) == 1
        (tmp_path / f"{name}.json").write_text(text.replace(old, new))
    before = {key: len(check_source(SOURCES[key])) for key in ("cfroute2026", "li2025")}
    assert {s.key: len(check_source(s)) for s in read_published(tmp_path)} == {k: n + 1 for k, n in before.items()}


def test_worked_example_of_the_medical_paper():
    for name, last, average, mft, bwt in (
        ("inclora", 48.60, 60.34, 56.185, -10.11),
        ("seqfull", 52.1375, 59.5452, 54.3725, -2.98),
    ):
        cells = cells_of(*entry_of(f"li2025/{name}", "medical_cl"))
        for kind, value in (("last", last), ("average", average), ("mft", mft), ("bwt", bwt)):
            assert derive(kind, cells)[0] == pytest.approx(value, abs=0.006), kind


def test_reproductions_give_the_metrics_that_were_computed_by_hand():
    cells = cells_of(*entry_of("ucit_reproductions/hide_llava"))
    for kind, value in (("mft", 74.01), ("last", 67.69), ("average", 79.84), ("bwt", -7.58)):
        assert derive(kind, cells)[0] == pytest.approx(value, abs=0.006)


def test_cutting_is_toward_zero_and_leaves_gaps():
    cells = Cells(("a", "b"), (1.9, 2.9), ((3.9,), (4.9, 5.9)), (4.9, None)).truncated(["b"])
    assert (cells.zero_shot, cells.matrix, cells.final) == ([1.9, 2], [[3.9], [4.9, 5]], [4.9, None])


def test_every_table_has_the_tasks_and_scorers_of_this_package():
    known = set(builtin_streams())
    for source in SOURCES.values():
        for table in source.tables:
            if table.stream is None:
                continue
            assert table.stream in known, (source.key, table.key)
            assert table.tasks == load_stream(table.stream).task_names, (source.key, table.key)
            for measure in table.measures.values():
                for scorer in measure.scorers[:1]:
                    get_scorer(scorer)  # raises where there is none


def test_measures_agree_with_the_streams_peer_scorers():
    for source in SOURCES.values():
        for table in source.tables:
            for task in load_stream(table.stream).tasks if table.stream else ():
                if task.peer_scorer and table.measures[task.name].scorers:
                    assert table.measures[task.name].covers(task.peer_scorer), (source.key, table.key, task.name)


def test_provenance_is_kept_number_by_number():
    table, entry = entry_of("zhao2025/mr_lora")
    assert (entry.provenance, dict(entry.provenance_of)) == ("unverified", {"rs": "page"})
    assert "checked" in SOURCES["zhao2025"].provenance["unverified"]
    assert table.stream == "mllm_cl"


def test_damaged_files_are_all_named(tmp_path):
    for path in published_dir().glob("*.json"):
        shutil.copy(path, tmp_path)
    (tmp_path / "olora.json").write_text("{")
    raw = json.loads((tmp_path / "li2025.json").read_text())
    raw["tables"][0]["entries"][0]["matrix"][1] = [1.0]
    raw["tables"][0]["entries"][1]["provenance"] = "X"
    dump(tmp_path / "li2025.json", raw)
    raw = json.loads((tmp_path / "octopus.json").read_text())
    del raw["tables"]
    dump(tmp_path / "octopus.json", raw)
    with pytest.raises(DataError) as error:
        read_published(tmp_path)
    message = str(error.value)
    for word in ("olora.json", "medical_cl/inclora.matrix", "unknown provenance: ['X']", "octopus.json"):
        assert word in message


def test_an_installed_wheel_has_its_own_copy(tmp_path, monkeypatch):
    package = tmp_path / "cl_plugins" / "published"
    (package / "data").mkdir(parents=True)
    monkeypatch.setattr(reading, "__file__", str(package / "reading.py"))
    assert published_dir() == package / "data"
    (package / "data").rmdir()
    with pytest.raises(DataError, match="missing"):
        published_dir()


def test_the_wheel_takes_the_files_in():
    import tomllib

    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"benchmarks/published": "cl_plugins/published/data"}
    assert published_dir() == root / "benchmarks" / "published"


# --- a run compared with an entry ------------------------------------------------------------------------------------------------


def test_one_run_beside_the_paper(tmp_path):
    scores = [row[:] for row in THEIRS]
    scores[3] = [30.0, 47.12, 75.58, 17.62]
    (compared,) = compare_with_published([medical(tmp_path / "run", scores)], "li2025/inclora")
    lines = {line.place: line for line in compared.lines}
    assert lines["path, after rad"].difference == pytest.approx(30 - 53.58)
    assert lines["path, after rad"].inside is False
    assert lines["sur, after rad"].inside is True
    assert lines["rad, zero-shot"].theirs == 12.86
    # By the source's rule BLEU is cut first: 17 and not 17.62; metrics of one run have no interval.
    printed = lines["avg after rad, printed"]
    assert printed.ours == pytest.approx((30 + 47.12 + 75.58 + 17) / 4)
    assert (printed.theirs, printed.inside) == (48.57, None)
    assert lines["Last, from the cells"].ours == pytest.approx((30 + 47.12 + 75.58 + 17.62) / 4)
    assert lines["Last, from the cells"].theirs == pytest.approx(48.60)
    assert lines["BWT (T−1), from the cells"].theirs == pytest.approx(-10.1133, abs=1e-4)
    assert len(compared.lines) == 4 + 10 + 5 + 4
    words = " ".join(compared.remarks)
    assert "48.57, its cells give 48.60; it follows if scores are truncated to whole numbers" in words
    assert "400-step variant" in words
    assert any("int()" in theirs for _, _, theirs in compared.definitions)


def test_seeds_have_an_interval_over_runs(tmp_path):
    runs = []
    for seed, move in enumerate((-1.0, 0.0, 4.0)):
        scores = [[None if v is None else v + move for v in row] for row in THEIRS]
        runs.append(medical(tmp_path / str(seed), scores, seed=seed))
    (compared,) = compare_with_published(runs, "li2025/inclora")
    lines = {line.place: line for line in compared.lines}
    cell = lines["cell, after cell"]
    assert compared.runs == 3
    assert cell.ours == pytest.approx(85.34)
    assert cell.interval == pytest.approx((85.34 - 6.5727, 85.34 + 6.5727), abs=1e-3)
    assert cell.inside is True
    # Zero-shot scores are the same for every seed: their interval is that over the items, not one of width zero.
    assert lines["path, zero-shot"].interval == pytest.approx((28.0, 45.0), abs=1)
    assert lines["Last, from the cells"].inside is True


def test_another_stream_order_or_scorer_is_refused(tmp_path):
    with pytest.raises(RunStateError, match=r"is a run of demo .*is about medical_cl \(path, sur, cell, rad\)"):
        compare_with_published([medical(tmp_path / "a", stream="demo")], "li2025/inclora")
    other = medical(tmp_path / "b", tasks=["rad", "sur", "cell", "path"])
    with pytest.raises(RunStateError, match="learned rad, sur, cell, path; li2025 learned path, sur, cell, rad"):
        compare_with_published([other], "li2025/inclora")
    strict = RULES | {"rad": "bleu@1", "path": "contains@3"}
    with pytest.raises(RunStateError) as error:
        compare_with_published([medical(tmp_path / "c", scorers=strict)], "li2025/inclora")
    message = str(error.value)
    assert "metrics do not match" in message
    assert (
        "rad is scored with bleu@1 here; li2025 uses another rule: LLaMA-Factory's BLEU-4: over characters" in message
    )
    assert "path is scored with contains@3" in message
    assert "--scorer rad=peer:medical_cl:rad" in message
    with pytest.raises(RunStateError, match="has no number in common with your runs"):
        compare_with_published([medical_like(tmp_path / "d", "coin")], "branchlora2025/zero_shot")


def medical_like(folder, stream):
    """A finished run of a built-in stream, scored by the peer's rules."""
    tasks = load_stream(stream).tasks
    names = [task.name for task in tasks]
    scores = [[50.0] * (k + 1) + [None] * (len(names) - k - 1) for k in range(len(names))]
    run = make_run(folder, names, scores, stream=stream)
    matrix = json.loads((run / "matrix.json").read_text())
    matrix["scorers"] = {task.name: f"{task.peer_scorer}@1" for task in tasks}
    dump(run / "matrix.json", matrix)
    return run


def test_a_source_without_a_rule_of_ours_is_refused(tmp_path):
    with pytest.raises(RunStateError, match="No scorer of this package has that rule"):
        compare_with_published([medical_like(tmp_path / "run", "coin")], "llava_dymoe2026/olora")


def test_final_rows_and_metrics_of_another_stream(tmp_path):
    (compared,) = compare_with_published([medical_like(tmp_path / "run", "mllm_cl")], "cfroute2026/sefe")
    lines = {line.place: line for line in compared.lines}
    assert lines["ad, at the end"].theirs == 37.21
    assert lines["BWT, printed"].ours == 0
    assert lines["MFN, printed"].theirs == 58.51


def test_unknown_references_name_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'li2025'"):
        find_published("li2052/inclora")
    with pytest.raises(RecipeError, match="Did you mean 'inclora'"):
        find_published("li2025/incloar")
    with pytest.raises(RecipeError, match="without an entry"):
        find_published("li2025")


def test_files(tmp_path):
    found = compare_with_published([medical(tmp_path / "run")], "li2025/inclora")
    paths = write_published(found, tmp_path / "out")
    assert [path.name for path in paths] == ["published.md", "published.tex", "published.csv", "published.json"]
    page = (tmp_path / "out/published.md").read_text()
    assert "| path, after path | 68.85 |" in page
    assert "| avg after rad, printed | 48.57 | – | 48.57 | 0.00 | – |" in page
    content = json.loads((tmp_path / "out/published.json").read_text())
    assert content == as_json(found)
    assert content["comparisons"][0]["lines"][0]["inside"] is True
    assert "\\begin{tabular}" in (tmp_path / "out/published.tex").read_text()
