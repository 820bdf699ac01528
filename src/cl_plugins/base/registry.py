"""Find methods, scorers and streams by name: those of this package, and those that other packages register.

Another package registers an object under an entry-point group of its ``pyproject.toml``. An object that cannot be
imported or used is listed with its error and the name of its distribution; it does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from .errors import CompatibilityError, Problem, RecipeError
from .schema import nearest


OWN = "cl-plugins"

T = TypeVar("T")


class NotUsable(Exception):
    """Raised by the check of a registry: what was registered is not what the group requires; the text says why."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name.

    Attributes:
        name: Name under which recipes find it.
        distribution: The package that registers it.
        value: What is registered, or None if it cannot be used.
        error: Why it cannot be used.
    """

    name: str
    distribution: str
    value: T | None
    error: str | None = None


class Registry(Generic[T]):
    """What is registered under one entry-point group.

    Args:
        group: The entry-point group.
        kind: What is registered, in the singular, for messages (``method``).
        check: Turns the name, the loaded object and its distribution into what `get` returns; raises `NotUsable` with
            the reason if the object is not what the group requires.
        own: Name to object of what this package registers without entry points; may grow.
        hint: A sentence for the message about an unknown name.
    """

    def __init__(
        self,
        group: str,
        kind: str,
        check: Callable[[str, Any, str], T],
        own: MutableMapping[str, Any] | None = None,
        hint: str = "",
    ) -> None:
        self.group, self.kind, self.own, self.hint = group, kind, {} if own is None else own, hint
        self._check = check
        self._found: dict[str, EntryPoint] | None = None

    def refresh(self) -> None:
        """Look for entry points again, for packages installed since the last look."""
        self._found = None

    def names(self) -> tuple[str, ...]:
        """Return the registered names, sorted; imports nothing.

        Raises:
            CompatibilityError: If two packages register the same name.
        """
        return tuple(sorted({*self._entry_points(), *self.own}))

    def entries(self) -> list[Entry[T]]:
        """Load everything that is registered; what cannot be used carries its error.

        Raises:
            CompatibilityError: If two packages register the same name.
        """
        return [self._load(name) for name in self.names()]

    def get(self, name: str, *, where: str) -> T:
        """Load what is registered under a name.

        Args:
            name: The name.
            where: YAML path for the messages.

        Raises:
            RecipeError: If nothing has the name, or what has it cannot be used (the message names its package).
            CompatibilityError: If two packages register the same name.
        """
        known = self.names()
        if name not in known:
            raise RecipeError(self.unknown(name, where))
        entry = self._load(name)
        if entry.value is None:
            what = f"{self.kind} {name!r} of the package '{entry.distribution}' cannot be used ({entry.error})."
            raise RecipeError(Problem(where, what, f"Repair or uninstall '{entry.distribution}'."))
        return entry.value

    def distribution(self, name: str) -> str:
        """Name of the package that registers a name; imports nothing."""
        found = self._entry_points().get(name)
        return OWN if found is None else _distribution(found)

    def unknown(self, name: str, where: str) -> Problem:
        """Return the problem of a name that nothing has, with the nearest name and all known ones."""
        known = self.names()
        listed = f"Known {self.kind}s: {', '.join(known) or f'none (is {OWN} installed?)'}."
        fix = " ".join(part for part in (nearest(name, known), listed, self.hint) if part)
        return Problem(where, f"there is no {self.kind} called {name!r}.", fix)

    def _entry_points(self) -> dict[str, EntryPoint]:
        """Name to entry point; found once."""
        if self._found is None:
            self._found = self._distinct(entry_points(group=self.group))
        problems = [
            self._clash(name, f"{_distribution(entry)} ({entry.value})", OWN)
            for name, entry in self._found.items()
            if name in self.own
        ]
        if problems:
            raise CompatibilityError(problems)
        return self._found

    def _distinct(self, found: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
        """Return name to entry point; an editable install may list the same one twice."""
        entries: dict[str, EntryPoint] = {}
        problems = []
        for entry in found:
            other = entries.setdefault(entry.name, entry)
            if (other.value, _distribution(other)) != (entry.value, _distribution(entry)):
                shown = [f"{_distribution(one)} ({one.value})" for one in (other, entry)]
                problems.append(self._clash(entry.name, *shown))
        if problems:
            raise CompatibilityError(problems)
        return entries

    def _clash(self, name: str, one: str, other: str) -> Problem:
        what = f"is registered by {one} and by {other}."
        return Problem(f"{self.kind} '{name}'", what, "Uninstall one of them, or rename what it registers.")

    def _load(self, name: str) -> Entry[T]:
        found = self._entry_points().get(name)
        distribution = OWN if found is None else _distribution(found)
        try:
            value = self.own[name] if found is None else found.load()
            return Entry(name, distribution, _complete(self._check(name, value, distribution)))
        except NotUsable as error:
            reason = str(error)
        except SystemExit as error:  # a package that exits when it is imported must not end the process
            reason = f"it calls sys.exit({error.code!r}) when it is imported"
        except Exception as error:  # another package's fault must not affect the others
            reason = f"{type(error).__name__}: {error}"
        return Entry(name, distribution, None, " ".join(reason.split()))


def _complete(value: T) -> T:
    """Raise `NotUsable` for a class that leaves out what its base class demands."""
    left: frozenset[str] = (
        getattr(value, "__abstractmethods__", frozenset()) if isinstance(value, type) else frozenset()
    )
    if left:
        raise NotUsable(f"{value.__qualname__} does not define {', '.join(sorted(left))}")  # type: ignore[attr-defined]
    return value


def _distribution(entry: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    name = entry.dist.name if entry.dist is not None else None
    return name or "unknown distribution"
