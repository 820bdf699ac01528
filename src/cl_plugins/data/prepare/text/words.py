"""The setting that shortens texts, for models whose context is short."""

from __future__ import annotations

import re
from pathlib import Path

from ....base.errors import Problem
from ..contract import Setting, natural


_WORD = re.compile(r"\S+")


def words_setting(what: str) -> Setting:
    """The setting ``max_words`` of a converter.

    Args:
        what: What is shortened, and from which end.
    """
    return Setting("all", (), f"Words that are kept of {what}: a number, or `all`.")


def words_problem(value: str, task: str) -> list[Problem]:
    """What is wrong with a value of ``max_words``."""
    if value == "all" or natural(value):
        return []
    return [Problem(f"--set {task}.max_words", f"is {value!r}.", "Give a number above 0, or `all`.")]


def first_words(text: str, value: str) -> str:
    """The text up to the end of its Nth word, spaces and line breaks between words as they are.

    Args:
        text: The text.
        value: ``all``, or N.
    """
    if value == "all":
        return text
    for number, word in enumerate(_WORD.finditer(text), start=1):
        if number == int(value):
            return text[: word.end()]
    return text


def last_words(text: str, value: str) -> str:
    """The text from the beginning of its Nth word from the end.

    Args:
        text: The text.
        value: ``all``, or N.
    """
    if value == "all":
        return text
    starts = [word.start() for word in _WORD.finditer(text)]
    return text[starts[-int(value)] :] if len(starts) > int(value) else text


def first_folder(folders: list[Path], names: list[str]) -> Path | None:
    """The first of the folders that has all these files."""
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)
