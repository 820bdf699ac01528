"""`Probe`: a test outside of the stream that tells what else a model has lost (``cl.eval.probes``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..base.errors import Problem
from ..base.schema import option
from .model import Task


#: Evaluation harnesses: what stands in front of the colon -> the extra that installs it, as in ``cl-plugins[lm-eval]``.
HARNESSES = {"lm_eval": "lm-eval", "lmms_eval": "lmms-eval"}
_HARNESS = re.compile(rf"({'|'.join(HARNESSES)}):([A-Za-z0-9_][A-Za-z0-9_.+/-]{{0,199}})")
#: What a harness decides by itself, with its default here.
_OF_DATA: dict[str, Any] = {
    "scorer": "exact_match",
    "max_new_tokens": None,
    "options_column": None,
    "overrides": {},
    "test_size": None,
}
_OF_HARNESS: dict[str, Any] = {"metric": None, "num_fewshot": None, "apply_chat_template": False, "include_path": None}


@dataclass(frozen=True)
class Probe:
    """A test set that no task trains on, or a task of an evaluation harness."""

    name: str = option(help="Short name, used in file names and tables; no task of the stream may have it.")
    test: tuple[str, ...] = option((), help="Test sets: names in `dataset_info.json`, one or a list.")
    scorer: str = option("exact_match", help="How answers are scored; `cl-plugins list` shows the scorers.")
    max_new_tokens: int | None = option(
        None, help="Longest answer in tokens; default: `cl.eval.max_new_tokens`.", minimum=1
    )
    options_column: str | None = option(
        None, help="Column of the raw record that lists the options (multiple choice)."
    )
    overrides: dict[str, Any] = option(
        factory=dict, help="LLaMA-Factory keys that say where the data of this probe are and how they are read."
    )
    after: Literal["every", "last"] = option(
        "every", help="Measure it before the first task and after every task, or before the first and after the last."
    )
    harness: str | None = option(
        None, help="Instead of `test`: a task of a harness, `lm_eval:TASK` or `lmms_eval:TASK` (see Evaluation)."
    )
    metric: str | None = option(None, help="With `harness`: the metric that is the score; default: the task's first.")
    num_fewshot: int | None = option(
        None, help="With `harness`: examples in the prompt; default: the task's.", minimum=0
    )
    apply_chat_template: bool = option(
        False, help="With `lm_eval`: put its prompts into the chat template of the model; lmms_eval always does."
    )
    include_path: str | None = option(
        None, help="With `harness`: a folder with task files (YAML) of your own. They may run code: use your own only."
    )
    title: str | None = option(None, help="Long name.")
    source: str | None = option(None, help="Where the data come from.")
    licence: str | None = option(None, help="Under which terms.")
    test_size: int | None = option(None, help="Number of test items, where known.")

    @property
    def task(self) -> Task:
        """The probe as a task without training data."""
        shared = {field.name for field in fields(Task)} & {field.name for field in fields(self)}
        return Task(**{name: getattr(self, name) for name in shared})

    @property
    def harness_task(self) -> tuple[str, str] | None:
        """Name of the harness and of its task; None for a probe with data of its own."""
        found = _HARNESS.fullmatch(self.harness) if self.harness else None
        return (found[1], found[2]) if found else None

    def value_problems(self, where: str) -> list[Problem]:
        """Names that cannot be file names, and keys that do not go together."""
        found = self.task.name_problems(f"{where}.name")
        if bool(self.test) == bool(self.harness):
            what = "has both `test` and `harness`." if self.test else "has neither `test` nor `harness`."
            found.append(Problem(where, what, "Give one of the two."))
        if self.harness and self.harness_task is None:
            fix = "Write `lm_eval:TASK` or `lmms_eval:TASK`, with the harness's own name of the task."
            found.append(Problem(f"{where}.harness", f"is {self.harness!r}.", fix))
        if self.harness:
            for key, default in _OF_DATA.items():
                if getattr(self, key) != default:
                    what = "is given for a task of a harness, which decides that itself."
                    found.append(Problem(f"{where}.{key}", what, "Leave it out."))
        for key, default in _OF_HARNESS.items():
            if not self.harness and getattr(self, key) != default:
                found.append(Problem(f"{where}.{key}", "is given without `harness`.", "Leave it out."))
        return found


def with_long_probes(settings: Any) -> Any:
    """``cl.eval`` with probes that are written as ``lm_eval:TASK`` as mappings; anything else as it is.

    Args:
        settings: The content of ``cl.eval``.
    """
    probes = settings.get("probes") if isinstance(settings, Mapping) else None
    if isinstance(probes, str):
        probes = [probes]
    if not isinstance(probes, list | tuple):
        return settings
    return {**settings, "probes": [_long(entry) for entry in probes]}


def _long(entry: Any) -> Any:
    found = _HARNESS.fullmatch(entry) if isinstance(entry, str) else None
    if found is None:
        return entry
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", found[2]).strip("._-")
    return {"name": name or found[1], "harness": entry}
