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
