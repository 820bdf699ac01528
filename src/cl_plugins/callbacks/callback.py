"""One task of a stream in any trainer, as a `transformers.TrainerCallback`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..adapters.update import trained_factors
from ..base import ranks
from ..base.errors import CompatibilityError, Problem, RecipeError, RunStateError
from ..base.words import speaking
from ..contract.carry import Carry, TaskUpdate, carry_directory
from ..contract.phase import Phase
from ..methods import Method, TaskContext, registry
from ..methods.seqlora import SeqLoRA
from ..replay.keeping import remove_candidates
from ..replay.store import Buffer
from ..replay.trainers import TrainerReplay, replay_config
from ..run.engine_variables import FSDP, fsdp_problem
from ..streams import Task
from ..training.collated import CollatedData
from ..training.extras import extras, load_extras, save_extras
from ..training.guards import check_loss
from ..training.handover import write_carry, write_update
from ..training.phase_samples import Part
from ..training.task import Learned, TaskTraining
from ..training.terms import TaskTerms, add_gradient
from .given import (
    begin_checkpoints,
    check_best,
    check_layout,
    check_model,
    check_rows,
    engine_of,
    mark_of,
    note_checkpoint,
)
from .settings import WORDS


if TYPE_CHECKING:
    from torch.nn import Module

    from ..config import ReplayConfig
    from .learner_run import LearnerRun


logger = logging.getLogger("cl_plugins")


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method with checked options.

    Args:
        name: As in ``cl.method.name``.
        options: As the other keys of ``cl.method``.

    Raises:
        RecipeError: With every problem of name and options.
    """
    return registry.make_method(name, options or {}, where="options")


class ContinualCallback(TrainerCallback):  # type: ignore[misc]
    """One task of a stream in any trainer: adds the penalties, and writes the update and the carry when it is trained.

    The penalties' gradient is put in place when an optimizer step begins, before the first micro-batch: it is then
    clipped with the rest, and no accumulation and no averaging over processes changes it.

    Args:
        method: Name of the method, or one from `make_method`.
        directory: Where update and carry are written; the same for all tasks of a stream.
        task: Name of the task, or a `Task` where the method needs its modality.
        options: The method's options, if it is given by name.
        base: The base model, where the method rebuilds the model from it (`ContinualLearner` gives it).
        replay: Which samples of past tasks are kept and how they come back, as ``cl.replay`` in a recipe. Needs a trainer
            with `ContinualTrainerMixin`.
        encode: Token ids of a text, without special tokens, for methods that write texts of their own.

    Raises:
        RecipeError: If options, replay or the task's name are wrong.
        RunStateError: If the task is already learned there, or the carry is damaged.
    """

    def __init__(
        self,
        method: str | Method,
        directory: str | Path,
        task: str | Task,
        options: Mapping[str, Any] | None = None,
        base: Any = None,
        replay: Mapping[str, Any] | ReplayConfig | None = None,
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        self.method = make_method(method, options) if isinstance(method, str) else method
        config = replay_config(replay, self.method)
        self.directory = Path(directory)
        self.task = task if isinstance(task, Task) else Task(name=task)
        if problems := self.task.name_problems("task"):
            raise RecipeError(problems)
        self.carry = read_carry(self.directory)
        self._base, self._encode = base, encode
        buffer = Buffer.open(self.carry)
        self._replay = TrainerReplay(config, self.method, buffer) if config.enabled else None
        if self._replay is None and buffer is not None and buffer.samples:
            what = f"holds {len(buffer.samples)} samples of past tasks, but `replay` is off, so that they would be dropped."
            fix = f"Give `replay` as before, or delete them with `cl-plugins replay purge {self.directory} --older-than 0h`."
            raise RunStateError(Problem(str(buffer.path), what, fix))
        self.terms: TaskTerms | None = None
        self.update: TaskUpdate | None = None
        self.phase = Phase()
        self.stream = "python"
        self.run: LearnerRun | None = None  # what notes the steps of a task, see `ContinualLearner`
        self._steps, self._arguments = 0, None
        self._samples: int | None = None
        self._training: TaskTraining | None = None
        self.finished = False
        self.stopped = 0  # optimizer steps after which the training was ended early
        learned = self.carry.tasks if self.carry is not None else ()
        if self.task.name.casefold() in {name.casefold() for name in learned}:
            fix = "Skip it, or choose another directory."
            raise RunStateError(
                Problem(str(self.directory), f"task '{self.task.name}' is already learned there.", fix)
            )

    def context(self, seed: int) -> TaskContext:
        """The task as its method sees it, before there are data."""
        index = len(self.carry.tasks) + 1 if self.carry is not None else 1
        memory = self._replay.memory if self._replay is not None else None
        return TaskContext(self.task, index, seed, self._base, self.carry, memory=memory, encode=self._encode)

    @property
    def further(self) -> tuple[Phase, ...]:
        """The phases that follow the task's own training."""
        index = len(self.carry.tasks) + 1 if self.carry is not None else 1
        return tuple(phase for phase in self.method.phases[1:] if phase.since <= index)

    def bind(self, model: Module, seed: int = 42) -> TaskTerms:
        """Say which model is trained; done by itself when the training begins, earlier by those who need the terms."""
        if self.terms is None:
            more, join = (self._replay.term, self._replay.join) if self._replay is not None else (None, None)
            self.terms = TaskTerms(self.method, self.context(seed), model, more, join)
        return self.terms

    def kept(self) -> list[Part]:
        """The samples of the replay buffer, then those that this task leaves for it; after the task's own training."""
        return self._replay.kept(self.task.name) if self._replay is not None else []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Bind, and refuse what would go wrong without a word."""
        if engine_of(args) == "fsdp":
            problem = fsdp_problem("fsdp" if getattr(args, "fsdp", None) else FSDP)
            raise CompatibilityError(problem)
        if self.finished:
            what = "is trained already; a second training in its block would not be in the carry."
            fix = "Train once, with all samples; or give the second training a task of its own."
            raise RunStateError(Problem(f"task '{self.task.name}'", what, fix))
        check_model(model, self.terms.model if self.terms is not None else None)
        terms = self.bind(model, args.seed)
        check_best(args, self.method, model, terms.in_loss)
        if args.fp16 and not terms.method.trains_in_fp16:
            what = f"'{terms.method.name}' is not tested in fp16: gradients are scaled and steps skipped."
            raise CompatibilityError(Problem("fp16", what, "Train in bf16 or fp32."))
        if terms.has_penalties and engine_of(args):
            what = "does not go with DeepSpeed or FSDP: the callback cannot add to their gradients."
            raise CompatibilityError(Problem("ContinualCallback", what, "Train with DDP or in one process."))
        if (terms.has_batch_terms or self._replay is not None) and not terms.in_loss:
            why = "uses the logits of every batch" if terms.has_batch_terms else "adds samples to the training set"
            what = f"'{self.method.name if terms.has_batch_terms else 'replay'}' {why}, which a callback cannot do."
            fix = "Use `class Mine(ContinualTrainerMixin, YourTrainer)` and pass `terms=task.terms`."
            raise CompatibilityError(Problem("ContinualCallback", what, fix))
        if self._base is None and self.method.answers == "by_sample":
            what = f"'{self.method.name}' puts parts on the base that are chosen per sample, and no base is given."
            raise CompatibilityError(
                Problem("ContinualCallback", what, "Use `ContinualLearner`, which holds the base.")
            )
        if not terms.in_loss and terms.method.changes_gradients:
            what = f"'{self.method.name}' changes the gradient of every step, which a callback cannot do."
            fix = "Use `class Mine(ContinualTrainerMixin, YourTrainer)` and pass `terms=task.terms`."
            raise CompatibilityError(Problem("ContinualCallback", what, fix))
        if not terms.in_loss and terms.learning_rates():
            what = f"'{self.method.name}' trains tensors at separate learning rates, which a callback cannot set."
            fix = "Use `class Mine(ContinualTrainerMixin, YourTrainer)` and pass `terms=task.terms`."
            raise CompatibilityError(Problem("ContinualCallback", what, fix))
        check_rows(args, self.method)
        self._check_start(model)
        self._begin(args, state, terms, model)
        if self.run is not None:
            self.run.begins(self.task.name, self.phase.name, args)
            self.run.tracker.on_train_begin(args, state, control, model=model, **kwargs)
        loader = kwargs.get("train_dataloader")
        self._samples = _size(getattr(loader, "dataset", None))
        if loader is None or self._samples is None:
            if self._replay is not None:
                what = "has no random access, so that none of its samples can be kept."
                raise CompatibilityError(Problem("the trainer's data loader", what, "Leave `replay` out."))
            return
        given = loader.dataset, loader.collate_fn, args.device
        if self._replay is not None:
            check_layout(args, model, second_forward=terms.has_batch_terms)
            data = self._replay.begin(*given, terms.context)
        else:
            data = CollatedData(*given)
        place = {"rank": args.process_index, "world_size": args.world_size}
        terms.context = replace(terms.context, data=data, **place)

    def _begin(self, args: Any, state: Any, terms: TaskTerms, model: Any) -> None:
        """Guards, and what a resumed trainer has not loaded."""
        mark = mark_of(self.method.name, self.task.name, self.phase.name, self.carry)
        place = begin_checkpoints(state, args, mark, terms.resumed)
        if place is not None:
            load_extras(model, place)
        elif state.global_step and extras(model):
            what = (
                f"the trainer goes on from a checkpoint that is not {args.output_dir}/checkpoint-{state.global_step}."
            )
            fix = "Give the folder of the checkpoint as `output_dir`, or use a trainer with `ContinualTrainerMixin`."
            raise RunStateError(Problem(f"task '{self.task.name}'", what, fix))
        wanted = getattr(self._base, "wanted_modules", ())
        self._training = TaskTraining(terms, model, wanted)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Put what the trainer does not save into its checkpoint."""
        if self.terms is not None and args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_extras(model, folder)
            note_checkpoint(state, folder)

    def _check_start(self, model: Any) -> None:
        """Where something else builds the model, it must have taken up what the earlier tasks left.

        Only methods with one LoRA can be checked; an export that went into a base leaves no trace.
        """
        if self._base is not None or self.carry is None or not isinstance(self.method, SeqLoRA):
            return
        factors = trained_factors(model).values()
        if factors and not any(bool(up.any()) for _, up in factors):
            what = (
                f"begins '{self.task.name}' with a fresh adapter, although '{self.carry.tasks[-1]}' has a trained one."
            )
            fix = "Load that adapter (`adapter_name_or_path`), or use another directory."
            raise CompatibilityError(Problem("ContinualCallback", what, fix))

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Add the penalties' gradient, unless the trainer's own `ContinualTrainerMixin` does."""
        if self.terms is not None and self.terms.has_penalties and not self.terms.in_loss:
            add_gradient(self.terms.penalties(state.global_step + 1), model.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """What the method does after an optimizer step."""
        if self.terms is not None:
            self.terms.after_step(last=state.global_step >= state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log the terms together with the loss, and tell the trackers of the stream."""
        if logs is not None and "loss" in logs and self.terms is not None:
            check_loss(f"task '{self.task.name}'", float(logs["loss"]), state.global_step)
            logs.update(self.terms.logs)
            state.log_history[-1].update(self.terms.logs)  # Trainer noted a copy before it asked
        if self.run is not None and self._training is not None:
            self.run.tracker.on_log(args, state, control, logs=logs, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write what the task has learned, unless the training was stopped before its end."""
        if state.global_step < state.max_steps:
            told = "task '%s' was stopped after %d of %d optimizer steps; no carry is written"
            logger.warning(told, self.task.name, state.global_step, state.max_steps)
            self.stopped = state.global_step
            return
        if self.terms is None or self._training is None or self.finished:
            return
        self._training.check(state.global_step)
        context = self.terms.context
        if self._replay is not None:
            self._replay.choose(context, model, ranks.gather)
        learned = self._training.leave()
        self._steps, self._arguments = state.global_step, args
        self._note(learned)
        ranks.on_main(lambda: self._write(learned))  # all wait: they read the carry next
        self.finished = True

    @property
    def folder(self) -> Path:
        """Where the task's update is written."""
        number = len(self.carry.tasks) + 1 if self.carry is not None else 1
        return self.directory / "tasks" / f"{number:02d}_{self.task.name}"

    def _note(self, learned: Learned) -> None:
        self.update = TaskUpdate(self.folder / "update.safetensors", learned.meta, self.task.name)

    def _write(self, learned: Learned) -> None:
        rows = self._replay.tensors() if self._replay is not None else {}
        files = write_update(self.folder, replace(learned, statistics={**learned.statistics, **rows}))
        self._tell(files, learned)
        if not self.further:
            self.write_carry()

    def _tell(self, files: list[Path], learned: Learned) -> None:
        """Let the run note that a training has ended."""
        if self.run is not None:
            name, phase = self.task.name, self.phase.name
            self.run.trained(name, phase, files, learned, self._arguments, self._steps, self._samples)

    def write_carry(self) -> None:
        """Write the next carry; done when the last phase of the task has ended."""
        earlier = self.carry.tasks if self.carry is not None else ()
        if self.update is None:
            raise RunStateError(Problem(str(self.folder), "holds no update.", "Train the task itself first."))
        about = {
            "method": self.method.name,
            "stream": self.stream,
            "tasks": [*earlier, self.task.name],
            "base": getattr(self._base, "fingerprint", {}),
        }
        previous = self.carry if self.method.capabilities.schedule == "sequential" else None
        fill = None
        if self._replay is not None and self.terms is not None:
            fill = self._replay.leave(self.folder, self.terms.context, self.update, previous)
        write_carry(self.directory / "carry", self.method, previous, self.update, about, fill)
        remove_candidates(self.directory)  # samples are kept in one place only
        if self.run is not None:
            self.run.consolidated(self.task.name)


class PhaseCallback(ContinualCallback):
    """A further phase of a task, see `cl_plugins.contract.phase.Phase`.

    Args:
        task: The callback of the task's own training, which has ended.
        phase: The phase.
        seed: Seed of the task.
    """

    def __init__(self, task: ContinualCallback, phase: Phase, seed: int) -> None:
        self.method, self.directory, self.task, self.carry = task.method, task.directory, task.task, task.carry
        self._base, self._encode, self._replay, self._training = task._base, task._encode, None, None
        self._own, self.phase, self.finished = task, phase, False
        self.stream, self.run = task.stream, task.run
        self._steps, self._samples, self._arguments = 0, None, None
        self.stopped = 0
        self.update = task.update
        self._first = replace(task.context(seed), phase=phase.name)
        self.terms = None

    def context(self, seed: int) -> TaskContext:
        """Task and phase."""
        return self._first

    def _note(self, learned: Learned) -> None:
        """The update stays that of the task."""

    def _write(self, learned: Learned) -> None:
        self._tell(write_update(self.folder, learned, self.phase.name), learned)
        if self.phase == self.further[-1]:
            self._own.write_carry()


def _size(dataset: Any) -> int | None:
    """Number of samples, where a data set knows it and has them at hand."""
    from torch.utils.data import IterableDataset

    return len(dataset) if hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset) else None


def read_carry(directory: Path) -> Carry | None:
    """The carry in a directory, checked against its hashes; None if there is none."""
    from ..base.files import recover_directory

    path = directory / "carry"
    recover_directory(path)
    if not os.path.lexists(path):
        return None
    with speaking(WORDS):
        carry = Carry.open(carry_directory(directory))
        carry.verify()
    return carry
