"""What a method can do and needs, and what is known about a run before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    from ..streams import Stream


Schedule = Literal["sequential", "independent", "joint"]
Answers = Literal["alike", "by_task", "by_sample"]
Family = Literal["one_lora", "lora_per_task", "routed", "prompts", "full"]


@dataclass(frozen=True)
class NoOptions:
    """A method without options of its own."""


@dataclass(frozen=True)
class Capabilities:
    """What a method can do and needs. Checked before anything loads; the docs' tables are made from it.

    Attributes:
        finetuning_types: Allowed values of the host's ``finetuning_type``.
        schedule: ``sequential`` (each task starts from the carry), ``independent`` (each from the base) or ``joint``
            (all tasks at once).
        low_rank: Whether it adds low-rank updates; memory and disk are estimated by it.
        answers: Which model answers a question: one model (``alike``), a model that the task decides (``by_task``, see
            `Method.route`), or parts that the model chooses for every sample by itself (``by_sample``).
        grows: Whether what is carried grows with every task.
        quantised: Quantisation methods of the base that are tested.
        fp16: Whether training in fp16 with scaled gradients is tested. It is for methods that train with the loss alone: what reads
            or writes gradients, or has a backward pass of its own, would have to know their scale.
        zero_stages: DeepSpeed ZeRO stages that are tested.
        needs_modality: Every task must have a modality label.
        needs_replay: It draws from the replay buffer by itself: there must be one, and its samples are not mixed into
            the training set.
        rows_in_training: Whether parts are chosen for every row while it trains. Under gradient checkpointing such a model has
            one forward pass per backward pass.
        per_sample: Whether it looks at single training samples, so that several of them must not be packed into one row: it chooses
            for each, or measures each. None: it does if it answers ``by_sample`` or has ``rows_in_training``.
        memory_forward: With ``needs_replay``: whether memory samples have a forward pass of their own within a step.
        encoders: Whether it is tested with a classifier on frozen encoders (a recipe with ``encoders:``), whose trained parts
            take the place of a LoRA or of all weights.
        needs: What else it requires (the task at test, replay), as text; empty for nothing.
        carries: What is passed to the next task, as text.
        reveals: What the carry could tell about the training data, as text.
        step_cost: Cost of an optimizer step as the stream grows, as text.
        memory: Memory as the stream grows, as text.
    """

    finetuning_types: tuple[str, ...] = ("lora",)
    schedule: Schedule = "sequential"
    low_rank: bool = True
    answers: Answers = "alike"
    grows: bool = False
    quantised: tuple[str, ...] = ()
    fp16: bool = False
    zero_stages: tuple[int, ...] = ()
    needs_modality: bool = False
    needs_replay: bool = False
    rows_in_training: bool = False
    per_sample: bool | None = None
    memory_forward: bool = True
    encoders: bool = False
    needs: str = ""
    carries: str = ""
    reveals: str = "weights only, no training samples"
    step_cost: str = "as plain LoRA"
    memory: str = "as plain LoRA"

    @property
    def reads_samples(self) -> bool:
        """`per_sample`, decided."""
        chooses = self.rows_in_training or self.answers == "by_sample"
        return chooses if self.per_sample is None else self.per_sample or self.rows_in_training


@dataclass(frozen=True)
class RunFacts:
    """What is known about a run before the model loads.

    Attributes:
        finetuning_type: The host's ``finetuning_type``.
        quantisation: ``None``, or the name of the quantisation (``bnb``, ``hqq``, ``gptq`` ...).
        zero_stage: DeepSpeed ZeRO stage, 0 without DeepSpeed.
        fsdp: Whether FSDP is asked for.
        half_precision: Whether the base is loaded in a 16-bit type.
        stream: The stream, each task with all keys of its own.
        keys: The host's keys as written in the recipe.
    """

    finetuning_type: str
    stream: Stream
    quantisation: str | None = None
    zero_stage: int = 0
    fsdp: bool = False
    half_precision: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)

    def asked(self, key: str) -> list[str]:
        """Where a key of the host is set to something: at the top level of the recipe, or for single tasks.

        Args:
            key: A key that may differ from task to task.
        """
        tasks = [task.name for task in self.stream.tasks if task.overrides.get(key)]
        return [key] if self.keys.get(key) else [f"{key} (task '{name}')" for name in tasks]
