"""Continual learning for LLaMA-Factory: one YAML, one command, a whole stream of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"

__all__ = ["__version__", "install", "load"]


def install() -> None:
    """Switch the plugin on in this process, as the entry point does by itself.

    Needed only where PyTorch does not load entry points (``TORCH_DEVICE_BACKEND_AUTOLOAD=0``) or where
    ``CL_PLUGINS_AUTOLOAD=0`` turned the automatic start off. Calling it twice does no harm.
    """
    from .host.activation import activate

    activate()


def load(
    folder: str | Path, *, base: str | Path | None = None, trust_remote_code: bool = False, **options: Any
) -> Any:
    """Open the model of a finished run with Transformers; see `cl_plugins.loading.load`.

    Args:
        folder: The run's directory, its ``final/``, or a folder that ``cl-plugins export`` has written.
        base: Where the base is, if not where the run found it.
        trust_remote_code: Whether code that comes with the base may be run.
        **options: For ``from_pretrained`` of the base, for example ``device_map``.

    Returns:
        The model that answers as the last row of the run did, in evaluation mode.
    """
    from .loading import load as open_model

    return open_model(folder, base=base, trust_remote_code=trust_remote_code, **options)
