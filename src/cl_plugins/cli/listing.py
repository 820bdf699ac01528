"""``cl-plugins list``: what there is to choose from, and what it needs."""

from __future__ import annotations

import argparse
from typing import Any


KINDS = ("methods", "streams", "scorers", "published")

_EPILOG = """\
  cl-plugins list methods           all methods, a line each, by group
  cl-plugins list methods moelora   options, carry, cost, card, how to cite
  cl-plugins list streams medical_cl
"""

#: Groups of methods in the order of the list (`Method.family`).
_FAMILIES = {
    "one_lora": "One LoRA",
    "lora_per_task": "A LoRA per task",
    "routed": "Routed: parts are chosen for every sample or token",
    "prompts": "Prompts",
    "full": "Full fine-tuning",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only these")
    parser.add_argument("name", nargs="?", help="everything about this method, or this entry alone")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List methods, streams, scorers and published results."""
    from . import output

    collect = {"methods": methods, "streams": streams, "scorers": scorers, "published": published}
    value = {kind: collect[kind]() for kind in KINDS if args.kind in (None, kind)}
    if args.name is not None:
        value = {args.kind: [_named(args.kind, args.name, value[args.kind])]}
    if args.json:
        output.print_json(value)
        return 0
    show = {
        "methods": _show_methods if args.name is None else _show_method,
        "streams": _show_streams,
        "scorers": _show_scorers,
        "published": _show_published,
    }
    for number, (kind, entries) in enumerate(value.items()):
        if number:
            output.emit()
        show[kind](entries)
    return 0


def _named(kind: str, name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of a name.

    Raises:
        RecipeError: If there is none.
    """
    from ..base.errors import Problem, RecipeError
    from ..base.schema import nearest

    found = next((entry for entry in entries if entry["name"] == name), None)
    if found is None:
        names = [entry["name"] for entry in entries]
        fix = f"{nearest(name, names)} Known: {', '.join(names)}.".strip()
        raise RecipeError(Problem(f"list {kind}", f"there is no {name!r}.", fix))
    return found


def methods() -> list[dict[str, Any]]:
    """Every registered method with its declared capabilities; broken ones with their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    from dataclasses import asdict

    from ..base.schema import describe
    from ..methods.registry import list_methods

    found: list[dict[str, Any]] = []
    for entry in list_methods():
        if entry.value is None:
            found.append({"name": entry.name, "distribution": entry.distribution, "error": entry.error})
            continue
        options = [{"key": k, "type": t, "default": d, "help": h} for k, t, d, h in describe(entry.value.config_class)]
        found.append(
            {
                "name": entry.name,
                "distribution": entry.distribution,
                "error": None,
                "title": entry.value.title,
                "family": entry.value.family(),
                "summary": _summary(entry.value),
                **_card(entry.value),
                "options": options,
                "adds": _adds(entry.value, options),
                **asdict(entry.value.capabilities),
            }
        )
    return found


def _summary(method: type[Any]) -> str:
    """The first sentence of the class."""
    import inspect

    lines = (inspect.getdoc(method) or "").split("\n\n")[0]
    return " ".join(lines.split())


def _card(method: type[Any]) -> dict[str, str | None]:
    """Where the method's card is, a README.md next to its code, and how to cite the method according to it."""
    import inspect
    import re
    from pathlib import Path

    try:
        card = Path(inspect.getfile(method)).with_name("README.md")
        text = card.read_text(encoding="utf-8")
    except (OSError, TypeError):  # none, or a class that was made in a session
        return {"card": None, "cite": None}
    cite = re.search(r"\*\*Cite\.\*\*(.*?)(?:\n\n|\Z)", text, re.DOTALL)
    return {"card": str(card), "cite": " ".join(cite.group(1).replace("*", "").split()) if cite else None}


def _adds(method: type[Any], options: list[dict[str, str]]) -> str:
    """What a method adds to the loss with its default options."""
    if any(option["default"] == "required" for option in options):
        return "depends on its options"
    made = method(method.config_class())
    terms = [("a penalty on weights", made.penalised), ("a term of every batch's logits", made.reads_logits)]
    return " and ".join(words for words, there in terms if there) or "nothing"


def streams() -> list[dict[str, Any]]:
    """Every registered stream with its tasks; broken ones with their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    from ..streams import stream_entries

    found: list[dict[str, Any]] = []
    for entry in stream_entries():
        head = {"name": entry.name, "distribution": entry.distribution, "error": entry.error}
        stream = entry.value
        if stream is None:
            found.append(head)
            continue
        tasks = [
            {
                "name": task.name,
                "title": task.title,
                "scorer": task.scorer,
                "peer_scorer": task.peer_scorer,
                "modality": task.modality,
                "train": list(task.train),
                "valid": list(task.valid),
                "test": list(task.test),
                "train_size": task.train_size,
                "test_size": task.test_size,
            }
            for task in stream.tasks
        ]
        found.append(
            {**head, "title": stream.title, "paper": stream.paper, "notes": list(stream.notes), "tasks": tasks}
        )
    return found


def scorers() -> list[dict[str, Any]]:
    """Every scorer, the strict ones first; broken ones with their error.

    Raises:
        CompatibilityError: If two packages register the same name.
    """
    from ..base.registry import OWN, Entry
    from ..evaluation.scorers import get_scorer, list_reference_scorers, scorer_entries

    found: list[dict[str, Any]] = []
    for entry in [*scorer_entries(), *(Entry(name, OWN, get_scorer(name)) for name in list_reference_scorers())]:
        head: dict[str, Any] = {"name": entry.name, "distribution": entry.distribution, "error": entry.error}
        scorer = entry.value
        found.append(head if scorer is None else {**head, "version": scorer.version, "summary": scorer.summary})
    return found


def published() -> list[dict[str, Any]]:
    """Every source of published results with its tables and entries."""
    from ..published import read_published

    return [
        {
            "name": source.key,
            "title": source.title,
            "reference": source.reference,
            "read_in": source.read_in,
            "inconsistencies": len(source.inconsistencies),
            "tables": [
                {
                    "title": table.title,
                    "stream": table.stream,
                    "base": table.base,
                    "tasks": list(table.tasks),
                    "entries": [f"{source.key}/{entry.key}" for entry in table.entries],
                }
                for table in source.tables
            ],
        }
        for source in read_published()
    ]


_SCHEDULES = {
    "sequential": "each task starts from what the earlier ones left",
    "independent": "each task starts from the base",
    "joint": "all tasks at once",
}


def declared(entry: dict[str, Any]) -> dict[str, str]:
    """What a method declares, as text, by heading.

    Args:
        entry: One of `methods` that is not broken.
    """
    needs = [entry["needs"]] if entry["needs"] else []
    if entry["needs_modality"]:
        needs.insert(0, "a modality label on every task")
    base = ", or quantised: " + ", ".join(entry["quantised"]) if entry["quantised"] else " only"
    return {
        "tasks": _SCHEDULES[entry["schedule"]],
        "carries": entry["carries"] or "nothing",
        "reveals": entry["reveals"],
        "needs": "; ".join(needs) or "nothing",
        "adds to the loss": entry["adds"],
        "trains": f"finetuning_type: {' or '.join(entry['finetuning_types'])}",
        "base": f"whole{' (fp16 too)' if entry['fp16'] else ''}{base}",
        "encoders": "tested" if entry["encoders"] else "not tested",
        "DeepSpeed": ", ".join(f"ZeRO-{stage}" for stage in entry["zero_stages"]) or "not tested",
        "step cost": entry["step_cost"],
        "memory": entry["memory"],
    }


def _show_methods(entries: list[dict[str, Any]]) -> None:
    """A line for each method, by group."""
    from . import output

    output.emit(output.bold("Methods") + "  (cl.method.name; `cl-plugins list methods NAME` shows one)")
    left = max((len(entry["name"]) for entry in entries), default=0) + 2
    for family, heading in _FAMILIES.items():
        own = [entry for entry in entries if entry["error"] is None and entry["family"] == family]
        if not own:
            continue
        output.emit(output.bold(f"  {heading}"))
        for entry in own:
            package = "".join(f" (package {name})" for _, name in _package(entry))
            first, *rest = output.wrap(f"{entry['summary']}{package}", output.width() - left - 5)
            output.emit(f"    {entry['name'].ljust(left)}{first}{'…' if rest else ''}")
    for entry in entries:
        if entry["error"] is not None:
            _broken(entry)


def _show_method(entries: list[dict[str, Any]]) -> None:
    """All that a method declares, its options, and its card."""
    from . import output

    for entry in entries:
        if entry["error"] is not None:
            _broken(entry)
            continue
        output.emit(output.bold(entry["name"]) + f"  {entry['title']}")
        output.pairs([("", entry["summary"])], indent=0)
        output.emit()
        output.emit(output.bold("  Options") + ("" if entry["options"] else "  none"))
        output.pairs(
            [
                (f"{o['key']}:", f"{o['help']} ({o['type']}; default {o['default']})".replace("\\|", "|"))
                for o in entry["options"]
            ],
            indent=4,
        )
        output.emit()
        rows = [("group", _FAMILIES[entry["family"]]), *declared(entry).items(), *_package(entry)]
        rows += [(name, entry[name]) for name in ("card", "cite") if entry[name]]
        output.pairs(rows)


def _broken(entry: dict[str, Any]) -> None:
    """What cannot be used, its package and the reason."""
    from . import output

    output.emit(output.bold(f"  {entry['name']}") + "  BROKEN")
    output.pairs([("package", entry["distribution"]), ("why", entry["error"])], indent=4)


def _package(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """The package of what is not ours, as a row."""
    from ..base.registry import OWN

    return [("package", entry["distribution"])] if entry["distribution"] != OWN else []


def _show_streams(entries: list[dict[str, Any]]) -> None:
    from . import output

    output.emit(output.bold("Streams") + "  (cl.stream; a path or an inline stream does as well)")
    for entry in entries:
        output.emit()
        if entry["error"] is not None:
            _broken(entry)
            continue
        _name(entry)
        output.pairs(_package(entry), indent=4)
        rows = []
        for number, task in enumerate(entry["tasks"], start=1):
            count = " / ".join(f"{n:,}" if n else "?" for n in (task["train_size"], task["test_size"]))
            rows.append((str(number), task["name"], task["modality"] or "", task["scorer"], count))
        output.columns(("", "task", "modality", "scorer", "train / test"), rows, indent=4)


def _name(entry: dict[str, Any]) -> None:
    """A name in bold with its title, which may need several lines."""
    from . import output

    first, *rest = output.wrap(entry["title"] or "", output.width() - len(entry["name"]) - 4)
    output.emit(output.bold(f"  {entry['name']}") + f"  {first}".rstrip())
    for line in rest:
        output.emit(" " * (len(entry["name"]) + 4) + line)


def _show_scorers(entries: list[dict[str, Any]]) -> None:
    from . import output

    output.emit(output.bold("Scorers") + "  (scorer of a task; 0-100)")
    output.emit()
    rows = []
    for entry in entries:
        package = "".join(f" (package {name})" for _, name in _package(entry))
        if entry["error"] is not None:
            rows.append((entry["name"], f"BROKEN{package}: {entry['error']}"))
        else:
            rows.append((f"{entry['name']}@{entry['version']}", f"{entry['summary']}{package}"))
    output.pairs(rows)


def _show_published(entries: list[dict[str, Any]]) -> None:
    from . import output

    output.emit(output.bold("Published results") + "  (cl-plugins compare RUN --with SOURCE/ENTRY)")
    for entry in entries:
        output.emit()
        _name(entry)
        rows = [("where", entry["reference"] or "not known"), ("read in", entry["read_in"])]
        for table in entry["tables"]:
            names = ", ".join(name.partition("/")[2] for name in table["entries"])
            rows.append((table["stream"] or "-", f"{table['title']}: {names}"))
        output.pairs(rows, indent=4)
