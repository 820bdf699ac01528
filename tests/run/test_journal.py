"""The journal: what stands in it is never done again, and what it names is still there."""

from __future__ import annotations

import json
import os

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.files import artefact, write_bytes
from cl_plugins.run.journal import Journal


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    for name in ("one", "two"):
        write_bytes(tmp_path / name, name.encode())
        made.finish(f"train:{name}", 1.5, artefact(tmp_path, tmp_path / name), loss=0.5)
    return made


def test_it_is_read_back_in_order(journal, tmp_path):
    again = Journal(tmp_path)
    assert list(again.entries) == ["train:one", "train:two"]
    assert again.entries == journal.entries
    assert again.entries["train:one"].details == {"loss": 0.5}
    assert "train:one" in again
    assert "train:three" not in again
    assert not again.damaged(full=True)
    assert not Journal(tmp_path / "empty").entries


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"step": "x"}', '{"seconds": 1}', '{"step": "x", "odd": 1}', "\0"])
def test_a_line_that_is_none_is_named(journal, tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RunStateError, match=r"journal\.jsonl:3"):
        Journal(tmp_path)


def test_missing_shortened_and_changed_files_are_found(journal, tmp_path):
    (tmp_path / "one").unlink()
    (tmp_path / "two").write_bytes(b"TWO")
    found = journal.damaged()
    assert [(p.where.rsplit("/", 1)[1], p.what.split()[0]) for p in found] == [("one", "is"), ("two", "differs")]
    assert all(p.fix for p in found)
    (tmp_path / "two").write_bytes(b"tw")
    assert len(journal.damaged()) == 2


def test_the_same_bytes_at_another_time_are_the_same_file(journal, tmp_path):
    os.utime(tmp_path / "one", ns=(1, 1))  # a copy to another disk
    assert not journal.damaged()


def test_a_change_behind_size_and_time_is_found_before_the_file_is_used(tmp_path):
    journal = Journal(tmp_path)
    for name in ("sub/one", "sub/two", "other/one"):
        write_bytes(tmp_path / name, b"one")
        journal.finish(f"train:{name.replace('/', '-')}", 1.5, artefact(tmp_path, tmp_path / name))
    path = tmp_path / "sub" / "one"
    stat = path.stat()
    path.write_bytes(b"ONE")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not journal.damaged()
    assert [p.where for p in journal.damaged(full=True)] == [str(path)]
    journal.verify(tmp_path / "other")
    with pytest.raises(RunStateError, match=r"one: differs from its hash in journal\.jsonl"):
        journal.verify(tmp_path / "sub")


def test_a_change_of_a_json_file_behind_size_and_time_is_found_at_once(tmp_path):
    path = tmp_path / "a.score.json"
    path.write_text("12")
    journal = Journal(tmp_path)
    journal.finish("train:one", 1.0, artefact(tmp_path, path))
    stat = path.stat()
    path.write_text("99")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [p.where for p in journal.damaged()] == [str(path)]


def lines(tmp_path):
    return (tmp_path / "journal.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: [text[0].replace("1.5", "9.5"), text[1]],
        lambda text: [text[0].replace('"loss": 0.5', '"loss": 0.1'), text[1]],
        lambda text: text[1:],
        lambda text: text[::-1],
        lambda text: [text[0], text[0], text[1]],
    ],
    ids=["seconds", "details", "first line gone", "swapped", "twice"],
)
def test_lines_that_were_edited_moved_or_taken_out_are_found(journal, tmp_path, change):
    (tmp_path / "journal.jsonl").write_text("".join(change(lines(tmp_path))))
    with pytest.raises(RunStateError, match=r"journal\.jsonl:\d: "):
        Journal(tmp_path)


def test_a_journal_of_the_earlier_format_is_read_and_extended(journal, tmp_path):
    def older(text):
        return json.dumps({k: v for k, v in json.loads(text).items() if k not in ("format", "checksum")}) + "\n"

    (tmp_path / "journal.jsonl").write_text("".join(map(older, lines(tmp_path))))
    again = Journal(tmp_path)
    assert again.entries == journal.entries
    again.finish("finish", 0.0, {})
    assert list(Journal(tmp_path).entries) == ["train:one", "train:two", "finish"]


def test_a_file_that_a_later_step_wrote_anew_counts_with_its_latest_record(journal, tmp_path):
    write_bytes(tmp_path / "one", b"newer")
    journal.finish("consolidate:two", 0.1, artefact(tmp_path, tmp_path / "one"))
    assert not Journal(tmp_path).damaged(full=True)


def test_files_that_were_deleted_on_purpose(journal, tmp_path):
    (tmp_path / "one").unlink()
    journal.forget("one")
    journal.rewrite()
    again = Journal(tmp_path)
    assert not again.damaged()
    assert "train:one" in again


def test_a_step_serialises_its_own_line_only(journal, tmp_path, monkeypatch):
    """The earlier lines are written as they were, which is what a whole rewrite gives."""
    from cl_plugins.records import run as records

    dumped, dump = [], records.dump
    monkeypatch.setattr(records, "dump", lambda data: dumped.append(data["step"]) or dump(data))
    journal.finish("train:three", 0.5, {}, loss=0.25)
    assert dumped == ["train:three"]
    text = (tmp_path / "journal.jsonl").read_text()
    journal.rewrite()
    assert (tmp_path / "journal.jsonl").read_text() == text
    journal.forget("one")  # a change of an earlier line is written at the next step
    journal.finish("train:four", 0.5, {})
    assert Journal(tmp_path).entries == journal.entries


def test_a_step_adds_its_line_to_the_file(journal, tmp_path):
    path = tmp_path / "journal.jsonl"
    file, text = path.stat().st_ino, path.read_text()
    journal.finish("evaluate:after_two:one", 0.5, {})
    Journal(tmp_path).finish("evaluate:after_two:two", 0.5, {})  # the next process
    assert path.stat().st_ino == file
    assert path.read_text().startswith(text)
    assert list(Journal(tmp_path).entries)[2:] == ["evaluate:after_two:one", "evaluate:after_two:two"]


def test_another_name_of_the_file_keeps_its_content(journal, tmp_path):
    """As in a copy of the run by hard links."""
    os.link(tmp_path / "journal.jsonl", tmp_path / "copy")
    text = (tmp_path / "copy").read_text()
    journal.finish("train:three", 0.5, {})
    assert (tmp_path / "copy").read_text() == text
    assert "train:three" in Journal(tmp_path)


def test_a_file_that_was_changed_meanwhile_is_written_anew(journal, tmp_path):
    (tmp_path / "journal.jsonl").unlink()
    journal.finish("train:three", 0.5, {})
    assert Journal(tmp_path).entries == journal.entries


@pytest.fixture
def added(journal, tmp_path):
    """The bytes of a journal, and where the line of a test begins that was added last."""
    journal.finish("evaluate:after_two:one", 0.5, {}, note="\u2028\xf6")
    data = (tmp_path / "journal.jsonl").read_bytes()
    return data, data.rfind(b"\n", 0, len(data) - 1) + 1


@pytest.mark.parametrize("lost", ["cut off", "zeros"])
def test_a_line_that_was_torn_does_not_count_and_is_written_again(lost, added, journal, tmp_path):
    data, start = added
    path, mark = tmp_path / "journal.jsonl", (tmp_path / ".journal.json").read_bytes()
    for length in range(start, len(data) + 1):
        path.write_bytes(data[:length] + (bytes(len(data) - length) if lost == "zeros" else b""))
        (tmp_path / ".journal.json").write_bytes(mark)
        again = Journal(tmp_path)
        whole = length == len(data) or (lost == "cut off" and length == len(data) - 1)  # only its end is missing
        assert list(again.entries) == list(journal.entries)[: 3 if whole else 2], length
        again.finish("evaluate:after_two:two", 0.5, {})
        assert Journal(tmp_path).entries == again.entries
        assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize("lost", ["cut off", "zeros"])
def test_what_was_on_the_disk_before_is_not_torn(lost, added, tmp_path):
    data, start = added
    path = tmp_path / "journal.jsonl"
    ends = [number for number in range(1, start) if data[number - 1 : number + 1].find(b"\n") >= 0]
    for length in set(range(1, start)) - set(ends):
        path.write_bytes(data[:length] + (bytes(len(data) - length) if lost == "zeros" else b""))
        with pytest.raises(RunStateError, match=r"journal\.jsonl:\d: "):
            Journal(tmp_path)


def test_without_its_mark_a_torn_line_is_damage(added, tmp_path):
    data, _ = added
    (tmp_path / "journal.jsonl").write_bytes(data[:-9])
    for content in (b"", b"{}", None):
        (tmp_path / ".journal.json").unlink()
        if content is not None:
            (tmp_path / ".journal.json").write_bytes(content)
        with pytest.raises(RunStateError, match=r"journal\.jsonl:3: is not JSON"):
            Journal(tmp_path)
        (tmp_path / ".journal.json").touch()


def test_the_last_line_of_a_finished_run_is_not_torn(added, journal, tmp_path):
    journal.finish("finish", 0.5, {})
    data = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(data[:-9])
    with pytest.raises(RunStateError, match=r"journal\.jsonl:4: is not JSON"):
        Journal(tmp_path)


def test_a_mark_that_is_too_large_is_written_anew_before_a_line_is_added(journal, tmp_path):
    """As after a kill between a journal that has become shorter and its mark."""
    journal.forget("one")
    mark = (tmp_path / ".journal.json").read_bytes()
    journal.rewrite()
    (tmp_path / ".journal.json").write_bytes(mark)
    Journal(tmp_path).finish("evaluate:after_two:one", 0.5, {})
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert list(Journal(tmp_path).entries) == ["train:one", "train:two"]


def test_lines_of_tests_are_flushed_together(journal, tmp_path, monkeypatch):
    from cl_plugins.base import files
    from cl_plugins.run import journal as module

    now, flushed = {"t": 100.0}, []
    monkeypatch.setattr(module.time, "monotonic", lambda: now["t"])
    monkeypatch.setattr(files.os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    journal.rewrite()
    flushed.clear()
    for number in range(5):
        journal.finish(f"evaluate:after_two:{number}", 0.01, {})
    assert flushed == []
    now["t"] += module.SYNC_SECONDS
    journal.finish("evaluate:after_two:5", 0.01, {})
    assert flushed == [str(tmp_path / "journal.jsonl")]
    journal.finish("train:three", 0.01, {})
    assert flushed[1] == flushed[0]
    assert any(".journal.json" in name for name in flushed[2:])


def test_a_score_is_read_once(tmp_path, monkeypatch):
    """The matrix of a long stream is built after every cell."""
    from cl_plugins.evaluation.items import TaskScore
    from cl_plugins.methods.registry import get_method
    from cl_plugins.recipe import parse_cl
    from cl_plugins.run.evaluate import build_matrix
    from cl_plugins.run.plan import make_plan

    tasks = [{"name": name, "train": f"{name}_train", "test": f"{name}_test"} for name in ("one", "two")]
    config = parse_cl({"stream": {"name": "s", "tasks": tasks}, "method": {"name": "seqlora"}})
    plan = make_plan(config, get_method("seqlora")(config.options), ())
    read, known = [], {}
    monkeypatch.setattr(TaskScore, "read", classmethod(lambda cls, path: read.append(path) or made))
    made = TaskScore(scorer="exact_match", score=50.0, n=4, interval=(40.0, 60.0), interval_method="wilson")
    path = tmp_path / "predictions" / "after_one" / "one.score.json"
    write_bytes(path, b"{}")
    for _ in range(2):
        assert build_matrix(tmp_path, plan, config, known).scores == [[50.0, None], [None, None]]
    assert read == [path]
    known["after_two", "one"] = made
    (tmp_path / "predictions" / "after_two").mkdir()
    assert build_matrix(tmp_path, plan, config, known).scores == [[50.0, None], [50.0, None]]
    looked_at: set[str] = set()
    for _ in range(2):
        build_matrix(tmp_path, plan, config, known, looked_at=looked_at)
    assert looked_at == {"zero_shot", "after_one", "after_two"}
    write_bytes(tmp_path / "predictions" / "after_two" / "two.score.json", b"{}")
    cells = build_matrix(tmp_path, plan, config, known, looked_at=looked_at).scores
    assert cells == [
        [50.0, None],
        [50.0, None],
    ]  # a run notes what it measures in `known`; no file is looked for again
    assert build_matrix(tmp_path, plan, config, known).scores == [[50.0, None], [50.0, 50.0]]
