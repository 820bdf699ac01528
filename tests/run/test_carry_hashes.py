"""A carry knows the hashes of the files that it takes over: a chain is not read from its start after every task."""

from __future__ import annotations

import os

import pytest
import tiny
from made_tasks import made_carry

from cl_plugins.methods import get_method
from cl_plugins.records.files import record_of
from cl_plugins.training import handover


TASKS = ("one", "two", "three")


@pytest.fixture
def read(monkeypatch):
    """Names of the carry's files that were read for their hash."""
    names = []

    def noting(path):
        if path.parent.parent.name != "tasks":  # what a task leaves has just been written
            names.append(path.name)
        return record_of(path)

    monkeypatch.setattr(handover, "record_of", noting)
    return names


def chain(tmp_path):
    from transformers import AutoModelForCausalLM

    method = get_method("inclora")({"consolidate": "stack"})
    model = AutoModelForCausalLM.from_pretrained(tiny.build_llama(tmp_path / "base"))
    return made_carry(tmp_path / "run", method, model, TASKS, [None] * 3)[0]


def test_links_are_not_read_again(tmp_path, read):
    carry = chain(tmp_path)
    assert len(carry.files) == 3
    assert read == []
    carry.verify()


def test_copies_are_read(tmp_path, read, monkeypatch):
    def refuse(*args):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    carry = chain(tmp_path)
    assert len(read) == 1 + 2 + 3
    carry.verify()
