"""A carry that is newer than the journal: what a kill between the two leaves."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import Problem, RunStateError
from ..base.files import artefact
from ..base.words import either, words
from ..contract.carry import Carry
from ..records.carry import CarryRecord
from .journal import Journal
from .plan import Step


def adopt_carry(root: Path, journal: Journal) -> bool:
    """Note a carry that was put into its place right before the run was killed, so that the journal does not know it.

    It is complete, since a carry is renamed into place as a whole.

    Args:
        root: The output directory.
        journal: Its journal; the step is added in memory.

    Returns:
        Whether there was one.

    Raises:
        RunStateError: If the carry is of a task whose training is not finished: it belongs to another run.
    """
    folder = root / "carry"
    if not (folder / "carry.json").is_file():
        return False
    task = Carry.open(folder).tasks[-1]
    key = Step("consolidate", task).key
    if key in journal:
        return False
    if Step("train", task).key not in journal:
        what = f"ends with task '{task}', whose training is not in the journal."
        raise RunStateError(Problem(str(folder), what, either(words().anew, words().elsewhere)))
    journal.add(key, 0.0, artefact(root, folder / "carry.json"), recovered=True)
    return True


def adopt_deletions(root: Path, journal: Journal) -> bool:
    """Note deletions from the replay buffer that the carry names and the journal does not, as after a kill.

    Args:
        root: The output directory.
        journal: Its journal; entries are added in memory.

    Returns:
        Whether there were any.
    """
    path = root / "carry" / "carry.json"
    if not path.is_file():
        return False
    new = [entry for entry in CarryRecord.read(path).deletions if entry.key not in journal]
    for entry in new:
        journal.add(entry.key, 0.0, artefact(root, path), samples=dict(entry.samples))
    return bool(new)
