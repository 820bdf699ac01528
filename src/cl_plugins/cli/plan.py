"""``cl-plugins plan``: what a recipe will do, task by task, and what it will need."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.secrets import masked
from . import plan_probes


if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..base.errors import Problem
    from ..config import CLConfig
    from ..contract.host import Host, ModelSizes
    from ..run.estimate import DiskNeed
    from ..run.plan import Step

_EPILOG = """\
Nothing is trained and no weights are loaded: the model is built from its config
without any. The exit code is 2 if the recipe has problems or the disk is too
small. The sizes need the base's config, from a folder or the hub. The data need
not be there yet: numbers of samples are then those that the stream states.

  cl-plugins plan recipe.yaml max_steps=10
  cl-plugins plan recipe.yaml --all-keys --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from .recipes import add_recipe

    add_recipe(parser)
    parser.epilog = _EPILOG
    parser.add_argument(
        "--all-keys",
        action="store_true",
        help="show every key of the installed LLaMA-Factory, or that goes with `encoders`",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan of a recipe."""
    from . import output
    from .hosts import quiet_host
    from .recipes import read_stream_recipe

    recipe = read_stream_recipe(args.recipe, args.overrides)
    with quiet_host():
        value = make(recipe, all_keys=args.all_keys)
    if args.json:
        output.print_json(value)
    else:
        show(value)
    return 2 if value["disk"] and not value["disk"]["fits"] else 0


def make(recipe: dict[str, Any], *, all_keys: bool = False) -> dict[str, Any]:
    """The plan as plain JSON types.

    Args:
        recipe: The recipe with ``cl``.
        all_keys: Whether the key table has every key of the host, or only those of the recipe.

    Raises:
        RecipeError: With everything that is wrong with the recipe.
    """
    from ..methods.registry import get_method
    from ..run.check import check
    from ..run.journal import Journal
    from ..run.reopen import planned
    from ..run.sender import carry_remarks
    from .hosts import host as the_host

    host = the_host(recipe)
    absent: list[Problem] = []
    checked = check(host, recipe, absent=absent)
    host_keys, config = checked.host_keys, checked.config
    root = Path(str(host_keys["output_dir"]))
    steps = planned(root, config)
    finished = Journal(root).entries
    warnings = [*_absent_warning(absent), *carry_remarks(root, config)]
    model, disk = _sizes(host, host_keys, config, root, steps, warnings)
    able = get_method(config.method).capabilities
    return {
        "format": 1,
        "host": host.name,
        "stream": config.stream.name,
        "method": config.method,
        "method_options": masked(config.method_options),
        "carries": _carried(able.carries, host_keys),
        "reveals": able.reveals + _kept_samples(config),
        "seed": int(host_keys.get("seed", 42)),
        "output_dir": str(root),
        "steps": [
            {"key": s.key, "kind": s.kind, "task": s.task, "row": s.row, "finished": s.key in finished} for s in steps
        ],
        "tasks": _tasks(host, host_keys, config, root, steps),
        "probes": plan_probes.planned(host, host_keys, config, steps),
        "keys": _keys(host, host_keys, all_keys),
        "model": model,
        "disk": disk,
        "warnings": warnings,
    }


def _absent_warning(absent: list[Problem]) -> list[str]:
    """One warning about all data that are not there."""
    if not absent:
        return []
    more = f" {len(absent) - 1} more are missing." if len(absent) > 1 else ""
    return [
        f"The data are not there yet, and a run would be refused. {absent[0].where}: {absent[0].what}{more} Numbers of "
        "samples are those that the stream states (`train_size`, `test_size`)."
    ]


def _carried(carries: str, host_keys: Mapping[str, Any]) -> str:
    """What the method carries, for this recipe: plain texts have no projector."""
    if "projector" not in carries or host_keys.get("additional_target"):
        return carries
    return f"{carries} (no projector here: the recipe has no `additional_target`)"


def _kept_samples(config: CLConfig) -> str:
    """What replay adds to the carry."""
    replay = config.replay
    if not replay.enabled:
        return ""
    many = f"{replay.capacity_per_task} of each task" if replay.capacity_total is None else f"{replay.capacity_total}"
    return f"; with replay: training samples, up to {many}"


def _tasks(
    host: Host, host_keys: dict[str, Any], config: CLConfig, root: Path, steps: list[Step]
) -> list[dict[str, Any]]:
    """For every task that is trained: what the host is given that the top level of the recipe does not say."""
    from ..run.plan import JOINT
    from ..run.task_keys import directory, keys_of

    found = []
    for name in [step.task for step in steps if step.kind == "train" and step.task]:
        joint = name == JOINT
        tasks = config.stream.tasks if joint else (config.stream.task(name),)
        keys = keys_of(host, host_keys, config, name, directory(root, config, name))
        differs = {key: value for key, value in keys.items() if key not in host_keys or host_keys[key] != value}
        entry: dict[str, Any] = {
            "task": name,
            "keys": masked(differs),
            "instead_of": masked({key: host_keys[key] for key in differs if key in host_keys}),
            "valid": [name for task in tasks for name in task.valid] if host.validates(keys) else [],
            "test": [] if joint else list(tasks[0].test),
            "scorer": None if joint else tasks[0].scorer,
            "max_new_tokens": _longest(host, config, None if joint else name),
            **_counts(host, host_keys, config, name),
        }
        found.append(entry)
    return found


def _longest(host: Host, config: CLConfig, task: str | None) -> int | None:
    """The longest answer in tokens, of a task or where it sets none; None where answers are classes."""
    if not host.generates:
        return None
    return config.eval.max_new_tokens if task is None else config.max_new_tokens(task)


def _counts(host: Host, host_keys: dict[str, Any], config: CLConfig, name: str) -> dict[str, Any]:
    """Optimizer steps on one device and test items of a task, from its files or from the stream."""
    from ..methods.registry import get_method
    from ..run.plan import JOINT
    from ..run.units import rows, training_steps

    own = get_method(config.method).capabilities.needs_replay
    found: dict[str, Any] = {"optimizer_steps": training_steps(host, None, host_keys, config, name, by_itself=own)}
    if name != JOINT:
        task = config.stream.task(name)
        items = rows(host, {**host_keys, **config.overrides_for(name)}, task.test, None, task.test_size)
        most = config.eval.max_items
        found["test_items"] = items if items is None or most is None else min(items, most)
    return found


def _keys(host: Host, host_keys: dict[str, Any], all_keys: bool) -> list[dict[str, Any]]:
    table = host.key_table() if all_keys else [host.key_info(key) for key in host_keys]
    return [
        {"key": info.key, "kind": info.kind, "reason": info.reason}
        | ({"value": masked(host_keys[info.key], info.key)} if info.key in host_keys else {})
        for info in table
    ]


def _sizes(
    host: Host, host_keys: dict[str, Any], config: CLConfig, root: Path, steps: list[Step], warnings: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Model and disk; None with a warning where the base's config cannot be had."""
    from ..base.errors import CompatibilityError
    from ..methods.registry import get_method
    from ..run.estimate import disk_need, free_space, used_space

    try:
        method = get_method(config.method)(config.options)
        model = host.sizes(host_keys, method, next(t for t in config.stream.tasks if t.train))
    except CompatibilityError as error:
        warnings.append(f"Sizes are not known: {error}")
        return None, None
    facts = host.facts(host_keys, config.stream)
    need = disk_need(
        model,
        host_keys,
        method.capabilities,
        sum(step.kind == "train" and step.phase is None for step in steps),
        config.block.keep,
        quantised=facts.quantisation is not None,
        zero_stage=facts.zero_stage,
        earlier=max(0, len(config.stream.task_names) - 1) if config.block.carry_from else 0,
    )
    _image_warning(model, host_keys, warnings)
    free, used = free_space(root), used_space(root)
    return _model_json(model), _disk_json(need, free, used)


def _image_warning(model: ModelSizes, host_keys: dict[str, Any], warnings: list[str]) -> None:
    limit = int(host_keys.get("cutoff_len", 2048))
    if model.image_tokens is not None and model.image_tokens >= limit:
        warnings.append(
            f"A picture takes {model.image_tokens} tokens, and `cutoff_len: {limit}` leaves no room for them; a run with "
            f"pictures will be refused. Set `cutoff_len` to {model.image_tokens} plus question and answer."
        )


def _model_json(model: ModelSizes) -> dict[str, Any]:
    return {
        "type": model.model_type,
        "parameters": model.parameters,
        "trainable": model.trainable,
        "parts": model.parts,
        "targets": list(model.targets),
        "dtype": model.dtype,
        "image_tokens": model.image_tokens,
    }


def _disk_json(need: DiskNeed, free: int, used: int) -> dict[str, Any]:
    return {
        "updates": need.updates,
        "checkpoints": need.checkpoints,
        "final": need.final,
        "other": need.other,
        "total": need.total,
        "used": used,
        "free": free,
        "fits": need.total - used <= free,
        "remarks": list(need.remarks),
    }


def show(value: dict[str, Any]) -> None:
    """Print a plan for people."""
    from . import output

    output.emit(output.bold(f"{value['method']} on {value['stream']}") + f", seed {value['seed']}")
    options = ", ".join(f"{key}: {given}" for key, given in value["method_options"].items())
    rows = [("into", value["output_dir"]), ("options", options), ("carries", value["carries"])]
    output.pairs([row for row in (*rows, ("reveals", value["reveals"])) if row[1]])
    _show_steps(value)
    for task in value["tasks"]:
        output.heading(f"Task {task['task']}", f"what {value['host']} gets in addition to the recipe's top level")
        rows = [
            (
                key,
                str(new)
                + (
                    f"  (instead of {task['instead_of'][key]})"
                    if key in task["instead_of"] and key != "output_dir"
                    else ""
                ),
            )
            for key, new in task["keys"].items()
        ]
        if task["optimizer_steps"] is not None:
            rows.append(("length", f"{task['optimizer_steps']:,} optimizer steps on one device"))
        if task["valid"]:
            rows.append(("validated on", ", ".join(task["valid"])))
        if task["test"]:
            items = f" ({task['test_items']:,} items)" if task["test_items"] is not None else ""
            longest = f", at most {task['max_new_tokens']} tokens" if task["max_new_tokens"] is not None else ""
            rows.append(("tested on", f"{', '.join(task['test'])}{items} with {task['scorer']}{longest}"))
        output.pairs(rows)
    plan_probes.show(value["probes"])
    _show_keys(value)
    _show_model(value)
    for warning in value["warnings"]:
        output.emit()
        for line in output.wrap(f"Warning: {warning}", output.width()):
            output.emit(line)
    if value["disk"] and not value["disk"]["fits"]:
        output.emit()
        output.emit("The disk is too small for this run. Free some space, or choose another `output_dir`.")


def _show_steps(value: dict[str, Any]) -> None:
    """Steps, tests of one row in one line."""
    from . import output

    steps = value["steps"]
    done = sum(step["finished"] for step in steps)
    output.heading(f"{len(steps)} steps", f"{done} of them are finished" if done else "")
    rows: list[tuple[str, str, str, str]] = []
    start = 0
    while start < len(steps):
        end = start + 1
        like = (steps[start]["kind"], steps[start]["row"])
        while end < len(steps) and like[1] is not None and (steps[end]["kind"], steps[end]["row"]) == like:
            end += 1
        group = steps[start:end]
        finished = sum(step["finished"] for step in group)
        state = (
            "" if not done else "finished" if finished == len(group) else f"{finished} done" if finished else "to do"
        )
        number = str(start + 1) if len(group) == 1 else f"{start + 1}-{end}"
        kind = group[0]["kind"]
        if kind in ("evaluate", "probe"):
            what = f"{kind} {group[0]['row'].replace('_', ' ')}"
            rows.append((number, state, what, output.tested([str(step["task"]) for step in group])))
        else:
            rows.append((number, state, kind, group[0]["task"] or "final/ and the report"))
        start = end
    output.columns(("step", "state" if done else "", "what", "on"), rows, right=(0,))


def _show_keys(value: dict[str, Any]) -> None:
    """The key table: keys of one kind and reason together."""
    from . import output

    groups: dict[tuple[str, str], list[str]] = {}
    for entry in value["keys"]:
        given = f" = {entry['value']}" if "value" in entry else ""
        groups.setdefault((entry["kind"], entry["reason"]), []).append(f"{entry['key']}{given}")
    titles = {
        "per_task": "Keys per task  (allowed in cl.task_overrides)",
        "per_run": "Keys per run  (the same for all tasks)",
        "refused": "Keys refused with cl",
    }
    for kind, title in titles.items():
        members = {reason: keys for (k, reason), keys in groups.items() if k == kind}
        if members:
            output.heading(title)
        for reason, keys in members.items():
            for line in output.wrap(", ".join(keys), output.width() - 2):
                output.emit(f"  {line}")
            for line in output.wrap(reason, output.width() - 6):
                output.emit(f"      {line}")


def _show_model(value: dict[str, Any]) -> None:
    from . import output

    model, disk = value["model"], value["disk"]
    if model is None:
        return
    output.heading("Model", "built without weights")
    share = 100 * model["trainable"] / max(1, model["parameters"])
    parts = ", ".join(f"{name} {count:,}" for name, count in model["parts"].items())
    rows = [
        (
            "base",
            f"{model['type']}, {model['parameters']:,} parameters" + (f", {model['dtype']}" if model["dtype"] else ""),
        )
    ]
    rows.append(("trained", f"{model['trainable']:,} ({share:.2g} % of it): {parts}"))
    if model["targets"]:
        rows.append(("LoRA on", ", ".join(model["targets"])))
    if model["image_tokens"] is not None:
        rows.append(("a picture", f"{model['image_tokens']} tokens"))
    output.pairs(rows)
    output.heading("Disk", "at the peak")
    size = output.size
    free = f"{size(disk['free'])} are free" + (
        f", {size(disk['used'])} are used by this run already" if disk["used"] else ""
    )
    output.pairs(
        [
            ("tasks/, carry/", size(disk["updates"])),
            ("checkpoints", f"{size(disk['checkpoints'])}, deleted when their task is done"),
            ("final/", size(disk["final"])),
            ("the rest", f"at most {size(disk['other'])}"),
            ("together", f"{size(disk['total'])}; {free}"),
            *(("note", remark) for remark in disk["remarks"]),
        ]
    )
