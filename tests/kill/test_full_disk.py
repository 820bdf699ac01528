"""A disk that is full: an error that says so, finished steps kept, and the same end once there is space."""

from __future__ import annotations

import shutil
import subprocess

import killed_runs as runs
import pytest


MOMENTS = [
    pytest.param("inclora", "produced predictions/zero_shot/two.jsonl", marks=pytest.mark.kill),
    pytest.param("inclora", "written tasks/02_two/checkpoint-4/optimizer.pt"),
    pytest.param("seqfull", "opening tasks/01_one/checkpoint-2/trainer_state.json", marks=pytest.mark.kill),
    pytest.param("inclora", "produced tasks/02_two/update.safetensors", marks=pytest.mark.kill),
    pytest.param("inclora", "produced carry", marks=pytest.mark.kill),
    pytest.param("seqfull", "between carry", marks=pytest.mark.kill),
    pytest.param("inclora", "produced journal.jsonl", marks=pytest.mark.kill),
    pytest.param("inclora", "torn line journal.jsonl"),
    pytest.param("seqfull", "produced final", marks=pytest.mark.kill),
    pytest.param("inclora", "produced report.html", marks=pytest.mark.kill),
]


def check(failed, keys, out, server, reference):
    """The error is clear, and the next start ends as if nothing had happened."""
    assert failed.code == 1, failed.output[-3000:]
    last = failed.output.rsplit("RunStateError: ", 1)[-1]
    assert "disk is full" in last, failed.output[-3000:]
    assert "run the same command again" in last
    assert str(out) in last
    assert [name for name in runs.file_names(out) if name.endswith(".tmp") or ".tmp/" in name] == []
    before = runs.journal(out)
    resumed = server.run(keys)
    assert resumed.code == 0, resumed.output[-3000:]
    assert "\n".join(runs.differences(out, reference.out)) == ""
    assert runs.done_twice(before, failed, resumed, out) == []


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
def test_a_write_that_fails(method, moment, server, material, uninterrupted, tmp_path):
    keys, out = runs.recipe(*material, tmp_path / "out", method), tmp_path / "out"
    check(server.run(keys, moment, "full"), keys, out, server, uninterrupted(method))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 MB, where mounting is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.kill
@pytest.mark.parametrize("method", runs.METHODS)
@pytest.mark.parametrize(
    "moment",
    ["before tasks/02_two/checkpoint-4", "before tasks/02_two/update.safetensors", "before carry", "before final"],
)
def test_a_disk_that_is_full(method, moment, small_disk, server, material, uninterrupted):
    out = small_disk / "out"
    keys = runs.recipe(*material, out, method)
    failed = server.run(keys, moment, "fill")
    (out / ".ballast").unlink()
    check(failed, keys, out, server, uninterrupted(method))
