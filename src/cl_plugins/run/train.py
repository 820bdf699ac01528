"""The step ``train``: one task through the host's trainer, with guards around it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.partitioned import forget_engine, size
from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import artefact
from ..base.logs import logger
from ..methods import TaskContext
from ..replay import keeping
from ..training.checkpoints import newest_complete
from ..training.handover import write_update
from ..training.task import TaskTraining
from ..training.terms import TaskTerms
from . import replaying
from .interrupt import Interrupted
from .plan import Step
from .reading import quiet_examples
from .state import RunState
from .task_identity import task_identity


if TYPE_CHECKING:
    pass


def steps_of(training: Any, samples: int) -> int:
    """Optimizer steps of a task, as the trainer will count them.

    Args:
        training: The task's `transformers.TrainingArguments`.
        samples: Number of training samples.
    """
    if training.max_steps > 0:
        return int(training.max_steps)
    per_step = training.per_device_train_batch_size * training.world_size * training.gradient_accumulation_steps
    return max(1, math.ceil(math.ceil(samples / per_step) * training.num_train_epochs))


def train(state: RunState, step: Step, begin: Callable[[int], None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one task and write its update.

    Args:
        state: The run.
        step: The step.
        begin: Told the number of optimizer steps, for the display.

    Returns:
        Artefacts and details for the journal.
    """
    task, phase = str(step.task), state.phase(step.phase)
    folder = state.directory(task, step.phase or "")
    session = state.session
    carry = state.carry if state.schedule == "sequential" else None
    model = state.answering(carry)
    state.forget_model()

    args = state.task_args(task, phase)
    with quiet_examples():
        data = replaying.load(state, task, args)
    module = data.module
    described = state.config.stream.tasks[0] if state.schedule == "joint" else state.config.stream.task(task)
    context = TaskContext(
        described,
        state.position(task),
        state.seed(task),
        session.base,
        carry,
        session.task_data(data.own, args),
        ranks.rank(),
        ranks.world_size(),
        data.memory,
        step.phase or "",
        session.encode,
    )
    if phase is None:
        model = state.method.begin_task(context, model)
    else:
        update = state.update(task)
        if phase.samples == "kept":
            module = {"train_dataset": replaying.kept(state, task, data, context)}
            context = replace(context, data=session.task_data(module["train_dataset"], args))
        model = state.method.begin_phase(context, phase, update)
    _check_disk(state, model)
    terms = TaskTerms(state.method, context, model, data.term)
    training = TaskTraining(terms, model, args.trained_modules)

    bridge = _bridge(state, terms)
    state.tracker.begin(task, state.steps_before(step.key), step.phase or "")
    watchers = [*state.callbacks, bridge, state.tracker]
    recipe = ranks.on_main(lambda: task_identity(state, task, carry))
    trainer = session.trainer(args, model, module, watchers, terms, task, recipe)
    checkpoint = _checkpoint(folder, args.training.world_size, recipe)
    samples = len(module["train_dataset"]) if hasattr(module["train_dataset"], "__len__") else 0
    begin(steps_of(args.training, samples))
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # LlamaBoard's "Abort" ends a training early through the host's own callback: the task is not finished
    if bridge.stopped or any(getattr(callback, "aborted", False) for callback in trainer.callback_handler.callbacks):
        ranks.barrier()  # no rank leaves, and has the others ended by its launcher, before the checkpoint is whole
        raise Interrupted
    training.check(trainer.state.global_step)
    if trainer.state.global_step < trainer.state.max_steps:
        ended = "%s: a callback ended the training after %d of %d optimizer steps"
        logger.warning(ended, step.key, trainer.state.global_step, trainer.state.max_steps)

    trainer.save_metrics("train", result.metrics)  # the run prints its own line, so no `log_metrics`
    trainer.save_state()
    if ranks.is_main():
        session.plot_loss(args)
    replay, rows = state.config.replay, data.rows if phase is None else None
    picks = keeping.choose(replay, context, model, rows, ranks.gather) if rows is not None else []
    learned = training.leave()
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
    forget_engine(model)

    def write() -> tuple[dict[str, Any], dict[str, Any]]:
        artefacts: dict[str, Any] = {}
        for path in write_update(state.directory(task), learned, step.phase or ""):
            artefacts |= artefact(state.root, path)
        if rows is not None:
            artefacts |= artefact(state.root, keeping.write_candidates(folder, replay, context, rows, picks))
        details = {"optimizer_steps": trainer.state.global_step, "train_loss": result.metrics.get("train_loss")}
        details |= data.counts
        details |= validation_details(trainer.state, args.training)
        if learned.numbers:
            details["numbers"] = learned.numbers
        return artefacts, details

    return ranks.on_main(write)


def validation_details(state: Any, training: Any) -> dict[str, Any]:
    """What the loss on the validation set was, for the journal; empty without one.

    Args:
        state: The trainer's state at the end.
        training: Its arguments.

    Returns:
        ``valid_loss`` of the weights that remain and ``valid_step``, the step they are of.
    """
    measured = [(entry["step"], entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry]
    if training.load_best_model_at_end and state.best_global_step:
        return {"valid_loss": state.best_metric, "valid_step": state.best_global_step}
    return {"valid_loss": measured[-1][1], "valid_step": measured[-1][0]} if measured else {}


def remove_checkpoints(state: RunState, task: str, phase: str | None = None) -> None:
    """The trainer's checkpoints hold torch pickles and are of no more use once the step is in the journal."""
    folder = state.directory(task, phase or "")
    for checkpoint in (*folder.glob("checkpoint-*"), *folder.glob("broken-checkpoint-*")):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _bridge(run: RunState, terms: TaskTerms) -> Any:
    """A trainer callback that calls the method, moves the display and stops the training when asked."""
    from transformers import TrainerCallback

    class Bridge(TrainerCallback):  # type: ignore[misc]
        stopped = False
        look_at = 0  # the optimizer step at which the ranks ask each other next
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            terms.after_step(last=state.global_step >= state.max_steps)
            run.progress.advance()
            asked = run.stop.asked
            if ranks.world_size() > 1:
                asked = state.global_step >= self.look_at and self.ask(state.global_step)
            if asked:
                self.stopped = control.should_training_stop = control.should_save = True

        def ask(self, step: int) -> bool:
            """Whether any rank was asked to stop; the ranks ask about once a second, and after 8 steps at most."""
            found = ranks.gather((run.stop.asked, time.monotonic() - self.started))
            slowest = max(seconds for _, seconds in found)
            self.look_at = step + min(8, max(1, int(1 / max(slowest, 1e-3))))
            return any(asked for asked, _ in found)

    return Bridge()


def _checkpoint(folder: Path, world_size: int, recipe: str) -> Path | None:
    def choose() -> str | None:
        checkpoint, broken = newest_complete(folder, world_size, recipe)
        for path, reason in broken:
            logger.warning("%s is set aside: %s", path.name, reason)
            target = path.with_name(f"broken-{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)
        if checkpoint is not None:
            logger.info("resuming from %s", checkpoint)
        return str(checkpoint) if checkpoint else None

    chosen = ranks.on_main(choose)
    return Path(chosen) if chosen else None


def _check_disk(state: RunState, model: Any) -> None:
    """The update, the carry with it, and a checkpoint with two optimizer moments must fit, all in fp32.

    Of 16-bit weights DeepSpeed keeps fp32 copies in its checkpoints.
    """
    trainable = sum(size(p) * max(4, p.element_size()) for p in model.parameters() if p.requires_grad)
    need = 6 * trainable + 64 * 1024**2
    free = shutil.disk_usage(state.root).free
    if free < need:
        what = f"has {free / 1e9:.1f} GB free; this task needs about {need / 1e9:.1f} GB."
        raise RunStateError(
            Problem(str(state.root), what, "Free some space, or choose another `output_dir`; finished steps are kept.")
        )
