"""LLaMA-Factory tells a lot about each set of arguments that it parses; a stream parses many."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


_NAME = "LLAMAFACTORY_VERBOSITY"


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of the host are shown inside, unless the user set ``LLAMAFACTORY_VERBOSITY``.

    Transformers is asked the same through its own variable, which it reads when it is first imported. Both variables
    are as before afterwards, so that processes that are started later are not quiet.
    """
    if _NAME in os.environ:
        yield
        return
    os.environ[_NAME] = "ERROR"
    added = "TRANSFORMERS_VERBOSITY" not in os.environ
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logger = logging.getLogger("llamafactory")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        os.environ.pop(_NAME, None)
        if added:
            os.environ.pop("TRANSFORMERS_VERBOSITY", None)
        logger.setLevel(level)


def quieten() -> None:
    """Take back what the host does whenever it parses arguments: it turns on Transformers' info messages."""
    if _NAME not in os.environ:
        import transformers

        transformers.utils.logging.set_verbosity_warning()
