"""Messages use the words of the host that a run has."""

from __future__ import annotations

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.base.words import Words, either, restore, speaking, words
from cl_plugins.records.run import read_journal, read_run


SCRIPT = Words(anew="choose another directory", elsewhere="choose another directory")


def test_ways_are_offered_once_and_as_a_sentence():
    assert either("wait", "stop it", "leave") == "Wait, stop it, or leave."
    assert either("wait", "leave", "leave") == "Wait, or leave."
    assert either("leave", "leave") == "Leave."


def test_by_default_they_are_those_of_a_recipe_and_a_host_brings_its_own():
    assert restore() == "Restore the file from a copy, or start again with `cl.restart: true`."
    with speaking(SCRIPT):
        assert restore() == "Restore the file from a copy, or choose another directory."
        with speaking(Words(anew="begin again")):
            assert restore("Wait") == "Wait, or begin again."
        assert words() is SCRIPT
    assert words() == Words()


def test_an_error_inside_does_not_leave_them_behind():
    with pytest.raises(KeyError), speaking(SCRIPT):
        raise KeyError
    assert words() == Words()


@pytest.mark.parametrize(("name", "read"), [("run.json", read_run), ("journal.jsonl", read_journal)])
def test_readers_of_files_know_no_host_and_still_use_them(tmp_path, name, read):
    (tmp_path / name).write_text("{")
    for of, fix in ((Words(), "start again with `cl.restart: true`"), (SCRIPT, "choose another directory")):
        with speaking(of), pytest.raises(RunStateError) as caught:
            read(tmp_path)
        assert caught.value.problems[0].fix == f"Restore the file from a copy, or {fix}."
