"""Checks of the records of a data set before the first training, and which of them the encoders take in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..crossmodal.inputs import UNREADABLE, CrossModalProcessor, unreadable
from .data import Record


if TYPE_CHECKING:
    from torch import Tensor

    from ..crossmodal.inputs import EncoderSpec


SHOWN = 5  # problems per file


@dataclass
class Found:
    """What was found in the records of a task.

    Attributes:
        problems: What is wrong with them.
        cut: Modality -> records whose text or sound is longer than what its encoder takes.
        cut_records: Records with any of these.
    """

    problems: list[Problem] = field(default_factory=list)
    cut: Counter[str] = field(default_factory=Counter)
    cut_records: int = 0

    def __add__(self, other: Found) -> Found:
        """Both together."""
        return Found([*self.problems, *other.problems], self.cut + other.cut, self.cut_records + other.cut_records)

    @property
    def told(self) -> str:
        """The modalities that are cut, with their numbers of records."""
        return ", ".join(f"{name} of {count}" for name, count in sorted(self.cut.items()))


def check_values(found: Found, where: str, records: Sequence[Record], processor: CrossModalProcessor) -> None:
    """Look at every value of the records, see `CrossModalProcessor.look`.

    Args:
        found: Gets what is found.
        where: The file of the records.
        records: All of its records that are used, from `RecordSet.records`.
        processor: What will read them.
    """
    wrong = 0
    for number, record in enumerate(records, start=1):
        cut = []
        for name in processor.names:
            if (value := record.get(name)) is None:
                continue
            try:
                cut += [name] if processor.look(name, value) else []
            except UNREADABLE as error:
                shown = f" ({value})" if isinstance(value, str) else ""
                found.problems.append(unreadable(f"{where}, record {number}, {name}{shown}", error))
                wrong += 1
        found.cut.update(cut)
        found.cut_records += bool(cut)
        if wrong >= SHOWN:
            found.problems.append(Problem(where, "has further records that were not checked.", "Correct these first."))
            return


def label_problems(
    where: str, records: Sequence[Record], task: str, classes: Collection[str], fix: str
) -> list[Problem]:
    """Labels that are no class of a task, each once with the numbers of its records.

    Args:
        where: The file of the records.
        records: All of its records that are used.
        task: The task.
        classes: Its classes.
        fix: What to do about it.
    """
    numbers: dict[str, list[int]] = {}
    for number, record in enumerate(records, start=1):
        if record["label"] not in classes:
            numbers.setdefault(record["label"], []).append(number)
    found = []
    for label, rows in numbers.items():
        shown = ", ".join(map(str, rows[:SHOWN])) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
        records_of = f"record{'s' if len(rows) > 1 else ''} {shown}"
        found.append(Problem(f"{where}, {records_of}", f"has the label {label!r}, which is no class of {task}.", fix))
    return found


def length_problems(where: str, spec: EncoderSpec, config: Any) -> list[Problem]:
    """Texts that may be longer than the positions that their encoder has.

    Args:
        where: Key of the encoder.
        spec: Its entry.
        config: Its config.
    """
    most = getattr(config, "max_position_embeddings", None)
    if spec.kind != "text" or most is None:
        return []
    if "roberta" in str(config.model_type):  # whose positions begin behind that of padding
        most -= int(config.pad_token_id or 0) + 1
    if spec.max_length <= most:
        return []
    what = f"is {spec.max_length}, and the encoder has positions for {most} tokens."
    return [Problem(f"{where}.max_length", what, f"Write `max_length: {most}` or less; longer texts are cut.")]


def check_finite(names: Sequence[str], records: Sequence[Record], parts: Tensor | None, logits: Tensor) -> None:
    """Answers are made of numbers.

    Args:
        names: The modalities.
        records: What is answered.
        parts: (rows, modalities, width), what the model has made of each modality.
        logits: (rows, classes).

    Raises:
        DataError: Naming the first item that they are not of, and its modality.
    """
    bad = (~logits.isfinite().all(-1)).nonzero()
    if not len(bad):
        return
    row = int(bad[0])
    broken = (
        [] if parts is None else [n for n, part in zip(names, parts[row], strict=True) if not part.isfinite().all()]
    )
    source = f"its {' and '.join(broken)}" if broken else "what is trained"
    what = f"gets scores that are not finite numbers; they come from {source}."
    fix = (
        "Check its values, the encoder and, in 16-bit types, the size of its features."
        if broken
        else "Check the weights."
    )
    raise DataError(Problem(f"item {records[row].get('id', '?')!r}", what, fix))
