"""The base model in memory, as a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from .low_rank import LowRankUpdate


class BaseModel(Protocol):
    """The base in memory, as a method sees it."""

    @property
    def model(self) -> Module:
        """The base without adapters; tensors may have been replaced, see `reset`."""

    @property
    def can_merge(self) -> bool:
        """Whether its weights are whole fp32 tensors that updates can be added to without visible rounding."""

    def reset(self) -> None:
        """Take off everything that was put on the base, and put every replaced tensor back to the checkpoint's value.

        Raises:
            RunStateError: If modules, hooks, buffers and dtypes are not those at load afterwards: something was put on the
                base past `register`, `hook` and `wrap`.
        """

    def original(self, name: str) -> Tensor:
        """Parameter ``name`` as stored in the checkpoint: a CPU tensor, read lazily, not to be written to."""

    def replace(self, name: str, value: Tensor) -> None:
        """Set parameter ``name``; keeps the device, takes the dtype of ``value``."""

    def attach(self, updates: list[LowRankUpdate]) -> None:
        """Let the base compute itself plus low-rank updates, kept next to the weights as a frozen stack."""

    def new_adapter(self, seed: int | None = None) -> Module:
        """Put a fresh adapter on the base as the host would, drawing from a generator seeded with ``seed``."""

    def prepare_full(self) -> Module:
        """Mark as trainable what the host's ``finetuning_type: full`` marks."""

    def prepare_frozen(self) -> Module:
        """The base without any adapter: nothing trains but the modules that the recipe trains as a whole.

        For methods that add trainable tensors, see `register`.
        """

    def targets(self) -> Sequence[str]:
        """Names of the linear layers that the recipe's ``lora_target`` names, as the host resolves them."""

    def register(self, name: str, value: Tensor, *, trained: bool) -> None:
        """Put a tensor on a module until `reset`: a parameter if it is trained, else a buffer that is not saved.

        Args:
            name: ``<module>.cl_<name>``; the prefix tells the method's own tensors in checkpoints and updates.
            value: The tensor; kept as it is, so its device must be the module's.
            trained: Whether it is a parameter.
        """

    def hook(self, name: str, function: Callable[..., Any], *, before: bool = False) -> None:
        """Register a forward hook on a module until `reset`.

        Args:
            name: The module.
            function: ``(module, args, output) -> output``; with ``before`` ``(module, args, kwargs) -> (args, kwargs)``.
            before: Whether it runs before the module's forward.
        """

    def wrap(self, names: Sequence[str], factory: Callable[[str, Module], Module]) -> None:
        """Put modules in place of others until `reset`.

        Args:
            names: The modules.
            factory: Gets name and module, returns the module that replaces it.
        """

    def rows(self, begin: Callable[[Any], None]) -> Any:
        """Let the base choose per row until `reset`: once for every prompt, inside its forward.

        The same holds in training, evaluation, ``model.generate`` and wherever else the model is called. What is
        chosen lives as long as the conversation: on the cache of keys and values, inside one ``generate`` without a
        cache, and in training until the backward is done.

        Args:
            begin: Gets the `cl_plugins.adapters.row_features.Rows` of a prompt, between the tower and the language
                model, and puts tensors or lists with the row first into its ``kept``. A list ``kept["route"]`` of
                texts is written to the predictions.

        Returns:
            `cl_plugins.adapters.rows.RowState`, whose ``current`` tells layers what their rows were given.
        """

    def features(
        self, inputs: Mapping[str, Any], kind: str | Callable[[Any], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Vectors of rows from frozen parts of the base: what a row state sees of the same prompt.

        Args:
            inputs: A collated batch, answers included.
            kind: ``vision`` (pooled output of the tower, mean over the row's pictures), ``text`` (mean input embedding of the
                prompt without picture tokens) or ``hidden`` (mean last hidden state of the prompt in the frozen base); or a
                function that gets the `cl_plugins.adapters.row_features.Rows` of the prompts and returns the same.

        Returns:
            (rows, width) in fp32, and which rows have one, (rows,) bool.
        """
