"""How many records of a training set the host dropped, and what it cut off the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem
from ..base.logs import logger


if TYPE_CHECKING:
    from .task_args import HostArgs


SHOWN = 5  # records named in a message
#: Tokens that templates put around the texts of a record, more than any of them does.
_AROUND = 256


@dataclass(frozen=True)
class SampleCounts:
    """What became of the records of a training set.

    Attributes:
        records: Records that the host read.
        dropped: Those it dropped, because they are not turns of user and assistant with an answer.
        cut: Samples that lost the end of an answer, or whole turns, at ``cutoff_len``.
    """

    records: int
    dropped: int
    cut: int

    def details(self) -> dict[str, int]:
        """The counts under their names in the journal."""
        return {"records": self.records, "dropped_records": self.dropped, "cut_samples": self.cut}


def total(counts: Sequence[SampleCounts]) -> SampleCounts:
    """The sums of several counts."""
    return SampleCounts(
        sum(one.records for one in counts), sum(one.dropped for one in counts), sum(one.cut for one in counts)
    )


@contextmanager
def aligned_records(found: list[Any]) -> Iterator[None]:
    """Let the host's loader return what it tokenises.

    Args:
        found: Gets the aligned records of all data sets together.
    """
    from llamafactory.data import loader

    merge = loader._get_merged_dataset

    def merge_and_note(*args: Any, **kwargs: Any) -> Any:
        merged = merge(*args, **kwargs)
        if merged is not None:
            found.append(merged)
        return merged

    loader._get_merged_dataset = merge_and_note
    try:
        yield
    finally:
        loader._get_merged_dataset = merge


def kept_rows(aligned: Any) -> list[int]:
    """Numbers of the records that the host makes samples of.

    Args:
        aligned: The host's records before tokenising.
    """
    from pyarrow.compute import list_value_length

    kept: list[int] = []
    start = 0
    for table in aligned.select_columns(["_prompt", "_response"]).with_format("arrow").iter(batch_size=1000):
        prompts, answers = (list_value_length(table[name]).to_pylist() for name in ("_prompt", "_response"))
        for i, (turns, count) in enumerate(zip(prompts, answers, strict=True)):
            if turns and turns % 2 == 1 and count == 1:
                kept.append(start + i)
        start += len(prompts)
    return kept


def empty_answers(aligned: Any, kept: Sequence[int]) -> list[int]:
    """Numbers of the records whose last answer is empty or blank.

    Args:
        aligned: The host's records before tokenising.
        kept: Those it makes samples of.
    """
    from pyarrow.compute import equal, list_flatten, list_parent_indices, struct_field, utf8_trim_whitespace

    blank: set[int] = set()
    start = 0
    for table in aligned.select_columns(["_response"]).with_format("arrow").iter(batch_size=1000):
        answers = table["_response"].combine_chunks()
        texts = utf8_trim_whitespace(struct_field(list_flatten(answers), "content"))
        rows = list_parent_indices(answers).to_pylist()
        blank.update(start + row for row, is_blank in zip(rows, equal(texts, "").to_pylist(), strict=True) if is_blank)
        start += len(answers)
    return [row for row in kept if row in blank]


def count_samples(
    where: str,
    aligned: Any,
    dataset: Any,
    args: HostArgs,
    template: Any,
    module: dict[str, Any],
    *,
    kind: str = "training",
) -> tuple[SampleCounts, list[Problem]]:
    """Count dropped records and cut samples; a question that is cut is a problem, as it is in tests.

    Args:
        where: The task, for messages.
        aligned: The host's records before tokenising.
        dataset: The tokenised training set.
        args: The host's arguments of the task.
        template: The host's template.
        module: The host's tokenizer and processor.
        kind: ``training`` or ``validation``, for messages.
    """
    kept = kept_rows(aligned)
    dropped = sorted(set(range(len(aligned))) - set(kept)) if len(kept) < len(aligned) else []
    if dropped:
        logger.warning(
            "%s: LLaMA-Factory dropped %d of %d %s records, which are not turns of user and assistant with an "
            "answer (first: %s)",
            *(where, len(dropped), len(aligned), kind, _first(dropped)),
        )
    if empty := empty_answers(aligned, kept):
        logger.warning(
            "%s: %d of %d %s samples have an empty answer, so that the model learns to say nothing (first: record %s)",
            *(where, len(empty), len(kept), kind, _first(empty)),
        )
    if args.data.packing:
        candidates = _long_rows(aligned, kept, args.data.cutoff_len)
    elif len(kept) == len(dataset):
        candidates = [kept[row] for row in full_rows(dataset, args.data.cutoff_len)]
    else:
        candidates = []
    questions: list[int] = []
    answers: list[int] = []
    longest = 0
    for row in candidates:
        lost_question, lost_answer, length = _losses(aligned[row], args, template, module)
        if lost_question:
            questions.append(row)
        elif lost_answer:
            answers.append(row)
        if lost_question or lost_answer:
            longest = max(longest, length)
    problems = []
    limit = args.data.cutoff_len
    if questions:
        enough = longest + bool(args.data.packing)  # the host takes one off for packs
        what = (
            f"`cutoff_len: {limit}` truncates the question of {len(questions)} of {len(kept)} {kind} samples "
            f"(first: record {_first(questions)}; up to {longest} tokens)."
        )
        problems.append(Problem(where, what, f"Set `cutoff_len` to at least {enough}, or remove the records."))
    elif answers:
        logger.warning(
            "%s: cutoff_len: %d truncates the end of %d of %d %s samples (first: record %s; up to %d tokens)",
            *(where, limit, len(answers), len(kept), kind, _first(answers), longest),
        )
    return SampleCounts(len(aligned), len(dropped), len(answers)), problems


def full_rows(dataset: Any, limit: int) -> Iterator[int]:
    """Numbers of the samples that fill ``cutoff_len``, the only ones of which something may be missing.

    Args:
        dataset: A tokenised training set.
        limit: ``cutoff_len``.
    """
    from pyarrow.compute import list_value_length

    start = 0
    for table in dataset.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=1000):
        lengths = list_value_length(table["input_ids"]).to_pylist()
        yield from (start + i for i, length in enumerate(lengths) if length >= limit)
        start += len(lengths)


def _long_rows(aligned: Any, kept: Sequence[int], limit: int) -> list[int]:
    """Records whose samples may be longer than the limit: packs hide which they are. No token is shorter than a byte."""
    found = []
    for row in kept:
        example = aligned[row]
        turns = [*example["_prompt"], *example["_response"]]
        size = sum(len(str(turn["content"]).encode()) for turn in turns)
        size += len((example["_system"] or "").encode()) + len((example["_tools"] or "").encode())
        media = any(example.get(kind) for kind in ("_images", "_videos", "_audios"))
        if media or size + _AROUND * len(turns) >= limit:
            found.append(row)
    return found


def _losses(example: dict[str, Any], args: HostArgs, template: Any, module: dict[str, Any]) -> tuple[bool, bool, int]:
    """Whether a sample loses part of a question, or of an answer or a turn; and its length in tokens without a limit.

    The host's own function is asked: it is encoded again, and what is cut off is noted.
    """
    from llamafactory.data.processor import SupervisedDatasetProcessor, supervised

    noted: list[tuple[int, int, int, int]] = []
    measure = supervised.infer_seqlen

    def measure_and_note(source: int, target: int, limit: int) -> Any:
        kept = measure(source, target, limit)
        noted.append((source, target, *kept))
        return kept

    processor = SupervisedDatasetProcessor(template=template, data_args=args.data, **module)
    batch = {key: [value] for key, value in example.items()}
    supervised.infer_seqlen = measure_and_note
    try:
        processor.preprocess_dataset(batch)
    finally:
        supervised.infer_seqlen = measure
    turns = (len(example["_prompt"]) + 1) // 2
    length = sum(source + target for source, target, _, _ in noted) + bool(template.efficient_eos)
    question = any(kept < source for source, _, kept, _ in noted)
    return question, len(noted) < turns or any(kept < target for _, target, _, kept in noted), length


def _first(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:SHOWN]))
