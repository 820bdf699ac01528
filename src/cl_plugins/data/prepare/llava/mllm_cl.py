"""MLLM-CL: the five domains (RS, Med, AD, Sci, Fin) and the four abilities (OCR, Math, VP, APP).

Layouts are those of the authors' README (bjzhb666/MLLM-CL at 80bf389) and, as second choices, the folder names that their
scripts and MCITlib's configuration use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..contract import Setting, Source
from .base import LlavaTask, suffixed


WHERE = "https://huggingface.co/datasets/MLLM-CL/MLLM-CL (also modelscope.cn: zhaohongbo/MLLM-CL)"
CARD = "data card: Apache-2.0, which cannot widen the terms of the sources"
PROMPT = Setting(
    "plain",
    ("plain", "peer"),
    "Test questions as distributed, or with the instruction that the authors' test code adds.",
)
MED_SUFFIX = " Answer the question with a single word (or phrase)."
FIN_YES_NO = " Only answer with yes or no directly."
FIN_LETTER = " Answer with the given letter directly, e.g., A, B, C, D."


def _domain(folder: str, *others: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Annotation files and picture folders of a domain: one folder for both splits."""
    places = (folder, *others)
    # The README calls one of the test files "test.sjon".
    files = {
        "train": tuple(f"{place}/train.json" for place in places),
        "test": tuple(f"{place}/{name}" for place in places for name in ("test.json", "test.sjon")),
    }
    pictures = tuple(f"{place}/images" for place in places)
    return files, {"train": pictures, "test": pictures}


def _source(folder: str, origin: str, terms: str) -> tuple[Source, ...]:
    files = (f"{folder}/train.json", f"{folder}/test.json", f"{folder}/images/")
    return (Source(f"MLLM-CL {folder} ({origin})", WHERE, f"{CARD}; {terms}", files),)


class _Domain(LlavaTask):
    """One of the five domains."""

    stream = "mllm_cl"


class RemoteSensing(_Domain):
    """RS: RSVQA."""

    task = "rs"
    annotations, folders = _domain("RS", "RemoteSensing")
    sources = _source("RS", "RSVQA", "RSVQA: CC BY 4.0 (unverified)")


class Medicine(_Domain):
    """Med: PathVQA, split again by MLLM-CL."""

    task = "med"
    annotations, folders = _domain("Med", "Medical/data", "Medical")
    sources = _source("Med", "PathVQA", "PathVQA: MIT; pictures and captions belong to their publishers and authors")
    settings: ClassVar[Mapping[str, Setting]] = {"prompt": PROMPT}
    notes = (
        "prompt=peer adds MCITlib's instruction to every test question; MLLM-CL adds it for the zero-shot model only.",
    )

    def ask(self, split: str, question: object, answer: object) -> object:
        """The question, with MCITlib's instruction if requested."""
        return suffixed(question, MED_SUFFIX) if self.setting("prompt") == "peer" else question


class Driving(_Domain):
    """AD: DriveLM, six views in one picture."""

    task = "ad"
    annotations, folders = _domain("AD", "AD/DriveLM")
    sources = _source("AD", "DriveLM", "DriveLM (nuScenes): CC BY-NC-SA 4.0 (unverified)")


class Science(_Domain):
    """Sci: AI2D, SciVerse, MapQA and TQA; the file name of the picture says which, so it is kept."""

    task = "sci"
    version = 2
    annotations, folders = _domain("Sci")
    sources = _source(
        "Sci",
        "AI2D, SciVerse, MapQA, TQA",
        "AI2D and MapQA: CC BY-SA, TQA: CC BY-NC 3.0, SciVerse: for research (all unverified)",
    )
    notes = ("A list of states stays one answer with commas, as distributed.",)


class Finance(_Domain):
    """Fin: StockQA."""

    task = "fin"
    annotations, folders = _domain("Fin")
    sources = _source("Fin", "StockQA", "made by the authors of MLLM-CL")
    settings: ClassVar[Mapping[str, Setting]] = {"prompt": PROMPT}
    notes = (
        "prompt=peer adds an instruction chosen by looking at the reference answer, as the authors' test code does.",
    )

    def ask(self, split: str, question: object, answer: object) -> object:
        """The question, with the authors' instruction if requested; which one gives away the kind of the answer."""
        if self.setting("prompt") != "peer":
            return question
        return suffixed(question, FIN_YES_NO if answer in ("Yes", "No") else FIN_LETTER)


def _ability(train: tuple[str, ...], test: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotation files and picture folders of an ability, whose splits come from different places."""
    files = {
        "train": tuple(f"{place}/train.json" for place in train),
        "test": tuple(f"{place}/test.json" for place in test),
    }
    pictures = {
        "train": tuple(f"{place}/images" for place in train) + train,
        "test": tuple(f"{place}/images" for place in test) + test,
    }
    return files, pictures


def _ability_source(train: str, test: str, origin: str) -> tuple[Source, ...]:
    files = (f"{train}/train.json", f"{train}/images/", f"{test}/test.json", f"{test}/images/")
    return (Source(f"MLLM-CL {train} (tested on {origin})", WHERE, f"{CARD}; terms of the sources unknown", files),)


class _Ability(LlavaTask):
    """One of the four abilities."""

    stream = "mllm_cl_ability"
    columns: ClassVar[Mapping[str, type]] = {**LlavaTask.columns, "answer_type": str, "type": str, "task": str}

    def extra(self, split: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The category (OCR), and the dimension and kind of task (VP)."""
        return {name: raw.get(name) for name in ("answer_type", "type", "task")}


class Reading(_Ability):
    """OCR: tested on OCRBench, whose items may have several right answers."""

    task = "ocr"
    version = 2
    annotations, folders = _ability(("OCR",), ("OCR_test",))
    sources = _ability_source("OCR", "OCR_test", "OCRBench")


class Mathematics(_Ability):
    """Math: tested on MathVista."""

    task = "math"
    annotations, folders = _ability(("Math",), ("Math_test",))
    sources = _ability_source("Math", "Math_test", "MathVista testmini")


class Perception(_Ability):
    """VP: counting, tested on CV-Bench."""

    task = "vp"
    annotations, folders = _ability(("VP",), ("VP_test", "CV-Benchv2"))
    sources = _ability_source("VP", "VP_test", "CV-Bench")


class Screens(_Ability):
    """APP: acting on screens, tested on MMT-Bench."""

    task = "app"
    annotations, folders = _ability(("APP", "App"), ("APP_test", "App_test"))
    sources = _ability_source("APP", "APP_test", "MMT-Bench")
    notes = ("Items whose answer is withheld by the evaluation server cannot be scored and are dropped.",)
