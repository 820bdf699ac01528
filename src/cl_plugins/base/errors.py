"""The exceptions of the package. Every message says what is wrong, where, and how to fix it.

```
ClPluginsError
├── RecipeError          the YAML asks for something that cannot be (also a ValueError)
├── CompatibilityError   a method, engine or version that do not go together
├── DataError            a data set, an image or a test item (also a ValueError)
├── RunStateError        an output directory: lock, journal, changed recipe, damaged file
├── TrainingError        a guard fired while training
└── ExportError          a model that cannot be written in the requested form
```
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .printable import printable
from .secrets import redact, redact_about


SHOWN_PLACES = 4  # of one problem in a message


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. Credentials in it are masked, see `secrets`; control characters become escapes.

    Attributes:
        where: YAML path (``cl.method.name``), or file and line.
        what: What is wrong, with the offending value.
        fix: What to do about it.
    """

    where: str
    what: str
    fix: str

    def __post_init__(self) -> None:
        """Mask credentials and control characters: messages go to terminals, logs and files."""
        where, what = str(self.where), str(self.what)
        object.__setattr__(self, "what", printable(redact_about(where, what)))
        object.__setattr__(self, "where", printable(redact(where)))
        object.__setattr__(self, "fix", printable(str(self.fix)))

    def __str__(self) -> str:
        """One line: ``where: what. fix``."""
        return f"{self.where}: {self.what}" + (f" {self.fix}" if self.fix else "")


def same_cause_once(problems: Iterable[Problem]) -> list[Problem]:
    """The problems with those that say the same of several places as one that names the places.

    Args:
        problems: In the order in which they are shown.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        places.setdefault((problem.what, problem.fix), []).append(problem.where)
    found = []
    for (what, fix), where in places.items():
        where = list(dict.fromkeys(where))
        more = len(where) - SHOWN_PLACES
        shown = ", ".join(where[:SHOWN_PLACES]) + (f" and {more} more" if more > 0 else "")
        found.append(Problem(shown, what, fix))
    return found


class ClPluginsError(Exception):
    """Base class of every error that the package raises on purpose."""


class _WithProblems(ClPluginsError):
    """An error that reports all of its problems at once.

    Args:
        problems: Everything that is wrong; a plain string counts as one message.
        headline: The sentence above the list.
    """

    headline = "Something is wrong:"

    def __init__(self, problems: Iterable[Problem] | Problem | str, headline: str | None = None) -> None:
        if isinstance(problems, str):
            self.problems: list[Problem] = []
            super().__init__(printable(problems))
            return
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        told = same_cause_once(self.problems)
        if len(told) == 1 and headline is None:
            super().__init__(str(told[0]))
        else:
            head = printable(headline or self.headline)
            super().__init__("\n".join([head, *(f"  - {problem}" for problem in told)]))

    def at(self, where: str) -> list[Problem]:
        """The problems; of an error that has a message alone one problem with it.

        Args:
            where: The place of that problem.
        """
        return self.problems or [Problem(where, str(self), "")]


class RecipeError(_WithProblems, ValueError):
    """The recipe cannot be carried out; lists every problem that was found."""

    headline = "The recipe has problems:"


class CompatibilityError(_WithProblems):
    """A combination of method, engine and library versions that is not supported."""

    headline = "This combination is not supported:"


class DataError(_WithProblems, ValueError):
    """A data set, an image or a test item is missing or malformed."""

    headline = "The data have problems:"


class RunStateError(_WithProblems):
    """An output directory is locked, was made by another recipe, or holds a damaged file."""

    headline = "The run directory has problems:"


class TrainingError(_WithProblems):
    """A guard fired: the training that just ran cannot be what was requested."""

    headline = "Training went wrong:"


class ExportError(_WithProblems):
    """The model cannot be written in the requested form."""
