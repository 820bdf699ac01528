"""A carry as one file: what is in it, who can use it, and what a file made to do harm gets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
import tiny
from running import copy_of, go, load, predictions, recipe, steps, weights
from sealed import edit

from cl_plugins.base.errors import ClPluginsError, RunStateError
from cl_plugins.cli import main
from cl_plugins.contract.packed import Pack
from cl_plugins.records.pack import PACK
from cl_plugins.records.record import checksum
from cl_plugins.run.inspecting import inspect
from cl_plugins.run.join import join
from cl_plugins.run.packing import pack
from cl_plugins.run.site import site_of


TASKS = ("one", "two", "three")


def stream_of(task, tested=()):
    """The stream file of a site: of tasks that others train the name alone, or the name and a test set."""
    stream = tiny.stream(TASKS)
    for entry in stream["tasks"]:
        if entry["name"] != task:
            del entry["train"]
            if entry["name"] not in tested:
                del entry["test"]
    return stream


def site(base, data, out, task, carry=None, tested=(), method="inclora", cl=None, **more):
    block = {"only": task, "stream": stream_of(task, tested), **(cl or {})}
    if carry is not None:
        block["carry_from"] = str(carry)
    return recipe(base, data, out, method, TASKS, cl=block, **more)


@pytest.fixture(scope="module")
def chain(llama, text_data, tmp_path_factory):
    """Three sites that pass on packs, each with nothing but its own data, and one run of all tasks."""
    root = tmp_path_factory.mktemp("chain")
    whole = root / "whole"
    go(recipe(llama, text_data, whole, "inclora", TASKS))
    carry = None
    for number, task in enumerate(TASKS):
        base = copy_of(llama, root / f"base_{task}")
        data = copy_of(text_data, root / f"data_{task}")
        tested = TASKS[:number] if task != "three" else ("two",)  # the last site has no test set of the first task
        for other in TASKS:
            if other != task:
                (data / f"{other}_train.json").unlink()
                if other not in tested:
                    (data / f"{other}_test.json").unlink()
        go(site(base, data, root / task, task, carry, tested))
        carry = root / f"{task}.carry.zip"
        pack(root / task, carry, with_matrix=True)
    return root


# --- the chain


def test_a_chain_of_packs_equals_one_run(chain):
    assert weights(chain / "three") == weights(chain / "whole")
    expected = predictions(chain / "whole")
    for task in TASKS:
        found = predictions(chain / task)
        assert found
        assert {name: expected[name] for name in found} == found
    assert load(chain / "three", "carry/carry.json")["tasks"] == list(TASKS)


def test_a_site_measures_zero_shot_of_its_own_task(chain):
    assert steps(chain / "two") == [
        "evaluate:zero_shot:two", "train:two", "consolidate:two", "evaluate:after_two:one", "evaluate:after_two:two", "finish",
    ]  # fmt: skip
    assert load(chain / "two", "matrix.json").get("test_only", []) == []


def test_the_joined_matrix_is_that_of_one_run(chain, tmp_path):
    out = tmp_path / "joined"
    assert main(["matrix", "join", str(chain / "two.carry.zip"), str(chain / "three"), "--out", str(out)]) == 0
    whole, found = load(chain / "whole", "matrix.json"), load(out, "matrix.json")
    assert found["scores"][2][0] is None
    whole["scores"][2][0] = None
    for key in ("tasks", "scorers", "n", "zero_shot", "scores"):
        assert found[key] == whole[key], key
    assert load(out, "metrics.json")["metrics"]["mft"] == load(chain / "whole", "metrics.json")["metrics"]["mft"]
    again = tmp_path / "again"
    join([chain / task for task in TASKS], again)
    assert (again / "matrix.json").read_bytes() == (out / "matrix.json").read_bytes()
    assert main(["report", str(out)]) == 0
    assert main(["compare", str(out), str(chain / "whole"), "--out", str(tmp_path / "compared")]) == 0
    text = (tmp_path / "compared" / "compare.md").read_text()
    assert "Training is not equal" not in text
    assert "different data" not in text


def test_a_changed_score_of_a_joined_folder_is_found(chain, tmp_path):
    out = tmp_path / "joined"
    join([chain / "three.carry.zip"], out)
    edit(out / "predictions/after_one/one.score.json", lambda c: {**c, "score": 99.0})
    with pytest.raises(RunStateError, match="differs from its hash"):
        site_of(out)


# --- what is in a pack


def test_nothing_of_the_data_and_of_this_machine_is_in_a_pack(chain, text_data):
    raw = (chain / "three.carry.zip").read_bytes()
    with zipfile.ZipFile(chain / "three.carry.zip") as archive:
        names = archive.namelist()
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    carried = [f"carry/updates/0{n}_{t}.safetensors" for n, t in enumerate(TASKS, start=1)]
    sites = [f"sites/0{n}.json" for n in (1, 2, 3)]
    assert sorted(names) == sorted([PACK, "carry/carry.json", *carried, *sites])
    for task in TASKS:
        for split in ("train", "test"):
            for record in json.loads((text_data / f"{task}_{split}.json").read_text()):
                assert record["id"].encode() not in raw
                assert record["messages"][0]["value"].encode() not in raw
            assert f"{task}_{split}.json".encode() not in raw
    assert str(chain).encode() not in raw
    assert b"/tmp" not in raw


def test_a_pack_without_the_matrix_has_no_score_and_equal_carries_give_equal_files(chain, tmp_path):
    for name in ("a", "b"):
        pack(chain / "two", tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert not [name for name in Pack.open(tmp_path / "a.zip").record.files if name.startswith("sites/")]
    assert b"interval" not in (tmp_path / "a.zip").read_bytes()


@pytest.fixture(scope="module")
def with_buffer(llama, text_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("buffer")
    go(site(llama, text_data, root / "run", "one", cl={"replay": {"capacity_per_task": 3}}, max_steps=1))
    return root / "run"


def test_samples_are_in_a_pack_only_if_asked_for(with_buffer, text_data, tmp_path, capsys):
    texts = [json.loads(line) for line in (with_buffer / "carry/replay/samples.jsonl").read_text().splitlines()]
    assert len(texts) == 3
    assert main(["carry", "pack", str(with_buffer), "--out", str(tmp_path / "plain.zip")]) == 0
    assert "left out" in capsys.readouterr().out
    plain = Pack.open(tmp_path / "plain.zip")
    assert (plain.record.samples, plain.record.left_out) == ({}, {"one": 3})
    assert not any(name.startswith("carry/replay") for name in plain.record.files)
    assert b"what colour" not in (tmp_path / "plain.zip").read_bytes()
    assert main(["carry", "pack", str(with_buffer), "--out", str(tmp_path / "full.zip"), "--with-replay"]) == 0
    assert "3 training samples (one 3)" in capsys.readouterr().out
    assert inspect(tmp_path / "full.zip").samples == {"one": 3}
    assert "samples of the replay buffer are in the carry" in inspect(tmp_path / "full.zip").reveals
    assert inspect(tmp_path / "plain.zip").samples == {}
    assert plain.record.identity == Pack.open(tmp_path / "full.zip").record.identity


def test_a_site_replays_the_samples_of_a_pack(with_buffer, llama, text_data, tmp_path):
    from cl_plugins.contract.carry import Carry
    from cl_plugins.replay.store import Buffer

    pack(with_buffer, tmp_path / "full.zip", with_replay=True)
    keys = site(
        llama,
        text_data,
        tmp_path / "run",
        "two",
        tmp_path / "full.zip",
        cl={"replay": {"capacity_per_task": 3}},
        max_steps=1,
    )
    go(keys)
    buffer = Buffer.open(Carry.open(tmp_path / "run/carry"))
    assert buffer.tasks == ("one", "two")
    code = main(["replay", "purge", str(tmp_path / "run"), "--older-than", "0h"])
    assert code == 0


def test_what_is_left_of_deleted_samples_is_named(with_buffer, llama, text_data, tmp_path, capsys):
    pack(with_buffer, tmp_path / "full.zip", with_replay=True)
    cl = {"replay": {"capacity_per_task": 3}, "stop_after": 3}
    go(site(llama, text_data, tmp_path / "run", "two", tmp_path / "full.zip", cl=cl, max_steps=1))
    capsys.readouterr()
    assert main(["replay", "purge", str(tmp_path / "run"), "--older-than", "0h", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)["remains"]
    assert str(tmp_path / "run/received") in [place["where"] for place in places]


def test_asking_for_what_is_not_there_is_refused(chain, tmp_path, capsys):
    assert main(["carry", "pack", str(chain / "two"), "--out", str(tmp_path / "x"), "--with-replay"]) == 1
    assert "no replay buffer" in capsys.readouterr().err
    alone = copy_of(chain / "two/carry", tmp_path / "alone/carry")
    assert main(["carry", "pack", str(alone.parent), "--out", str(tmp_path / "x"), "--with-matrix"]) == 1
    assert "is not the directory of a run" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").write_text("mine")
    assert main(["carry", "pack", str(chain / "two"), "--out", str(tmp_path / "x")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "x").read_text() == "mine"


def test_a_damaged_carry_is_not_packed(chain, tmp_path):
    run = copy_of(chain / "two", tmp_path / "run")
    path = run / "carry/updates/01_one.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunStateError, match="differs from its hash"):
        pack(run, tmp_path / "x.zip")
    assert os.listdir(tmp_path) == ["run"]


# --- what the receiver sees


def test_inspect_names_everything_and_loads_nothing(chain, capsys, monkeypatch):
    import safetensors.torch

    def loaded(*args, **kwargs):
        raise AssertionError("a tensor was loaded")

    monkeypatch.setattr(safetensors.torch, "load_file", loaded)
    file = str(chain / "two.carry.zip")
    assert main(["carry", "inspect", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["tasks"], found["stream"]) == ("inclora", ["one", "two"], "tiny")
    assert found["about"]["options"] == {"consolidate": "auto"}
    assert [task["name"] for task in found["about"]["stream_tasks"]] == list(TASKS)
    assert found["about"]["keys"]["lora_rank"] == 4
    assert found["samples"] == {}
    assert "no training samples" in found["reveals"]
    tensors = {t["name"]: t["shape"] for t in found["files"][0]["tensors"]}
    assert tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] == [4, 32]
    assert main(["carry", "inspect", file]) == 0
    out = capsys.readouterr().out
    assert "carry of one → two" in out or "carry of one -> two" in out
    assert "q_proj" not in out
    assert main(["carry", "inspect", file, "--all"]) == 0
    assert "layers.1.self_attn.q_proj.lora_A.weight" in capsys.readouterr().out


def test_inspect_and_verify_take_folders_too(chain, tmp_path, capsys):
    folder = tmp_path / "received"
    assert main(["carry", "unpack", str(chain / "two.carry.zip"), "--out", str(folder)]) == 0
    for place in (folder, folder / "carry", chain / "two"):
        assert inspect(place).tasks == ("one", "two")
        assert main(["carry", "verify", str(place)]) == 0
    assert inspect(folder).about["options"] == {"consolidate": "auto"}
    assert main(["carry", "unpack", str(chain / "two.carry.zip"), "--out", str(folder)]) == 1
    (folder / "carry/updates/01_one.safetensors").write_bytes(b"")
    assert main(["carry", "verify", str(folder)]) == 1


def test_verify_compares_the_base(chain, llama, tmp_path, capsys):
    file = str(chain / "two.carry.zip")
    assert main(["carry", "verify", file, "--base", str(llama)]) == 0
    other = tiny.build_llama(tmp_path / "other", seed=1)
    assert main(["carry", "verify", file, "--base", str(other)]) == 1
    assert "belongs to another base" in capsys.readouterr().err
    assert main(["carry", "verify", file, "--base", str(tmp_path / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_method_that_is_not_installed_is_said(chain, tmp_path):
    path = rebuilt(
        chain / "two.carry.zip", tmp_path / "x.zip", record=lambda c: {**c, "method": "elsewhere"}, carry=True
    )
    assert "not installed here" in inspect(path).reveals


# --- a run that begins with a pack


def test_a_pack_is_unpacked_once_and_not_needed_afterwards(chain, llama, text_data, tmp_path):
    file = Path(shutil.copy(chain / "one.carry.zip", tmp_path / "one.zip"))
    keys = site(llama, text_data, tmp_path / "run", "two", file, ("one",), cl={"stop_after": 1})
    go(keys)
    before = (tmp_path / "run/received" / PACK).stat().st_ino
    file.unlink()
    del keys["cl"]["stop_after"]
    go(keys)
    assert (tmp_path / "run/received" / PACK).stat().st_ino == before
    assert weights(tmp_path / "run") == weights(chain / "two")
    assert main(["status", str(tmp_path / "run"), "--verify"]) == 0


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_it_is_unpacked_leaves_nothing_half_made(chain, llama, text_data, tmp_path, monkeypatch, moment):
    class Kill(BaseException):
        pass

    real = os.replace, os.rename

    def rename(source, target):
        if Path(target).name != "received":
            return real[1](source, target)
        if moment != "before":
            real[1](source, target)
        raise Kill

    keys = site(llama, text_data, tmp_path / "run", "two", chain / "one.carry.zip", ("one",), max_steps=1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", rename)
        patched.setattr(os, "rename", rename)
        if moment == "between":
            patched.setattr("cl_plugins.contract.packed.Pack._copy", lambda self, place: (_ for _ in ()).throw(Kill()))
        with pytest.raises(Kill):
            go(keys)
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"
    assert not [p.name for p in (tmp_path / "run").iterdir() if p.name.endswith(".tmp")]


def test_another_pack_than_the_run_began_with_is_refused(chain, llama, text_data, tmp_path):
    go(site(llama, text_data, tmp_path / "other", "one", max_steps=1, learning_rate=1e-4))
    pack(tmp_path / "other", tmp_path / "other.zip")
    keys = site(llama, text_data, tmp_path / "run", "two", chain / "one.carry.zip", cl={"stop_after": 1})
    go(keys)
    keys["cl"]["carry_from"] = str(tmp_path / "other.zip")
    with pytest.raises(RunStateError, match="is not the carry"):
        go(keys)
    keys["cl"]["carry_from"] = str(chain / "one.carry.zip")
    del keys["cl"]["stop_after"]
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"


def test_other_options_are_told(chain, llama, text_data, tmp_path, caplog):
    method = {"name": "inclora", "consolidate": "stack"}
    go(site(llama, text_data, tmp_path / "run", "two", chain / "one.carry.zip", method=method, max_steps=1))
    assert "consolidate is 'stack' here and 'auto' there" in caplog.text


def test_plan_reads_a_pack_and_writes_nothing(chain, llama, text_data, tmp_path, capsys):
    import yaml

    keys = site(llama, text_data, tmp_path / "run", "two", chain / "one.carry.zip", ("one",))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys))
    assert main(["plan", str(tmp_path / "r.yaml"), "--json"]) == 0
    found = [step["key"] for step in json.loads(capsys.readouterr().out)["steps"]]
    assert found == steps(chain / "two")
    assert not (tmp_path / "run").exists()


# --- files that were made to do harm


def rebuilt(source, target, *, record=None, members=None, carry=False):
    """A pack with other content and valid hashes: ``record`` changes PACK.json, ``members`` the files."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    content = json.loads(files.pop(PACK))
    if carry:
        inner = json.loads(files["carry/carry.json"])
        inner["method"] = record(content)["method"]
        inner["checksum"] = checksum(inner)
        files["carry/carry.json"] = json.dumps(inner).encode()
        from cl_plugins.records.carry import CarryRecord

        content["identity"] = CarryRecord.parse(files["carry/carry.json"], "x").identity()
    files = members(files) if members else files
    content["files"] = {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in files.items()}
    content = record(content) if record else content
    content["checksum"] = checksum(content)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {**files, PACK: json.dumps(content).encode()}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return target


def _append(path, member, **more):
    """Add one member as it is."""
    info = zipfile.ZipInfo(member)
    for key, value in more.items():
        setattr(info, key, value)
    with zipfile.ZipFile(path, "a", allowZip64=True) as archive:
        archive.writestr(info, b"x" * 100)


def _patch(path, at, data):
    raw = bytearray(path.read_bytes())
    raw[at : at + len(data)] = data
    path.write_bytes(raw)


def _tensor_byte(path):
    raw = path.read_bytes()
    at = raw.index(b"lora_A") + 3000
    _patch(path, at, bytes([raw[at] ^ 1]))


def _bomb(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("carry/zeros.safetensors"), bytes(10**7), zipfile.ZIP_DEFLATED)


def _twice(path):
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(zipfile.ZipInfo(PACK), b"{}")


def _hidden(path):
    """Bytes between the members and the list, which no member names."""
    raw = path.read_bytes()
    start = struct.unpack("<L", raw[-6:-2])[0]
    end = bytearray(raw[-22:])
    end[16:20] = struct.pack("<L", start + 5000)
    path.write_bytes(raw[:start] + b"h" * 5000 + raw[start:-22] + end)


def _comment(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"hello"


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def _huge_list(path):
    raw = bytearray(path.read_bytes())
    raw[-10:-6] = struct.pack("<L", 2**31)
    path.write_bytes(raw)


HARM = {
    "no zip": (lambda p: p.write_bytes(b"not a zip file"), "no pack"),
    "empty": (lambda p: p.write_bytes(b""), "no pack"),
    "another zip": (lambda p: (p.unlink(), zipfile.ZipFile(p, "w").close()), "it has no PACK.json"),
    "truncated": (_truncated, "no pack"),
    "a huge list": (_huge_list, "huge list|no pack"),
    "a changed byte": (_tensor_byte, "damaged|differs from its hash"),
    "leads out": (lambda p: _append(p, "carry/../../evil.json"), "is not the name of a file"),
    "absolute": (lambda p: _append(p, "/etc/evil.json"), "is not the name of a file"),
    "code": (lambda p: _append(p, "carry/evil.py"), "is not the name of a file"),
    "a link": (
        lambda p: _append(p, "carry/x.json", external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3),
        "is a link",
    ),
    "not listed": (lambda p: _append(p, "carry/x.safetensors"), "is not listed in PACK.json"),
    "compressed": (_bomb, "is compressed"),
    "twice": (_twice, "occurs twice"),
    "hidden bytes": (_hidden, "belong to no member|overlap"),
    "a comment": (_comment, "no pack"),
    "extra fields": (lambda p: _append(p, "carry/x.safetensors", extra=b"\x99\x99\x40\0" + bytes(64)), "additional fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_a_file_that_was_made_to_do_harm_is_refused(name, chain, llama, text_data, tmp_path, capsys):
    change, message = HARM[name]
    path = Path(shutil.copy(chain / "one.carry.zip", tmp_path / "x.zip"))
    change(path)
    with pytest.raises(RunStateError, match=message):
        Pack.open(path).verify()
    before = sorted(os.listdir(tmp_path))
    assert main(["carry", "verify", str(path)]) == 1
    assert main(["carry", "unpack", str(path), "--out", str(tmp_path / "out")]) == 1
    assert str(path) in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before
    with pytest.raises(ClPluginsError):
        go(site(llama, text_data, tmp_path / "run", "two", path, max_steps=1))
    assert not (tmp_path / "run/received").exists()


def _header(data, change):
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    raw = json.dumps(change(header) or header).encode()
    return len(raw).to_bytes(8, "little") + raw + data[8 + size :]


def _overlap(header):
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


UPDATE = "carry/updates/01_one.safetensors"
SEALED = {
    "tensors that overlap": (lambda d: _header(d, _overlap), "does not follow|another size"),
    "bytes of no tensor": (lambda d: d + b"patient 17", "belong to no tensor"),
    "a long header": (lambda d: (2**40).to_bytes(8, "little") + d[8:], "longer than the file"),
    "no header": (lambda d: b"abc", "no safetensors file"),
    "a huge number": (lambda d: _header(d, lambda h: h.update(x={"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]})), "another size"),
    "a strange dtype": (lambda d: _header(d, lambda h: h.update(x={"dtype": "PICKLE", "shape": [], "data_offsets": [0, 0]})), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEALED)
def test_a_tensor_file_that_hides_something_is_refused(name, chain, tmp_path):
    change, message = SEALED[name]

    def members(files):
        data = change(files[UPDATE])
        inner = json.loads(files["carry/carry.json"])
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        inner["files"][UPDATE.removeprefix("carry/")] = entry
        inner["checksum"] = checksum(inner)
        return {**files, UPDATE: data, "carry/carry.json": json.dumps(inner).encode()}

    def record(content):
        from cl_plugins.records.carry import CarryRecord

        made = members(_files(chain / "one.carry.zip"))
        return {**content, "identity": CarryRecord.parse(made["carry/carry.json"], "x").identity()}

    path = rebuilt(chain / "one.carry.zip", tmp_path / "x.zip", members=members, record=record)
    for use in (lambda: inspect(path), lambda: Pack.open(path).verify()):
        with pytest.raises(RunStateError, match=message):
            use()


def _files(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != PACK}


LIES = {
    "another method": ({"method": "olora"}, "another 'method'"),
    "other tasks": ({"tasks": ["one", "two"]}, "another 'tasks'"),
    "another base": ({"base": {"name": "x", "sha256": "0" * 64}}, "another 'base'"),
    "another identity": ({"identity": "0" * 64}, "another 'identity'"),
    "samples that are not there": ({"samples": {"one": 3}}, "names no buffer"),
    "an unknown field": ({"evil": 1}, "is not a known field"),
    "a newer format": ({"format": 99}, "Update cl-plugins"),
    "a path in a name": ({"stream_tasks": [{"name": "../x"}]}, "task name"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_list_that_does_not_fit_its_carry_is_refused(name, chain, tmp_path):
    change, message = LIES[name]
    path = rebuilt(chain / "one.carry.zip", tmp_path / "x.zip", record=lambda content: {**content, **change})
    with pytest.raises(RunStateError, match=message):
        Pack.open(path)


def test_a_buffer_that_the_list_conceals_is_found(with_buffer, tmp_path):
    pack(with_buffer, tmp_path / "full.zip", with_replay=True)
    path = rebuilt(tmp_path / "full.zip", tmp_path / "x.zip", record=lambda content: {**content, "samples": {}})
    with pytest.raises(RunStateError, match="replay buffer, which 'samples' does not name"):
        Pack.open(path)
    path = rebuilt(
        tmp_path / "full.zip", tmp_path / "y.zip", record=lambda content: {**content, "samples": {"one": 1}}
    )
    with pytest.raises(RunStateError, match="counts other samples"):
        inspect(path)


def test_pipes_and_folders_are_no_packs(chain, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunStateError, match="named pipe"):
        Pack.open(tmp_path / "pipe")
    with pytest.raises(RunStateError, match="does not exist"):
        Pack.open(tmp_path / "nothing")
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "outside").mkdir()
    (run / "received").symlink_to(tmp_path / "outside")
    with pytest.raises(RunStateError, match="symbolic link"):
        go(site(chain / "base_two", chain / "data_two", run, "two", chain / "one.carry.zip", max_steps=1))
    assert os.listdir(tmp_path / "outside") == []


# --- rows that do not belong together


def changed_site(chain, task, tmp_path, change):
    """The pack of a site alone, whose rows were changed and sealed again."""

    def members(files):
        content = json.loads(files[f"sites/0{TASKS.index(task) + 1}.json"])
        change(content)
        content["checksum"] = checksum(content)
        kept = {name: data for name, data in files.items() if not name.startswith("sites/")}
        return {**kept, "sites/01.json": json.dumps(content).encode()}

    return rebuilt(chain / f"{task}.carry.zip", tmp_path / f"{task}.zip", members=members)


def _rescore(content):
    for row in content["cells"].values():
        for score in row.values():
            score["scorer"] = "exact_match@1"


def _other_items(content):
    content["tests"]["one"] = "0" * 64


APART = {
    "stream": (lambda c: c["stream"].update(name="other"), "belongs to the stream 'other'"),
    "order": (lambda c: c["stream"]["tasks"].reverse(), "Every site's stream names the same tasks"),
    "method": (lambda c: c.update(method="olora"), "has the method olora"),
    "base": (lambda c: c["base"].update(sha256="0" * 64), "has the base base_two"),
    "scorer": (_rescore, "scores 'one' with exact_match@1"),
    "test set": (_other_items, "tests 'one' on other items"),
    "chain": (lambda c: c["began_with"].update(sha256="0" * 64), "did not begin with the carry"),
    "no carry": (lambda c: c.pop("began_with"), "began without a carry"),
    "a row of another": (lambda c: c.update(rows=["after_one"], cells={"after_one": c["cells"]["after_two"]}), "has the row 'after_one'"),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_rows_that_do_not_belong_together_are_refused(name, chain, tmp_path, capsys):
    change, message = APART[name]
    path = changed_site(chain, "two", tmp_path, change)
    out = tmp_path / "joined"
    assert main(["matrix", "join", str(chain / "one"), str(path), "--out", str(out)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_site_that_is_missing_in_the_middle_is_named(chain, tmp_path):
    alone = changed_site(chain, "three", tmp_path, lambda content: None)
    with pytest.raises(RunStateError, match=r"did not begin with the carry that .*one has left"):
        join([chain / "one", alone], tmp_path / "x")
    with pytest.raises(RunStateError, match="none of the given sites has left it"):
        join([alone, changed_site(chain, "two", tmp_path, lambda content: None)], tmp_path / "x")


def test_rows_that_came_with_another_site_are_named_as_such(chain, tmp_path):
    """The run of two began with the rows of another site for one; what is wrong with those is not said of the run."""
    run = tmp_path / "run"
    shutil.copytree(chain / "two", run)
    (received,) = (run / "received" / "sites").glob("*.json")
    content = json.loads(received.read_text())
    content["carry"]["sha256"] = "0" * 64
    content.pop("checksum")
    received.write_text(json.dumps({**content, "checksum": checksum(content)}))
    with pytest.raises(RunStateError) as error:
        join([chain / "one", run], tmp_path / "x")
    told = {problem.what: problem.where for problem in error.value.problems}
    assert told == {
        f"has the row 'after_one', which {chain / 'one'} has too.": f"{run}, received rows of one",
        f"began without a carry, and {chain / 'one'} was given too.": f"{run}, received rows of one",
        f"did not begin with the carry that {run}, received rows of one has left.": str(run),
    }


def test_one_site_and_a_pack_without_rows_are_refused(chain, tmp_path):
    with pytest.raises(RunStateError, match="has 1 site in all"):
        join([chain / "one"], tmp_path / "x")
    pack(chain / "one", tmp_path / "plain.zip")
    with pytest.raises(RunStateError, match="holds no rows"):
        join([tmp_path / "plain.zip", chain / "one"], tmp_path / "x")


def test_differences_that_are_no_fault_become_notes(chain, tmp_path):
    def change(content):
        content["options"]["consolidate"] = "stack"
        content["cells"].setdefault("zero_shot", {})["one"] = {**content["cells"]["after_two"]["one"], "score": 50.0}

    join([chain / "one", changed_site(chain, "two", tmp_path, change)], tmp_path / "x")
    notes = " ".join(load(tmp_path / "x", "run.json")["notes"])
    assert "different options of the method: consolidate" in notes
    assert "zero_shot, one was measured by several sites" in notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content["stream"]["tasks"][0].update(max_new_tokens=99), "max_new_tokens"),
        (lambda content: content["recipe"].update(image_max_pixels=512), "image_max_pixels"),
        (lambda content: content["recipe"]["cl"].update(task_overrides={"one": {"cutoff_len": 77}}), "cutoff_len"),
        (lambda content: content["recipe"]["cl"].update(task_overrides={"three": {"cutoff_len": 77}}), ""),
        (lambda content: content["recipe"].update(learning_rate=0.5), ""),
    ],
)
def test_a_task_that_was_tested_otherwise_becomes_a_note(chain, tmp_path, change, told):
    join([chain / "one", changed_site(chain, "two", tmp_path, change)], tmp_path / "x")
    notes = [note for note in load(tmp_path / "x", "run.json")["notes"] if "which its scores depend on" in note]
    assert notes == ([f"The sites tested one with different {told}, which its scores depend on."] if told else [])


# --- the stream file of a site


def test_a_task_without_data_needs_only_and_the_carry(llama, text_data, tmp_path):
    keys = site(llama, text_data, tmp_path, "two")
    with pytest.raises(ClPluginsError, match=r"Give `carry_from`.* or begin with 'one'"):
        go(keys)
    del keys["cl"]["only"]
    with pytest.raises(ClPluginsError, match="task 'one' has neither train nor test data"):
        go(keys)
