"""``cl-plugins carry pack``: what the next site needs of a run, as one file, and nothing else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..base.errors import Problem, RunStateError
from ..contract.carry import FILE, Carry, carry_directory
from ..contract.packed import write_pack
from ..methods.registry import METHODS
from ..records.carry import CarryRecord
from ..records.files import check_folders
from ..records.pack import CARRY, PackRecord, SiteRecord
from ..records.record import CHECKSUM
from ..replay.store import FOLDER, Buffer
from .reopen import check_idle, read_record
from .shareable import base_name, shared_keys, shared_options
from .site import SITES, carry_text, earlier_sites, site_of


_TASK = ("name", "scorer", "modality", "max_new_tokens")


def pack(root: Path, out: Path, *, with_matrix: bool = False, with_replay: bool = False) -> PackRecord:
    """Write the carry of a run into one file.

    In it are the files of the carry, ``PACK.json`` and, if asked for, the rows of the accuracy matrix. Prompts,
    references, predictions, training updates, names of data sets and paths of this machine are not, and training samples
    only with ``with_replay``.

    Args:
        root: The directory of a run, a carry, or a `ContinualLearner`.
        out: The file; must not exist.
        with_matrix: Add the scores that this site and the sites before it have measured.
        with_replay: Add the replay buffer: training samples.

    Returns:
        What was written.

    Raises:
        RunStateError: If there is no carry, it is damaged or in use, or what is asked for is not there.
    """
    check_folders(root)
    own = os.path.lexists(root / "run.json")
    if own:
        check_idle(root)
    info: Mapping[str, Any] = read_record(root) if own else {}
    carry = Carry.open(carry_directory(root))
    carry.verify()
    samples = _samples(carry)
    if with_replay and not samples:
        fix = "Leave the option out; nothing is missing."
        raise RunStateError(Problem("--with-replay", "the carry has no replay buffer.", fix))
    kept = {name: r for name, r in carry.files.items() if with_replay or not name.startswith(f"{FOLDER}/")}
    deletions = CarryRecord.read(carry.path / FILE).model_dump()["deletions"] if with_replay else []
    sites = _sites(root, own) if with_matrix else []
    texts = {f"{CARRY}{FILE}": carry_text(carry, kept, deletions)}
    for number, site in enumerate(sites, start=1):
        content = site.model_dump(exclude_unset=True)
        content.pop(CHECKSUM, None)
        texts[f"{SITES}/{number:02d}.json"] = SiteRecord.text(content)
    about = {
        "method": carry.method,
        **_package(carry.method),
        "cl_plugins": __version__,
        "options": shared_options(info["method_options"]) if "method_options" in info else None,
        "stream": carry.stream,
        "stream_tasks": [
            {key: task[key] for key in _TASK if task.get(key) is not None}
            for task in (info.get("stream") or {}).get("tasks") or ()
        ],
        "tasks": list(carry.tasks),
        "base": base_name(carry.base),
        "keys": shared_keys(info.get("recipe") or {}),
        "identity": carry.identity,
        "samples": samples if with_replay else {},
        "left_out": {} if with_replay else samples,
    }
    return write_pack(out, about, texts, ((f"{CARRY}{name}", carry.path / name) for name in kept))


def _samples(carry: Carry) -> dict[str, int]:
    """Samples of the replay buffer by task."""
    buffer = Buffer.open(carry)
    return dict(Counter(sample.task for sample in buffer.samples)) if buffer is not None else {}


def _sites(root: Path, own: bool) -> list[SiteRecord]:
    if not own:
        fix = "Give the `output_dir` of a recipe, or leave the option out."
        raise RunStateError(Problem("--with-matrix", f"{root} is not the directory of a run.", fix))
    return [*earlier_sites(root), site_of(root)]


def _package(method: str) -> dict[str, str | None]:
    """Name and version of the package that registers a method; None where it is not installed here."""
    if method not in METHODS.names():
        return {"package": None, "version": None}
    package = METHODS.distribution(method)
    try:
        return {"package": package, "version": version(package)}
    except PackageNotFoundError:
        return {"package": package, "version": None}
