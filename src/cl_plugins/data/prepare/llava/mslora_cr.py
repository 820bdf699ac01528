"""MSLoRA-CR: eight biomedical data sets. Annotations come from the authors, pictures from eight other places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ....evaluation.scorers.options import parse_reference
from ..contract import Drop, Record, Source
from .base import LlavaTask


ANNOTATIONS = "https://huggingface.co/datasets/VentusAislant/MSLoRA_CR"


def _layout(
    folder: str, pictures: str, test_pictures: str | None = None
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Annotation files and picture folders."""
    files = {"train": (f"{folder}/train.json",), "test": (f"{folder}/test.jsonl", f"{folder}/test.json")}
    return files, {"train": (f"{folder}/{pictures}",), "test": (f"{folder}/{test_pictures or pictures}",)}


def _sources(folder: str, where: str, terms: str, *pictures: str) -> tuple[Source, ...]:
    """Annotations and pictures, which are two downloads."""
    return (
        Source(
            f"MSLoRA-CR {folder}",
            f"annotations: {ANNOTATIONS}; pictures: {where}",
            f"annotations: unknown, they hold text of the data set; pictures: {terms}",
            (f"{folder}/train.json", f"{folder}/test.jsonl", *(f"{folder}/{name}/" for name in pictures)),
        ),
    )


class _Biomedical(LlavaTask):
    """One of the eight tasks. The data sets are shared by the streams of eight and of six tasks."""

    stream = "mslora_cr"
    answer = "gt"
    # The authors' test code opens the first of several pictures. Their training code reads one, and fails on a list: what
    # is trained on has the form of what is tested.
    first_picture_only = True
    columns: ClassVar[Mapping[str, type]] = {**LlavaTask.columns, "answer_type": str}
    answer_type: ClassVar[str] = "OPEN"  # what the authors assume where the field is missing

    def extra(self, split: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Whether a test question is open or closed."""
        return {"answer_type": raw.get("answer_type") or self.answer_type} if split == "test" else {}

    def answer_field(self, raw: Mapping[str, Any]) -> object:
        """``gt``; ``answer`` if a file has that instead."""
        return raw.get("gt", raw.get("answer"))


class _Choice(_Biomedical):
    """A task with one fixed list of answers; the strict scorer takes it from the column ``options``."""

    version = 3
    options: ClassVar[tuple[str, ...]]
    answer_type = "CLOSED"
    columns: ClassVar[Mapping[str, type]] = {**_Biomedical.columns, "options": list}

    def extra(self, split: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The list of answers."""
        return {**super().extra(split, raw), "options": self.options}

    def record(self, split: str, name: str, raw: Any) -> Record | Drop:
        """One record; a test item whose reference names no option is left out, since nothing could be right."""
        made = super().record(split, name, raw)
        if split == "train" or isinstance(made, Drop):
            return made
        answer = made.turns[-1].answer
        if isinstance(answer, str) and answer.strip() and parse_reference(answer.strip(), self.options) is None:
            return Drop(name, "reference names no option", f"{answer!r:.80}")
        return made


class Pathology(_Biomedical):
    """PathVQA, official split."""

    task = "pathvqa"
    annotations, folders = _layout("PathVQA", "images")
    sources = _sources(
        "PathVQA",
        "the Google Drive link on https://github.com/UCSD-AI4H/PathVQA",
        "MIT on the data card; pictures and captions belong to their publishers and authors",
        "images",
    )


class Radiology(_Biomedical):
    """SLAKE and VQA-RAD in one file; both count their questions from 1."""

    task = "slake_vqarad"
    annotations, folders = _layout("Slake-VQARad", "Slake_images")
    sources = _sources(
        "Slake-VQARad",
        "SLAKE: https://www.med-vqa.com/slake/ (Slake_images), VQA-RAD: https://osf.io/89kps/ (VqaRad_images)",
        "unknown; both openly available",
        "Slake_images",
        "VqaRad_images",
    )

    def missing(self) -> list[Path]:
        """Also the second picture folder."""
        absent = super().missing()
        here = self.picture_folder("test")
        base = here.parent if here is not None else self.raw / "Slake-VQARad"
        return [*absent, *self.need(base / "VqaRad_images")]


class Skin(_Biomedical):
    """Fitzpatrick17k. Open answers are lists with commas and without spaces, and stay so."""

    task = "derm"
    annotations, folders = _layout("Fitzpatrick", "images")
    sources = _sources(
        "Fitzpatrick", "by request: https://github.com/mattgroh/fitzpatrick17k", "by request to its authors", "images"
    )


class LymphNodes(_Choice):
    """PCam: tumour or not."""

    task = "pcam"
    options = ("Positive", "Negative")
    annotations, folders = _layout("PCam", "train", "test")
    sources = _sources("PCam", "https://github.com/basveeling/pcam", "unknown", "train", "test")


class Pneumonia(_Choice):
    """Chest X-Ray Images (Pneumonia)."""

    task = "cxp"
    options = ("normal", "pneumonia")
    annotations, folders = _layout("CXP", "train", "test")
    sources = _sources(
        "CXP",
        "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
        "unknown; read the terms there",
        "train",
        "test",
    )


class Lesions(_Choice):
    """HAM10000; the question ids are lesion ids, and several pictures may show one lesion."""

    task = "ham"
    options = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    annotations, folders = _layout("HAM", "images")
    sources = _sources("HAM", "HAM10000, doi 10.7910/DVN/DBW86T", "non-commercial (unverified)", "images")


class Slides(_Biomedical):
    """WSI-DX: a report on the thumbnail of a slide."""

    task = "nmi"
    annotations, folders = _layout("WSI-DX", "images")
    sources = _sources(
        "WSI-DX",
        "https://figshare.com/projects/nmi-wsi-diagnosis/61973 (only Slide/Thumbnails/*.png)",
        "unknown",
        "images",
    )


class Chests(_Biomedical):
    """IU X-Ray: a report on a chest radiograph."""

    task = "iu_x_ray"
    annotations, folders = _layout("IU-X-Ray", "NLMCXR_png")
    sources = _sources(
        "IU-X-Ray", "as in https://github.com/nlpaueb/bioCaption", "unknown; openly available", "NLMCXR_png"
    )
