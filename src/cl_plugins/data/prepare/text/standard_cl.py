"""The standard text benchmark: topics and sentiments, in the four tasks of O-LoRA's orders 1 to 3.

The texts come in one of three forms: the JSON files that O-LoRA distributes (``CL_Benchmark``), the CSV files of Zhang
et al. 2015, from which those were drawn, or the few-shot files of LFPT5 (tab-separated, no titles).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ....base.outside import OutsideError, open_regular
from ..contract import Context, Converter, Drop, Record, Setting, Source, Unit, chunked, natural
from ..options import rng_for
from ..readers import csv_lines, json_records
from .words import first_folder, first_words, words_problem, words_setting


OLORA = "https://github.com/cmnfriend/O-LoRA"
LFPT5 = "https://github.com/qcwthu/Lifelong-Fewshot-Language-Learning"
INSTRUCTIONS = {
    "TC": "What is the topic of the following paragraph? Choose one from the option.\n",
    "SC": "What is the sentiment of the following paragraph? Choose one from the option.\n",
}
TEST_ROWS = 7600  # of O-LoRA's test files, all four
FORMS = {"olora": "O-LoRA's JSON files", "csv": "the CSV files of Zhang et al.", "lfpt5": "LFPT5's few-shot files"}


class _Classification(Converter):
    """One of the four tasks.

    Attributes:
        kind: ``TC`` (topic) or ``SC`` (sentiment), as O-LoRA calls them.
        labels: The answers in the order of ``labels.json``, which is that of the classes in the CSV files.
        csv_folder: Folder of the CSV files.
        short: LFPT5's word for each label.
        train_rows: Rows of O-LoRA's training file.
    """

    stream = "standard_cl"
    kind: ClassVar[str] = "TC"
    labels: ClassVar[tuple[str, ...]]
    csv_folder: ClassVar[str]
    short: ClassVar[Mapping[str, str]]
    train_rows: ClassVar[int]
    columns: ClassVar[Mapping[str, type]] = {"options": list}
    settings: ClassVar[Mapping[str, Setting]] = {
        "form": Setting("auto", ("auto", *FORMS), "Which files are read, if there are several."),
        "prompt": Setting(
            "peer",
            ("peer", "plain"),
            "O-LoRA's prompt, or the same without its two lines that name task and data set.",
        ),
        "rows": Setting("sample", ("sample", "all"), "Of CSV files: as many rows as O-LoRA has, drawn, or all."),
        "draw": Setting("0_42", ("0_42", "1_142", "2_242"), "Which of LFPT5's three draws."),
        "max_words": words_setting("a text, from its beginning"),
    }
    notes = ("O-LoRA's dev.json is the same file as its test.json, so there is no validation set.",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.labels = tuple(cls.short)
        cls.sources = _sources(cls.task, cls.kind, cls.csv_folder)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._own = [self.raw] if self.raw.name == self.task else []

    def _places(self, form: str) -> list[Path]:
        """Where the files of a form may be."""
        if form == "olora":
            name = f"{self.kind}/{self.task}"
            return [self.raw / "CL_Benchmark" / name, self.raw / name, self.raw / self.task, *self._own]
        if form == "csv":
            return [self.raw / self.csv_folder, self.raw / self.task, *self._own]
        name = f"{self.csv_folder}/{self.setting('draw')}"
        inside = Path("textclassificationdata") / name
        return [self.raw / "Classification" / inside, self.raw / inside, self.raw / name]

    @staticmethod
    def _names(form: str) -> list[str]:
        """Names of the files of a form: training, test."""
        end = {"olora": "json", "csv": "csv", "lfpt5": "txt"}[form]
        return [f"train.{end}", f"test.{end}"]

    @cached_property
    def _found(self) -> tuple[str, Path] | None:
        """The form that is used, and its folder: the first one of which both files are there."""
        wanted = self.setting("form")
        for form in FORMS if wanted == "auto" else (wanted,):
            folder = first_folder(self._places(form), self._names(form))
            if folder is not None:
                return form, folder
        return None

    def missing(self) -> list[Path]:
        """The files of the requested form, or O-LoRA's, if no form is complete."""
        if self._found is not None:
            return []
        form = self.setting("form")
        form = "olora" if form == "auto" else form
        folder = self._places(form)[0]
        return self.need(*(folder / name for name in self._names(form)))

    def check(self) -> list[Problem]:
        """Whether the number of words is one."""
        return words_problem(self.setting("max_words"), self.task)

    def _path(self, split: str) -> tuple[str, Path]:
        """Form and file of a split.

        Raises:
            DataError: No form is complete.
        """
        if self._found is None:
            raise self.unreadable(self.raw, "no complete pair of train and test files")
        form, folder = self._found
        return form, folder / self._names(form)[split == "test"]

    def inputs(self, split: str) -> list[Path]:
        """The file of the split."""
        return [self._path(split)[1]]

    def units(self, split: str) -> Iterator[Unit]:
        """(row, content) of the chosen rows, 200 at a time."""
        yield from chunked(self._rows(split), size=200)

    def _rows(self, split: str) -> Iterator[tuple[int, Any]]:
        form, path = self._path(split)
        if form == "olora":
            yield from enumerate(json_records(path))
        elif form == "lfpt5":
            yield from enumerate(_tab_rows(path))
        else:
            chosen = self._chosen(split, path)
            yield from ((row, cells) for row, cells in enumerate(_csv_rows(path)) if chosen is None or row in chosen)

    def _chosen(self, split: str, path: Path) -> set[int] | None:
        """The rows drawn from a CSV file; None for all of them."""
        if self.setting("rows") == "all":
            return None
        wanted = TEST_ROWS if split == "test" else self.train_rows
        count = sum(1 for _ in _csv_rows(path))
        if count <= wanted:
            return None
        rng: random.Random = rng_for(self.seed, f"{self.stream}/{self.task}/{split}")
        return set(rng.sample(range(count), wanted))

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The records of one unit."""
        form = self._path(split)[0]
        for row, raw in unit.payload:
            name = f"{self.task}-{split}-{row:06d}"
            found = getattr(self, f"_{form}")(raw)
            if isinstance(found, str):
                yield Drop(name, found, f"{raw!r:.80}")
                continue
            text, label = found
            yield Record.ask(name, self._question(text), label, options=list(self.labels))

    def _question(self, text: str) -> str:
        """O-LoRA's prompt."""
        head = f"Task:{self.kind}\nDataset:{self.task}\n" if self.setting("prompt") == "peer" else ""
        options = f"Option: {', '.join(self.labels)} \n"
        return f"{head}{INSTRUCTIONS[self.kind]}{options}{first_words(text, self.setting('max_words'))}\nAnswer:"

    def _olora(self, raw: Any) -> tuple[str, str] | str:
        """Text and label of an object ``{"sentence", "label"}``, or why there are none."""
        if not isinstance(raw, Mapping):
            return "not a record"
        text, label = raw.get("sentence"), raw.get("label")
        if not isinstance(text, str) or not text.strip():
            return "text is missing"
        return (text, label) if label in self.labels else "label is unknown"

    def _csv(self, raw: list[str]) -> tuple[str, str] | str:
        """Text and label of a row: class from 1, title, and one or two cells of text."""
        if len(raw) < 3:
            return "row has fewer than three cells"
        number = natural(raw[0].strip()) or 0
        if not 1 <= number <= len(self.labels):
            return "label is unknown"
        text = " ".join(cell.strip() for cell in raw[2:] if cell.strip())
        if not (raw[1].strip() or text):
            return "text is missing"
        return f"Title: {raw[1].strip()}\nText: {text}\n", self.labels[number - 1]

    def _lfpt5(self, raw: list[str]) -> tuple[str, str] | str:
        """Text and label of a line: text, tab, LFPT5's word for the label."""
        if len(raw) < 2 or not raw[0].strip():
            return "text is missing"
        labels = {word: label for label, word in self.short.items()}
        label = labels.get(raw[-1].strip())
        return "label is unknown" if label is None else (f"Text: {raw[0].strip()}\n", label)

    def remarks(self, split: str) -> list[str]:
        """Which form was read, and what was drawn or shortened."""
        form, path = self._path(split)
        found = [f"read from {FORMS[form]}"]
        if form == "csv" and self._chosen(split, path) is not None:
            found.append("rows drawn with the seed; O-LoRA's own draw is not known from these files")
        if self.setting("max_words") != "all":
            found.append(f"texts end after {self.setting('max_words')} words")
        return found


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file.

    Raises:
        DataError: Not UTF-8, or it cannot be read.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, OutsideError, UnicodeDecodeError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again.")) from error


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file without header."""
    return (cells for _, cells in csv_lines(path))


def _tab_rows(path: Path) -> Iterator[list[str]]:
    """The lines of a tab-separated file without quotes."""
    yield from (line.rstrip("\r\n").split("\t") for line in _lines(path) if line.strip())


def _sources(task: str, kind: str, folder: str) -> tuple[Source, ...]:
    """The three places; the first one is the preferred one."""
    unknown = "unknown; research use of the texts is customary, their terms were not read"
    return (
        Source(
            f"O-LoRA {task}",
            f"{OLORA} (folder CL_Benchmark)",
            f"code: MIT; texts: {unknown}",
            (f"CL_Benchmark/{kind}/{task}/train.json", f"CL_Benchmark/{kind}/{task}/test.json"),
        ),
        Source(
            f"{task} as CSV files",
            "Zhang et al. 2015, Character-level convolutional networks for text classification (arXiv 1509.01626)",
            unknown,
            (f"{folder}/train.csv", f"{folder}/test.csv"),
        ),
        Source(
            f"{task} in few examples",
            f"{LFPT5} (folder Classification/textclassificationdata)",
            f"code: MIT; texts: {unknown}",
            (f"{folder}/0_42/train.txt", f"{folder}/0_42/test.txt"),
        ),
    )


class DBpedia(_Classification):
    """Topic of a Wikipedia abstract, 14 classes."""

    task = "dbpedia"
    csv_folder = "dbpedia_csv"
    train_rows = 14000
    short: ClassVar[Mapping[str, str]] = {
        "Company": "company",
        "Educational Institution": "educationalinstitution",
        "Artist": "artist",
        "Athlete": "thlete",  # as in the files
        "Office Holder": "officeholder",
        "Mean of Transportation": "meanoftransportation",
        "Building": "building",
        "Natural Place": "naturalplace",
        "Village": "village",
        "Animal": "animal",
        "Plant": "plant",
        "Album": "album",
        "Film": "film",
        "Written Work": "writtenwork",
    }


class Amazon(_Classification):
    """Stars of a review, as five degrees of sentiment."""

    task = "amazon"
    kind = "SC"
    csv_folder = "amazon_review_full_csv"
    train_rows = 5000
    short: ClassVar[Mapping[str, str]] = {
        "very negative": "terrible",
        "negative": "bad",
        "neutral": "middle",
        "positive": "good",
        "very positive": "wonderful",
    }


class Yahoo(_Classification):
    """Topic of a question with its best answer, 10 classes."""

    task = "yahoo"
    csv_folder = "yahoo_answers_csv"
    train_rows = 10000
    short: ClassVar[Mapping[str, str]] = {
        "Society & Culture": "society and culture",
        "Science & Mathematics": "science",
        "Health": "health",
        "Education & Reference": "education and reference",
        "Computers & Internet": "computers and internet",
        "Sports": "sports",
        "Business & Finance": "business",
        "Entertainment & Music": "entertainment and Music",
        "Family & Relationships": "family and relationships",
        "Politics & Government": "politics and government",
    }


class AGNews(_Classification):
    """Topic of a news item, 4 classes."""

    task = "agnews"
    csv_folder = "ag_news_csv"
    train_rows = 4000
    short: ClassVar[Mapping[str, str]] = {
        "World": "world",
        "Sports": "sports",
        "Business": "business",
        "Science or Technology": "science",
    }
