"""I-LoRA: a fast LoRA learns; a slow one follows it as a moving average, and is held close to it on memory samples.

``L = CE(x) + beta CE(x_m) + gamma mean (h_fast(x_m) - h_slow(x_m))^2`` and, after every step,
``slow <- a slow + (1 - a) fast`` (Ren et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...adapters.modes import looking
from ...adapters.rows import answers_of
from ...base.errors import CompatibilityError, Problem
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.task import Batch, TaskContext
from ...replay.scoring import answer_tokens
from ..seqlora import SeqLoRA


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter


_STEP = "cl_live_step"


@dataclass(frozen=True)
class ILoRAConfig:
    """Options of I-LoRA."""

    decay: float = option(
        0.99, minimum=0, maximum=1, help="Weight of the past in the moving average; a higher value is slower."
    )
    beta: float = option(1.0, minimum=0, help="Weight of the loss of the memory batch.")
    gamma: float = option(1.0, minimum=0, help="Weight of the distance between the hidden states of the two LoRAs.")
    answers: Literal["slow", "fast"] = option(
        "slow", help="Which LoRA remains after a task: it answers, and the next task starts from it."
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: as the authors' code; the fast LoRA remains, only elements below the slow ones count."
    )

    @property
    def keeps_fast(self) -> bool:
        """Whether the fast LoRA remains after a task."""
        return self.answers == "fast" or self.faithful == "peer"


class ILoRA(SeqLoRA):
    """One LoRA that is averaged while it trains."""

    name = "ilora"
    title = "I-LoRA"
    config_class = ILoRAConfig
    capabilities = Capabilities(
        needs_replay=True,
        needs="a replay buffer (`cl.replay`)",
        carries="one LoRA and the projector, and the replay buffer",
        reveals="training samples: the replay buffer holds them",
        step_cost="as plain LoRA plus a memory batch and one more forward of it",
        memory="plus one more copy of the trained tensors and the hidden states of a memory batch",
    )
    starts_at_zero = True
    ends_in_last_step = True

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """As sequential LoRA; the average begins where the task does.

        Raises:
            CompatibilityError: If there is no buffer to draw from.
        """
        import torch

        if context.memory is None:
            fix = "Give one: `cl.replay.capacity_per_task` in a recipe, `replay={'capacity_per_task': 20}` in Python."
            raise CompatibilityError(
                Problem("cl.method.name", "'ilora' needs a replay buffer, and there is none.", fix)
            )
        model = super().begin_task(context, model)
        device = next(model.parameters()).device
        context.base.register(_STEP, torch.zeros(1, dtype=torch.int64, device=device), trained=False)
        for number, parameter in enumerate(_trained(model).values()):
            context.base.register(f"cl_live_{number}", parameter.detach().clone(), trained=False)
        return model

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of a memory batch and the distance of its hidden states, from the second task on."""
        import torch
        from torch.nn.functional import cross_entropy

        from .consistency import consistency

        memory, config = context.memory, self.config
        if memory is None or not len(memory) or not (config.beta or config.gamma):
            return {}
        drawn = memory.batch(memory.draw(context, batch, "ilora"))
        inputs = {key: value for key, value in drawn.items() if key != "labels"}
        call: Any = model
        with answers_of(model, drawn):
            output = call(**inputs, output_hidden_states=True)
        terms = {}
        if config.beta:
            labels, wanted = drawn["labels"][:, 1:], answer_tokens(drawn)[:, 1:]
            logits = output.logits[:, : labels.shape[1]][wanted].float()
            terms["replay"] = config.beta * cross_entropy(logits, labels[wanted])
        if config.gamma:
            with looking(model), answers_of(model, drawn):
                slow = torch.func.functional_call(
                    model, self._slow(context, model), (), {**inputs, "output_hidden_states": True}
                )
            attended = drawn["attention_mask"].bool()
            distance = consistency(
                output.hidden_states[1:], slow.hidden_states[1:], attended, one_sided=config.faithful == "peer"
            )
            terms["consistency"] = config.gamma * distance
        return terms

    def after_step(self, context: TaskContext, model: Module, *, last: bool) -> None:
        """Move the average; after the last step it takes the place of the LoRA."""
        import torch

        from .consistency import moved

        base: Any = context.base.model
        step = getattr(base, _STEP)
        with torch.no_grad():
            step += 1
            for name, parameter in _trained(model).items():
                slow = self._slow(context, model)[name]
                slow.copy_(moved(slow, parameter, self.config.decay, int(step)))
                if last and not self.config.keeps_fast:
                    parameter.copy_(slow)

    def _slow(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The averages under the names of what they average."""
        base: Any = context.base.model
        return {name: getattr(base, f"cl_live_{number}") for number, name in enumerate(_trained(model))}


def _trained(model: Module) -> dict[str, Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
