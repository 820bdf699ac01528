"""Tiny models and data sets; they are part of the package, so that other packages can test their methods."""

from __future__ import annotations

from cl_plugins.testing.tiny import *


def checked(keys: dict, *, data: bool = True):
    """The checked recipe, as a run starts from it; `RecipeError` with every problem."""
    from cl_plugins.host.llama_factory import LlamaFactoryHost
    from cl_plugins.run.check import check

    return check(LlamaFactoryHost(), keys, data=data)


def checked_block(keys: dict):
    """As `checked`, without a look at any file."""
    return checked(keys, data=False)
