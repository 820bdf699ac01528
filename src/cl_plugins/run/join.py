"""``cl-plugins matrix join``: the rows that the sites of one stream have measured, put together as one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RunStateError
from ..evaluation.items import TaskScore
from ..evaluation.matrix import AccuracyMatrix
from ..evaluation.scorers import get_scorer
from ..records.files import record_of
from ..records.pack import SiteRecord
from ..records.record import few
from ..records.results import ZERO_SHOT, ScoreRecord, row_name
from ..records.run import write_run
from .evaluate import write_matrix
from .site import sites_in


Named = tuple[str, SiteRecord]  # where a site's rows come from, and the rows
#: Keys of the host that decide what a model is shown of a test item.
_TESTED = re.compile(r"template$|cutoff_len$|image_|video_|audio_|default_system$|enable_thinking$")
_CHAIN = "Give the runs of one stream in which every site began with the carry of the one before."


def read_sites(places: Sequence[Path]) -> list[Named]:
    """The sites' rows in runs and packs, in the order of learning; one that is given twice counts once.

    Args:
        places: Directories of runs, packs, or unpacked packs.

    Raises:
        RunStateError: If one cannot be read, or there are fewer than two sites.
    """
    held = [(place, sites_in(place)) for place in places]
    # A site's own run or pack names it; a later site's holds the rows that it has received from the sites before.
    named = [(str(place), sites[-1]) for place, sites in held]
    named += [(f"{place}, received rows of {_trained(site)}", site) for place, sites in held for site in sites[:-1]]
    found: dict[str, Named] = {}
    for where, site in named:
        found.setdefault(_what(site), (where, site))
    if len(found) < 2:
        what = f"has {len(found)} site in all."
        fix = "Give the runs of at least two sites, or their packs."
        raise RunStateError(Problem(", ".join(map(str, places)), what, fix))
    return sorted(found.values(), key=lambda one: len(one[1].carry.tasks))


def _trained(site: SiteRecord) -> str:
    """The tasks that a site has trained, for messages."""
    return "+".join(row.removeprefix("after_") for row in site.rows) or "none"


def _what(site: SiteRecord) -> str:
    """What two records of one site have in common, whatever version wrote them."""
    cells = {row: {t: (s.scorer, s.score, s.n) for t, s in found.items()} for row, found in site.cells.items()}
    return repr((site.carry.sha256, site.began_with, site.task_names, site.rows, site.tests, cells))


def join(places: Sequence[Path], out: Path) -> AccuracyMatrix:
    """Put the rows of several sites together.

    Args:
        places: Directories of runs, packs, or unpacked packs.
        out: A new directory, which `cl-plugins report` and `compare` take as a run.

    Returns:
        The matrix.

    Raises:
        RunStateError: With everything in which the sites disagree.
    """
    sites = read_sites(places)
    problems = [*_setting_problems(sites), *_test_problems(sites), *_row_problems(sites)]
    if not sites[0][1].independent:
        problems += _chain_problems(sites)
    if problems:
        raise RunStateError(few(problems), "The sites' rows do not go together:")
    matrix, files = _write(sites, out)
    write_run(out, {**_run_record(sites, matrix), "files": files})
    return matrix


def _setting_problems(sites: Sequence[Named]) -> list[Problem]:
    """Streams, methods and bases that differ."""
    found = []
    where, first = max(sites, key=lambda named: len(named[1].stream.tasks))
    for place, site in sites:
        names, longest = site.task_names, first.task_names
        if site.stream.name != first.stream.name:
            what = f"belongs to the stream {site.stream.name!r}, and {where} to {first.stream.name!r}."
            found.append(Problem(place, what, "Join the sites of one stream."))
        elif names != longest[: len(names)]:
            what = f"has the tasks {', '.join(names)}, and {where} has {', '.join(longest)}."
            found.append(Problem(place, what, "Every site's stream names the same tasks in the same order."))
        for key, own, theirs in (
            ("method", site.method, first.method),
            ("base", site.base.get("sha256"), first.base.get("sha256")),
        ):
            if own != theirs:
                names_of = (site.base.get("name"), first.base.get("name")) if key == "base" else (own, theirs)
                what = f"has the {key} {names_of[0]}, and {where} has another one ({names_of[1]})."
                found.append(Problem(place, what, "Join runs of one method on one base."))
    return found


def _test_problems(sites: Sequence[Named]) -> list[Problem]:
    """Test sets and scorers that differ between sites that have tested the same task."""
    found: list[Problem] = []
    known: dict[str, tuple[str, str, str, int]] = {}
    for place, site in sites:
        for task, score in _cells_by_task(site):
            own = (site.tests[task], score.scorer, score.n)
            where, test, scorer, n = known.setdefault(task, (place, *own))
            if own[0] != test or own[2] != n:
                what = f"tests '{task}' on other items ({own[2]}) than {where} ({n})."
                found.append(
                    Problem(place, what, "Leave `test` of the task out at one of the sites, or use one test set.")
                )
            if own[1] != scorer:
                what = f"scores '{task}' with {own[1]}, and {where} with {scorer}."
                fix = f"Score one of them again: `cl-plugins report RUN --scorer {task}={scorer.partition('@')[0]}`."
                found.append(Problem(place, what, fix))
    return list(dict.fromkeys(found))


def _cells_by_task(site: SiteRecord) -> Iterable[tuple[str, Any]]:
    return ((task, score) for row in site.cells.values() for task, score in row.items())


def _row_problems(sites: Sequence[Named]) -> list[Problem]:
    """Two sites that have trained the same task."""
    found: list[Problem] = []
    known: dict[str, str] = {}
    for place, site in sites:
        for row in site.rows:
            if row in known:
                what = f"has the row '{row}', which {known[row]} has too."
                found.append(Problem(place, what, "Give one run for every task."))
            known.setdefault(row, place)
    return found


def _chain_problems(sites: Sequence[Named]) -> list[Problem]:
    """A site that did not begin with the carry of the site before."""
    found = []
    for number, (place, site) in enumerate(sites):
        if number == 0:
            if site.began_with is not None:
                tasks = ", ".join(site.began_with.tasks)
                what = f"began with a carry of {tasks}, and none of the given sites has left it."
                found.append(Problem(place, what, _CHAIN))
            continue
        before, earlier = sites[number - 1]
        if site.began_with is None:
            found.append(Problem(place, f"began without a carry, and {before} was given too.", _CHAIN))
        elif site.began_with.sha256 != earlier.carry.sha256:
            what = f"did not begin with the carry that {before} has left."
            found.append(Problem(place, what, _CHAIN))
    return found


def _write(sites: Sequence[Named], out: Path) -> tuple[AccuracyMatrix, dict[str, Any]]:
    """Matrix, metrics and score files."""
    first = max((site for _, site in sites), key=lambda site: len(site.stream.tasks))
    tasks = list(first.task_names)
    trained = [row for _, site in sites for row in site.rows]
    cells = _cells(sites)
    scores = {task: score for row in cells.values() for task, score in row.items()}
    scorers = {task.name: task.scorer or "exact_match" for task in first.stream.tasks}

    def line(row: str) -> list[float | None]:
        return [cells.get(row, {})[task].score if task in cells.get(row, {}) else None for task in tasks]

    told = [site.test_only for _, site in sites]
    only = [t for t in tasks if row_name(t) not in trained and any(t in names for names in told)]
    matrix = AccuracyMatrix(
        stream=first.stream.name,
        method=first.method,
        tasks=tasks,
        scorers={t: scores[t].scorer if t in scores else get_scorer(scorers[t], task=t).key for t in tasks},
        n={t: scores[t].n if t in scores else 0 for t in tasks},
        zero_shot=line(ZERO_SHOT),
        scores=[line(row) for row in trained],
        rows=None if trained == [row_name(task) for task in tasks] else trained,
        test_only=only,
        independent=first.independent,
    )
    files: dict[str, Any] = {}
    for row, found in cells.items():
        for task, score in found.items():
            name = f"predictions/{row}/{task}.score.json"
            score.write(out / name)
            files[name] = dict(record_of(out / name).plain())
    write_matrix(out, matrix)
    return matrix, files


def _cells(sites: Sequence[Named]) -> dict[str, dict[str, TaskScore]]:
    """Row -> task -> score; of a cell that two sites have measured the first one's."""
    cells: dict[str, dict[str, TaskScore]] = {}
    for place, site in sites:
        for row, found in site.cells.items():
            for task, score in found.items():
                content = ScoreRecord.content(score.model_dump())
                cells.setdefault(row, {}).setdefault(task, TaskScore.from_dict(content, where=place))
    return cells


def _run_record(sites: Sequence[Named], matrix: AccuracyMatrix) -> dict[str, Any]:
    """``run.json`` of the joined rows: the first site's recipe, with what the others do differently for their tasks."""
    records = [site for _, site in sites]
    plain = [site.model_dump(exclude_unset=True) for site in records]
    first = plain[0]
    recipe = dict(first["recipe"])
    block = dict(recipe["cl"])
    overrides = {**(block.get("task_overrides") or {})}
    for site, content in zip(records[1:], plain[1:], strict=True):
        own = content["recipe"]
        other = {
            key: own.get(key)
            for key in {*own, *recipe} - {"cl", "seed", "model_name_or_path"}
            if own.get(key) != recipe.get(key)
        }
        for row in site.rows:
            task = row.removeprefix("after_")
            given = (own["cl"].get("task_overrides") or {}).get(task) or {}
            if other or given:
                overrides[task] = {**other, **given}
    recipe["cl"] = {**block, "task_overrides": overrides}
    entries = {task: _entry(task, records, plain) for task in matrix.tasks}
    data = _data(records, entries)
    return {
        "recipe": recipe,
        "stream": {"name": matrix.stream, "tasks": list(entries.values())},
        "method": matrix.method,
        "base": first["base"],
        "data": data,
        "seed": first.get("seed") if len({site.seed for site in records}) == 1 else None,
        "method_options": first["options"],
        "method_defaults": first.get("defaults"),
        "notes": _notes(sites),
        "versions": first.get("versions") or {},
    }


def _data(sites: Sequence[SiteRecord], entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What is known of the data sets, which get the names of their tasks."""
    known = {name: record for site in reversed(sites) for name, record in site.data.items()}
    found: dict[str, Any] = {}
    for task, entry in entries.items():
        for key in ("train", "test"):
            for number, name in enumerate(entry.get(key) or ()):
                entry[key][number] = f"{task}/{name}"
                if f"{task}/{name}" in known:
                    found[f"{task}/{name}"] = known[f"{task}/{name}"]
    return found


def _entry(task: str, sites: Sequence[SiteRecord], plain: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the stream says of a task: by the site that has trained it, else by the first that tests it."""
    found: list[tuple[int, dict[str, Any]]] = []
    for site, content in zip(sites, plain, strict=True):
        entry = next((e for e in content["stream"]["tasks"] if e["name"] == task), None)
        if entry is not None:
            rank = 0 if row_name(task) in site.rows else 1 if task in site.tests else 2
            found.append((rank, entry))
    return min(found, key=lambda pair: pair[0])[1]


def _notes(sites: Sequence[Named]) -> list[str]:
    """How the numbers came about, and in what the sites differ."""
    told = ", ".join(_trained(site) for _, site in sites)
    notes = [f"The rows of {len(sites)} sites, in the order of learning: {told}."]
    blocks = [site.recipe.model_dump(exclude_unset=True)["cl"] for _, site in sites]
    for key in ("options", "versions", "cl"):
        values = blocks if key == "cl" else [getattr(site, key) for _, site in sites]
        differ = sorted({k for each in values for k in each if any(v.get(k) != each.get(k) for v in values)})
        differ = [k for k in differ if k not in ("task_overrides", "order", "method")]
        if differ:
            what = {"options": "options of the method:", "versions": "versions of", "cl": "settings under `cl`:"}[key]
            notes.append(f"The sites had different {what} {', '.join(differ)}.")
    notes += _tested_otherwise([site for _, site in sites])
    for row, task, scores in _measured_twice(sites):
        notes.append(
            f"{row}, {task} was measured by several sites, with different results "
            f"({', '.join(f'{score:.2f}' for score in scores)}); the first one stands here."
        )
    return list(dict.fromkeys([*notes, *(note for _, site in sites for note in site.notes)]))


def _tested_otherwise(sites: Sequence[SiteRecord]) -> list[str]:
    """Tasks that sites have tested with other prompts, pictures or lengths of answers: their columns compare two things."""
    found = []
    for task in dict.fromkeys(name for site in sites for name in site.task_names):
        given = [_test_settings(site, task) for site in sites if task in site.tests]
        differ = sorted({key for each in given for key in each if any(other.get(key) != each[key] for other in given)})
        if differ:
            found.append(f"The sites tested {task} with different {', '.join(differ)}, which its scores depend on.")
    return found


def _test_settings(site: SiteRecord, task: str) -> dict[str, Any]:
    """What a site's recipe says of the prompts of a task's test, its pictures and the length of its answers."""
    keys = site.recipe.model_dump(exclude_unset=True)
    block = keys.pop("cl", {})
    entry: dict[str, Any] = next((e for e in site.model_dump()["stream"]["tasks"] if e["name"] == task), {})
    keys |= {**entry.get("overrides", {}), **(block.get("task_overrides") or {}).get(task, {})}
    found = {key: value for key, value in keys.items() if _TESTED.match(key) and value is not None}
    length = entry.get("max_new_tokens") or (block.get("eval") or {}).get("max_new_tokens")
    return {**found, **({"max_new_tokens": length} if length is not None else {})}


def _measured_twice(sites: Sequence[Named]) -> Iterable[tuple[str, str, list[float]]]:
    cells: dict[tuple[str, str], list[float]] = {}
    for _, site in sites:
        for row, found in site.cells.items():
            for task, score in found.items():
                cells.setdefault((row, task), []).append(score.score)
    return ((row, task, found) for (row, task), found in cells.items() if len(set(found)) > 1)
