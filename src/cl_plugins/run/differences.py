"""How two identities of a run differ, key by key, with the names that a recipe has for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


#: So much of a value is shown.
_WIDTH = 80
_MISSING = object()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key that differs, as in ``learning_rate: 0.003 before, 0.005 now``.

    Args:
        old: What counts of the identity in ``run.json``: ``recipe``, ``stream``, ``base``, ``data``, ``carry_from``.
        new: The same of the recipe that was started.
    """
    found = list(_between("", old["recipe"], new["recipe"]))
    found += _of_stream(old["stream"], new["stream"])
    found += _between("the base's ", old["base"], new["base"])
    for name in sorted({*old["data"], *new["data"]}):
        before, after = old["data"].get(name, _MISSING), new["data"].get(name, _MISSING)
        if _MISSING in (before, after):
            found.append(f"data set '{name}': {'not used' if before is _MISSING else 'used'} before, {'not used' if after is _MISSING else 'used'} now")  # fmt: skip
        else:
            found += _between(f"data set '{name}', ", before, after)
    found += _between("", {"cl.carry_from": old["carry_from"]}, {"cl.carry_from": new["carry_from"]})
    return found


def _of_stream(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Tasks by name: of those that both have each key, else their names in order."""
    names = [[task["name"] for task in stream["tasks"]] for stream in (old, new)]
    found = list(_between("stream: ", _but_tasks(old), _but_tasks(new)))
    if names[0] != names[1]:
        found.append(f"tasks in order: {', '.join(names[0])} before, {', '.join(names[1])} now")
    after = {task["name"]: task for task in new["tasks"]}
    for task in old["tasks"]:
        if task["name"] in after:
            found += _between(f"task '{task['name']}': ", task, after[task["name"]])
    return found


def _but_tasks(stream: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stream.items() if key != "tasks"}


def _between(where: str, old: Any, new: Any) -> Iterator[str]:
    """Lines for two values, into mappings of both sides."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            inside = f"{where}{key}"
            before, after = old.get(key, _MISSING), new.get(key, _MISSING)
            deeper = isinstance(before, Mapping) and isinstance(after, Mapping)
            yield from _between(f"{inside}." if deeper else inside, before, after)
    elif old is _MISSING or new is _MISSING or old != new:
        yield f"{where}: {_shown(old)} before, {_shown(new)} now"


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "not set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
