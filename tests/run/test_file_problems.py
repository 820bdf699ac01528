"""What is wrong with a file that a record names: the messages name it as their reader does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cl_plugins.records.files import FileRecord, file_problem, record_of


NAME = "folder/file.json"
OTHER = FileRecord(sha256="0" * 64, bytes=3)


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / NAME).write_text("abc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("relative", [True, False])
def test_a_path_is_named_as_the_root_is_given(root, relative):
    base = Path() if relative else root
    assert file_problem(base, NAME, record_of(root / NAME), "fix", "table") is None
    changed = file_problem(base, NAME, OTHER, "fix", "table")
    assert (changed.where, changed.what) == (str(base / NAME), "differs from its hash in table.")
    (root / NAME).unlink()
    missing = file_problem(base, NAME, OTHER, "fix", "table")
    assert (missing.where, missing.what) == (str(base / NAME), "is missing.")
    os.mkfifo(root / NAME)
    pipe = file_problem(base, NAME, OTHER, "fix", "table")
    assert (pipe.where, pipe.what) == (str(base / NAME), "is not a regular file.")


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("link", ["folder", NAME])
def test_a_link_is_named_where_it_is(root, relative, link):
    base, real = Path() if relative else root, record_of(root / NAME)
    (root / link).rename(root / "real")
    (root / link).symlink_to(root / "real")
    found = file_problem(base, NAME, real, "fix", "table")
    assert (found.where, found.what) == (str(base / link), "is a symbolic link, which is not followed.")


def test_the_root_itself_may_be_a_link_and_is_no_file(root):
    (root / "link").symlink_to(root, target_is_directory=True)
    assert file_problem(root / "link", NAME, record_of(root / NAME), "fix", "table") is None
    assert file_problem(root, "", OTHER, "fix", "table").what == "is not a regular file."
