"""The probes of a recipe in ``cl-plugins plan``: what they test, how often, and how many answers that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.host import Host
    from ..run.plan import Step


def planned(host: Host, host_keys: dict[str, Any], config: CLConfig, steps: list[Step]) -> list[dict[str, Any]]:
    """The probes: what they test, how often, and how many answers that takes."""
    from ..run.units import rows

    found = []
    for probe in config.eval.probes:
        times = sum(step.kind == "probe" and step.task == probe.name for step in steps)
        items = rows(host, {**host_keys, **probe.overrides}, probe.test, None, probe.test_size) if probe.test else None
        most = config.eval.max_items
        items = items if items is None or most is None else min(items, most)
        found.append(
            {
                "probe": probe.name,
                "test": list(probe.test),
                "harness": probe.harness,
                "scorer": None if probe.harness else probe.scorer,
                "max_new_tokens": None if probe.harness else config.max_new_tokens(probe.name),
                "times": times,
                "test_items": items,
                "answers": None if items is None else items * times,
            }
        )
    return found


def show(probes: list[dict[str, Any]]) -> None:
    """Print them for people."""
    from . import output

    if not probes:
        return
    output.heading("Probes", "tests outside of the stream; no part of the metrics")
    rows = []
    for probe in probes:
        times = f"{probe['times']} times"
        if probe["harness"]:
            rows.append((probe["probe"], f"{probe['harness']}, {times}; the harness decides the number of items"))
            continue
        items = "" if probe["test_items"] is None else f" ({probe['test_items']:,} items)"
        told = "" if probe["answers"] is None else f", {probe['answers']:,} answers in all"
        limit = f"at most {probe['max_new_tokens']} tokens"
        rows.append(
            (probe["probe"], f"{', '.join(probe['test'])}{items} with {probe['scorer']}, {limit}, {times}{told}")
        )
    output.pairs(rows)
