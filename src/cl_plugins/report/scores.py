"""What the scores of a run are scores of: the names of scorers, means over unlike ones, and trivial answers."""

from __future__ import annotations

from collections.abc import Iterable

from .notes import counted
from .run_data import Cell, Run
from .text import listing


#: Stands before a score that a trivial answer reaches as well.
MARK = "‡"
MARK_NOTE = f"{MARK} Not above the best answer that needs no model (majority, constant or random)."
MIXED = "mixed"

_WORDS = {
    "choice_accuracy": "accuracy",
    "box_accuracy": "box accuracy",
    "bleu": "BLEU",
    "token_f1": "token F1",
    "list_f1": "list F1",
    "rouge_l": "ROUGE-L",
    "sari": "SARI",
}
#: Scorers that give the share of items answered correctly.
_RATES = frozenset({"choice_accuracy", "exact_match", "starts_with", "contains", "box_accuracy"})
_BASELINES = ("random_baseline", "majority_baseline", "constant_baseline")


def scorer_word(key: str) -> str:
    """A scorer's name for the head of a column.

    Args:
        key: ``name@version``.
    """
    name = key.split("@")[0]
    return _WORDS.get(name, name if ":" in name else name.replace("_", " "))


def heads(run: Run) -> tuple[str, ...]:
    """The scorer of each task, for the heads of the columns."""
    return tuple(scorer_word(run.scorers.get(task, "")) for task in run.tasks)


def kinds(run: Run) -> dict[str, list[str]]:
    """What is measured, and on which tasks.

    Every share of right answers is an accuracy, by whichever rule an answer is right; other scores are of one kind only
    with scores by the same scorer.
    """
    found: dict[str, list[str]] = {}
    for index, task in enumerate(run.tasks):
        key = run.scorers.get(task, "")
        rate = key.split("@")[0] in _RATES
        rate = rate or any(row.cells[index].interval_method == "wilson" for row in run.rows)
        found.setdefault("accuracy" if rate else scorer_word(key), []).append(task)
    return found


def unlike(run: Run) -> bool:
    """Whether a mean over the tasks is one over unlike scores."""
    return len(kinds(run)) > 1


def unlike_note(run: Run) -> str:
    """The sentence on means over unlike scores; empty where all scores are of one kind."""
    if not unlike(run):
        return ""
    told = listing(f"{kind} ({counted(tasks, ', '.join(tasks))})" for kind, tasks in kinds(run).items())
    return f"Means over tasks (Last, Average and the other metrics) are taken over unlike scores: {told}."


def trivial_score(cell: Cell) -> float | None:
    """The best score that needs no model, as far as the scorer left one: random, majority or constant answer."""
    found = [float(cell.extra[key]) for key in _BASELINES if isinstance(cell.extra.get(key), int | float)]
    return max(found) if found else None


def is_trivial(score: float | None, trivial: float | None) -> bool:
    """Whether a trivial answer reaches a score as well; False where either is not known."""
    return score is not None and trivial is not None and score <= trivial


def mark(cell: Cell) -> str:
    """`MARK` for a cell that does not beat its trivial answer."""
    return MARK if is_trivial(cell.score, trivial_score(cell)) else ""


def mark_note(cells: Iterable[Cell]) -> str:
    """The legend of the marks; empty where no cell has one."""
    return MARK_NOTE if any(mark(cell) for cell in cells) else ""
