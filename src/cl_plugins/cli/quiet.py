"""LLaMA-Factory tells a lot about each set of arguments it parses; commands print what they were asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


_NAME = "LLAMAFACTORY_VERBOSITY"


@contextmanager
def quiet_host() -> Iterator[None]:
    """Only errors of the host are shown inside, unless the user set ``LLAMAFACTORY_VERBOSITY``.

    Transformers is asked the same through its own variable, which it reads when it is first imported.
    """
    if _NAME in os.environ:
        yield
        return
    os.environ[_NAME] = "ERROR"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logger = logging.getLogger("llamafactory")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        del os.environ[_NAME]
        logger.setLevel(level)
