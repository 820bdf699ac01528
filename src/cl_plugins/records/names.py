"""Names that come from a file: what they may look like, so that none of them leads out of its folder."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


#: Name of a task; also one component of a path.
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
#: One component of a path inside a carry or a run.
_COMPONENT = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}"
_TENSORS = rf"(?:{_COMPONENT}/)?{_COMPONENT}\.(?:safetensors|json)"
_REPLAY = rf"replay/(?:manifest|dataset_info)\.json|replay/samples\.jsonl|replay/{_COMPONENT}\.safetensors"
#: Name of a medium inside the replay buffer.
MEDIUM = re.compile(r"media/[0-9a-f]{32}(?:\.[a-z0-9]{1,16})?")
_CARRY_FILE = re.compile(rf"(?:{_REPLAY}|replay/{MEDIUM.pattern}|(?!replay/){_TENSORS})")


def is_carry_file(name: str) -> bool:
    """Whether a name is one that a file of a carry may have.

    That is ``<name>.safetensors``, ``<folder>/<name>.safetensors``, the same with ``.json``, or a file of the replay
    buffer.
    """
    return _CARRY_FILE.fullmatch(name) is not None and name != "carry.json"


def is_run_file(name: str) -> bool:
    """Whether a name is one that the journal may give to a file of a run: relative, without ``..`` and hidden parts."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not any(part == "" or part.startswith(".") for part in parts)


def _task(value: str) -> str:
    if TASK.fullmatch(value) is None:
        raise ValueError("it should be a task name (letters, digits, '_', '.' and '-')")
    return value


def _carry_file(value: str) -> str:
    if not is_carry_file(value):
        raise ValueError("it should be the name of a file inside the carry")
    return value


def _run_file(value: str) -> str:
    if not is_run_file(value):
        raise ValueError("it should be the name of a file inside the run")
    return value


TaskName = Annotated[str, AfterValidator(_task)]
CarryFile = Annotated[str, AfterValidator(_carry_file)]
RunFile = Annotated[str, AfterValidator(_run_file)]
