"""TRACE: eight tasks, each a folder with ``train.json``, ``eval.json`` and ``test.json``, lists of prompt and answer."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ....base.errors import Problem
from ....evaluation.scorers.options import parse_reference
from ..contract import Context, Converter, Drop, Record, Setting, Source, Turn, Unit, chunked
from ..readers import json_records
from .words import first_folder, last_words, words_problem, words_setting


#: Names that the authors' scripts and archive give to the folder of all tasks.
TOPS = ("LLM-CL-Benchmark_5000", "LLM-CL-Benchmark", "LLM-CL_Benchmark", "TRACE-Benchmark/LLM-CL-Benchmark_5000")


class _Trace(Converter):
    """One of the eight tasks.

    Attributes:
        folder: The authors' name of its folder.
        origin: What its texts were made from.
        options: The answers, where the task is a choice among the same few.
    """

    stream = "trace"
    folder: ClassVar[str]
    origin: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, type]] = {"options": list}
    settings: ClassVar[Mapping[str, Setting]] = {
        "max_words": words_setting("a prompt, from its end, since the authors truncate prompts on the left")
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.sources = _sources(cls.folder, cls.origin)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if self._place is not None and (self._place / "eval.json").is_file():
            self.splits = ("train", "valid", "test")

    @cached_property
    def _place(self) -> Path | None:
        """The folder of the task."""
        own = [self.raw] if self.raw.name in (self.task, self.folder) else []
        places = [*(self.raw / top / self.folder for top in TOPS), self.raw / self.folder, *own]
        return first_folder(places, ["train.json", "test.json"])

    def missing(self) -> list[Path]:
        """Training and test file, if one of them is not there; ``eval.json`` may be."""
        if self._place is not None:
            return []
        return self.need(*(self.raw / self.folder / f"{split}.json" for split in ("train", "test")))

    def check(self) -> list[Problem]:
        """Whether the number of words is one."""
        return words_problem(self.setting("max_words"), self.task)

    def inputs(self, split: str) -> list[Path]:
        """The file of the split."""
        name = "eval" if split == "valid" else split
        return [(self._place or self.raw / self.folder) / f"{name}.json"]

    def units(self, split: str) -> Iterator[Unit]:
        """The records of the file, 200 at a time."""
        yield from chunked(json_records(self.inputs(split)[0]), size=200)

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The records of one unit."""
        for row, raw in unit.items():
            name = f"{self.task}-{split}-{row:06d}"
            if not isinstance(raw, Mapping):
                yield Drop(name, "not a record", f"found {type(raw).__name__} where an object was expected")
                continue
            prompt = raw.get("prompt")
            if isinstance(prompt, str):
                prompt = last_words(prompt, self.setting("max_words"))
            yield self.record(split, name, prompt, raw.get("answer"))

    def record(self, split: str, name: str, prompt: object, answer: object) -> Record | Drop:
        """One record, or why it is left out.

        Args:
            split: The split.
            name: Its id.
            prompt: The prompt.
            answer: The answer.
        """
        extra: dict[str, Any] = {"options": list(self.options)} if self.options else {}
        if split == "test" and self.options and isinstance(answer, str):
            if parse_reference(answer.strip(), self.options) is None:
                return Drop(name, "reference names no option", f"{answer!r:.80}")
        return Record(name, (Turn(prompt, answer),), extra=extra)

    def remarks(self, split: str) -> list[str]:
        """Whether prompts were shortened, and whether there is a validation set."""
        found = []
        if self.setting("max_words") != "all":
            found.append(f"prompts begin at their last {self.setting('max_words')} words")
        if split == "train" and "valid" not in self.splits:
            found.append("there is no eval.json, so there is no validation set")
        return found


def _sources(folder: str, where: str) -> tuple[Source, ...]:
    return (
        Source(
            f"TRACE {folder}",
            f"the Google Drive link on https://github.com/BeyonderXX/TRACE (made from {where})",
            "code: Apache-2.0; texts: unknown, read the terms of their source",
            (f"{folder}/train.json", f"{folder}/eval.json", f"{folder}/test.json"),
        ),
    )


class CStance(_Trace):
    """Stance of a Chinese text towards a target; the answers are letters."""

    task = "c_stance"
    folder = "C-STANCE"
    options = ("支持", "反对", "中立")
    origin = "C-STANCE"


class FOMC(_Trace):
    """Stance on monetary policy. One release answers with letters, another one with the words."""

    task = "fomc"
    folder = "FOMC"
    options = ("dovish", "hawkish", "neutral")
    origin = "FOMC, Trillion Dollar Words"


class MeetingBank(_Trace):
    """Summary of a meeting."""

    task = "meetingbank"
    folder = "MeetingBank"
    origin = "MeetingBank"


class Py150(_Trace):
    """The next line of a Python program."""

    task = "py150"
    folder = "Py150"
    origin = "Py150 as in CodeXGLUE"


class ScienceQA(_Trace):
    """School science: a letter, and on the next line the reasons.

    Training answers are as distributed. The reference of a test item is the letter alone; the answer with its reasons is
    kept in ``answers``.
    """

    task = "scienceqa"
    version = 2
    folder = "ScienceQA"
    columns: ClassVar[Mapping[str, type]] = {"answers": list}
    origin = "ScienceQA"

    def record(self, split: str, name: str, prompt: object, answer: object) -> Record | Drop:
        """One record; the letter is split off for test."""
        if split != "test" or not isinstance(answer, str) or not answer.strip():
            return Record.ask(name, prompt, answer)
        text = answer.strip()
        letter = text.removeprefix("Answer:").lstrip() or text  # the first release puts that in front
        if letter[0] not in string.ascii_uppercase or letter[1:2].isalnum():
            return Drop(name, "reference begins with no letter of an option", f"{answer!r:.80}")
        return Record.ask(name, prompt, letter[0], answers=[text])


class Commonsense(_Trace):
    """Arithmetic that needs common sense (NumGLUE, type 1)."""

    task = "numglue_cm"
    folder = "NumGLUE-cm"
    origin = "NumGLUE"


class DomainSpecific(_Trace):
    """Arithmetic with knowledge of a domain (NumGLUE, type 2)."""

    task = "numglue_ds"
    folder = "NumGLUE-ds"
    origin = "NumGLUE"


class Simplification(_Trace):
    """A paragraph of a Swiss newspaper in plain German."""

    task = "20minuten"
    folder = "20Minuten"
    origin = "20 Minuten"
