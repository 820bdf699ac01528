"""LLaMA-Factory logs for one training; a stream parses and trains many times, and changes what was set up."""

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


#: What the host logs of a model before the method has changed it, so that it is wrong for the training that follows.
_OUTDATED = ("trainable params:", "Set vision model not trainable", "Set multi model projector not trainable")
#: Arguments of Transformers that the host's own code still passes, and that no key of a recipe changes.
_OF_THE_HOST = ("`torch_dtype` is deprecated", "The `use_fast` parameter is deprecated")


class Once(logging.Filter):
    """Lets a message pass the first time; never what is outdated when it is logged, or what the host alone can change."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`; errors always pass."""
        if record.levelno >= logging.ERROR:
            return True
        message = record.getMessage()
        key = record.name, record.levelno, message
        if message.startswith(_OUTDATED + _OF_THE_HOST) or key in self._seen:
            return False
        self._seen.add(key)
        return True


@contextmanager
def once(earlier: Once | None = None) -> Iterator[Once]:
    """Each message of the host and of Transformers is shown once inside, unless the user set ``LLAMAFACTORY_VERBOSITY``.

    Args:
        earlier: What an earlier ``once`` gave, to show nothing again that was shown in it: the host parses a recipe
            before a run begins, and again for each task.
    """
    repeated = earlier or Once()
    if _NAME in os.environ:
        yield repeated
        return
    handlers = [handler for name in ("llamafactory", "transformers") for handler in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(repeated)
    try:
        yield repeated
    finally:
        for handler in handlers:
            handler.removeFilter(repeated)
