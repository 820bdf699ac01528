"""`run`: the ordinary command once, or with a fresh process for every step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from cl_plugins.base.errors import RunStateError
from cl_plugins.run.interrupt import EXIT_RUN_AGAIN
from cl_plugins.run.isolate import PATIENCE, launch_command, run_isolated
from cl_plugins.run.journal import Journal


class Launches:
    """Stands in for the launch command: finishes steps of a plan in a journal."""

    def __init__(self, root, plan, codes=()):
        self.root, self.plan, self.codes, self.seen = root, list(plan), list(codes), []

    def __call__(self, command):
        self.seen.append(list(command))
        code = self.codes.pop(0) if self.codes else 0
        if code == 0:
            limit = int(next(w for w in reversed(command) if w.startswith("cl.stop_after=")).partition("=")[2])
            journal = Journal(self.root)
            for step in [s for s in self.plan if s not in journal][:limit]:
                journal.finish(step, 0.1, {})
        return code


PLAN = ["train:a", "consolidate:a", "evaluate:after_a:a", "finish"]


def test_starts_until_the_journal_says_finish(tmp_path):
    start = Launches(tmp_path, PLAN)
    assert run_isolated(["launch", "r.yaml"], tmp_path, start=start) == 0
    assert start.seen == [["launch", "r.yaml", "cl.stop_after=1"]] * 4
    assert list(Journal(tmp_path).entries) == PLAN


def test_several_steps_per_process(tmp_path):
    start = Launches(tmp_path, PLAN)
    assert run_isolated(["launch"], tmp_path, steps=3, start=start) == 0
    assert [words[-1] for words in start.seen] == ["cl.stop_after=3"] * 2


def test_75_means_run_again_and_other_failures_end_it(tmp_path):
    start = Launches(tmp_path, PLAN, codes=[0, EXIT_RUN_AGAIN, 0, 3])
    assert run_isolated(["launch"], tmp_path, start=start) == 3
    assert len(start.seen) == 4
    assert list(Journal(tmp_path).entries) == PLAN[:2]
    again = Launches(tmp_path, PLAN)
    assert run_isolated(["launch"], tmp_path, start=again) == 0
    assert len(again.seen) == 2


def test_only_the_first_start_restarts(tmp_path):
    start = Launches(tmp_path, PLAN)
    run_isolated(["launch", "r.yaml", "cl.restart=true"], tmp_path, steps=2, restart=True, start=start)
    assert [words[3:] for words in start.seen] == [["cl.stop_after=2"], ["cl.stop_after=2", "cl.restart=false"]]


def test_an_appended_task_goes_on_though_finish_is_in_the_journal(tmp_path):
    run_isolated(["launch"], tmp_path, start=Launches(tmp_path, PLAN))
    longer = [*PLAN[:3], "train:b", "consolidate:b", "finish"]
    start = Launches(tmp_path, longer)

    def first_forgets_finish(command):
        if not start.seen:
            journal = Journal(tmp_path)
            journal.remove("finish")
            journal.rewrite()
        return start(command)

    assert run_isolated(["launch"], tmp_path, start=first_forgets_finish) == 0
    assert set(Journal(tmp_path).entries) == set(longer)


def test_steps_that_leave_no_entry_are_passed(tmp_path):
    """Tests that can no longer be made are skipped without an entry; a start must get beyond them."""
    skipped = ["x", "y"]

    def start(command):
        limit = int(command[-1].partition("=")[2])
        journal = Journal(tmp_path)
        for step in [s for s in [*skipped, *PLAN] if s not in journal][:limit]:
            if step not in skipped:
                journal.finish(step, 0.1, {})
        return 0

    assert run_isolated(["launch"], tmp_path, start=start) == 0


def test_no_progress_ends_with_an_error(tmp_path):
    calls = []
    with pytest.raises(RunStateError, match="finished no step"):
        run_isolated(["launch"], tmp_path, start=lambda command: calls.append(command) or 0)
    assert len(calls) == PATIENCE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [EXIT_RUN_AGAIN, 0, -signal.SIGTERM])
def test_a_signal_ends_it_with_run_again(number, code, tmp_path):
    starts = []

    def start(command):
        starts.append(command)
        os.kill(os.getpid(), number)
        return code

    before = signal.getsignal(number)
    assert run_isolated(["launch"], tmp_path, start=start) == EXIT_RUN_AGAIN
    assert signal.getsignal(number) is before
    assert len(starts) == 1


def test_a_signal_between_two_starts_is_not_forgotten(tmp_path):
    start = Launches(tmp_path, PLAN)
    told = run_isolated(["launch"], tmp_path, start=start, tell=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert told == EXIT_RUN_AGAIN
    assert len(start.seen) == 1


def test_a_signal_while_the_process_starts_reaches_it(tmp_path, monkeypatch):
    class Started(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Started)
    command = [sys.executable, "-c", "import time; time.sleep(300); raise SystemExit(3)"]
    assert run_isolated(command, tmp_path) == EXIT_RUN_AGAIN


FAKE = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from cl_plugins.run.journal import Journal
root = Path({root!r})
root.mkdir(exist_ok=True)
(root / "words").open("a").write(" ".join(sys.argv[1:]) + "\\n")
journal = Journal(root)
journal.finish([s for s in {plan!r} if s not in journal][0], 0.1, {{}})
"""


def test_through_the_command_line(cli, fresh, tmp_path):
    recipe = fresh()
    program = tmp_path / "launch.py"
    program.write_text(FAKE.format(path=sys.path, root=str(tmp_path / "out"), plan=PLAN))
    code, _, err = cli("run", recipe, "max_steps=2", "--isolate", "--launcher", f"{sys.executable} {program}")
    assert code == 0, err
    words = (tmp_path / "out" / "words").read_text().splitlines()
    assert words == [f"{recipe} max_steps=2 cl.stop_after=1"] * 4
    assert "start 4: exit code 0, 4 steps finished" in err


def test_without_isolate_it_is_the_ordinary_command(cli, fresh, monkeypatch):
    seen = []

    def execv(program, words):
        seen.append((program, words))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    recipe = fresh()
    code, _, _ = cli("run", recipe, "max_steps=2")
    ((program, words),) = seen
    assert code == 0
    assert Path(program).name == "llamafactory-cli"
    assert words == [program, "train", str(recipe), "max_steps=2"]


def test_a_launcher_that_is_not_there(cli, fresh):
    code, _, err = cli("run", fresh(), "--isolate", "--launcher", "no-such-program train")
    assert code == 2
    assert "no program called 'no-such-program'" in err


def test_the_launch_command_is_found_beside_python(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Path(launch_command("llamafactory-cli train")[0]).is_file()


@pytest.mark.slow
def test_a_run_in_fresh_processes_equals_one_in_a_single_process(cli, llava, data, run, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(tiny.recipe(llava, data, whole, "inclora", tasks=("one", "two"), cl={"eval": {"zero_shot": False}}))
    keys = tiny.recipe(llava, data, parts, "inclora", tasks=("one", "two"), cl={"eval": {"zero_shot": False}})
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(keys))
    code, _, err = cli("run", recipe, "--isolate", "--steps", "3")
    assert code == 0, err
    assert (parts / "matrix.json").read_bytes() == (whole / "matrix.json").read_bytes()
    for name in ("final/model.safetensors", "carry/updates/02_two.safetensors"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
