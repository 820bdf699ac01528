"""The carry on disk."""

from __future__ import annotations

import json

import pytest
import torch

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.files import sha256
from cl_plugins.contract.carry import FORMAT, Carry, CarryWriter, read_tensors


@pytest.fixture
def carry(tmp_path):
    folder = tmp_path / "carry"
    folder.mkdir()
    writer = CarryWriter(folder, {"k": 1})
    writer.write("own.safetensors", {"t": torch.arange(4.0)})
    source = tmp_path / "update.safetensors"
    source.write_bytes((folder / "own.safetensors").read_bytes())
    writer.link(source, "updates/01_a.safetensors")
    assert writer.file_names() == ["own.safetensors", "updates/01_a.safetensors"]
    files = {n: {"sha256": sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in writer.file_names()}
    record = {
        "format": FORMAT, "method": "m", "stream": "s", "tasks": ["a"], "base": {"sha256": "x"}, "meta": writer.meta, "files": files,
    }  # fmt: skip
    (folder / "carry.json").write_text(json.dumps(record))
    return folder


def test_reading_it_back(carry):
    found = Carry.open(carry)
    found.verify()
    assert (found.method, found.tasks, found.meta) == ("m", ("a",), {"k": 1})
    assert torch.equal(found.load("updates/01_a.safetensors")["t"], torch.arange(4.0))


def test_no_carry(tmp_path):
    with pytest.raises(RunStateError, match="holds no carry"):
        Carry.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_carry_json(carry, text):
    (carry / "carry.json").write_text(text)
    with pytest.raises(RunStateError, match=r"carry\.json"):
        Carry.open(carry)


def test_every_damaged_file_is_named(carry):
    (carry / "own.safetensors").unlink()
    data = bytearray((carry / "updates" / "01_a.safetensors").read_bytes())
    data[-1] ^= 1
    (carry / "updates" / "01_a.safetensors").unlink()  # a hard link: the source must stay whole
    (carry / "updates" / "01_a.safetensors").write_bytes(data)
    with pytest.raises(RunStateError) as caught:
        Carry.open(carry).verify()
    assert [p.where.rsplit("carry/", 1)[1] for p in caught.value.problems] == [
        "own.safetensors",
        "updates/01_a.safetensors",
    ]


def test_tensors_that_cannot_be_read(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0")
    for name in ("x.safetensors", "none.safetensors"):
        with pytest.raises(RunStateError, match=name):
            read_tensors(tmp_path / name)
