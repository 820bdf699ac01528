"""The rows of the accuracy matrix that a site has measured, without prompts, answers and paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, Problem, RunStateError
from ..contract.carry import Carry
from ..contract.packed import Pack
from ..evaluation.items import TaskScore
from ..evaluation.results import read_results
from ..methods.registry import METHODS, make_method
from ..records.carry import CarryRecord
from ..records.pack import SiteRecord, SiteScore
from ..records.results import ZERO_SHOT, row_name
from ..records.site import AGAIN, IMPORTED, is_said
from .shareable import base_name, shareable, shared_options, shared_recipe


SITES, RECEIVED = "sites", "received"
_TOLD = ("name", "scorer", "modality", "max_new_tokens", "options_column", "train", "test", "overrides", "peer_scorer")


def site_of(root: Path) -> SiteRecord:
    """What a run has measured, checked against its predictions.

    Args:
        root: The run's directory.

    Raises:
        RunStateError: If it has no results or no carry, or a file is damaged.
    """
    results = read_results(root)
    matrix, info = results.matrix, results.info
    if not info:
        fix = "Give the `output_dir` of a recipe, or a file that `cl-plugins carry pack --with-matrix` wrote."
        raise RunStateError(Problem(str(root), "holds a matrix and no run.json.", fix))
    if matrix.row_names() == ["joint"]:
        what = "was trained on all tasks at once; it is not the run of one site."
        raise RunStateError(Problem(str(root), what, "Give runs with `cl.only`."))
    carry = Carry.open(root / "carry")
    cells: dict[str, dict[str, Any]] = {}
    for row in [ZERO_SHOT, *matrix.row_names()[: len(matrix.scores)]]:
        measured = {task: results.scores.get((row, task)) for task in matrix.tasks}
        found = {task: _plain(score) for task, score in measured.items() if score is not None}
        if found:
            cells[row] = found
    tested = sorted({task for row in cells.values() for task in row})
    entries = {task["name"]: task for task in info["stream"]["tasks"]}
    rows = matrix.row_names()[: len(matrix.scores)]
    data = _data(entries, rows, tested, info.get("data") or {})
    base = base_name(info.get("base") or {})
    recipe = shared_recipe(info["recipe"])
    if "model_name_or_path" in recipe and base.get("name") is not None:
        recipe["model_name_or_path"] = base["name"]
    record = {
        "stream": {
            "name": info["stream"]["name"],
            "tasks": [{k: v for k, v in t.items() if k in _TOLD} for t in info["stream"]["tasks"]],
        },
        "method": info["method"],
        "options": shared_options(info.get("method_options") or {}),
        "defaults": None if info.get("method_defaults") is None else shared_options(info["method_defaults"]),
        "recipe": recipe,
        "base": base,
        "seed": info.get("seed"),
        "independent": matrix.independent,
        "began_with": info.get("began_with"),
        "carry": {"sha256": carry.identity, "tasks": list(carry.tasks)},
        "tests": {task: test_hash(task, entries[task].get("test") or [], data) for task in tested},
        "data": data,
        "rows": rows,
        "test_only": list(matrix.test_only),
        "cells": cells,
        "notes": _notes(info),
        "versions": info.get("versions") or {},
    }
    return _sealed(record, str(root))


def _sealed(record: Mapping[str, Any], where: str) -> SiteRecord:
    """A record without what does not travel, with the checksum of what does."""
    told = SiteRecord.of(SiteRecord.content(record), where).model_dump(exclude_unset=True)
    return SiteRecord.of(SiteRecord.content(told), where)


def _notes(info: Mapping[str, Any]) -> list[str]:
    """Of the notes of a run those that its method or this package has written: others may name files and places."""
    given = [str(note) for note in info.get("notes") or []]
    own = _notes_of_method(str(info["method"]), info.get("method_options") or {})
    found = [note for note in given if note in own or is_said(note)]
    found += [IMPORTED] if info.get("imported") else []
    found += [AGAIN] if any(note.startswith(AGAIN.partition("another")[0]) for note in given) else []
    return list(dict.fromkeys(found))


def _notes_of_method(method: str, options: Mapping[str, Any]) -> list[str]:
    if method not in METHODS.names():
        return []
    try:
        return make_method(method, options).notes()
    except ClPluginsError:  # options of another version, or such that do not travel
        return []


def _plain(score: TaskScore) -> dict[str, Any]:
    """A score without those of its items."""
    return {field: value for field, value in score.to_dict().items() if field in SiteScore.model_fields}


def _data(
    entries: Mapping[str, Any], rows: list[str], tested: list[str], data: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """``<task>/<data set>`` -> hashes of its files and media, without their names."""
    found = {}
    for task, entry in entries.items():
        used = [
            *(entry.get("train") or () if row_name(task) in rows else ()),
            *(entry.get("test") or () if task in tested else ()),
        ]
        for name in used:
            known = data.get(f"{task}/{name}", data.get(name)) or {}
            files = dict(enumerate(sorted((known.get("files") or {}).values())))
            found[f"{task}/{name}"] = {**shareable(known), "files": {str(k): v for k, v in files.items()}}
    return found


def test_hash(task: str, names: list[str], data: Mapping[str, Any]) -> str:
    """One hash over the test set of a task: the bytes of its files and media, not their names.

    Args:
        task: Name of the task.
        names: Its test sets.
        data: From `_data`.
    """
    parts = [data[f"{task}/{name}"] for name in names]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def earlier_sites(root: Path) -> list[SiteRecord]:
    """The rows of the sites before, which came with the pack that a run began with.

    Args:
        root: The run's directory, or the folder that a pack was unpacked into.
    """
    folders = [folder for folder in (root / RECEIVED / SITES, root / SITES) if folder.is_dir()]
    return [_received(SiteRecord.read(p), str(p)) for folder in folders for p in sorted(folder.glob("*.json"))]


def _received(site: SiteRecord, where: str) -> SiteRecord:
    """The rows of another site, without what an earlier version wrote in addition."""
    told = site.model_dump(exclude_unset=True)
    return _sealed({**told, "notes": _notes({**told, "method_options": told["options"]})}, where)


def sites_in(place: Path) -> list[SiteRecord]:
    """The sites' rows in a run, a pack or an unpacked pack, in the order of the sites.

    Args:
        place: A directory or a file.

    Raises:
        RunStateError: If there are none, or a file is damaged.
    """
    if place.is_dir():
        own = [site_of(place)] if (place / "run.json").exists() or (place / "matrix.json").exists() else []
        found = [*earlier_sites(place), *own]
    else:
        found = [_received(site, str(place)) for site in Pack.open(place).sites()]
    if not found:
        fix = "Give the directory of a run, or a file that was packed with `--with-matrix`."
        raise RunStateError(Problem(str(place), "holds no rows of an accuracy matrix.", fix))
    return found


def carry_text(carry: Carry, kept: Mapping[str, dict[str, Any]], deletions: list[dict[str, Any]]) -> str:
    """The text of ``carry.json`` for another site.

    Args:
        carry: The carry.
        kept: The files that are passed on.
        deletions: ``deletions`` of the record, where the replay buffer is passed on.
    """
    about = {"method": carry.method, "stream": carry.stream, "tasks": list(carry.tasks), "base": base_name(carry.base)}
    more = {"deletions": deletions} if deletions else {}
    files = {name: {"sha256": r["sha256"], "bytes": r["bytes"]} for name, r in kept.items()}
    return CarryRecord.text({**about, "meta": carry.meta, "files": files, **more}, indent=2)
