"""Scorers, versioned by name: `get_scorer` finds one.

Other packages register a scorer under the entry-point group ``cl_plugins.scorers``; `register` adds one to this process.

Names beginning with ``peer:`` (``peer:<library>[:<task>]``) reproduce another library's scoring; a resolver per
library (`register_reference`) turns the rest of the name into a scorer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ...base.errors import Problem, RecipeError
from ...base.registry import OWN, Entry, NotUsable, Registry
from ...base.schema import nearest
from .base import BaseScorer, Scorer
from .bleu import Bleu
from .boxes import BoxAccuracy
from .choice import ChoiceAccuracy
from .f1 import TokenF1
from .foreign import ForeignScorer
from .lists import ListF1
from .match import Contains, ExactMatch, StartsWith
from .options import parse_options
from .reference import LIBRARIES
from .sari import Sari
from .sequences import EditSimilarity, RougeL


__all__ = [
    "BaseScorer",
    "ReferenceResolver",
    "Scorer",
    "get_scorer",
    "list_reference_scorers",
    "list_scorers",
    "parse_options",
    "register",
    "register_reference",
    "scorer_entries",
]

#: From the task part of ``peer:<library>:<task>`` (None when it is left out) to a scorer; raises RecipeError.
ReferenceResolver = Callable[[str | None], Scorer]


def _check(name: str, value: Any, distribution: str) -> Scorer:
    """Accept scorers, and classes of scorers that need no arguments, if they have the registered name."""
    scorer = value() if isinstance(value, type) else value
    missing = [part for part in ("name", "version", "key", "summary", "score") if not hasattr(scorer, part)]
    if missing:
        raise NotUsable(f"it is not a scorer: it lacks {', '.join(missing)}")
    if scorer.name != name:
        raise NotUsable(f"the scorer calls itself {scorer.name!r}")
    if not name or ":" in name or "@" in name:
        raise NotUsable(f"{name!r} is not a valid name for a scorer: leave out ':' and '@'")
    if not isinstance(scorer.version, int) or isinstance(scorer.version, bool):
        raise NotUsable(f"its version is {scorer.version!r}, not a whole number")
    if scorer.key != f"{name}@{scorer.version}":
        raise NotUsable(f"its key is {scorer.key!r}, not '{name}@{scorer.version}'")
    return scorer if distribution == OWN else ForeignScorer(scorer, distribution)


#: Every scorer but the reference scorers.
SCORERS: Registry[Scorer] = Registry("cl_plugins.scorers", "scorer", _check)
_REFERENCES: dict[str, ReferenceResolver] = {}


def register(scorer: Scorer) -> None:
    """Add a scorer under its name.

    Raises:
        RecipeError: The name is taken, or holds ``:`` or ``@``, which have a special meaning.
    """
    name = scorer.name
    if name in SCORERS.names():
        what = f"a scorer named {name!r} is registered already."
        raise RecipeError(Problem("scorers", what, "Choose another name."))
    if not name or ":" in name or "@" in name:
        raise RecipeError(Problem("scorers", f"{name!r} is not a valid name for a scorer.", "Leave out ':' and '@'."))
    SCORERS.own[name] = scorer


def register_reference(library: str, resolver: ReferenceResolver) -> None:
    """Add the scorers of a reference library, reached as ``peer:<library>`` and ``peer:<library>:<task>``.

    Raises:
        RecipeError: The library is registered already.
    """
    if library in _REFERENCES:
        raise RecipeError(
            Problem("scorers", f"reference library {library!r} is registered already.", "Register it once.")
        )
    _REFERENCES[library] = resolver


def list_scorers() -> list[str]:
    """Return the names of the registered scorers, sorted; ``get_scorer(name).summary`` describes one.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    return list(SCORERS.names())


def scorer_entries() -> list[Entry[Scorer]]:
    """Return every registered scorer with its distribution; broken ones carry their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    return SCORERS.entries()


def list_reference_scorers() -> list[str]:
    """The names of the reference scorers, sorted: ``peer:<library>`` where that is a scorer, and ``peer:<library>:<task>``."""
    found = [f"peer:{name}" for name, library in LIBRARIES.items() if library.default is not None]
    return sorted(found + [f"peer:{name}:{task}" for name, library in LIBRARIES.items() for task in library.scorers])


def get_scorer(name: str, *, where: str = "scorer", task: str | None = None) -> Scorer:
    """Find a scorer.

    Args:
        name: ``choice_accuracy``, ``choice_accuracy@2`` (only that version), ``bleu:zh`` (how texts are split, where a
            scorer has `BaseScorer.variants`; else the references decide), or ``peer:<library>[:<task>]``.
        where: YAML path for error messages.
        task: Name of the stream's task; ``peer:<library>`` takes the rule of that name where the library has one.

    Raises:
        RecipeError: There is no such scorer, or not in that version, or its package cannot be imported.
        CompatibilityError: Two packages register the same name.
    """
    plain, _, version = name.partition("@")
    scorer: Scorer
    if plain.startswith("peer:"):
        scorer = _reference(plain, where, task)
    else:
        plain, _, variant = plain.partition(":")
        scorer = SCORERS.get(plain, where=where)
        if variant:
            scorer = _variant(scorer, variant, where)
    if version and version != str(scorer.version):
        what = f"scorer {plain!r} has version {scorer.version} here, not {version!r}."
        raise RecipeError(Problem(where, what, f"Use {scorer.key!r}, or the package version that wrote the other."))
    return scorer


def _variant(scorer: Scorer, variant: str, where: str) -> Scorer:
    """A scorer with the part of its name behind the colon."""
    known = scorer.variants if isinstance(scorer, BaseScorer) else ()
    if not isinstance(scorer, BaseScorer) or variant not in known:
        what = f"scorer {scorer.name!r} has no variant {variant!r}."
        raise RecipeError(Problem(where, what, _suggest(variant, list(known), f"variants of {scorer.name}")))
    try:
        return cast(Scorer, scorer.as_variant(variant))
    except RecipeError as error:
        raise RecipeError([Problem(where, f"{p.where} {p.what}", p.fix) for p in error.problems]) from None


def _reference(name: str, where: str, hint: str | None) -> Scorer:
    """The scorer of a name that begins with ``peer:``."""
    library, _, task = name.removeprefix("peer:").partition(":")
    resolver = _REFERENCES.get(library)
    if resolver is None:
        what = f"there is no reference library {library!r} (in {name!r})."
        raise RecipeError(Problem(where, what, _suggest(library, sorted(_REFERENCES), "reference libraries")))
    try:
        if not task and hint:
            try:
                return resolver(hint)
            except RecipeError as error:
                try:
                    return resolver(None)
                except RecipeError:
                    raise error from None
        return resolver(task or None)
    except RecipeError as error:
        raise RecipeError([Problem(where, f"{p.where} {p.what}", p.fix) for p in error.problems]) from None


def _suggest(wrong: str, known: list[str], kind: str) -> str:
    """What to write instead."""
    hint = f"{nearest(wrong, known)} ".lstrip()
    return f"{hint}Known {kind}: {', '.join(known) or 'none in this version'}."


for _scorer in (
    ChoiceAccuracy(),
    ExactMatch(),
    StartsWith(),
    Contains(),
    TokenF1(),
    ListF1(),
    Bleu(),
    RougeL(),
    EditSimilarity(),
    Sari(),
    BoxAccuracy(),
):
    SCORERS.own[_scorer.name] = _scorer
for _library in LIBRARIES.values():
    register_reference(_library.name, _library.resolve)
