"""Path: PathVQA, as MLLM-CL re-split it, as parquet, or as the original pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ....evaluation.scorers.text import normalise
from ..contract import Context, Converter, Drop, Picture, Record, Setting, Source, Unit, chunked
from ..options import build_options, rng_for, with_options
from ..placeholders import IMAGE, in_front
from ..readers import json_records, open_parquet, parquet_rows, plain_pickle


_COLUMNS = ("image", "question", "answer")
_ROWS = 200  # of a parquet file in one unit
#: Our split -> the split's name in the pickles and in the names of parquet files.
_PICKLED = {"train": "train", "validation": "val", "test": "test"}
_YES_NO = ("yes", "no")


class Pathology(Converter):
    """Questions about pictures from pathology textbooks.

    The paper's Path is the Med task of MLLM-CL, a re-split of PathVQA: that form is taken when it is there. The
    official split (parquet or pickles) is another data set; one must not be trained on and the other tested.
    """

    stream, task, version = "medical_cl", "path", 2
    sources = (
        Source(
            "MLLM-CL, folder Med (the paper's form)",
            "https://huggingface.co/datasets/MLLM-CL/MLLM-CL",
            "data card: Apache-2.0; it cannot widen PathVQA's: pictures and captions belong to their publishers and authors",
            ("Med/train.json", "Med/test.json", "Med/images/"),
        ),
        Source(
            "PathVQA as parquet (official split)",
            "https://huggingface.co/datasets/flaviagiammarino/path-vqa",
            "data card: MIT; it adds that pictures and captions belong to their publishers and authors",
            ("data/train-*.parquet", "data/validation-*.parquet", "data/test-*.parquet"),
        ),
        Source(
            "PathVQA as pickles (official split)",
            "https://github.com/UCSD-AI4H/PathVQA (a link there leads to the archive pvqa)",
            "as the parquet format; unverified for the archive",
            ("pvqa/qas/{train,val,test}_vqa.pkl", "pvqa/images/{train,val,test}/*.jpg"),
        ),
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "form": Setting(
            "auto", ("auto", "mllm_cl", "parquet", "pickle"), "which raw format to read, if there are several"
        ),
        "questions": Setting(
            "open",
            ("open", "choice"),
            "choice: our own multiple-choice variant (yes or no, else four answers to questions with the same first "
            "word); the paper's are open",
        ),
    }
    columns: ClassVar[Mapping[str, type]] = {"answer_type": str, "options": list, "answer_text": str}
    notes = ("Pictures of one split may show the same specimen; the makers' split is kept.",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.form = self._form()
        if self.form in ("parquet", "pickle"):
            self.splits = ("train", "validation", "test")
        self.choice = self.setting("questions") == "choice"

    # --- which files

    def _form(self) -> str:
        wanted = self.setting("form")
        found = [form for form in ("mllm_cl", "parquet", "pickle") if self._present(form)]
        return wanted if wanted != "auto" else found[0] if found else "mllm_cl"

    def _present(self, form: str) -> bool:
        if form == "mllm_cl":
            return (self._med / "train.json").is_file()
        if form == "parquet":
            return any(self._parquet("train"))
        return self._pickles is not None

    @property
    def _med(self) -> Path:
        return self.raw / "Med" if (self.raw / "Med").is_dir() else self.raw

    def _parquet(self, split: str) -> list[Path]:
        folder = self.raw / "data" if (self.raw / "data").is_dir() else self.raw
        return sorted(folder.glob(f"{split}-*.parquet"))

    @cached_property
    def _pickles(self) -> Path | None:
        """The folder that holds ``qas`` and ``images``."""
        return next((f for f in (self.raw / "pvqa", self.raw) if (f / "qas").is_dir()), None)

    def _pickle(self, split: str) -> Path:
        """``<split>_vqa.pkl``, directly in ``qas`` or one folder further; else the smaller ``<split>_qa.pkl``."""
        name = _PICKLED[split]
        qas = (self._pickles or self.raw / "pvqa") / "qas"
        choices = [folder / f"{name}_{kind}.pkl" for kind in ("vqa", "qa") for folder in (qas, qas / name)]
        return next((path for path in choices if path.is_file()), choices[0])

    def missing(self) -> list[Path]:
        """Files of the form that was found or requested."""
        if self.form == "mllm_cl":
            return self.need(self._med / "train.json", self._med / "test.json", self._med / "images")
        if self.form == "parquet":
            folder = self.raw / "data" if (self.raw / "data").is_dir() else self.raw
            return [folder / f"{split}-*.parquet" for split in self.splits if not self._parquet(split)]
        images = (self._pickles or self.raw / "pvqa") / "images"
        return self.need(
            *(self._pickle(split) for split in self.splits), *(images / _PICKLED[split] for split in self.splits)
        )

    def check(self) -> list[Problem]:
        """Parquet files must open: a download that stopped is found before the work begins."""
        problems: list[Problem] = []
        if self.form == "parquet":
            for path in (path for split in self.splits for path in self._parquet(split)):
                try:
                    open_parquet(path, _COLUMNS)
                except DataError as error:
                    problems += error.problems
        return problems

    def inputs(self, split: str) -> list[Path]:
        """The files with the questions."""
        if self.form == "mllm_cl":
            return [self._med / f"{split}.json"]
        return self._parquet(split) if self.form == "parquet" else [self._pickle(split)]

    def remarks(self, split: str) -> list[str]:
        """Which form it was."""
        if self.form == "mllm_cl":
            return ["Path: MLLM-CL's re-split of PathVQA, as in the paper."]
        return [
            f"Path: the official split of PathVQA ({self.form}). The paper uses MLLM-CL's re-split: the scores are not "
            "comparable, and a model trained on one must not be tested on the other."
        ]

    # --- records

    def units(self, split: str) -> Iterator[Unit]:
        """Chunks of records, or ranges of rows of a parquet file."""
        if self.form == "mllm_cl":
            yield from chunked(json_records(self._med / f"{split}.json"))
            return
        if self.form == "pickle":
            path = self._pickle(split)
            entries = plain_pickle(path)
            if not isinstance(entries, list):
                raise self.unreadable(path, "it contains no list")
            yield from chunked(entries)
            return
        for number, path in enumerate(self._parquet(split)):
            rows = open_parquet(path, _COLUMNS).metadata.num_rows
            for first in range(0, rows, _ROWS):
                yield Unit(f"{number:03d}-{first:07d}", (number, first, min(first + _ROWS, rows)))

    def total(self, split: str) -> int | None:
        """Known for parquet only."""
        if self.form != "parquet":
            return None
        return sum(-(-open_parquet(path).metadata.num_rows // _ROWS) for path in self._parquet(split))

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The records of a unit."""
        for name, question, answer, picture in self._questions(split, unit):
            if isinstance(question, list):
                yield Record.chat(name, question, [picture], answer_type=_type(answer))
            elif not self.choice:
                yield self._ask(name, question, answer, picture, answer_type=_type(answer))
            else:
                yield self._choice(split, name, question, answer, picture)

    def _ask(self, name: str, question: Any, answer: Any, picture: Picture, **extra: Any) -> Record:
        """A question; in MLLM-CL's form, whose training records have placeholders, it may hold one."""
        return Record.ask(name, question, answer, [picture], placeholders=self.form == "mllm_cl", **extra)

    def _questions(self, split: str, unit: Unit) -> Iterator[tuple[str, Any, Any, Picture]]:
        """(id, question or LLaVA turns, answer, picture) in any of the three forms."""
        if self.form == "parquet":
            number, first, last = unit.payload
            for row, cells in parquet_rows(self._parquet(split)[number], _COLUMNS, first, last):
                name = f"path-{split}-{number:03d}-{row:06d}"
                image = cells["image"]
                data = image.get("bytes") if isinstance(image, Mapping) else image
                yield name, cells["question"], cells["answer"], Picture.encoded(name, data)
            return
        for row, raw in unit.items():
            name = f"path-{split}-{row:06d}"
            entry = raw if isinstance(raw, Mapping) else {}
            if self.form == "pickle":
                question, answer, image = _pickled(entry)
                folder = (self._pickles or self.raw) / "images" / _PICKLED[split]
                yield name, question, answer, Picture.inside(folder, f"{image}.jpg" if image else "")
                continue
            picture = Picture.inside(self._med, _media(self._med, entry.get("image")))
            turns = entry.get("conversations")
            if turns is None:
                yield name, entry.get("text"), entry.get("answer"), picture
            elif self.choice and isinstance(turns, list) and len(turns) == 2:
                question, answer = (turn.get("value") if isinstance(turn, Mapping) else None for turn in turns)
                yield name, question, answer, picture
            else:
                last = turns[-1] if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping) else {}
                yield name, turns if isinstance(turns, list) else [], last.get("value"), picture

    # --- our multiple-choice variant

    def _choice(self, split: str, name: str, question: Any, answer: Any, picture: Picture) -> Record | Drop:
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            return Drop(name, "question or answer is not text")
        rng = rng_for(self.seed, f"{self.stream}/{self.task}/{name}")
        kind = _type(answer)
        options: tuple[str, ...] = _YES_NO
        try:
            if kind == "yes/no":
                letter = "AB"[_YES_NO.index(normalise(answer))]
            else:
                pools = self._pools(split)
                pool = pools.get(_first_word(question), ())
                options, letter = build_options(answer.strip(), pool if len(pool) > 3 else pools[""], 4, rng)
        except ValueError as error:
            return Drop(name, "no options can be made", str(error))
        asked = in_front(question) if self.form == "mllm_cl" else question.strip()
        extra = {"answer_type": kind, "options": options, "answer_text": answer.strip()}
        return self._ask(name, with_options(asked, options), letter, picture, **extra)

    def _pools(self, split: str) -> dict[str, tuple[str, ...]]:
        """First word of a question -> open answers to such questions in this split; "" -> all of them."""
        if self._pooled is None or self._pooled[0] != split:
            found: dict[str, dict[str, None]] = {"": {}}
            for question, answer in self._texts(split):
                if isinstance(question, str) and isinstance(answer, str) and _type(answer) != "yes/no":
                    found.setdefault(_first_word(question), {})[answer.strip()] = None
                    found[""][answer.strip()] = None
            self._pooled = (split, {word: tuple(answers) for word, answers in found.items()})
        return self._pooled[1]

    _pooled: tuple[str, dict[str, tuple[str, ...]]] | None = None

    def _texts(self, split: str) -> Iterator[tuple[Any, Any]]:
        if self.form == "parquet":
            for path in self._parquet(split):
                for batch in open_parquet(path).iter_batches(columns=["question", "answer"]):
                    yield from zip(batch["question"].to_pylist(), batch["answer"].to_pylist(), strict=True)
            return
        for unit in self.units(split):
            for _, question, answer, _ in self._questions(split, unit):
                yield question, answer


def _type(answer: object) -> str:
    return "yes/no" if isinstance(answer, str) and normalise(answer) in _YES_NO else "other"


def _first_word(question: str) -> str:
    words = normalise(question.replace(IMAGE, " ")).split()
    return words[0] if words else ""


def _pickled(entry: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """Question, answer and picture of an entry; the answer is the only key of ``label``."""
    if "sent" in entry:
        label = entry.get("label")
        answers = list(label) if isinstance(label, Mapping) else []
        return entry["sent"], answers[0] if len(answers) == 1 else None, str(entry.get("img_id") or "")
    return entry.get("question"), entry.get("answer"), str(entry.get("image") or "")


def _media(folder: Path, name: object) -> str:
    """The picture's name below ``folder``: MLLM-CL writes it with or without ``images/``; a list holds one name."""
    if isinstance(name, list):
        name = name[0] if len(name) == 1 else ""
    text = str(name or "")
    first = text.split("/", 1)[0]
    return text if not text or first == "images" or (first and (folder / first).is_dir()) else f"images/{text}"
