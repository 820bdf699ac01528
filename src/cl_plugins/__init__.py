"""Continual learning for LLaMA-Factory: one YAML, one command, a whole stream of tasks."""

from __future__ import annotations


__version__ = "0.1.0"

__all__ = ["__version__", "install"]


def install() -> None:
    """Switch the plugin on in this process, as the entry point does by itself.

    Needed only where PyTorch does not load entry points (``TORCH_DEVICE_BACKEND_AUTOLOAD=0``) or where
    ``CL_PLUGINS_AUTOLOAD=0`` turned the automatic start off. Calling it twice does no harm.
    """
    from .host.activation import activate

    activate()
