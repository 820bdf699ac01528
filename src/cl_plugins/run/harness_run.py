"""What a harness measures on the model in memory, and what it gives as the score and the answers of a probe."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..evaluation.answers import first_argument
from ..evaluation.drift import drift
from ..evaluation.intervals import bootstrap_mean, wilson
from ..evaluation.items import TaskScore
from ..generation.generate import answering
from ..records.record import dump
from ..streams import Probe
from .evaluate import has_zero_shot, write_answers
from .harness import calm, manager, reason, version_of
from .plan import ZERO_SHOT, Step
from .precision import autocast_name
from .result_files import PERCENTAGES


if TYPE_CHECKING:
    from .state import RunState

_LONGEST = 1024  # tokens of an answer, where a task of lmms-eval does not say


def measure(state: RunState, step: Step, probe: Probe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let a harness test the model of a row.

    Args:
        state: The run.
        step: A step ``probe``.
        probe: Its probe, with a harness.

    Returns:
        Artefacts and details for the journal.

    Raises:
        RunStateError: If the harness fails, or its metric is no score from 0 to 100.
    """
    carry = None if step.row == ZERO_SHOT else state.carry
    model = state.answering(carry, probe.name)
    where = f"probe '{probe.name}' ({probe.harness})"
    with tempfile.TemporaryDirectory(prefix="cl-plugins-") as folder:
        state.session.save_processor(Path(folder))  # prompts as those of the finished model
        reader = _reader(Path(folder), bool(state.run_args.trust_remote_code))
        tokenizer = getattr(reader, "tokenizer", reader)
        try:
            with calm(), answering(model, tokenizer):
                results = _run(state, probe, model, reader)
        except Exception as error:  # of the harness, and of the model that it asks
            fix = "Fix it and start the run again, or leave the probe out."
            raise RunStateError(Problem(where, f"failed: {reason(error)}.", fix)) from error
    score, lines = read_results(probe, results, state.config.eval.max_items, where)
    before = _before(state, step)
    if before is not None:
        score = dataclasses.replace(score, extra={**score.extra, "drift": drift(before, score)})
    return write_answers(state, step, "".join(dump(line) + "\n" for line in lines), score, per_item=True)


def _before(state: RunState, step: Step) -> TaskScore | None:
    """The zero-shot score, where this row is another one."""
    if not has_zero_shot(state, step):
        return None
    return TaskScore.read(state.root / step.place / ZERO_SHOT / f"{step.task}.score.json")


def _reader(folder: Path, trust: bool) -> Any:
    """The processor of a model with pictures, else its tokenizer."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, trust_remote_code=trust)


def _run(state: RunState, probe: Probe, model: Any, reader: Any) -> Any:
    """The results of the harness, as its ``simple_evaluate`` gives them."""
    name, task = probe.harness_task or ("", "")
    # A row's choice is made over all that is attended, and the harness pads without a mask.
    size = 1 if state.method.answers == "by_sample" else int(state.run_args.training.per_device_eval_batch_size)
    precision = autocast_name(state.run_args.training)
    common = {
        "tasks": [task],
        "num_fewshot": probe.num_fewshot,
        "limit": state.config.eval.max_items,
        "log_samples": True,
        "task_manager": manager(probe),
    }
    if name == "lm_eval":
        wrapper = import_module("lm_eval.models.huggingface").HFLM(
            pretrained=model,
            backend="causal",
            tokenizer=getattr(reader, "tokenizer", reader),
            batch_size=size,
            mixed_precision_dtype=precision,
        )
        chat = {"apply_chat_template": probe.apply_chat_template}
        return import_module("lm_eval").simple_evaluate(model=wrapper, batch_size=size, **chat, **common)
    from .lmms_model import in_memory

    return import_module("lmms_eval.evaluator").simple_evaluate(
        model=in_memory(model, reader, _LONGEST, precision), batch_size=1, **common
    )


def read_results(
    probe: Probe, results: Any, max_items: int | None, where: str
) -> tuple[TaskScore, list[dict[str, Any]]]:
    """Score and answers out of what a harness gives.

    Args:
        probe: The probe.
        results: What ``simple_evaluate`` gave: ``results``, ``samples``, ``versions``, ``higher_is_better``.
        max_items: The limit.
        where: For messages.

    Raises:
        RunStateError: If there is no such metric, or it is no score from 0 to 100.
    """
    name, task = probe.harness_task or ("", "")
    try:
        measured = results["results"][task]
        keys = [key for key in measured if "," in key and "_stderr" not in key]
        key = next((key for key in keys if probe.metric in (None, key, key.partition(",")[0])), None)
        if key is None:
            wanted = f"the metric {probe.metric!r}" if probe.metric else "a metric"
            fix = (
                f"Metrics: {', '.join(keys)}." if keys else "Name one of its tasks, or a group with a mean of its own."
            )
            raise RunStateError(Problem(where, f"did not measure {wanted}.", fix))
        metric, _, kept = key.partition(",")
        score = _percent(measured[key], metric, results, task, where)
        samples = _samples(results, task, kept)
        items = _item_scores(samples, metric)
        version = (results.get("versions") or {}).get(task)
        lines = [_line(sample, label, items[i] if items else None) for i, (label, sample) in enumerate(samples)]
        interval, how = _interval(score, items, measured.get(f"{metric}_stderr,{kept}"), metric)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"gave results of a form that is not known ({reason(error)})."
        raise RunStateError(Problem(where, what, f"Use a version of {name} that the docs name.")) from error
    package = version_of(name)
    extra = {"harness": f"{name} {package}" if package else name, "metric": key, "task_version": version}
    scorer = f"{name}:{task}:{key}@{version if version is not None else 0}"
    count = max(1, len(samples))
    return TaskScore(scorer, score, count, interval, how, tuple(items), extra, max_items, None), lines


def _percent(value: Any, metric: str, results: Mapping[str, Any], task: str, where: str) -> float:
    """A metric as a score from 0 to 100."""
    better = (results.get("higher_is_better") or {}).get(task)
    better = better.get(metric) if isinstance(better, Mapping) else better
    fix = "Choose another metric of the task with `metric`."
    if better is False:
        raise RunStateError(Problem(where, f"measured {metric}, which is better when it is lower.", fix))
    number = float(value)
    if not metric.startswith(PERCENTAGES):
        number *= 100
    if not math.isfinite(number) or not 0 <= number <= 100:
        raise RunStateError(Problem(where, f"measured {metric} = {value}, which is no score from 0 to 100.", fix))
    return number


def _samples(results: Mapping[str, Any], task: str, kept: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The items of a task, or of all tasks of a group, in order, with what stands in front of their ids."""
    found = []
    for name, samples in (results.get("samples") or {}).items():
        chosen = [sample for sample in samples if sample.get("filter", kept) == kept]
        for sample in sorted(chosen, key=lambda each: int(each["doc_id"])):
            found.append((name, sample))
    return found


def _item_scores(samples: Sequence[tuple[str, Mapping[str, Any]]], metric: str) -> list[float]:
    """Scores of the items, 0-100; empty where one of them has none."""
    values = [sample.get(metric) for _, sample in samples]
    factor = 1.0 if metric.startswith(PERCENTAGES) else 100.0
    numbers = [factor * float(v) for v in values if isinstance(v, int | float | bool) and math.isfinite(v)]
    return numbers if len(numbers) == len(values) and all(0 <= each <= 100 for each in numbers) else []


def _interval(score: float, items: Sequence[float], deviation: Any, metric: str) -> tuple[tuple[float, float], str]:
    """The 95 % interval of a score: of its items where it is their mean, else by the harness's own standard error."""
    if items and abs(math.fsum(items) / len(items) - score) < 1e-6:
        if set(items) <= {0.0, 100.0}:
            return wilson(round(math.fsum(items) / 100), len(items)), "wilson"
        return bootstrap_mean(items), "bootstrap"
    if isinstance(deviation, int | float) and math.isfinite(deviation):
        half = 1.96 * float(deviation) * (1.0 if metric.startswith(PERCENTAGES) else 100.0)
        return (max(0.0, score - half), min(100.0, score + half)), "standard error of the harness"
    return (0.0, 100.0), "not known"


def _line(sample: Mapping[str, Any], task: str, score: float | None) -> dict[str, Any]:
    """One answer as predictions have it."""
    answers = sample.get("filtered_resps")
    first = answers[0] if isinstance(answers, list | tuple) and len(answers) == 1 else answers
    found: dict[str, Any] = {
        "id": f"{task}/{sample['doc_id']}",
        "prompt": _prompt(sample.get("arguments")),
        "prediction": first if isinstance(first, str) else dump(_plain(first)),
        "reference": str(sample.get("target")),
    }
    return found if score is None else {**found, "score": score}


def _prompt(arguments: Any) -> str:
    """The text of a question: the first argument of the first request, however it is wrapped."""
    return str(first_argument(arguments) or "")


def _plain(value: Any) -> Any:
    """A value in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
