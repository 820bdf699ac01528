"""Every file of a run and of its carry, edited in many ways.

An edit by hand ends in an equal result or in one clear error. Where the checksums and hashes were computed anew, as by
somebody who wants to be believed, a result may differ; nothing raw is raised, nothing hangs, and nothing outside of the run is
written or read into it. `make test-fuzz` makes hundreds of edits of every file; a few of each sort belong to `make test`.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import sealed
from edits import Edit, byte_edits, field_edits, keep_time, kind_edits, some
from uses import CHANGING, READING, outcome


FEW, MANY = 12, 300  # edits of a file, of each sort
RECORDS = [
    "run.json", "journal.jsonl", ".journal.json", "matrix.json", "metrics.json", "predictions/after_two/one.score.json",
    "predictions/after_two/one.jsonl", "tasks/01_one/update.json", "carry/carry.json", "carry/replay/manifest.json",
    "carry/replay/dataset_info.json", "carry/replay/samples.jsonl",
]  # fmt: skip
OTHERS = [
    "tasks/01_one/update.safetensors", "carry/updates/01_one.safetensors", "final/model.safetensors", "final/MANIFEST.json",
]  # fmt: skip
#: Uses that read a file of such a name; the others give the same as before by themselves.
ABOUT = {
    "run.json": set(READING), "journal.jsonl": set(READING), ".journal.json": {"status", "verified"}, "matrix.json": {"report", "compared", "verified", "scored_anew"},
    "metrics.json": {"report", "compared", "verified", "scored_anew"}, "predictions": {"report", "compared", "verified", "scored_anew"},
    "tasks": {"verified", "after_the_first"}, "carry": {"samples", "carried", "received", "verified", "after_the_first"},
    "final": {"verified"},
}  # fmt: skip
SCOPES = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.fuzz)]


def listing(folder: Path) -> dict[str, tuple]:
    """Names, kinds and times of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        folder_itself = stat.S_ISDIR(status.st_mode)
        found[str(path.relative_to(folder))] = (
            status.st_mode,
            *(() if folder_itself else (status.st_mtime_ns, status.st_size)),
        )
    return {name: value for name, value in found.items() if not Path(name).name.startswith(".lock")}


@pytest.fixture(scope="module")
def expected(finished):
    """What comes out of the run as it is."""
    found = {name: outcome(use, finished) for name, use in READING.items()}
    assert {kind for kind, _ in found.values()} == {"value"}, found
    return found


def back(path: Path, whole: Path) -> None:
    """Put a file back as it was."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    shutil.copy2(whole, path)


def try_out(
    root: Path, outside: Path, name: str, edits: list[Edit], expected, *, equal: bool, before=None
) -> list[str]:
    """Make each edit, use the run, and take the edit back.

    Args:
        root: The run.
        outside: A folder that nothing may touch.
        name: The file.
        edits: The edits.
        expected: What comes out of the run as it is.
        equal: Whether a result must be the one of the run as it is.
        before: Called after each edit.

    Returns:
        What went wrong.
    """
    target, backup = root / name, root.parent / "backup"
    uses = ABOUT[name if name in ABOUT else name.split("/")[0]]
    wrong = []
    whole = Path(shutil.copytree(root, backup, symlinks=True))
    start = listing(root)
    for label, edit in edits:
        edit(target)
        if before is not None:
            before()
        around, inside = listing(outside), listing(root)
        for use in sorted(uses):
            kind, found = outcome(READING[use], root)
            if kind == "raw" or (kind == "value" and equal and found != expected[use][1]):
                wrong.append(f"{name}, {label}: {use} gives {found:.300}")
            if kind == "error" and not any(place in found for place in (str(root), "cl.", "--")):
                wrong.append(f"{name}, {label}: {use} names no place: {found:.300}")
        if listing(outside) != around or listing(root) != inside:
            wrong.append(f"{name}, {label}: something was written")
        for path in (target, *((root / "carry/carry.json",) if before is not None else ())):
            back(path, whole / path.relative_to(root))
        if listing(root) != start:
            shutil.rmtree(root)
            shutil.copytree(whole, root, symlinks=True)
        (outside / "copy").unlink(missing_ok=True)
    return wrong


@pytest.mark.parametrize("count", SCOPES)
@pytest.mark.parametrize("name", RECORDS)
def test_fields_of_records(name, count, place, expected):
    edits = some(list(field_edits(place[0] / name, sealed=False)), count, name)
    assert "\n".join(try_out(*place, name, edits, expected, equal=True)) == ""


@pytest.mark.parametrize("count", SCOPES)
@pytest.mark.parametrize("name", RECORDS)
def test_fields_of_records_with_valid_checksums(name, count, place, expected):
    root, _ = place

    def believed():
        if name.startswith("carry/replay/"):
            sealed.rehash(root / "carry")

    edits = some(list(field_edits(root / name, sealed=True)), count, f"sealed {name}")
    assert "\n".join(try_out(*place, name, edits, expected, equal=False, before=believed)) == ""


@pytest.mark.parametrize("count", SCOPES)
@pytest.mark.parametrize("name", [*RECORDS, *OTHERS])
def test_bytes_and_kinds_of_files(name, count, place, expected):
    edits = some([*byte_edits(place[0] / name), *kind_edits(place[1])], count, f"bytes {name}")
    assert "\n".join(try_out(*place, name, edits, expected, equal=True)) == ""


@pytest.mark.parametrize("count", [pytest.param(4, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("name", ["carry/carry.json", "carry/replay/manifest.json", "carry/replay/samples.jsonl"])
def test_deleting_samples_from_a_carry_that_cannot_be_trusted(name, count, place, tmp_path):
    """Deletion writes: it never writes outside, and an error leaves everything as it was."""
    root, outside = place
    wrong = []
    edits = list(field_edits(root / name, sealed=True))
    for number, (label, edit) in enumerate(some(edits, count, f"deleting {name}")):
        copy = Path(shutil.copytree(root, tmp_path / "copies" / str(number)))
        edit(copy / name)
        if name.startswith("carry/replay/"):
            sealed.rehash(copy / "carry")
        around, inside = listing(outside), listing(copy)
        kind, found = outcome(CHANGING["deleted"], copy)
        if kind == "raw":
            wrong.append(f"{label}: {found:.300}")
        if listing(outside) != around or (kind == "error" and listing(copy) != inside):
            wrong.append(f"{label}: something was written")
        shutil.rmtree(copy)
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("folder", ["carry", "carry/updates", "carry/replay", "tasks", "tasks/01_one", "predictions"])
def test_folders_that_are_links(folder, place, expected):
    root, outside = place
    (root / folder).rename(outside / "moved")
    (root / folder).symlink_to(outside / "moved")
    around = listing(outside)
    for name, use in {**READING, **CHANGING}.items():
        kind, found = outcome(use, root)
        assert kind != "raw", f"{name}: {found}"
        if kind == "value" and name in expected:
            assert found == expected[name][1], name
    assert listing(outside) == around


def test_a_bit_flip_that_keeps_size_and_time_is_found_by_those_who_use_the_file(place, expected):
    root, _ = place
    for name, use in (
        ("tasks/01_one/update.safetensors", "after_the_first"),
        ("carry/updates/01_one.safetensors", "carried"),
        ("predictions/after_two/one.jsonl", "report"),
    ):
        data = (root / name).read_bytes()
        keep_time(root / name, data[:-1] + bytes([data[-1] ^ 1]))
        kind, found = outcome(READING[use], root)
        assert kind == "error", name
        assert Path(name).name in found
