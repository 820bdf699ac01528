"""The methods for any Transformers trainer: ``Trainer``, ``Seq2SeqTrainer``, TRL's ``SFTTrainer``, a trainer of your own.

Two ways in:

* `ContinualLearner` holds the base and leads a stream through a method, task by task::

      learner = ContinualLearner(model, "inclora", "out", lora=LoraConfig(...))
      for name, dataset in stream.items():
          with learner.task(name) as task:
              SFTTrainer(task.model, train_dataset=dataset, callbacks=[task.callback], ...).train()
      model = learner.model()  # answers for all tasks

* `ContinualCallback` alone, where something else builds the model, as in
  ``run_exp(args, callbacks=[ContinualCallback("ewc", "out", "task_1")])``.

Penalties need the callback only. LwF, which looks at the logits of every batch, needs the loss of the trainer:
``class Mine(ContinualTrainerMixin, SFTTrainer)`` and ``Mine(..., terms=task.terms)``. Both leave the carry of a run of
ours behind, in the same format. Methods that need a replay buffer (DER) are for recipes only: the buffer keeps samples in
the host's form.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .adapters.carry import Carry, TaskUpdate
from .adapters.held_base import HeldBase
from .errors import CompatibilityError, Problem, RunStateError
from .methods import Method, TaskContext, get_method, registry
from .methods.task_data import CollatedData
from .penalised import ContinualTrainerMixin, TaskTerms, add_gradient
from .run import ranks
from .streams import Task


if TYPE_CHECKING:
    from peft import LoraConfig
    from torch.nn import Module


__all__ = ["ContinualCallback", "ContinualLearner", "ContinualTrainerMixin", "make_method"]

logger = logging.getLogger("cl_plugins")


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """A method with checked options.

    Args:
        name: As in ``cl.method.name``.
        options: As the other keys of ``cl.method``.

    Raises:
        RecipeError: With every problem of name and options.
        CompatibilityError: If the method needs a replay buffer, which only a recipe keeps.
    """
    if get_method(name).capabilities.needs_replay:
        what = f"'{name}' needs a replay buffer, which a trainer of your own does not keep."
        raise CompatibilityError(Problem("method", what, "Train with a recipe (`cl.replay`), or use another method."))
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
    """

    def __init__(
        self,
        method: str | Method,
        directory: str | Path,
        task: str | Task,
        options: Mapping[str, Any] | None = None,
        base: Any = None,
    ) -> None:
        self.method = make_method(method, options) if isinstance(method, str) else method
        self.directory = Path(directory)
        self.task = task if isinstance(task, Task) else Task(name=task)
        self.carry = read_carry(self.directory)
        self._base = base
        self.terms: TaskTerms | None = None
        self.finished = False
        if self.carry is not None and self.task.name in self.carry.tasks:
            fix = "Skip it, or choose another directory."
            raise RunStateError(
                Problem(str(self.directory), f"task '{self.task.name}' is already learned there.", fix)
            )

    def bind(self, model: Module, seed: int = 42) -> TaskTerms:
        """Say which model is trained; done by itself when the training begins, earlier by those who need the terms."""
        if self.terms is None:
            index = len(self.carry.tasks) + 1 if self.carry is not None else 1
            self.terms = TaskTerms(self.method, TaskContext(self.task, index, seed, self._base, self.carry), model)
        return self.terms

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Bind, and refuse what would go wrong without a word."""
        terms = self.bind(model, args.seed)
        if terms.has_penalties and (args.fp16 or args.deepspeed or getattr(args, "fsdp", None)):
            what = "does not go with fp16, DeepSpeed or FSDP: their gradients cannot be added to from outside."
            raise CompatibilityError(Problem("ContinualCallback", what, "Use bf16 or fp32, with DDP or alone."))
        loader = kwargs.get("train_dataloader")
        if terms.has_batch_terms and not terms.in_loss:
            what = f"'{self.method.name}' looks at the logits of every batch, which a callback never sees."
            fix = "Use `class Mine(ContinualTrainerMixin, YourTrainer)` and pass `terms=task.terms`."
            raise CompatibilityError(Problem("ContinualCallback", what, fix))
        if loader is not None and hasattr(getattr(loader, "dataset", None), "__len__"):
            data = CollatedData(loader.dataset, loader.collate_fn, args.device)
            ranks = {"rank": args.process_index, "world_size": args.world_size}
            terms.context = replace(terms.context, data=data, **ranks)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Add the penalties' gradient, unless the trainer's own `ContinualTrainerMixin` does."""
        if self.terms is not None and self.terms.has_penalties and not self.terms.in_loss:
            add_gradient(self.terms.penalties(state.global_step + 1), model.parameters())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log the terms beside the loss."""
        if logs is not None and "loss" in logs and self.terms is not None:
            logs.update(self.terms.logs)
            state.log_history[-1].update(self.terms.logs)  # Trainer noted a copy before it asked

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write what the task has learned, unless the training was stopped before its end."""
        if state.global_step < state.max_steps:
            logger.warning("task '%s' was stopped early; nothing is carried", self.task.name)
            return
        if self.terms is None or self.finished:
            return
        self.terms.check()
        context = self.terms.context
        tensors = self.method.end_task(context, model)
        meta = self.method.describe_update(context, model)
        statistics = self.method.statistics(context, model)
        ranks.on_main(lambda: self._write(tensors, meta, statistics))  # all wait: they read the carry next
        self.finished = True

    def _write(self, tensors: dict[str, Any], meta: dict[str, Any], statistics: dict[str, dict[str, Any]]) -> None:
        from .run.consolidate import write_carry
        from .run.update import write_update

        earlier = self.carry.tasks if self.carry is not None else ()
        folder = self.directory / "tasks" / f"{len(earlier) + 1:02d}_{self.task.name}"
        write_update(folder, tensors, meta, statistics)
        about = {
            "method": self.method.name,
            "stream": "python",
            "tasks": [*earlier, self.task.name],
            "base": getattr(self._base, "fingerprint", {}),
        }
        previous = self.carry if self.method.capabilities.schedule == "sequential" else None
        update = TaskUpdate(folder / "update.safetensors", meta, self.task.name)
        write_carry(self.directory / "carry", self.method, previous, update, about)


def read_carry(directory: Path) -> Carry | None:
    """The carry in a directory, checked against its hashes; None if there is none."""
    from .run.files import recover_directory

    path = directory / "carry"
    recover_directory(path)
    if not (path / "carry.json").is_file():
        return None
    carry = Carry.open(path)
    carry.verify()
    return carry


class PlainBase(HeldBase):
    """A Transformers model without adapters as a method's base.

    Args:
        model: The model. What requires gradients now is what full fine-tuning trains.
        lora: The LoRA of methods that use one.
    """

    def __init__(self, model: Any, lora: LoraConfig | None = None) -> None:
        super().__init__(model)
        if hasattr(model, "peft_config"):
            what = "has an adapter already."
            raise CompatibilityError(Problem("model", what, "Give the base; the adapters come from `lora`."))
        self._lora = lora
        self._wanted = [name for name, p in model.named_parameters() if p.requires_grad]
        config = json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str)
        self.fingerprint = {
            "name": model.config._name_or_path,
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        }

    def _make_adapter(self) -> Any:
        from peft import get_peft_model

        if self._lora is None:
            raise CompatibilityError(Problem("lora", "is missing.", "Give a `peft.LoraConfig`."))
        return get_peft_model(self._model, copy.deepcopy(self._lora))

    def _make_full(self) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in self._wanted)


class LearnerTask:
    """One task in the hands of a `ContinualLearner`.

    Attributes:
        model: What is trained; give it to the trainer.
        callback: Give it to the trainer's ``callbacks``.
        terms: Give it to a trainer with `ContinualTrainerMixin`; not needed for methods with penalties only.
    """

    def __init__(self, callback: ContinualCallback, model: Any, seed: int) -> None:
        self.model, self.callback = model, callback
        self.terms = callback.bind(model, seed)


class ContinualLearner:
    """Leads a model through a stream of tasks with a method and a trainer of your own.

    Args:
        model: The base, a Transformers model without adapters. It is changed in place.
        method: Name of the method.
        directory: Where updates and the carry are written. An earlier carry there is taken up.
        lora: The LoRA, for the methods that use one.
        options: The method's options.
        seed: Task k begins with seed + 1000 (k - 1).

    Raises:
        RecipeError: If method or options are unknown.
        RunStateError: If the directory's carry was made by another method or with another base, or is damaged.
    """

    def __init__(
        self,
        model: Any,
        method: str,
        directory: str | Path,
        lora: LoraConfig | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 42,
    ) -> None:
        self.method = make_method(method, options)
        if self.method.capabilities.schedule != "sequential":
            what = f"'{method}' does not learn its tasks one after the other."
            raise CompatibilityError(Problem("method", what, "Train such references with the trainer alone."))
        if "lora" in self.method.capabilities.finetuning_types and lora is None:
            raise CompatibilityError(Problem("lora", "is missing.", "Give a `peft.LoraConfig`."))
        self.directory = Path(directory)
        self.base = PlainBase(model, lora)
        self.seed = seed
        carry = read_carry(self.directory)
        if carry is not None and (carry.method != method or carry.base != self.base.fingerprint):
            what = f"holds a carry of '{carry.method}' on {carry.base.get('name')!r}."
            fix = "Use the same method and base, or another directory."
            raise RunStateError(Problem(str(self.directory), what, fix))

    @property
    def finished(self) -> tuple[str, ...]:
        """Names of the tasks that are learned."""
        carry = read_carry(self.directory)
        return carry.tasks if carry is not None else ()

    @contextmanager
    def task(self, task: str | Task) -> Iterator[LearnerTask]:
        """Begin a task; train inside the block.

        Args:
            task: Its name, or a `Task` where the method needs a modality.

        Raises:
            RunStateError: If the task is already learned, or the block was left without a whole training.
        """
        callback = ContinualCallback(self.method, self.directory, task, base=self.base)
        index = len(callback.carry.tasks) if callback.carry is not None else 0
        seed = self.seed + 1000 * index
        restored = self.method.restore(self.base, callback.carry)
        context = TaskContext(callback.task, index + 1, seed, self.base, callback.carry)
        model = self.method.begin_task(context, restored)
        yield LearnerTask(callback, model, seed)
        if not callback.finished:
            what = f"task '{callback.task.name}' was not trained to its end."
            raise RunStateError(Problem(str(self.directory), what, "Train `task.model` with `task.callback`."))

    def model(self, task: str | None = None) -> Any:
        """The model that answers, rebuilt from what was written.

        Args:
            task: The task whose questions it answers, for methods that choose the model by the task.
        """
        carry = read_carry(self.directory)
        route = self.method.route(carry, task) if task is not None else None
        return self.method.restore(self.base, carry, route)
