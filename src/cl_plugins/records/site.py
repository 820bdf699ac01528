"""Stream, recipe and notes of a site as its rows of the matrix tell them: closed forms, without names of data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from .names import TASK, TaskName
from .record import Count
from .told import entry_hash, told_block, told_extra, told_keys


_NAME = TASK.pattern
_NAMES = rf"{_NAME}(?:, {_NAME})*"
#: What this package says of a run in words of its own, with names of tasks.
_SAID = re.compile(
    rf"The stream has {_NAMES} before {_NAME}; the model was not trained on (?:it|them)\."
    r"|The tasks were trained by different numbers of processes, so that their batches differ in size: "
    rf"{_NAME} by [0-9]+(?:, {_NAME} by [0-9]+)*\."
)
#: Stands for notes on where weights or scores come from, which name files.
IMPORTED = "The weights were not trained here but imported."
AGAIN = "All answers were given again, with the weights of another run."


def is_said(note: str) -> bool:
    """Whether a note is one that this package writes, and names nothing but tasks."""
    return note in (IMPORTED, AGAIN) or _SAID.fullmatch(note) is not None


def _hashed(column: object) -> object:
    return column if column is None else entry_hash(column)


class _Told(BaseModel):
    """A part of which only the named fields are read."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class SiteTask(_Told):
    """One task of the stream; its data sets have numbers in place of their names, and the column of its options a hash."""

    name: TaskName
    train: list[str] = []
    test: list[str] = []
    overrides: Annotated[dict[str, Any], BeforeValidator(told_keys)] = {}
    scorer: str | None = None
    peer_scorer: str | None = None
    modality: str | None = None
    max_new_tokens: Count | None = None
    options_column: Annotated[str | None, BeforeValidator(_hashed)] = None


class SiteStream(_Told):
    """The stream: its name and its tasks, in order."""

    name: str
    tasks: list[SiteTask]


class SiteBlock(BaseModel):
    """The ``cl`` block as far as it travels."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    method: dict[str, Any] | str | None = None
    replay: dict[str, Any] | None = None
    task_overrides: dict[str, Any] | None = None
    order: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _told(cls, data: Any) -> Any:
        return told_block(data) if isinstance(data, Mapping) else data


class SiteRecipe(BaseModel):
    """The resolved recipe as far as it travels: the host's keys and the ``cl`` block."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    cl: SiteBlock

    @model_validator(mode="before")
    @classmethod
    def _told(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {
            **told_keys({k: v for k, v in data.items() if k != "cl"}),
            **({"cl": data["cl"]} if "cl" in data else {}),
        }


def without_names(data: Any) -> Any:
    """A site's record with numbers in place of the names of its data sets, and routes to its own tasks only.

    Args:
        data: The content of the file, as it was parsed; what has another form than expected is left to the reader.
    """
    try:
        tasks = [dict(task) for task in data["stream"]["tasks"]]
        known = data.get("data") or {}
        found: dict[str, Any] = {}
        for task in tasks:
            for split in ("train", "test"):
                names = task.get(split) or []
                numbered = [split] if len(names) == 1 else [f"{split}_{number}" for number in range(1, len(names) + 1)]
                here = [
                    (new, known[f"{task['name']}/{old}"])
                    for new, old in zip(numbered, names, strict=True)
                    if f"{task['name']}/{old}" in known
                ]
                found |= {f"{task['name']}/{new}": record for new, record in here}
                if split in task:
                    task[split] = numbered
        names_of = {task["name"] for task in tasks}
        cells = {
            row: {name: _routed(score, names_of) for name, score in scores.items()}
            for row, scores in data["cells"].items()
        }
        more = {"data": found} if "data" in data else {}
        return {**data, "stream": {**data["stream"], "tasks": tasks}, "cells": cells, **more}
    except (KeyError, TypeError, AttributeError, ValueError):
        return data


def _routed(score: Any, tasks: set[str]) -> Any:
    extra = told_extra(score.get("extra"))
    if "routes" in extra:
        extra["routes"] = {name: number for name, number in extra["routes"].items() if name in tasks}
    return {**score, "extra": extra} if "extra" in score else score
