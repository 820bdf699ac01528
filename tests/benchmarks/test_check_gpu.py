"""`make check-gpu` on the CPU: the same code with tiny models, records that are not measured twice; failures, and the time budget."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import tiny

from benchmarks.gpu import cells, measure, records, run, shapes, table
from cl_plugins.base.errors import DataError


ROOT = Path(__file__).parents[2]
HERE = {"machine": "Linux x86_64, 16 CPU cores", "versions": {"torch": "2", "python": "3.12"}, "commit": "abc"}


# --- the whole of it, tiny ---------------------------------------------------------------------------------------


def twin(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--scale", "tiny", "--work", str(work), *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    entries = [[entry.strip() for entry in line.strip("| ").split(" | ")] for line in lines]
    return {line[0]: line for line in entries if line[0] not in ("configuration", "---")}


def test_the_tiny_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is there: measured, or with the reason why not; and a second start measures nothing."""
    done = twin(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "results" / "table.md").read_text(encoding="utf-8")
    found = rows(text)
    wanted = [cell for cell in cells.CELLS if cell.kind != "base"]
    assert list(found) == [cell.name for cell in wanted]
    for cell in wanted:
        result = found[cell.name][-1]
        if cell.gpu:
            assert result == "needs a GPU"
        elif cell.kind == "resume":
            assert result == "equal to the last bit"
        elif cell.kind == "train":
            assert result.startswith("trains")
            number = r"\d+\.\d\d"
            assert re.fullmatch(number, found[cell.name][2])
            assert cell.against is None or re.fullmatch(number, found[cell.name][4])
            assert cell.method is None or re.fullmatch(number, found[cell.name][8])
    alike = "100 % of the texts equal"
    assert alike in found[cells.FLOOR][-1]
    assert found["answers, cl_plugins"][-1].endswith(f"{alike} (LLaMA-Factory's own in other batches: 100 %)")
    before = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    monkeypatch.setattr(run, "Forked", None)  # nothing is left to measure, so no process is started
    with mock.patch.dict(os.environ):
        assert run.main(["--scale", "tiny", "--work", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == before


# --- cells -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_so_are_files() -> None:
    assert (
        len({cell.name for cell in cells.CELLS}) == len({cell.file_name for cell in cells.CELLS}) == len(cells.CELLS)
    )


def test_what_a_cell_is_compared_with_exists() -> None:
    names = cells.by_name()
    for cell in cells.CELLS:
        assert cells.base_of(cell) in names
        assert {cell.against, cell.alike} - {None} <= set(names)
        if cell.against and cell.kind == "train":
            assert names[cell.against].method is None
            assert names[cell.against].model == cell.model


@pytest.mark.parametrize(
    "cell", [cell for cell in cells.CELLS if cell.unchecked and cell.method], ids=lambda cell: cell.name
)
def test_what_is_added_below_the_check_is_refused_by_it(cell: cells.Cell, tmp_path: Path) -> None:
    """A key that no longer is belongs into `keys`."""
    from cl_plugins.base.errors import RecipeError

    (tmp_path / "base").mkdir()
    keys = measure.recipe(cell, shapes.FULL, tmp_path / "data", tmp_path / "base", tmp_path / "run")
    assert not {*keys} & {*cell.unchecked} - {"bf16"}
    with pytest.raises(RecipeError) as caught:
        tiny.checked_block({**keys, **cell.unchecked})
    assert {problem.where for problem in caught.value.problems} & {*cell.unchecked}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model and its data, as a process of the twin finds it."""
    work = tmp_path_factory.mktemp("work")
    shapes.make_base(work / "base_7b", shapes.TINY.shapes["7b"], gpu=False)
    shapes.make_data(work / "data", shapes.TINY)
    return work


def test_a_refused_key_is_measured_below_the_check(made: Path, tmp_path: Path) -> None:
    from cl_plugins.base.errors import RecipeError

    cell, paths = cells.by_name()["inclora, stack"], (made, made / "base_7b", tmp_path / "run")
    with pytest.raises(RecipeError, match="upcast_layernorm"):
        measure.trained(replace(cell, keys={"upcast_layernorm": True}), shapes.TINY, *paths)
    found = measure.trained(replace(cell, unchecked={"upcast_layernorm": True}), shapes.TINY, *paths)
    assert len(found["trainings"]) == len(found["consolidate_seconds"]) == 2
    assert not (tmp_path / "run").exists()


def test_a_failed_check_is_not_got_around(made: Path, tmp_path: Path) -> None:
    from cl_plugins.base.errors import RecipeError

    keys = measure.recipe(
        cells.by_name()["seqlora"], shapes.TINY, tmp_path / "data", made / "base_7b", tmp_path / "run"
    )
    with pytest.raises(RecipeError, match=r"dataset_info\.json"):
        measure.run_unchecked(keys, {"fp16": True}, [])


@pytest.mark.parametrize("cell", [cell for cell in cells.CELLS if cell.method is not None], ids=lambda cell: cell.name)
def test_recipes_of_the_card_pass_the_check(cell: cells.Cell, tmp_path: Path) -> None:
    """As far as keys, method and stream go; models and cards are not looked at."""
    (tmp_path / "base").mkdir()
    checked = tiny.checked_block(
        measure.recipe(cell, shapes.FULL, tmp_path / "data", tmp_path / "base", tmp_path / "run")
    )
    assert checked.config.method == cell.method
    assert checked.host_keys.get("fp16" if "fp16" in cell.keys else "bf16") is True


# --- records, budget, failures -----------------------------------------------------------------------------------


class Told:
    """Workers that answer from a list, and note what they were asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.orders, self.limits, self.closed = answers, [], [], 0

    def run(self, order: dict[str, Any], log: Path, limit: float) -> dict[str, Any]:
        self.orders.append((order["cell"], order["leg"]))
        self.limits.append(limit)
        answer = self.answers.get(order["cell"] + (":" + order["leg"] if order["leg"] else ""), TRAINED)
        return answer() if callable(answer) else dict(answer)

    def close(self) -> None:
        self.closed += 1


TRAINED = {
    "trainings": [{"steps_per_second": 2.0, "peak_bytes": 10**9, "losses": [1.0]}] * 2,
    "between_seconds": [0.5],
    "consolidate_seconds": [0.1, 0.2],
}
BASE = {"parameters": 10**9, "dtype": "bfloat16", "bytes": 1}
TWO = tuple(cell for cell in cells.CELLS if cell.name in ("plain LoRA", "inclora, stack"))


def checked(tmp_path: Path, told: Told, *, scale: shapes.Scale = shapes.TINY, **more: Any) -> run.Check:
    made = [json.loads(json.dumps(shape, default=vars)) for shape in scale.shapes.values()]
    for name, shape in zip(scale.shapes, made, strict=True):
        (tmp_path / f"base_{name}").mkdir(exist_ok=True)
        (tmp_path / f"base_{name}" / "made.json").write_text(json.dumps({"shape": shape}), encoding="utf-8")
    here = more.pop("here", HERE)
    return run.Check(scale, tmp_path / "out", tmp_path, here, lambda: told, say=lambda line: None, **more)


def test_measured_cells_are_skipped_and_others_go_on(tmp_path: Path) -> None:
    told = Told({})
    checked(tmp_path, told).carry_out(TWO[:1])
    assert [name for name, _ in told.orders] == ["plain LoRA"]
    checked(tmp_path, told).carry_out(TWO)
    assert [name for name, _ in told.orders] == ["plain LoRA", "inclora, stack"]
    assert told.closed == 2
    assert rows((tmp_path / "out" / "table.md").read_text())["inclora, stack"][4] == "1.00"
    checked(tmp_path, told).carry_out(TWO, again=["plain LoRA"])
    assert [name for name, _ in told.orders][2:] == ["plain LoRA"]


def test_other_rows_keep_their_records(tmp_path: Path) -> None:
    told = Told({})
    checked(tmp_path, told).carry_out(TWO[:1])
    checked(tmp_path, told).carry_out(cells.CELLS, only=["inclora, stack"])
    assert [name for name, _ in told.orders] == ["plain LoRA", "inclora, stack"]
    found = rows((tmp_path / "out" / "table.md").read_text())
    assert (found["plain LoRA"][-1], found["inclora, stack"][-1], found["seqlora"][-1]) == (
        "trains",
        "trains",
        "not measured yet",
    )


@pytest.mark.parametrize("change", ["versions", "scale", "cell", "machine"])
def test_a_record_of_something_else_does_not_count(tmp_path: Path, change: str) -> None:
    told = Told({})
    checked(tmp_path, told).carry_out(TWO[:1])
    here = {"versions": {**HERE, "versions": {"torch": "3"}}, "machine": {**HERE, "machine": "other"}}.get(
        change, HERE
    )
    scale = replace(shapes.TINY, steps=5) if change == "scale" else shapes.TINY
    cell = replace(TWO[0], keys={"lora_rank": 8}) if change == "cell" else TWO[0]
    checked(tmp_path, told, here=here, scale=scale).carry_out([cell])
    assert len(told.orders) == 2


def test_a_failing_cell_becomes_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    told = Told({"plain LoRA": {"error": "OutOfMemoryError: CUDA | out of memory", "seconds": 1}})
    check = checked(tmp_path, told)
    check.carry_out(TWO)
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "failed: OutOfMemoryError: CUDA \\| out of memory |" in text
    assert rows(text)["inclora, stack"][2] == "2.00"
    assert rows(text)["inclora, stack"][4] == ""  # nothing to compare with
    assert run.is_bad(check.records["plain LoRA"]["measured"])
    checked(tmp_path, told).carry_out(TWO)  # a failure is a result
    assert len(told.orders) == 2
    checked(tmp_path, told).carry_out(TWO, again=["failed"])
    assert [name for name, _ in told.orders][2:] == ["plain LoRA"]


def test_the_most_important_cells_use_the_time(tmp_path: Path) -> None:
    """A cell that would probably end too late is not started; a shorter one behind it is."""
    time = SimpleNamespace(now=0.0)

    def spent(seconds: float) -> Any:
        def answer() -> dict[str, Any]:
            time.now += seconds
            return TRAINED

        return answer

    list_of = [
        replace(TWO[0], name=name, seconds=seconds) for name, seconds in (("a", 30), ("b", 50), ("c", 20), ("d", 1))
    ]
    told = Told({"a": spent(30), "c": spent(31)})
    scale = replace(shapes.TINY, gpu=True)
    check = checked(tmp_path, told, scale=scale, minutes=1.0, clock=lambda: time.now)
    check.carry_out(list_of)
    assert [name for name, _ in told.orders] == ["a", "c"]
    assert told.limits == [120, 90]  # what is left of the minute, and another one
    assert set(check.left_out) == {"b", "d"}
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert rows(text)["b"][-1].startswith("not measured: no time was left")
    checked(tmp_path, told, scale=scale, minutes=1.0).carry_out(list_of)
    assert [name for name, _ in told.orders][2:] == ["b", "d"]


def test_a_model_is_made_once_and_by_need(tmp_path: Path) -> None:
    told = Told({"base 7b": BASE})
    check = checked(tmp_path, told)
    (tmp_path / "base_7b" / "made.json").unlink()
    check.carry_out(TWO[:1])
    assert [name for name, _ in told.orders] == ["base 7b", "plain LoRA"]
    told = Told({"base 7b": {"error": "OSError: no space"}})
    check = checked(tmp_path, told)
    (tmp_path / "base_7b" / "made.json").unlink()
    check.carry_out([cells.by_name()["base 7b"], *TWO], again=[cell.name for cell in TWO])
    assert [name for name, _ in told.orders].count("base 7b") == 1
    assert "failed: OSError: no space" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_packages_and_cards_that_are_not_there(tmp_path: Path) -> None:
    told = Told({})
    nowhere = replace(TWO[1], packages=("no_such_package",))
    check = checked(tmp_path, told)
    check.carry_out([nowhere, replace(TWO[0], gpu=True)])
    assert told.orders == []
    found = rows((tmp_path / "out" / "table.md").read_text(encoding="utf-8"))
    assert found["inclora, stack"][-1] == "not installed: no_such_package"
    assert found["plain LoRA"][-1] == "needs a GPU"
    assert not any(run.is_bad(record["measured"]) for record in check.records.values())


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    check = checked(tmp_path, Told({}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plain_lora.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"plain_lora\.json"):
        check.carry_out(TWO)


def test_without_a_card_the_full_scale_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr(records, "cards", lambda: [])
    assert run.main(["--work", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "--scale tiny" in capsys.readouterr().err


# --- killed and resumed ------------------------------------------------------------------------------------------

RESUME = cells.by_name()["killed and resumed, inclora 1b"]
KILLED = {"error": "the process ended with signal SIGKILL", "code": -9}


@pytest.mark.parametrize(
    ("answers", "legs", "result"),
    [
        ({"killed": KILLED, "resumed": {"distance": 0.0}}, 3, "equal to the last bit"),
        (
            {"killed": KILLED, "resumed": {"distance": 3e-3}, "again": {"distance": 2e-3}},
            4,
            "equal up to the tolerance",
        ),
        ({"killed": KILLED, "resumed": {"distance": 3e-3}, "again": {"distance": 0.0}}, 4, "not equal"),
        (
            {"killed": {"error": "RuntimeError: the run was not killed"}},
            2,
            "failed: RuntimeError: the run was not killed",
        ),
        ({"whole": {"error": "ValueError: no"}}, 1, "failed: ValueError: no"),
    ],
)
def test_what_a_kill_shows(tmp_path: Path, answers: dict[str, Any], legs: int, result: str) -> None:
    told = Told({"whole": {}, **{f"{RESUME.name}:{leg}": answer for leg, answer in answers.items()}})
    check = checked(tmp_path, told)
    check.carry_out([RESUME])
    assert len(told.orders) == legs
    assert rows((tmp_path / "out" / "table.md").read_text(encoding="utf-8"))[RESUME.name][-1].startswith(result)
    bad = run.is_bad(check.records[RESUME.name]["measured"])
    assert bad == (not result.startswith("equal"))


def test_the_distance_of_two_runs(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for name, value in (("a", 2.0), ("b", 2.0), ("c", 2.5)):
        (tmp_path / name / "tasks" / "01").mkdir(parents=True)
        save_file({"w": torch.tensor([value, 0.0])}, tmp_path / name / "tasks" / "01" / "update.safetensors")
    assert measure.distance(tmp_path / "a", tmp_path / "b") == 0.0
    assert measure.distance(tmp_path / "a", tmp_path / "c") == pytest.approx(0.25)
    save_file({"w": torch.tensor([float("nan"), 0.0])}, tmp_path / "b" / "tasks" / "01" / "update.safetensors")
    with pytest.raises(RuntimeError, match="not finite"):
        measure.distance(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c" / "tasks" / "01" / "update.safetensors").unlink()
    with pytest.raises(RuntimeError, match="other files"):
        measure.distance(tmp_path / "a", tmp_path / "c")


# --- the table ---------------------------------------------------------------------------------------------------


def test_losses_are_compared_step_by_step() -> None:
    one = {"trainings": [{"losses": [2.0, 1.0]}, {"losses": [1.0]}]}
    other = {"trainings": [{"losses": [2.0, 1.1]}, {"losses": [0.5]}]}
    assert table.losses_apart(one, other) == pytest.approx(1.0)
    assert table.losses_apart(one, one) == 0.0


def test_a_row_says_what_is_refused_and_how_far_its_losses_are() -> None:
    cell = cells.by_name()["inclora 1b, Liger"]
    found = {name: {"measured": dict(TRAINED)} for name in (cell.name, cell.against, cell.alike)}
    line = table.row(cell, found, "")
    assert line[-1] == "trains, below the check, which refuses it, losses within 0 % of 'inclora 1b, bf16'"
    assert line[2:10] == ["2.00", "2.00", "1.00", "1.00", "1.00", "1.00", "0.50", "0.20"]
    assert len(line) == len(table.HEAD)


def test_equal_texts_are_told_with_how_many_rounding_lets_be_equal() -> None:
    """LLaMA-Factory's own answers in other batches are the measure; without them, or where they failed, it is not told."""
    texts = {"answers, llamafactory-cli": "abcd", "answers, cl_plugins": "axyz", cells.FLOOR: "abyz"}
    found = {
        name: {"measured": {"tokens_per_second": 5.0, "peak_bytes": 1, "items": 4, "texts": list(marks)}}
        for name, marks in texts.items()
    }
    ours, floor, host = (
        cells.by_name()[name] for name in ("answers, cl_plugins", cells.FLOOR, "answers, llamafactory-cli")
    )
    plain = "answers 4 items, 25 % of the texts equal"
    assert table.row(ours, found, "")[-1] == f"{plain} (LLaMA-Factory's own in other batches: 50 %)"
    assert table.row(floor, found, "")[-1] == "answers 4 items, 50 % of the texts equal"
    assert table.row(host, found, "")[-1] == "answers 4 items"
    found[cells.FLOOR] = {"measured": {"error": "E"}}
    assert table.row(ours, found, "")[-1] == plain
    del found[cells.FLOOR]
    assert table.row(ours, found, "")[-1] == plain


@pytest.mark.parametrize("scale", [shapes.TINY, shapes.FULL], ids=lambda scale: scale.name)
def test_the_floor_has_other_batches(scale: shapes.Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.eval import child

    seen = []

    def host(keys: dict[str, Any]) -> Any:
        seen.append(keys["per_device_eval_batch_size"])
        raise RuntimeError("not started")

    monkeypatch.setattr(child, "host", host)
    monkeypatch.setattr(measure, "without_metrics", lambda: None)
    monkeypatch.setattr(measure, "reset_peak", lambda: None)
    for name in ("answers, llamafactory-cli", cells.FLOOR):
        with pytest.raises(RuntimeError, match="not started"):
            measure.answered(cells.by_name()[name], scale, tmp_path, tmp_path, tmp_path / "run")
    assert seen[0] == scale.eval_batch
    assert seen[1] not in (scale.eval_batch, 1)


def test_every_row_has_all_columns() -> None:
    answered = {"tokens_per_second": 5.0, "peak_bytes": 1, "items": 2, "texts": ["a", "b"]}
    kinds = {"train": TRAINED, "resume": {"distance": 0.0}, "host answers": answered, "our answers": answered}
    for cell in cells.CELLS:
        if cell.kind in kinds:
            for measured in (kinds[cell.kind], {"error": "E"}, {"absent": ["a"]}, {"needs": "a GPU"}):
                assert len(table.row(cell, {cell.name: {"measured": measured}}, "")) == len(table.HEAD)
            assert len(table.row(cell, {}, "not measured yet")) == len(table.HEAD)
