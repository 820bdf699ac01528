"""A sweep on a cluster: jobs are submitted once, found again, and their outcome is read from the shared folder."""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import psutil
import pytest
from launch import PATIENCE
from made_cells import cells, finish, launcher, starts

from cl_plugins.base.errors import RecipeError
from cl_plugins.sweep import ledger
from cl_plugins.sweep.cluster import Work, executor, run_on_cluster


class Job:
    """A job of the stand-in; it is done when its work was carried out or lost."""

    known: ClassVar[dict] = {}

    def __new__(cls, folder, job_id):
        return cls.known.get(job_id) or super().__new__(cls)

    def __init__(self, folder, job_id):
        if job_id in self.known:
            return
        self.known[job_id] = self
        self.job_id, self.ended, self.state = job_id, False, "RUNNING"
        self.paths = SimpleNamespace(folder=folder, stderr=f"{folder}/{job_id}.err")

    def done(self, force_check=False):
        return self.ended


class Executor:
    """Stands in for submitit's; `work` carries out or loses what was submitted."""

    job_class = Job

    def __init__(self):
        self.submitted, self.batches = [], 0

    @contextlib.contextmanager
    def batch(self):
        self.batches += 1
        yield

    def submit(self, work):
        job = Job("jobs", str(len(Job.known) + 1))
        self.submitted.append((pickle.loads(pickle.dumps(work)), job))
        return job


@pytest.fixture
def submit(monkeypatch):
    monkeypatch.setattr(Job, "known", {})
    return Executor()


def commands(made):
    return {cell.id: ["launch", "train"] for cell in made}


def test_jobs_are_submitted_together_and_their_outcome_is_read(submit, tmp_path):
    made, lines = cells(tmp_path, seeds=[0, 1, 2, 3]), []
    finish(made[0])
    ledger.record(made[0], tmp_path / "ledger")

    def say(line):
        lines.append(line)
        if f"{made[3].id}: job" not in line:
            return
        for (work, job), end in zip(submit.submitted, ("finished", "failed", "lost"), strict=True):
            if end == "finished":
                finish(work.cell)
                ledger.record(work.cell, work.directory)
            elif end == "failed":
                ledger.record_failure(work.cell, 4, 1.0)
            job.ended = True

    found = run_on_cluster(made, tmp_path / "ledger", commands(made), submit, say=say, pause=0.01)
    assert [found[c.id].state for c in made] == ["finished", "finished", "failed", "failed"]
    assert found[made[0].id].before
    assert found[made[2].id].code == 4
    assert "ended without a result" in found[made[3].id].why
    assert submit.batches == 1
    assert [work.cell.id for work, _ in submit.submitted] == [c.id for c in made[1:]]
    assert submit.submitted[0][0].command == ["launch", "train"]
    assert list(tmp_path.glob("*.job.json")) == []


def test_a_sweep_that_stops_waiting_finds_its_jobs_again(submit, tmp_path):
    made, lines = cells(tmp_path, seeds=[0, 1]), []
    found = run_on_cluster(
        made, tmp_path / "ledger", commands(made), submit, say=lines.append, stopped=lambda: True, pause=0.01
    )
    assert [found[c.id].state for c in made] == ["stopped"] * 2
    assert len(list(tmp_path.glob("*.job.json"))) == 2
    submit.submitted[0][1].ended = True  # lost: submitted again
    again = Executor()

    def say(line):
        lines.append(line)
        for work, job in [*again.submitted, submit.submitted[1]]:
            if not job.ended:
                finish(work.cell)
                ledger.record(work.cell, work.directory)
                job.ended = True

    found = run_on_cluster(made, tmp_path / "ledger", commands(made), again, say=say, pause=0.01)
    assert [found[c.id].state for c in made] == ["finished"] * 2
    assert [work.cell.id for work, _ in again.submitted] == [made[0].id]
    assert any("is job 2 already" in line for line in lines)


def test_what_a_job_does(tmp_path):
    (cell,) = cells(tmp_path)
    (tmp_path / "go").touch()
    outcome = Work(cell, tmp_path / "ledger", launcher(tmp_path))()
    assert outcome["state"] == "finished"
    assert ledger.entry_file(cell, tmp_path / "ledger").is_file()
    assert Work(cell, tmp_path / "ledger", ["false"])()["before"]


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def local(tmp_path):
    """submitit's own executor for this machine, where submitit is installed."""
    pytest.importorskip("submitit")
    return executor(tmp_path / "jobs" / "%j", "local", {"timeout_min": 30})


def test_processes_of_submitit(local, tmp_path):
    made, lines = cells(tmp_path, seeds=[0, 1]), []
    (tmp_path / "go").touch()
    words = {cell.id: launcher(tmp_path) for cell in made}
    found = run_on_cluster(made, tmp_path / "ledger", words, local, say=lines.append, pause=0.1)
    assert [found[c.id].state for c in made] == ["finished"] * 2, lines
    assert sorted(starts(tmp_path)) == sorted(c.id for c in made)


def test_a_job_that_is_interrupted_is_queued_again_and_goes_on(local, tmp_path):
    """As before a time limit or a preemption: the run stops cleanly, and submitit starts the job anew."""
    (cell,) = cells(tmp_path)
    job = local.submit(Work(cell, tmp_path / "ledger", launcher(tmp_path)))
    wait_for(lambda: len(starts(tmp_path)) == 1)
    (task,) = psutil.Process(int(job.job_id)).children()
    task.send_signal(signal.SIGUSR2)  # as Slurm does before a time limit
    wait_for(lambda: len(starts(tmp_path)) == 2)
    (tmp_path / "go").touch()
    assert job.result()["state"] == "finished"
    assert starts(tmp_path) == [cell.id] * 2
    assert ledger.entry_file(cell, tmp_path / "ledger").is_file()


def test_unknown_clusters_and_parameters(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(RecipeError, match="--cluster nowhere"):
        executor(tmp_path, "nowhere", {})
    with pytest.raises(RecipeError, match="--cluster-set"):
        executor(tmp_path, "local", {"timeout": 3})


def test_submitit_is_imported_only_for_a_cluster(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RecipeError, match="pip install submitit"):
        executor(tmp_path, "slurm", {})
