"""Which host the commands work for; the one place of ``cli`` that knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..contract.host import Host


def host(keys: Mapping[str, Any] | None = None) -> Host:
    """The host that a recipe is written for.

    Args:
        keys: The recipe, or the host keys of a run; None for the host of language models.
    """
    from ..contract.host import has_encoders, has_learner

    if keys is not None and has_encoders(keys):
        from ..encoders.host import EncoderHost

        return EncoderHost()
    if keys is not None and has_learner(keys):
        from ..callbacks.host import LearnerHost

        return LearnerHost()
    from ..host.llama_factory import LlamaFactoryHost

    return LlamaFactoryHost()


def run_here(recipe: Mapping[str, Any]) -> None:
    """Carry out a recipe with encoders in this process."""
    from ..encoders.launch import run_recipe

    run_recipe(recipe)


def quiet_host() -> AbstractContextManager[None]:
    """Only errors of the host are shown inside: a command prints its own output only."""
    return host().quiet()
