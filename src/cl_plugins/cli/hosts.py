"""Which host the commands work for; the one place of ``cli`` that knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..contract.host import Host


def host() -> Host:
    """The host that recipes are written for."""
    from ..host.llama_factory import LlamaFactoryHost

    return LlamaFactoryHost()


def quiet_host() -> AbstractContextManager[None]:
    """Only errors of the host are shown inside: a command prints its own output only."""
    return host().quiet()
