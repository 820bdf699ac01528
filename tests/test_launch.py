"""The tests' own way to start processes: what is tried again, and what is not."""

from __future__ import annotations

import sys

import launch
import pytest


SCRIPT = """
import pathlib, sys
count = pathlib.Path(sys.argv[1])
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) < int(sys.argv[2]):
    print(sys.argv[3], file=sys.stderr)
    sys.exit(1)
"""


def starts(tmp_path, needed, said, check=False):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "count"), str(needed), said]
    done = launch.execute(words, check=check)
    return done.returncode, len((tmp_path / "count").read_text())


@pytest.mark.parametrize(
    "said",
    [
        "RuntimeError: Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error",
        "torch.distributed.DistNetworkError: The server socket has failed to listen. EADDRINUSE",
        "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed.",
        "torch.distributed.DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 clients joined.",
    ],
)
def test_ranks_that_did_not_meet_are_started_again(tmp_path, said):
    assert starts(tmp_path, 3, said) == (0, 3)


@pytest.mark.parametrize("said", ["ValueError: wrong", "Connection closed by peer [127.0.0.1]:4711", "exitcode : 75"])
def test_other_failures_are_not_tried_again(tmp_path, said):
    assert starts(tmp_path, 3, said) == (1, 1)
    with pytest.raises(AssertionError, match="exit code 1"):
        starts(tmp_path, 9, said, check=True)


def test_it_gives_up(tmp_path):
    assert starts(tmp_path, 99, "EADDRINUSE") == (1, launch.TRIES)


def test_what_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match="still running"):
        launch.execute([sys.executable, "-c", "import time; time.sleep(10_000)"])
