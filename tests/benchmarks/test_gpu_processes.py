"""The processes of `make check-gpu`: what they leave, and how they end."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import records, shapes, workers


ROOT = Path(__file__).parents[2]


def forked(order: dict[str, Any]) -> dict[str, Any]:
    print("said")
    if order["cell"] == "fails":
        raise ValueError("\n first line\nsecond line")
    if order["cell"] == "dies":
        os.kill(os.getpid(), 9)
    if order["cell"] == "hangs":
        import time

        time.sleep(60)
    return {"pid": os.getpid()}


def test_a_fork_measures_and_leaves_no_trace_here(tmp_path: Path) -> None:
    pool = workers.Forked(lambda: None, forked)
    found = pool.run({"cell": "works"}, tmp_path / "works.log", 60)
    assert found["pid"] != os.getpid()
    assert (tmp_path / "works.log").read_text(encoding="utf-8") == "said\n"
    assert pool.run({"cell": "fails"}, tmp_path / "fails.log", 60)["error"] == "ValueError: first line"
    assert "second line" in (tmp_path / "fails.log").read_text(encoding="utf-8")
    assert pool.run({"cell": "dies"}, tmp_path / "dies.log", 60)["code"] == -9
    assert pool.run({"cell": "hangs"}, tmp_path / "hangs.log", 0.2)["error"].startswith("stopped after")


@pytest.mark.slow
def test_the_process_that_waits_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is used on a card, on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    shapes.make_base(tmp_path / "base_7b", shapes.TINY.shapes["7b"], gpu=False)
    pool = workers.Ahead()
    try:
        order = {"cell": "plain LoRA", "scale": "tiny", "work": str(tmp_path), "leg": ""}
        found = pool.run(order, tmp_path / "plain.log", 600)
    finally:
        pool.close()
    assert len(found["trainings"]) == 1, (tmp_path / "plain.log").read_text(encoding="utf-8")


def test_the_next_process_waits_for_its_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As on a card: a process that is started ahead, with everything imported; here without the imports."""
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, os, sys
            from pathlib import Path
            sys.path.insert(0, sys.argv[1])
            from benchmarks.gpu.workers import _carry_out
            print("importing", flush=True)
            line = sys.stdin.readline()
            if line:
                def measure(order):
                    if order["cell"] == "dies":
                        os.kill(os.getpid(), 9)
                    return {"pid": os.getpid(), **order}
                given = json.loads(line)
                _carry_out(measure, given["order"], Path(given["log"]), Path(given["answer"]))
            """
        ),
        encoding="utf-8",
    )
    imports = tmp_path / "logs" / "imports.log"
    pool = workers.Ahead([sys.executable, str(script), str(ROOT)], imports)
    try:
        first = pool._waiting
        found = pool.run({"cell": "works"}, tmp_path / "logs" / "works.log", 60)
        assert (found["pid"], found["cell"]) == (first.pid, "works")
        assert pool._waiting.pid != first.pid
        assert pool.run({"cell": "dies"}, tmp_path / "logs" / "dies.log", 60)["code"] == -9
    finally:
        last = pool._waiting
        pool.close()
    assert last.poll() is not None
    assert "importing" in imports.read_text(encoding="utf-8")  # not between the lines of the table
    assert capfd.readouterr().out == ""


def test_the_card_is_the_one_that_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.159.04'\necho 'NVIDIA L4, 23034 MiB, 580.159.04'\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CL_PLUGINS_COMMIT", "abc")
    here = records.where(ROOT, gpu=True)
    assert (here["card"], here["memory"], here["driver"]) == ("NVIDIA H100 80GB HBM3", "81559 MiB", "580.159.04")
    assert here["commit"] == "abc"
    assert {"torch", "llamafactory"} <= set(here["versions"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert records.where(ROOT, gpu=True)["card"] == "NVIDIA L4"
    script.write_text("#!/bin/sh\necho failed\nexit 9\n")
    assert records.cards() == []
