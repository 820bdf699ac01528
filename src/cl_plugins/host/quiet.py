"""LLaMA-Factory tells a lot about each set of arguments that it parses; a stream parses many."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


_NAME = "LLAMAFACTORY_VERBOSITY"
_QUIET = {_NAME: "ERROR", "TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of the host are shown inside, unless the user set ``LLAMAFACTORY_VERBOSITY``.

    Transformers and Datasets are asked the same through variables of their own, which they read when they are first
    imported. All variables are as before afterwards, so that processes that are started later are not quiet.
    """
    if _NAME in os.environ:
        yield
        return
    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    logger = logging.getLogger("llamafactory")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        logger.setLevel(level)


def quieten() -> None:
    """Take back what the host does whenever it parses arguments: it turns on Transformers' info messages."""
    if _NAME not in os.environ:
        import transformers

        transformers.utils.logging.set_verbosity_warning()
