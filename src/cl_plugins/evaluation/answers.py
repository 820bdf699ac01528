"""Answer files of LLaMA-Factory, ms-swift, evaluation harnesses and reference implementations, read as items.

What a file is, is read off the keys of its records:

| keys | file | reference |
| --- | --- | --- |
| ``id``, ``prediction``, ``reference`` | predictions of a run | in the record |
| ``response``, ``labels`` | ms-swift's infer (4.6) | in the record; a test set is joined by row and must say the same |
| ``doc_id``, ``target``, ``filtered_resps`` | samples of lm-evaluation-harness (0.4.13) and lmms-eval (0.7.3) | in the record |
| ``index``, ``prediction``, ``answer`` | VLMEvalKit's predictions as JSON | in the record |
| ``predict``, ``label`` | LLaMA-Factory | in the record; a test set is joined by row and must say the same |
| ``question_id``, ``text`` (``prediction``), ``gt`` (``ground_truth``) | MSLoRA-CR | in the record |
| ``question_id``, ``text`` | MLLM-CL, MCITlib, CoIN | in the annotations, joined by ``question_id``; ImageNet by row |

In the last two, ``text`` is the question where there is a ``prediction`` as well: these are records of a test set that a program has
added its answers to. Records of a test set without answers are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ..base.errors import DataError, Problem
from .annotations import Annotation, Record, not_finite, read_annotations, read_records
from .end_words import without_end_words
from .items import Item, few, read_predictions
from .thoughts import join_thought, split_thought


_TEXT = ("prediction", "text")
_REFERENCE = ("gt", "ground_truth")
_PROMPT = ("prompt", "question")
#: What records of a test set have and answers have not, and the other way round.
_OF_TESTS, _OF_ANSWERS = ("image", "answer"), ("answer_id", "model_id")
_SAMPLE = {"doc_id", "target", "filtered_resps"}


@dataclass(frozen=True)
class _Answer:
    """One line of an answer file.

    Attributes:
        where: File and line.
        id: Its ``question_id``; None in LLaMA-Factory's files.
        prompt: The question, empty if the file has none.
        prediction: The answer.
        reference: The right answer, None if the file has none.
        fields: See `Item`.
        thought: The reasoning in front of the answer.
        reference_thought: The reasoning in front of the right answer.
        options: The texts of the options, where the file has them.
    """

    where: str
    id: str | None
    prompt: str
    prediction: str
    reference: str | None
    fields: dict[str, Any]
    thought: str = ""
    reference_thought: str = ""
    options: tuple[str, ...] | None = None


def read_answers(
    path: str | Path,
    annotations: str | Path | None = None,
    *,
    partial: bool = False,
    by_row: bool = False,
    keep_thoughts: bool = False,
    remarks: list[str] | None = None,
) -> list[Item]:
    """Read an answer file and, if the right answers are elsewhere, join it with the annotations.

    Answers are joined by ``question_id``; by row if the file is LLaMA-Factory's, the annotations have no ids, or both
    files have the same ids in the same order. Where both files know the right answer they must agree (spaces apart).
    COCO captions are joined by the number of the line, as MCITlib does; answers to pictures that have no captions are left
    out.

    An answer file that stands alone or is joined by row may repeat ids (MSLoRA-CR's do, for different questions): such
    items are told apart by their line and keep the id in the field ``question_id``.

    Args:
        path: The answer file: JSON lines, or one JSON list.
        annotations: The test set.
        partial: Allow questions without an answer, and leave them out.
        keep_thoughts: Leave reasoning in front of answers and references, and the words that end LLaMA-Factory's, where
            they are, as other libraries score them, and put that of a run's predictions back; by default reasoning becomes
            `Item.thought` and `Item.reference_thought`, and the end words are removed.
        by_row: Join by row ignoring the ids, as the original ImageNet scripts do (`BaseScorer.by_row`).
        remarks: Gets a sentence for the reader where answers were left out.

    Returns:
        The items in the order of the answer file.

    Raises:
        DataError: A file cannot be read, a record is damaged, no reference is known or it is empty, an id is repeated in a
            join, an answer has no question or a question no answer, or the references differ. Every problem names file
            and line.
    """
    path = Path(path)
    records = read_records(path)
    if not records:
        raise DataError(Problem(str(path), "holds no answers.", "Check the path."))
    first = records[0].value
    if {"id", "prediction", "reference"} <= first.keys():
        if annotations is not None:
            what = "already contains references; annotations are not used."
            raise DataError(Problem(str(path), what, "Leave --annotations out."))
        found = [_with_thought(item) if keep_thoughts else _split(item) for item in read_predictions(path)]
        return _answered([(f"{path}, item {item.id!r}", item) for item in found])
    problems: list[Problem] = _mixed_filters(records, path)
    both = any({"text", "prediction"} <= record.value.keys() for record in records)
    answers = [answer for record in records if (answer := _read(record, first, problems, both)) is not None]
    _stop(problems)
    if not keep_thoughts:
        answers = [_without_thoughts(_without_end(each) if "predict" in first else each) for each in answers]
    if annotations is None:
        return _alone(answers, path)
    notes = read_annotations(Path(annotations))
    if not keep_thoughts:
        notes = [replace(note, reference=split_thought(note.reference)[1]) for note in notes]
    if notes and notes[0].captions_of is not None:
        pairs = _by_line(answers, notes, remarks)
    elif by_row or answers[0].id is None or _same_ids(answers, notes):
        pairs = _by_row(answers, notes, path, Path(annotations))
    else:
        pairs = _by_id(answers, notes, Path(annotations), partial)
    return _joined(_agreeing(pairs))


def _read(record: Record, first: Mapping[str, Any], problems: list[Problem], both: bool) -> _Answer | None:
    """One answer, or None after adding to `problems`; ``both``: the file has questions and answers in the same records."""
    value, where = record.value, record.where
    if "predict" in first:
        prediction, reference = _text(value, ("predict",), where, problems), _text(value, ("label",), where, problems)
        if prediction is None or reference is None:
            return None
        return _Answer(where, None, str(value.get("prompt", "")), prediction, reference, {})
    if {"response", "labels"} <= first.keys():
        return _of_swift(value, where, problems)
    if _SAMPLE <= first.keys():
        return _of_harness(value, where, problems)
    if {"index", "prediction", "answer"} <= first.keys():
        return _of_vlmeval(value, where, problems)
    if "question_id" not in first:
        fix = "Known are LLaMA-Factory's (predict, label), those of reference implementations (question_id, text) and those of a run (id, prediction)."
        fix += " Also those of ms-swift (response, labels), harnesses (doc_id, filtered_resps) and VLMEvalKit (index, answer)."
        problems.append(Problem(where, f"has the keys {', '.join(map(repr, value)) or 'none'}.", fix))
        return None
    identity = value.get("question_id")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        problems.append(Problem(where, f"'question_id' must be a string or a number, found {identity!r}.", "Fix it."))
    if "prediction" not in value and _is_question(value):
        what = "is a record of a test set: its 'text' is the question, and there is no answer."
        fix = "Give a file of answers; an answer beside the question goes into the key 'prediction'."
        problems.append(Problem(where, what, fix))
        return None
    prediction = _text(value, _TEXT[:1] if both else _TEXT, where, problems)
    reference = None
    if any(key in first for key in _REFERENCE):
        reference = _text(value, _REFERENCE, where, problems)
        if reference is None:
            return None
    if prediction is None or not isinstance(identity, str | int) or isinstance(identity, bool):
        return None
    prompt = next((str(value[key]) for key in (*_PROMPT, *_TEXT[1:][:both]) if key in value), "")
    fields: dict[str, Any] = {key: value[key] for key in ("image", "answer_type") if value.get(key) is not None}
    return _Answer(where, str(identity), prompt, prediction, reference, fields)


def _is_question(value: Mapping[str, Any]) -> bool:
    """Whether a record is of a test set: those have a picture or the right answer, and no prompt beside their text."""
    return any(key in value for key in _OF_TESTS) and not any(key in value for key in (*_PROMPT, *_OF_ANSWERS))


def _of_swift(value: Mapping[str, Any], where: str, problems: list[Problem]) -> _Answer | None:
    """A line of ms-swift's ``infer_result``: the question is the last message of the user."""
    prediction = _text(value, ("response",), where, problems)
    reference = _text(value, ("labels",), where, problems)
    if prediction is None or reference is None:
        return None
    turns = value.get("messages")
    asked = [t for t in turns if isinstance(t, dict) and t.get("role") == "user"] if isinstance(turns, list) else []
    content = asked[-1].get("content") if asked else ""
    return _Answer(where, None, content if isinstance(content, str) else "", prediction, reference, {})


def _of_harness(value: Mapping[str, Any], where: str, problems: list[Problem]) -> _Answer | None:
    """A sample of lm-evaluation-harness or lmms-eval with a generated answer."""
    answers = value.get("filtered_resps")
    one = answers[0] if isinstance(answers, list) and len(answers) == 1 else answers
    one = one[0] if isinstance(one, list) and len(one) == 1 else one
    if not isinstance(one, str):
        what = "contains log-likelihoods or several answers, and no single answer."
        fix = "Import the scores of the harness: `cl-plugins matrix import ROW=results.json`."
        problems.append(Problem(where, what, fix))
        return None
    reference = _text(value, ("target",), where, problems)
    number = value.get("doc_id")
    if reference is None or not isinstance(number, str | int) or isinstance(number, bool):
        if reference is not None:
            problems.append(Problem(where, f"'doc_id' must be a string or a number, found {number!r}.", "Fix it."))
        return None
    asked = first_argument(value.get("arguments", value.get("input")))  # lmms-eval's files have the question only
    return _Answer(where, str(number), asked if isinstance(asked, str) else "", one, reference, {})


def first_argument(arguments: Any) -> Any:
    """The first argument of the first request of a harness's sample, however it is wrapped."""
    while isinstance(arguments, Mapping | list | tuple) and arguments:
        arguments = next(iter(arguments.values())) if isinstance(arguments, Mapping) else arguments[0]
    return arguments


def _of_vlmeval(value: Mapping[str, Any], where: str, problems: list[Problem]) -> _Answer | None:
    """A record of VLMEvalKit's predictions; its options are the columns A, B, C, ..., of which some may have no cell."""
    value = {key: _cell(cell) if isinstance(cell, float) else cell for key, cell in value.items()}
    prediction = _text(value, ("prediction",), where, problems)
    reference = _text(value, ("answer",), where, problems)
    if prediction is None or reference is None:
        return None
    options: list[str] = []
    for place, letter in enumerate(ascii_uppercase):
        text = value.get(letter)
        if isinstance(text, str | int | float) and not not_finite(text) and text != "":
            # A letter keeps its place where a column before it has no cell.
            options += [""] * (place - len(options)) + [str(text)]
    prompt = value.get("question")
    question = prompt if isinstance(prompt, str) else ""
    named = tuple(options) or None
    return _Answer(where, str(value.get("index")), question, prediction, reference, {}, options=named)


def _cell(number: float) -> object:
    """A number of a table as pandas has read it: whole numbers have become 2.0 where other cells are missing."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _mixed_filters(records: Sequence[Record], path: Path) -> list[Problem]:
    """The answers of a harness by several filters are the same answers several times."""
    if not records[0].value.keys() >= _SAMPLE:
        return []
    found = list(dict.fromkeys(str(record.value.get("filter")) for record in records))
    if len(found) < 2:
        return []
    what = f"has every answer by {len(found)} filters ({', '.join(found)})."
    return [Problem(str(path), what, "Keep the lines of one filter.")]


def _without_end(answer: _Answer) -> _Answer:
    """An answer of LLaMA-Factory (those have no id and a reference) without the word that ends it."""
    if answer.id is not None or answer.reference is None:
        return answer
    prediction, reference = without_end_words(answer.prediction), without_end_words(answer.reference)
    return replace(answer, prediction=prediction, reference=reference)


def _without_thoughts(answer: _Answer) -> _Answer:
    thought, prediction = split_thought(answer.prediction)
    if answer.reference is None:
        return replace(answer, prediction=prediction, thought=thought)
    behind, reference = split_thought(answer.reference)
    return replace(answer, prediction=prediction, thought=thought, reference=reference, reference_thought=behind)


def _split(item: Item) -> Item:
    """An item of a predictions file without the reasoning that another program has left in front of its texts."""
    thought, prediction = split_thought(item.prediction)
    behind, reference = split_thought(item.reference)
    return replace(
        item,
        prediction=prediction,
        thought="\n".join(filter(None, (item.thought, thought))),
        reference=reference,
        reference_thought="\n".join(filter(None, (item.reference_thought, behind))),
    )


def _with_thought(item: Item) -> Item:
    """An item of a predictions file with its whole texts."""
    prediction = join_thought(item.thought, item.prediction)
    return replace(
        item,
        prediction=prediction,
        thought="",
        reference=join_thought(item.reference_thought, item.reference),
        reference_thought="",
    )


def _text(value: Mapping[str, Any], keys: tuple[str, ...], where: str, problems: list[Problem]) -> str | None:
    """The first of the keys that is there, as text; numbers are spelt as Python spells them."""
    key = next((key for key in keys if key in value), None)
    if key is None:
        problems.append(Problem(where, f"the key {' or '.join(map(repr, keys))} is missing.", "Restore the line."))
        return None
    if not isinstance(value[key], str | int | float) or not_finite(value[key]):
        problems.append(Problem(where, f"{key!r} must be a text, found {value[key]!r}.", "Fix the line."))
        return None
    return str(value[key])


def _alone(answers: list[_Answer], path: Path) -> list[Item]:
    """Items of a file that holds its references."""
    if any(answer.reference is None for answer in answers):
        what = "contains no reference answers."
        raise DataError(Problem(str(path), what, "Give the test set with --annotations FILE."))
    keys = [str(number) if answer.id is None else answer.id for number, answer in enumerate(answers, start=1)]
    items = []
    for key, unique, answer in zip(keys, _unique(keys), answers, strict=True):
        fields = answer.fields | ({} if answer.id is None else {"question_id": key})
        item = _item(answer, unique, answer.prompt, str(answer.reference), answer.options, fields)
        items.append((answer.where, item))
    return _answered(items)


def _unique(keys: list[str]) -> list[str]:
    """The ids; those that are repeated with the number of their line behind them."""
    counts = Counter(keys)
    return [key if counts[key] == 1 else f"{key}#{number}" for number, key in enumerate(keys, start=1)]


def _same_ids(answers: list[_Answer], notes: list[Annotation]) -> bool:
    """Whether the rows belong together by their ids, repeated or not; or there are none in the annotations."""
    ids = [note.id for note in notes]
    return not any(ids) or ids == [answer.id for answer in answers]


def _by_row(
    answers: list[_Answer], notes: list[Annotation], path: Path, annotations: Path
) -> list[tuple[_Answer, Annotation]]:
    if len(answers) != len(notes):
        what = f"has {len(answers)} answers for the {len(notes)} records of {annotations}; they are joined by row."
        fix = "Give the complete test set that was answered; LLaMA-Factory skips records that it cannot read."
        raise DataError(Problem(str(path), what, fix))
    return list(zip(answers, notes, strict=True))


def _by_id(
    answers: list[_Answer], notes: list[Annotation], annotations: Path, partial: bool
) -> list[tuple[_Answer, Annotation]]:
    problems: list[Problem] = []
    # Ids may be repeated on purpose, for different questions; a file that holds its references needs no join.
    alone = all(answer.reference is not None for answer in answers)
    leave_out = "The answer file contains references: omit --annotations." if alone else ""
    by_id: dict[str, Annotation] = {}
    for note in notes:
        if note.id is None:
            problems.append(Problem(note.where, "has no 'question_id', but others have.", "Give every record an id."))
        elif note.id in by_id:
            what = f"the id {note.id!r} is used twice ({by_id[note.id].place})."
            fix = leave_out or "Ids must be unique; the original scripts silently take the last one."
            problems.append(Problem(note.where, what, fix))
        else:
            by_id[note.id] = note
    seen: dict[str, str] = {}
    pairs = []
    for answer in answers:
        key = str(answer.id)
        if key in seen:
            fix = leave_out or "Every question needs one answer: keep the right one."
            problems.append(Problem(answer.where, f"the id {key!r} was answered already ({seen[key]}).", fix))
        elif key not in by_id:
            what = f"the id {key!r} is not in {annotations}."
            problems.append(Problem(answer.where, what, "Give the test set that was answered."))
        else:
            pairs.append((answer, by_id[key]))
        seen.setdefault(key, answer.where.rpartition(", ")[2])
    unanswered = [key for key in by_id if key not in seen]
    if unanswered and not partial:
        what = f"{len(unanswered)} of its {len(by_id)} questions have no answer (first: {unanswered[0]!r})."
        fix = "Complete the answers, or score the existing ones with --partial."
        problems.append(Problem(str(annotations), what, fix))
    _stop(problems)
    return pairs


def _by_line(
    answers: list[_Answer], notes: list[Annotation], remarks: list[str] | None
) -> list[tuple[_Answer, Annotation]]:
    """MCITlib numbers the answers 1, 2, ... and uses the number as ``image_id``, ignoring the id of the line.

    A picture that the file lists without captions has no part in its score (one of UCIT's VizWiz).
    """
    by_number = {note.captions_of: note for note in notes}
    problems = [
        Problem(answer.where, f"there are no captions for image_id {number}.", "Lines and image ids must correspond.")
        for number, answer in enumerate(answers, start=1)
        if number not in by_number
    ]
    captioned = sum(note.captioned for note in notes)
    if captioned > len(answers):
        what = f"has captions for {captioned} images, there are {len(answers)} answers."
        problems.append(Problem(notes[0].place, what, "They are joined by line, so none may be missing."))
    _stop(problems)
    pairs = [(answer, by_number[number]) for number, answer in enumerate(answers, start=1)]
    without = [answer for answer, note in pairs if not note.captioned]
    if len(without) == len(pairs):
        raise DataError(Problem(notes[0].place, "none of the answered pictures has captions.", "Give the right file."))
    if without and remarks is not None:
        what = f"{len(without)} of {len(pairs)} answers are left out, since their pictures have no captions"
        remarks.append(f"{what} (first: {without[0].where.rpartition(', ')[2]}).")
    return [(answer, note) for answer, note in pairs if note.captioned]


def _agreeing(pairs: list[tuple[_Answer, Annotation]]) -> list[tuple[_Answer, Annotation]]:
    """The pairs, if the right answers that both files know are the same."""
    problems = []
    for answer, note in pairs:
        known = [note.reference] if note.encoded else note.fields.get("answers") or [note.reference]
        if answer.reference is not None and _plain(answer.reference) not in map(_plain, known):
            what = f"its reference is {answer.reference!r}, in {note.where} it is {note.reference!r}."
            problems.append(Problem(answer.where, what, "The two files do not match, or are in a different order."))
    _stop(problems)
    return pairs


def _joined(pairs: list[tuple[_Answer, Annotation]]) -> list[Item]:
    """Items of answers with their annotations."""
    items = []
    keys = [note.id or answer.id or note.place for answer, note in pairs]
    for identity, (answer, note) in zip(_unique(keys), pairs, strict=True):
        fields = answer.fields | dict(note.fields) | ({} if answer.id is None else {"question_id": answer.id})
        prompt = answer.prompt or note.question
        item = _item(answer, identity, prompt, note.reference, note.options, fields)
        items.append((note.where, item))
    return _answered(items)


def _answered(items: list[tuple[str, Item]]) -> list[Item]:
    """The items, if every one has a right answer, as a run asks of its test sets."""
    fix = "Give the right answer, or remove the record."
    _stop([Problem(where, "its right answer is empty.", fix) for where, item in items if not item.reference.strip()])
    return [item for _, item in items]


def _item(
    answer: _Answer,
    identity: str,
    prompt: str,
    reference: str,
    options: tuple[str, ...] | None,
    fields: dict[str, Any],
) -> Item:
    behind = answer.reference_thought
    return Item(identity, prompt, answer.prediction, reference, options, fields, answer.thought, behind)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _stop(problems: list[Problem]) -> None:
    if problems:
        raise DataError(few(problems))
