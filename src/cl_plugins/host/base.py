"""The base as LLaMA-Factory loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapters.held_base import HeldBase
from ..base.errors import Problem, RecipeError
from .checkpoint_names import checkpoint_files, name_map


if TYPE_CHECKING:
    from .task_args import HostArgs


class LoadedBase(HeldBase):
    """A model loaded and prepared for training by the host, without adapters.

    Args:
        model: The model.
        args: The host's arguments of the run.
    """

    def __init__(self, model: Any, args: HostArgs) -> None:
        super().__init__(model)
        self._args = args

    def _make_adapter(self) -> Any:
        """The host's `init_adapter`."""
        try:
            return self._init_adapter()
        except ValueError as error:
            fix = "Compare `lora_target` and `additional_target` with the names of the model's modules."
            what = f"the host cannot put a LoRA on this base ({error})."
            raise RecipeError(Problem("lora_target", what, fix)) from error

    def _extra_modules(self) -> list[str]:
        target = self._args.finetuning.additional_target
        return [target] if isinstance(target, str) else list(target or [])

    def _make_full(self) -> None:
        """The host's own choice; it also raises those tensors to fp32."""
        self._init_adapter()

    def _init_adapter(self) -> Any:
        from llamafactory.model.adapter import init_adapter

        return init_adapter(self._model.config, self._model, self._args.model, self._args.finetuning, True)

    def _find_files(self) -> dict[str, Any]:
        args = self._args.model
        files = checkpoint_files(args.model_name_or_path, cache_dir=args.cache_dir, revision=args.model_revision)
        return name_map(self._model, files)
