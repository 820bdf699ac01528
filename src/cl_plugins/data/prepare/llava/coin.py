"""CoIN: instructions from the authors, pictures from the eight collections that they were written for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ....base.outside import read_json
from ....evaluation.scorers.options import parse_options, parse_reference
from ..contract import Drop, Record, Setting, Source
from .base import LlavaTask, suffixed
from .fields import picture_names


WHERE = "https://huggingface.co/datasets/Zacks-Chen/CoIN"
#: The instruction sets, by the folder names that data card, README and scripts use for them.
SETS: dict[str, tuple[str, ...]] = {
    "original": ("Instruction_Original", "Instructions_Original", "Instruction_Type1", "Instructions"),
    "type2": ("Instruction_Type2", "Instructions_Type2"),
}
#: Folders that the names of pictures may be relative to.
PICTURES = ("cl_dataset", "DatasetCoIN", "datasets", "images")
LETTER_PROMPT = "\nAnswer with the option's letter from the given choices directly."


class _Coin(LlavaTask):
    """One of the eight tasks.

    Attributes:
        places: Folder names of the task inside an instruction set.
        test_files: Names of its test file, the one that the authors test on first.
        collections: Folders of the pictures of this task, wherever the pictures are.
    """

    stream = "coin"
    places: ClassVar[tuple[str, ...]]
    test_files: ClassVar[tuple[str, ...]] = ("test.json", "val.json")
    collections: ClassVar[tuple[str, ...]]
    settings: ClassVar[Mapping[str, Setting]] = {
        "instructions": Setting("original", ("original", "type2"), "Which of the authors' instruction sets.")
    }

    def names(self, split: str) -> Sequence[str]:
        """Names of the annotation file in the chosen instruction set."""
        names = ("train.json",) if split == "train" else self.test_files
        chosen = SETS[self.setting("instructions")]
        return [f"{one}/{place}/{name}" for one in chosen for place in self.places for name in names]

    def picture_folder(self, split: str) -> Path | None:
        """The folder that holds the collections of this task."""
        for base in (*(self.raw / name for name in PICTURES), self.raw):
            if all((base / each).is_dir() for each in self.collections):
                return base
        return None

    def missing(self) -> list[Path]:
        """Annotation files and collections that are not there."""
        absent = [self.raw / self.names(split)[0] for split in self.splits if self.annotation(split) is None]
        if self.picture_folder("train") is None:
            absent += self.need(*(self.raw / "cl_dataset" / each for each in self.collections))
        return absent


def _sources(
    task: str, pictures: str, collections: Sequence[str], test: str = "test.json", *more: str
) -> tuple[Source, ...]:
    """Instructions and pictures, which are two downloads."""
    files = (f"Instruction_Original/{task}/train.json", f"Instruction_Original/{task}/{test}", *more)
    return (
        Source(
            f"CoIN {task}",
            f"instructions: {WHERE}; pictures: {pictures}",
            "instructions: CC BY 4.0; pictures: unknown, read the terms there",
            (*files, *(f"cl_dataset/{each}/" for each in collections)),
        ),
    )


class ScienceQA(_Coin):
    """School science, multiple choice; some questions have no picture."""

    task = "scienceqa"
    places = ("ScienceQA",)
    collections = ("ScienceQA",)
    sources = _sources("ScienceQA", "the Google Drive link on https://github.com/zackschen/CoIN", collections)
    text_only = True
    columns: ClassVar[Mapping[str, type]] = {**LlavaTask.columns, "options": list}
    settings: ClassVar[Mapping[str, Setting]] = {
        **_Coin.settings,
        "prompt": Setting(
            "plain", ("plain", "peer"), "Test questions as distributed, or with the authors' letter prompt."
        ),
    }

    def ask(self, split: str, question: object, answer: object) -> object:
        """The question, with the letter prompt if requested."""
        return suffixed(question, LETTER_PROMPT) if self.setting("prompt") == "peer" else question

    def record(self, split: str, name: str, raw: Any) -> Record | Drop:
        """One record; a test item whose reference names no option is left out, since nothing could be right."""
        made = super().record(split, name, raw)
        if split == "train" or isinstance(made, Drop):
            return made
        turn = made.turns[-1]
        # None where the text lists none: as many as the reference needs would say which one is right.
        options = parse_options(str(turn.question))
        answer = turn.answer
        if isinstance(answer, str) and answer.strip() and parse_reference(answer, options) is None:
            listed = f"the options are {list(options)}" if options else "the question lists no options"
            return Drop(name, "reference names no option", f"{answer!r:.80}; {listed:.300}")
        return replace(made, extra={**made.extra, "options": list(options or ())})


class TextVQA(_Coin):
    """Reading text in photographs.

    The answers of all ten annotators, which the published soft accuracy needs, come from the record or from TextVQA's
    own file, by picture and question. The reference stays the record's own answer.
    """

    task = "textvqa"
    version = 4
    places = ("TextVQA",)
    test_files = ("val.json", "test.json")
    collections = ("TextVQA",)
    sources = _sources(
        "TextVQA", "https://textvqa.org/dataset", collections, "val.json", "cl_dataset/TextVQA/TextVQA_0.5.1_val.json"
    )

    def _annotators_file(self) -> Path | None:
        """TextVQA's own annotations; next to the pictures, as CoIN's README puts them."""
        folder = self.picture_folder("test")
        path = folder / "TextVQA" / "TextVQA_0.5.1_val.json" if folder is not None else None
        return path if path is not None and path.is_file() else None

    def inputs(self, split: str) -> list[Path]:
        """Also TextVQA's own annotations."""
        path = self._annotators_file() if split == "test" else None
        return super().inputs(split) + ([path] if path is not None else [])

    @cached_property
    def _annotators(self) -> dict[tuple[str, str], list[str]]:
        """(picture, question) -> the answers of all annotators.

        Raises:
            DataError: The file is not in TextVQA's layout.
        """
        path = self._annotators_file()
        if path is None:
            return {}
        try:
            entries = read_json(path)["data"]
            return {
                (str(entry["image_id"]), _question(str(entry["question"]))): [str(a) for a in entry["answers"]]
                for entry in entries
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.unreadable(path, f"not in TextVQA's layout: {type(error).__name__}: {error}") from error

    def _all_answers(self, raw: Mapping[str, Any]) -> list[str]:
        """The annotators' answers to a test record; both its picture and its question have to be theirs."""
        names = picture_names(raw)
        if not names or not isinstance(raw.get(self.question), str):
            return []
        stem = PurePosixPath(names[0].replace("\\", "/")).stem
        return self._annotators.get((stem, _question(raw[self.question])), [])

    def record(self, split: str, name: str, raw: Any) -> Record | Drop:
        """One record, with the annotators' answers."""
        made = super().record(split, name, raw)
        if split == "train" or isinstance(made, Drop) or made.extra.get("answers"):
            return made
        return replace(made, extra={**made.extra, "answers": self._all_answers(raw)})

    def remarks(self, split: str) -> list[str]:
        """Also how many test items have no annotators' answers."""
        found = super().remarks(split)
        if split == "train":
            return found
        count = without = 0
        for raw in self.raw_records(split):
            if isinstance(raw, Mapping):
                count += 1
                without += not isinstance(raw.get(self.answer), list) and not self._all_answers(raw)
        if without:
            where = "cl_dataset/TextVQA/TextVQA_0.5.1_val.json"
            why = "which does not have their picture and question" if self._annotators_file() else "which is not there"
            found.append(
                f"{without} of {count} items have no answers of the ten annotators (from {where}, {why}); "
                "`peer:coin:textvqa` refuses a test set with such items"
            )
        return found


def _question(text: str) -> str:
    """The question in a prompt, in lower case, in the three forms that the authors' evaluation takes apart.

    The question comes first, with recognised words and the instruction behind it; or the words come first, on a line of
    their own; or all of it is one text, ``OCR tokens: ... Question: ... Short answer:``.
    """
    text = text.replace("<image>", "").strip()
    if text.startswith("OCR tokens:"):
        match = re.search(r"Question: (.*?) Short answer:", text, re.DOTALL)
        return " ".join(match[1].lower().split()) if match else ""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith("Reference OCR token:"):
        del lines[0]
    return " ".join(lines[0].lower().split()) if lines else ""


class ImageNet(_Coin):
    """Naming the object."""

    task = "imagenet"
    places = ("ImageNet",)
    collections = ("ImageNet",)
    sources = _sources("ImageNet", "https://image-net.org/challenges/LSVRC/index.php", collections)


class GQA(_Coin):
    """Compositional questions about scenes."""

    task = "gqa"
    places = ("GQA",)
    collections = ("GQA",)
    sources = _sources("GQA", "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip", collections)


class VizWiz(_Coin):
    """Questions of blind users about their photographs."""

    task = "vizwiz"
    places = ("VizWiz",)
    collections = ("VizWiz",)
    test_files = ("test.json", "val.json")
    sources = _sources("VizWiz", "https://vizwiz.org/tasks-and-datasets/vqa/", collections)


class Grounding(_Coin):
    """Where the described thing is. The reference is the box, in fractions of the padded square."""

    task = "grounding"
    places = ("Grounding",)
    collections = ("COCO2014",)
    sources = _sources("Grounding", "http://images.cocodataset.org/zips/train2014.zip", collections)
    columns: ClassVar[Mapping[str, type]] = {**LlavaTask.columns, "answer_bbox": str, "size": list}
    notes = ("Boxes refer to pictures padded to a square.",)
    square = True

    def answer_field(self, raw: Mapping[str, Any]) -> object:
        """The box, as text."""
        box = raw.get("answer_bbox", raw.get(self.answer))
        return str(box) if isinstance(box, list) and len(box) == 4 else box

    def extra(self, split: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The box and the size of the picture, which the published scorer needs."""
        if split == "train":
            return {}
        return {"answer_bbox": self.answer_field(raw), "size": raw.get("size")}


class VQAv2(_Coin):
    """Everyday questions; the authors test on ``val.json``."""

    task = "vqav2"
    places = ("VQAv2",)
    test_files = ("val.json", "test.json")
    collections = ("COCO2014",)
    sources = _sources("VQAv2", "https://cocodataset.org (train2014, val2014, test2015)", collections, "val.json")


class OCRVQA(_Coin):
    """Questions about book covers."""

    task = "ocrvqa"
    places = ("OCRVQA", "OCR-VQA")
    collections = ("OCR-VQA",)
    sources = _sources("OCRVQA", "the Google Drive link on https://github.com/zackschen/CoIN", collections)
