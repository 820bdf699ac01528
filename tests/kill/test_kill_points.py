"""SIGKILL before, in the middle of and after every durable write: the run goes on to the very same end."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import killed_runs as runs
import pytest


def kill_and_go_on(server, keys, at, reference) -> list[str]:
    """Kill a run at a point, run it again to its end; what is not as it should be."""
    out = Path(keys["output_dir"])
    killed = server.run(keys, at)
    if killed.code != -signal.SIGKILL:
        return [f"{at}: ended with {killed.code} before the point was reached"]
    before = runs.journal(out)
    resumed = server.run(keys)
    if resumed.code != 0:
        return [f"{at} ({killed.points[-1]}): cannot go on\n{resumed.output[-1500:]}"]
    wrong = runs.differences(out, reference.out) + runs.done_twice(before, killed, resumed, out)
    return [f"{at} ({killed.points[-1]}): {what}" for what in wrong]


def chain(server, keys, reference, labels) -> None:
    """Kill every start at the next label, and let the last one go to the end."""
    out = Path(keys["output_dir"])
    finished: dict = {}
    for label in labels:
        killed = server.run(keys, label)
        assert killed.code == -signal.SIGKILL, f"{label}: {killed.code}\n{killed.output[-3000:]}"
        assert not set(killed.steps) & set(finished), label
        now = runs.journal(out)
        assert all(runs.settled(now[key]) == runs.settled(entry) for key, entry in finished.items()), label
        finished = now
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert not set(resumed.steps) & set(finished)
    assert "\n".join(runs.differences(out, reference.out)) == ""


CHOSEN = {
    "inclora": [
        "produced predictions/zero_shot/two.jsonl",
        "torn line journal.jsonl",
        "after journal.jsonl",
        "written tasks/01_one/checkpoint-4/optimizer.pt",
        "after tasks/01_one/checkpoint-5",
        "torn line journal.jsonl",
        "after carry",
        "before tasks/02_two/checkpoint-4/cl_complete.json",
        "before tasks/02_two/update.json",
        "between carry",
        "after carry",
        "after predictions/after_two/one.jsonl",
        "after line journal.jsonl",
        "produced final",
        "produced report.html",
    ],
    "seqfull": [
        "written tasks/01_one/checkpoint-4/model.safetensors",
        "after tasks/02_two/checkpoint-2",
        "after tasks/02_two/checkpoint-5",
        "after carry",
        "after final",
    ],
}


@pytest.mark.parametrize("method", runs.METHODS)
def test_killed_again_and_again_at_chosen_points(method, server, material, uninterrupted, tmp_path):
    chain(server, runs.recipe(*material, tmp_path / "out", method), uninterrupted(method), CHOSEN[method])


def test_a_finished_run_does_nothing_but_its_report(server, material, uninterrupted, tmp_path):
    out = runs.copy(uninterrupted("inclora").out, tmp_path / "out")
    (out / "report.html").unlink()
    again = server.run(runs.recipe(*material, out))
    assert again.code == 0
    assert again.steps == again.optimizer == []
    assert runs.differences(out, uninterrupted("inclora").out) == []


@pytest.mark.kill
@pytest.mark.parametrize("method", runs.METHODS)
def test_killed_once_at_every_point_in_one_chain(method, server, material, uninterrupted, tmp_path):
    reference = uninterrupted(method)
    keys, seen = runs.recipe(*material, tmp_path / "out", method), tmp_path / "seen"
    out, finished, labels = tmp_path / "out", {}, set()
    for _ in range(2 * len(reference.ended.points)):
        ended = server.run(keys, "new", seen=seen)
        assert not set(ended.steps) & set(finished), ended.points[-1]
        now = runs.journal(out)
        assert all(now[key] == entry for key, entry in finished.items()), ended.points[-1]
        finished = now
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, f"{ended.points[-1:]}\n{ended.output[-3000:]}"
        labels.add(ended.points[-1])
    assert ended.code == 0
    missed = set(reference.ended.points) - labels
    # killed after its list is written, a checkpoint is whole: the next start goes on from it and does not save it again;
    # a start that finds a torn line writes the journal anew, so that none comes to the end of a line
    skipped = r"after tasks/\w+/checkpoint-\d+|after line journal\.jsonl"
    assert {label for label in missed if not re.fullmatch(skipped, label)} == set()
    assert "\n".join(runs.differences(out, reference.out)) == ""


@pytest.mark.kill
@pytest.mark.parametrize("method", runs.METHODS)
def test_killed_at_every_kind_of_point(method, server, material, uninterrupted, tmp_path):
    reference = uninterrupted(method)
    last = {runs.kind(label): number for number, label in enumerate(reference.ended.points, start=1)}
    wrong = []
    for number in sorted(last.values()):
        wrong += kill_and_go_on(server, runs.recipe(*material, tmp_path / str(number), method), number, reference)
    assert wrong == []


@pytest.mark.kill
@pytest.mark.parametrize("method", runs.METHODS)
def test_killed_at_random_moments(method, server, material, uninterrupted, tmp_path):
    reference = uninterrupted(method)
    lines = len(reference.ended.points) + len(reference.ended.optimizer) + len(reference.ended.steps)
    dice, hits = random.Random(20), 0
    for number in range(60):  # a run may be over before the signal reaches it
        out = tmp_path / str(number)
        keys = runs.recipe(*material, out, method)
        started = server.start(keys)
        server.until(started, dice.randrange(lines // 20, lines - lines // 20))  # and then wherever it is
        server.kill(started[0])
        killed = server.wait(started)
        if killed.code == 0:
            continue
        assert killed.code == -signal.SIGKILL, killed.output[-3000:]
        before = runs.journal(out)
        resumed = server.run(keys)
        assert resumed.code == 0, resumed.output[-3000:]
        assert runs.differences(out, reference.out) == []
        assert runs.done_twice(before, killed, resumed, out) == []
        hits += 1
        if hits == 10:
            break
    assert hits == 10
