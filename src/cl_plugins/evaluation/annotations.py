"""Test sets in the forms in which they are passed around, as far as scoring needs them: id, question, right answer."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.outside import JSON_LIMIT, OutsideError, parse_json, read_bytes
from .items import few
from .option_lists import read_options
from .right_answers import most_frequent, read_listed
from .scorers.text import normalise


_IDS = ("question_id", "id")
_ASSISTANT = ("gpt", "assistant")
_ROLES = ("from", "role")
_CONTENTS = ("value", "content")
_ANSWERS = ("answer", "gt", "ground_truth", "answers")


@dataclass(frozen=True)
class Record:
    """A JSON object with the file and line (or number of the record) where it is."""

    where: str
    value: dict[str, Any]


@dataclass(frozen=True)
class Annotation:
    """What a test set says about one question.

    Attributes:
        where: File and line, or number of the record.
        id: ``question_id`` or ``id``; None if the record has neither.
        question: Its text.
        reference: The right answer: what LLaMA-Factory trains on and tests with where the record is one of its data sets,
            else what the record says; of several the one that `read_listed` chooses.
        fields: See `Item`.
        options: Texts of the options, None if not listed.
        captions_of: For a file of COCO captions, the ``image_id``.
        encoded: Whether the reference is what LLaMA-Factory encodes.
        captioned: For a file of COCO captions, whether the picture has any; else `reference` is empty.
    """

    where: str
    id: str | None
    question: str
    reference: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] | None = None
    captions_of: int | None = None
    encoded: bool = False
    captioned: bool = True

    @property
    def place(self) -> str:
        """`where` without the file."""
        return self.where.rpartition(", ")[2]


def read_records(path: Path) -> list[Record]:
    """The objects of a file of JSON lines or of one JSON list; empty lines are left out.

    Raises:
        DataError: The file cannot be read, or something in it is no JSON object; names every line.
    """
    text = _read(path)
    if text.lstrip().startswith("["):
        value = _parse(text, path)
        return _objects(path, value if isinstance(value, list) else [])
    records: list[Record] = []
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except ValueError as error:
            problems.append(Problem(where, f"is not JSON ({error}).", "Restore the line, or create the file again."))
            continue
        if isinstance(value, dict):
            records.append(Record(where, value))
        else:
            problems.append(Problem(where, f"is {type(value).__name__}, not a JSON object.", "Restore the line."))
    if problems:
        raise DataError(few(problems))
    return records


def read_annotations(path: Path) -> list[Annotation]:
    """Read a test set.

    Known are the lists of the reference implementations (``question_id``, ``text``, ``answer`` or ``gt``), TextVQA's
    ``{"data": [...]}``, ScienceQA's ``problems.json``, COCO captions (``{"annotations": [...]}``) and LLaMA-Factory's
    data sets (``messages`` or ``conversations``, or ``instruction`` and ``output``); each as one JSON value or, where
    it is a list, as JSON lines.

    Raises:
        DataError: The file cannot be read, is of no known form, or a record has no right answer.
    """
    text = _read(path)
    whole = _whole(text)
    if whole is not None and isinstance(whole.get("data"), list):
        records = _objects(path, whole["data"])
    elif whole is not None and isinstance(whole.get("annotations"), list):
        return _captions(path, whole["annotations"], whole.get("images"))
    elif whole is not None and whole and all(isinstance(value, dict) for value in whole.values()):
        records = [Record(f"{path}, problem {key}", {"question_id": key, **value}) for key, value in whole.items()]
        tests = [record for record in records if record.value.get("split") == "test"]
        records = tests or records
    else:
        records = read_records(path)
    problems: list[Problem] = []
    found = [note for record in records if (note := _annotation(record, problems)) is not None]
    if not found and not problems:
        problems.append(Problem(str(path), "holds no records.", "Give the test set."))
    if problems:
        raise DataError(few(problems))
    return found


def _annotation(record: Record, problems: list[Problem]) -> Annotation | None:
    """One record, or None after adding to `problems`."""
    value = record.value
    turns = _turns(value)
    texts = _options(record, problems)
    question = next((str(value[key]) for key in ("text", "question", "prompt", "instruction") if key in value), None)
    if question is None:
        question = next((text for role, text in reversed(turns) if role not in _ASSISTANT), "")
    encoded = _encoded(value, turns)
    bad = next((key for key in (*_ANSWERS, "output") if not_finite(value.get(key))), None)
    if bad is not None and encoded is None:
        what = f"{bad!r} is {value[bad]!r}, which is not an answer."
        problems.append(
            Problem(record.where, what, "Fix the record: the original scripts would compare with the word 'nan'.")
        )
        return None
    meaning = _two_meanings(value, texts) if encoded is None else None
    if meaning is not None:
        problems.append(Problem(record.where, meaning, "Write the letter of the option, or its text in quotes."))
        return None
    reference, answers = _said(value, texts, question) if encoded is None else (encoded, _listed(value))
    if reference is None:
        known = "'answer', 'gt', 'output', or a last turn of the assistant"
        problems.append(
            Problem(record.where, f"has no right answer ({known}).", "Give the test set with its answers.")
        )
        return None
    identity = next((value[key] for key in _IDS if value.get(key) not in (None, "")), None)
    fields: dict[str, Any] = {
        key: value[key] for key in ("answer_type", "type", "task", "answer_bbox", "size") if key in value
    }
    image = value.get("image") or value.get("images")
    if isinstance(image, list):
        image = image[0] if image else None
    if isinstance(image, str):
        fields["image"] = image
    if answers:
        fields["answers"] = answers
    name = None if identity is None else str(identity)
    return Annotation(record.where, name, question, reference, fields, texts, encoded=encoded is not None)


def _options(record: Record, problems: list[Problem]) -> tuple[str, ...] | None:
    """The options of a record, or None after adding to `problems`."""
    for key in ("options", "choices"):
        try:
            found = read_options(record.value.get(key))
        except ValueError as error:
            problems.append(Problem(record.where, f"{key!r}: {error}.", "Give the options as a list of texts."))
            return None
        if found is not None:
            return found
    return None


def _two_meanings(value: Mapping[str, Any], options: tuple[str, ...] | None) -> str | None:
    """What is wrong with a number as answer that is the place of one option (from 0) and the text of another."""
    answer = next((value[key] for key in _ANSWERS if isinstance(value.get(key), int)), None)
    if answer is None or isinstance(answer, bool) or not options or not 0 <= answer < len(options):
        return None
    texts = [place for place, text in enumerate(options) if normalise(text) == str(answer)]
    if not texts or texts == [answer]:
        return None
    places = f"option {string.ascii_uppercase[answer]} by its place and option {string.ascii_uppercase[texts[0]]} by its text"
    return f"the answer {answer} is ambiguous: {places}."


def not_finite(value: object) -> bool:
    """Whether a value is NaN or infinite, or a list that holds such a number; JSON files of other programs do."""
    if isinstance(value, list):
        return any(map(not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


def _encoded(value: Mapping[str, Any], turns: list[tuple[str, str]]) -> str | None:
    """The answer that LLaMA-Factory takes from a record; None where the record is none of its data sets."""
    if turns and turns[-1][0] in _ASSISTANT:
        return turns[-1][1]
    output = value.get("output") if "instruction" in value else None
    plain = isinstance(output, str | int | float) and not isinstance(output, bool) and not not_finite(output)
    return str(output) if plain else None


def _listed(value: Mapping[str, Any]) -> list[str]:
    """The column ``answers``, which serves rules for several right answers."""
    listed = value.get("answers")
    return read_listed(listed, "")[1] if isinstance(listed, list) else []


def _said(value: Mapping[str, Any], options: tuple[str, ...] | None, question: str) -> tuple[str | None, list[str]]:
    """The right answer of a record that is not encoded and, if there are several, all of them."""
    for key in _ANSWERS:
        answer = value.get(key)
        if isinstance(answer, list) and answer:
            return read_listed(answer, question)
        if isinstance(answer, str | int | float) and not isinstance(answer, bool):
            # ScienceQA gives the number of the option.
            if isinstance(answer, int) and options and 0 <= answer < len(options):
                return string.ascii_uppercase[answer], []
            return str(answer), _listed(value)
    fallback = next((value[key] for key in ("output", "answer_bbox") if value.get(key) is not None), None)
    return None if fallback is None else str(fallback), []


def _turns(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Role and text of each turn of a conversation."""
    forms = ("messages", "conversations")
    listed: list[Any] = next((value[key] for key in forms if isinstance(value.get(key), list)), [])
    found = []
    for turn in listed:
        if isinstance(turn, dict):
            role = next((turn[key] for key in _ROLES if key in turn), "")
            found.append((str(role), str(next((turn[key] for key in _CONTENTS if key in turn), ""))))
    return found


def _captions(path: Path, listed: list[Any], pictures: object) -> list[Annotation]:
    """COCO captions, gathered by image; images that are listed and have none are there, too."""
    by_image: dict[int, list[str]] = {}
    problems = []
    for number, entry in enumerate(listed, start=1):
        try:
            by_image.setdefault(int(entry["image_id"]), []).append(str(entry["caption"]))
        except (TypeError, KeyError, ValueError):
            what = f"needs 'image_id' and 'caption', found {entry!r}."
            problems.append(Problem(f"{path}, annotation {number}", what, "Give COCO captions."))
    for number, entry in enumerate(pictures if isinstance(pictures, list) else [], start=1):
        try:
            by_image.setdefault(int(entry["id"]), [])
        except (TypeError, KeyError, ValueError):
            problems.append(
                Problem(f"{path}, image {number}", f"needs an 'id', found {entry!r}.", "Give COCO captions.")
            )
    if problems:
        raise DataError(few(problems))
    return [
        Annotation(
            f"{path}, image {image}",
            None,
            "",
            most_frequent(texts) if texts else "",
            {"answers": texts},
            captions_of=image,
            captioned=bool(texts),
        )
        for image, texts in by_image.items()
    ]


def _read(path: Path) -> str:
    try:
        return read_bytes(path, JSON_LIMIT).decode("utf-8-sig")
    except (OSError, OutsideError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(Problem(str(path), f"cannot be read: {reason}.", "Check the path.")) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(Problem(f"{path}, line {line}", f"is not UTF-8 ({error.reason}).", "Convert it.")) from error


def _parse(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(Problem(f"{path}{line}", f"is not JSON ({what}).", "Restore it.")) from error


def _whole(text: str) -> dict[str, Any] | None:
    """The text as one JSON object; None if it is anything else (JSON lines, a list)."""
    try:
        value = parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _objects(path: Path, listed: list[Any]) -> list[Record]:
    """The objects of a list."""
    problems = [
        Problem(f"{path}, record {number}", f"is {type(value).__name__}, not a JSON object.", "Fix the file.")
        for number, value in enumerate(listed, start=1)
        if not isinstance(value, dict)
    ]
    if problems:
        raise DataError(few(problems))
    return list(_numbered(path, listed))


def _numbered(path: Path, listed: list[dict[str, Any]]) -> Iterator[Record]:
    for number, value in enumerate(listed, start=1):
        yield Record(f"{path}, record {number}", value)
