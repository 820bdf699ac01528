"""Runs and recipes are found on disk, and nothing that the browser names is used as a path."""

from __future__ import annotations

import os

import pytest

from cl_plugins.board.places import find_recipes, find_runs, inside, name_of


def folder(path, *files):
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("{}")
    return path


def test_runs_are_folders_with_a_run_json_and_nothing_inside_them_counts(tmp_path):
    for name in ("a", "deep/er/b", "a/rescored/x", "none", ".hidden"):
        folder(tmp_path / name, *(["run.json"] if name != "none" else []))
    assert find_runs(tmp_path) == {"a": tmp_path / "a", "deep/er/b": tmp_path / "deep/er/b"}
    assert find_runs(tmp_path / "a") == {".": tmp_path / "a"}


def test_links_are_not_followed(tmp_path):
    outside = folder(tmp_path / "outside" / "run", "run.json")
    root = folder(tmp_path / "root")
    (root / "link").symlink_to(outside)
    folder(root / "half")
    (root / "half" / "run.json").symlink_to(outside / "run.json")
    (root / "recipe.yaml").symlink_to(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text("cl: {}")
    assert find_runs(root) == {}
    assert find_recipes(root) == {}


def test_names_that_are_no_text_and_names_that_look_alike_can_be_told_apart(tmp_path):
    raw = [b"a\xff", b"a\\udcff"]
    for name in raw:
        os.makedirs(os.path.join(os.fsencode(tmp_path), name))
        with open(os.path.join(os.fsencode(tmp_path), name, b"run.json"), "w") as file:
            file.write("{}")
    found = find_runs(tmp_path)
    assert len(found) == 2
    assert {os.fsencode(path.name) for path in found.values()} == set(raw)
    assert all(name.encode("utf-8") and name.isprintable() for name in found)


def test_recipes_are_files_with_a_cl_block(tmp_path):
    (tmp_path / "in").mkdir()
    texts = {
        "a.yaml": "model: x\ncl:\n  stream: demo\n",
        "in/b.json": '{"cl": {}}',
        "plain.yaml": "model: x\nfinetuning_type: cl\n",
        "stream.yml": "tasks: []\n",
        "note.txt": "cl: {}",
        "broken.yaml": "cl: {\n",
        "list.json": '["cl"]',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert list(find_recipes(tmp_path)) == ["a.yaml", "broken.yaml", "in/b.json"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x", True),
        ("x/y", True),
        (".", False),
        ("..", False),
        ("../root2", False),
        ("x/../../other", False),
        ("/etc", False),
    ],
)
def test_a_place_is_inside_or_not(tmp_path, path, expected):
    root = folder(tmp_path / "root")
    assert inside(root, root / path) is expected


def test_a_place_behind_a_link_is_not_inside_but_the_folder_may_be_one(tmp_path):
    real = folder(tmp_path / "real")
    (tmp_path / "root").symlink_to(real)
    (real / "out").symlink_to(tmp_path)
    assert inside(tmp_path / "root", tmp_path / "root" / "new")
    assert inside(tmp_path / "root", real / "new")
    assert not inside(tmp_path / "root", tmp_path / "root" / "out" / "new")
    assert name_of(tmp_path / "root", real / "new") == "new"
