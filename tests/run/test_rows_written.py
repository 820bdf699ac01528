"""The matrix is written when a row is complete; what is known of a row that is not is in the files of its cells."""

from __future__ import annotations

import os
import signal

import pytest
from running import go, journal, load, predictions, recipe, steps, weights

from cl_plugins.evaluation.results import read_results
from cl_plugins.run import evaluate as writing
from cl_plugins.run import runner
from cl_plugins.run.status import collect


LAST = ("evaluate:after_two:one", "evaluate:after_two:two")


@pytest.fixture(scope="module")
def whole(llama, text_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "run"
    go(recipe(llama, text_data, out))
    assert steps(out)[-3:] == [*LAST, "finish"]
    return out


def same(out, whole):
    return all(load(out, name) == load(whole, name) for name in ("matrix.json", "metrics.json")) and (
        predictions(out) == predictions(whole) and weights(out) == weights(whole)
    )


@pytest.fixture
def during(monkeypatch):
    """Lets a test do something before the test of one cell."""
    original = runner.evaluate

    def at(key, action):
        def evaluate(state, step, plan):
            if step.key == key:
                action()
            return original(state, step, plan)

        monkeypatch.setattr(runner, "evaluate", evaluate)

    yield at
    monkeypatch.setattr(runner, "evaluate", original)


def raising():
    raise SystemExit(3)


def test_it_is_written_with_the_first_cell_and_once_a_row(llama, text_data, tmp_path, whole, monkeypatch):
    out, written, write = tmp_path / "run", [], writing.write_bytes

    def noted(path, data):
        if path.name == "matrix.json":
            written.append(len(journal(out)))
        write(path, data)

    monkeypatch.setattr(writing, "write_bytes", noted)
    go(recipe(llama, text_data, out))
    rows = [key.split(":")[1] if key.startswith("evaluate") else None for key in steps(out)]
    ends = [number for number, row in enumerate(rows, start=1) if row is not None and row != rows[number]]
    assert written == [1, *ends]
    assert len(ends) == 3
    assert same(out, whole)


def test_a_long_stream_writes_several_rows_at_once(llama, text_data, tmp_path, whole, during, monkeypatch):
    """And a kill between the files of matrix and metrics leaves metrics that are rows behind."""
    keys, out, times, write = recipe(llama, text_data, tmp_path / "run"), tmp_path / "run", [], writing.write_bytes
    monkeypatch.setattr(runner, "SHORT", 0)
    monkeypatch.setattr(runner, "TOGETHER", 3)

    def noted(path, data):
        if path.name == "metrics.json":
            times.append(len(journal(out)))
            if len(times) == 2:
                raising()
        write(path, data)

    monkeypatch.setattr(writing, "write_bytes", noted)
    seen = []
    during(LAST[1], lambda: seen.append((read_results(out), load(out, "matrix.json")["scores"])))
    with pytest.raises(SystemExit):
        go(keys)
    assert times == [1, steps(out).index(LAST[1]) + 1]
    (found, held), final = seen[0], load(whole, "matrix.json")["scores"]
    assert held == [[None, None], [None, None]]
    assert [found.matrix.scores[0], found.matrix.scores[1][:1]] == [final[0], final[1][:1]]
    assert found.remarks != ()
    behind = read_results(out)
    assert behind.matrix.scores == final
    assert {name: part.value for name, part in behind.metrics.items()} == {
        name: part.value for name, part in read_results(whole).metrics.items()
    }
    go(keys)
    assert same(out, whole)


def test_killed_in_a_row(llama, text_data, tmp_path, whole, during):
    keys, out = recipe(llama, text_data, tmp_path / "run"), tmp_path / "run"
    during(LAST[1], raising)
    with pytest.raises(SystemExit):
        go(keys)
    assert steps(out)[-1] == LAST[0]
    assert load(out, "matrix.json")["scores"] == [load(whole, "matrix.json")["scores"][0], [None, None]]
    found = read_results(out)
    assert found.matrix.get("after_two", "one") == load(whole, "matrix.json")["scores"][1][0]
    assert ("after_two", "one") in found.scores
    assert "(after_two: one) is not in the matrix yet" in found.remarks[0]
    told = {step["step"]: step for step in collect(out)["steps"]}
    assert told[LAST[0]]["details"]["score"] == found.matrix.get("after_two", "one")
    assert collect(out, verify=True)["damaged"] == []

    seen = []
    during(LAST[1], lambda: seen.append((read_results(out).remarks, load(out, "matrix.json")["scores"][1][0])))
    go(keys)
    assert seen == [((), found.matrix.get("after_two", "one"))]  # the next start has caught up with it
    assert steps(out) == steps(whole)
    assert same(out, whole)


@pytest.mark.parametrize("how", ["stop_after", "SIGTERM"])
def test_a_run_that_stops_in_a_row_writes_what_it_knows(how, llama, text_data, tmp_path, whole, during):
    keys, out = recipe(llama, text_data, tmp_path / "run"), tmp_path / "run"
    if how == "stop_after":
        go({**keys, "cl": {**keys["cl"], "stop_after": len(steps(whole)) - 2}})
    else:
        during(LAST[0], lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            go(keys)
        if steps(out)[-1] != LAST[0]:  # stopped inside this test set: its answers are kept
            during(LAST[1], lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(SystemExit):
                go(keys)
    assert steps(out)[-1] == LAST[0]
    found = read_results(out)
    assert found.remarks == ()
    assert load(out, "matrix.json")["scores"][1] == [found.scores["after_two", "one"].score, None]
    during("", raising)
    go(keys)
    assert same(out, whole)


def test_a_run_that_is_finished_writes_no_matrix_again(llama, text_data, tmp_path, whole, monkeypatch):
    out, written = tmp_path / "run", []
    keys = recipe(llama, text_data, out)
    go(keys)
    write = writing.write_bytes
    monkeypatch.setattr(writing, "write_bytes", lambda path, data: written.append(path) or write(path, data))
    go(keys)
    assert written == []
    for name in ("matrix.json", "metrics.json"):  # one that is damaged or gone is
        (out / name).unlink()
        (out / name).symlink_to(whole / name)
    go(keys)
    assert [path.name for path in written] == ["matrix.json", "metrics.json"]
    assert not any((out / name).is_symlink() for name in ("matrix.json", "metrics.json"))
    assert same(out, whole)
