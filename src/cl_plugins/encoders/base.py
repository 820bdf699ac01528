"""The classifier on frozen encoders as the base of a run: everything but the encoders is what a method trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.held_base import HeldBase
from ..base.errors import CompatibilityError, Problem, RunStateError
from ..crossmodal.configuration import ClassifierOptions, CrossModalConfig
from ..crossmodal.model import CrossModalClassifier, CrossModalOutput


if TYPE_CHECKING:
    from torch.nn import Module


HEAD = ("classifier.weight", "classifier.bias")


class AnsweringClassifier(CrossModalClassifier):
    """A classifier that methods made for language models can train: its answer is one token, the number of a class.

    Labels are (rows, 2), the first -100, and logits (rows, 2, classes): those at position 0 are of the class. The head has a
    row for every class of the stream; those of classes that were never learned are zeros, get no gradient, and are not among
    the logits, so that the head grows as one that had no row for them (rows of zeros also stay zero under weight decay).

    Attributes:
        learned: Number of classes that the weights have learned; they are the first ones, in the order of the stream. The
            session says it: a row that is learned may be zeros too, as that of a first class that has no other beside it.
        opened: Number of classes that the task in training may use; 0 outside of a training.
    """

    learned: int = 0
    opened: int = 0

    @property
    def certain(self) -> bool:
        """Whether there is one class to answer, see `cl_plugins.contract.task.certain`."""
        return max(self.learned, self.opened) <= 1

    def close(self) -> None:
        """The training is over: its classes are learned."""
        self.learned, self.opened = max(self.learned, self.opened), 0

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> CrossModalOutput:
        """See `CrossModalClassifier.forward` and the class.

        In evaluation mode, and in training before any task is open, the classes that are learned answer; at least one does.
        """
        found = self.represent(**inputs)
        count = max(self.learned, self.opened if self.training else 0, 1)
        head: Any = self.classifier
        # only the rows in use: a head with more rows for later classes rounds as one without
        joint: Any = found.joint
        logits = torch.nn.functional.linear(joint, head.weight[:count], head.bias[:count])
        if labels is not None:
            found.loss = torch.nn.functional.cross_entropy(logits, labels[:, 1])
        found.logits = logits[:, None].expand(-1, 2, -1)
        return found


class EncoderBase(HeldBase):
    """Implements `cl_plugins.contract.session.HostBase`.

    Args:
        model: The classifier.
    """

    def __init__(self, model: AnsweringClassifier) -> None:
        super().__init__(model)
        self._prepared = False

    @property
    def quantised(self) -> bool:
        """Encoders are held as they are."""
        return False

    @property
    def partitioned(self) -> bool:
        """DDP only."""
        return False

    @property
    def can_merge(self) -> bool:
        """Trained tensors are fp32 and replace the base's."""
        return True

    def reset(self) -> None:
        """Put the trained parts back to their initial values."""
        self._model.learned = self._model.opened = 0
        if self._prepared:  # a training changes them in place
            self._touched |= set(self._model.trained_names())
        super().reset()

    def prepare_full(self) -> Any:
        """Everything but the encoders trains; the values stay as they are."""
        names = self._model.trained_names()
        if not self._prepared:
            for name in names:
                self._remember(name)
                parameter = self._model.get_parameter(name)
                parameter.data = parameter.data.clone()
            self._prepared = True
        for name in names:
            self._model.get_parameter(name).requires_grad_(True)
        return self._model

    def new_adapter(self, seed: int | None = None) -> Any:
        """Fresh trained parts: their initial values, which the recipe's seed decides.

        Args:
            seed: Seed everything, as a host does in front of a new adapter.
        """
        import transformers

        if seed is not None:
            transformers.set_seed(seed)
        self.reset()
        return self.prepare_full()

    def prepare_frozen(self) -> Any:
        """The classifier with nothing trainable."""
        self._model.requires_grad_(False)
        return self._model

    def replace(self, name: str, value: Tensor) -> None:
        """Set a parameter; a head with fewer classes, of a stream to which tasks were appended, is filled up with zeros.

        Raises:
            RunStateError: If it is a head with more classes than the stream has.
        """
        rows = len(self._model.config.labels) if name in HEAD else 0
        if name in HEAD and rows < value.shape[0]:
            what = f"has {value.shape[0]} classes, and the tasks of this stream name {rows}."
            fix = "Name all of its tasks with their training sets or `labels`, in the order of learning."
            raise RunStateError(Problem("the trained classifier", what, fix))
        if rows > value.shape[0]:
            value = torch.cat([value, value.new_zeros(rows - value.shape[0], *value.shape[1:])])
        super().replace(name, value)

    def lora(self) -> dict[str, Any]:
        """There is no LoRA.

        Raises:
            CompatibilityError: Always.
        """
        raise _no_language_model("a LoRA")

    def targets(self) -> tuple[str, ...]:
        """There is no LoRA.

        Raises:
            CompatibilityError: Always.
        """
        raise _no_language_model("a LoRA")

    def rows(self, begin: Callable[[Any], None]) -> Any:
        """There are no prompts.

        Raises:
            CompatibilityError: Always.
        """
        raise _no_language_model("prompts")

    def features(self, inputs: Mapping[str, Any], kind: Any) -> tuple[Tensor, Tensor]:
        """There are no prompts.

        Raises:
            CompatibilityError: Always.
        """
        raise _no_language_model("prompts")

    def attach(self, updates: Sequence[Any]) -> None:
        """Replace tensors; there are no low-rank updates.

        Raises:
            CompatibilityError: If an update has low-rank factors.
        """
        if any(update.a for update in updates):
            raise _no_language_model("a LoRA")
        super().attach(updates)


def _no_language_model(what: str) -> CompatibilityError:
    return CompatibilityError(
        Problem(
            "encoders",
            f"is a classifier, which does not have {what}.",
            "Choose a method that is tested with `encoders`.",
        )
    )


def plain_classifier(model: Module) -> CrossModalClassifier:
    """A copy without classes that were never learned, as `CrossModalClassifier` saves and loads it.

    Args:
        model: An `AnsweringClassifier`.
    """
    source: Any = model
    count, given = source.learned, source.config
    # made anew: a trainer writes into the config of what it trains, and the last process may have trained nothing
    options = {field.name: getattr(given, field.name) for field in fields(ClassifierOptions)}
    config = CrossModalConfig(encoders=given.encoders, labels=given.labels[:count], **options)
    with torch.random.fork_rng():
        plain = CrossModalClassifier(config)
    state = {k: v[:count] if k in HEAD else v for k, v in source.state_dict().items()}
    placed: Any = plain
    placed.to(source.dtype).load_state_dict(state)  # an export may be in a 16-bit type
    return plain.eval()
