"""What a reader has to know of the tests and the training data of a run, as sentences; of many tasks in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..contract.host import has_encoders
from . import text
from .coarse_picture import NUMBERED, many
from .run_data import Run


def counted(tasks: Sequence[str], words: str) -> str:
    """Words that name tasks, or how many they are where nobody could read their names.

    Args:
        tasks: The tasks.
        words: Their names, as a text.
    """
    return words if len(tasks) <= NUMBERED else f"{len(tasks)} tasks"


def limit_note(run: Run) -> str:
    """The sentences under every table when tests were limited, or items were left out of them."""
    found = []
    if run.limits:
        limited = _items(run.limits, " items")
        found.append(f"Tests limited by cl.eval.max_items: {limited}.")
    if run.left_out:
        left_out = _items(run.left_out)
        found.append(f"Test items left out, because their prompts exceed cutoff_len: {left_out}.")
    return " ".join(found)


def _items(counts: Mapping[str, int], unit: str = "") -> str:
    """Tasks and their numbers of items; of many tasks, how many they are."""
    if len(counts) <= NUMBERED:
        return text.listing(f"{task} {count}" for task, count in counts.items()) + unit
    least, most = min(counts.values()), max(counts.values())
    return f"{len(counts)} tasks, {least}{f' to {most}' if most > least else ''} items each"


def cut_notes(run: Run) -> list[str]:
    """Answers that ``max_new_tokens`` ended, and training data that the host dropped or cut."""
    return list(_counted(run) if many(run) else _by_task(run))


def _by_task(run: Run) -> Iterator[str]:
    """A sentence per task."""
    for index, task in enumerate(run.tasks):
        cells = [(row.label, row.cells[index]) for row in run.rows]
        cut = text.listing(f"{label} {cell.cut} of {cell.n}" for label, cell in cells if cell.cut)
        if cut:
            yield f"Answers of {task} truncated at max_new_tokens, by row: {cut}."
    for task, counts in (run.info.get("training_data") or {}).items():
        dropped, records = counts.get("dropped_records"), counts.get("records")
        if dropped:
            yield f"Training data of {task}: LLaMA-Factory dropped {dropped} of {records} records."
        if counts.get("cut_samples"):
            yield f"Training data of {task}: {_cutter(run)} truncates the end of {counts['cut_samples']} samples."
    for task, counts in _shortened(run).items():
        ends = f"{_cutter(run)} truncates the end of {counts['cut_items']} of {counts['items']} items"
        yield f"Test data of {task}: {ends}."


def _counted(run: Run) -> Iterator[str]:
    """The sums over the tasks that are concerned."""
    cells = [cell for row in run.rows for cell in row.cells if cell.cut]
    if cells:
        cut, items = sum(cell.cut or 0 for cell in cells), sum(cell.n or 0 for cell in cells)
        where = f"{len(cells)} cell{'s' if len(cells) > 1 else ''} of the matrix (`cut` in `cells.csv`)"
        yield f"Answers truncated at max_new_tokens: {cut} of {items} in {where}."
    data = list((run.info.get("training_data") or {}).values())
    dropped = [counts for counts in data if counts.get("dropped_records")]
    if dropped:
        lost, records = (sum(counts.get(key) or 0 for counts in dropped) for key in ("dropped_records", "records"))
        yield f"Training data of {_tasks(dropped)}: LLaMA-Factory dropped {lost} of {records} records."
    shortened = [counts["cut_samples"] for counts in data if counts.get("cut_samples")]
    if shortened:
        ends = f"{_cutter(run)} truncates the end of {sum(shortened)} samples"
        yield f"Training data of {_tasks(shortened)}: {ends}."
    tests = list(_shortened(run).values())
    if tests:
        cut, items = (sum(counts[key] for counts in tests) for key in ("cut_items", "items"))
        yield f"Test data of {_tasks(tests)}: {_cutter(run)} truncates the end of {cut} of {items} items."


def _cutter(run: Run) -> str:
    """The key that cuts what is too long."""
    return "max_length or seconds of an encoder" if has_encoders(run.info.get("recipe") or {}) else "cutoff_len"


def _shortened(run: Run) -> dict[str, dict[str, int]]:
    """Task -> its test items and how many of them are cut."""
    return run.info.get("test_data") or {}


def _tasks(found: Sequence[object]) -> str:
    return f"{len(found)} task{'s' if len(found) > 1 else ''}"


def validation_notes(run: Run) -> list[str]:
    """The loss on the validation set of each task that has one, and whether it decided the length of its training."""
    losses = run.info.get("validation") or {}
    if len(losses) > NUMBERED:
        return [f"Validation losses of {len(losses)} tasks: `validation` in `run.json`."]
    found = []
    for task, values in losses.items():
        step, steps = values["valid_step"], values["optimizer_steps"]
        end = f"the last of {steps}" if step == steps else f"of {steps}"
        found.append(f"Validation loss of {task}: {values['valid_loss']:.4f} at step {step}, {end}.")
    return found
