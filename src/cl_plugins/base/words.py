"""Words of messages that depend on how a run was started: by a recipe, or by a script.

Most of these messages are made where no host is known, for example by the readers of files. The host brings its words
(`cl_plugins.contract.host.Host.words`), and whoever acts for it makes them the current ones with `speaking`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """What messages call the things that the user of a host can change; the defaults are those of a recipe.

    Attributes:
        other: What a directory was made with that is now something else.
        back: How to use what the directory was made with.
        elsewhere: How to use another directory.
        anew: How to begin from the first step.
        directory: What the directory is called in front of its path.
        untracked: How to do without experiment trackers.
    """

    other: str = "another recipe"
    back: str = "Go back to the recipe it was made with"
    elsewhere: str = "choose another `output_dir`"
    anew: str = "start again with `cl.restart: true`"
    directory: str = "output_dir"
    untracked: str = "write `report_to: none`"


_RECIPE = Words()
_current: ContextVar[Words] = ContextVar("words", default=_RECIPE)


def words() -> Words:
    """The words of the host that is being acted for; those of a recipe if there is none."""
    return _current.get()


@contextmanager
def speaking(of: Words) -> Iterator[None]:
    """Messages that are made inside use these words.

    Args:
        of: From `cl_plugins.contract.host.Host.words`.
    """
    token = _current.set(of)
    try:
        yield
    finally:
        _current.reset(token)


def either(*ways: str) -> str:
    """A sentence that offers several ways; ways that are the same are offered once.

    Args:
        ways: Each as a request without a period.
    """
    *first, last = dict.fromkeys(ways)
    text = f"{', '.join(first)}, or {last}." if first else f"{last}."
    return text[0].upper() + text[1:]


def restore(what: str = "Restore the file from a copy") -> str:
    """How to go on after a file of a run was damaged.

    Args:
        what: The way that keeps the run.
    """
    return either(what, words().anew)
