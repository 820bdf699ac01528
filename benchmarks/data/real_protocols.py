"""AVE's annotations, read by `cl_plugins.crossmodal.prepare`: samples of classes, not questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data.real_sources import Clone, Laid, Row
from cl_plugins.crossmodal import prepare


AVE = {"YapengTian/AVE-ECCV18": "93f843fed72fb17394df76330df958b0c2dbde76"}
_TENTH = 10


def ave(raw: Path, clone: Clone) -> Laid:
    """All events of AVE; every tenth line is for testing, as the authors' lists are not in the repository."""
    lines = clone.read("data/Annotations.txt").decode().splitlines()
    seen: dict[str, str] = {}
    rows: dict[str, list[Row]] = {"train": [], "test": []}
    lists = {
        "train": [line for place, line in enumerate(lines) if place % _TENTH],
        "test": [line for place, line in enumerate(lines) if place % _TENTH == 0],
    }
    (raw / "AVE").mkdir()
    for split, own in lists.items():
        (raw / f"{split}Set.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
        for line in own:
            label, video, *_ = line.split("&")
            (raw / "AVE" / f"{video}.mp4").touch()
            if video in seen:
                rows[split].append(Row(dropped="its video occurred before"))
            else:
                seen[video] = label
                rows[split].append(Row(columns={"label": label}, identity=video))
    return Laid(rows, ["trainSet.txt and testSet.txt (nine and one of ten lines)"])


def convert_ave(raw: Path, out: Path, laid: Laid) -> dict[str, Any]:
    """The stream of AVE, compared with its rows; one entry per split, over all steps."""
    prepare.main(["--protocol", "ave", str(raw), str(out)])
    notes = yaml.safe_load((out / "stream.yaml").read_text(encoding="utf-8"))["notes"]
    twice = sum(bool(row.dropped) for own in laid.rows.values() for row in own)
    found = {}
    for split, rows in laid.rows.items():
        labels: dict[str, str] = {}
        for path in sorted(out.glob(f"step*_{split}.jsonl")):
            with path.open(encoding="utf-8") as file:
                labels |= {record["id"]: record["label"] for record in map(json.loads, file)}
        wanted = {row.identity: row.columns["label"] for row in rows if not row.dropped}
        differences = {} if labels == wanted else {"columns": [f"{len(labels)} videos instead of {len(wanted)}"]}
        if not any(note.startswith(f"{twice} lines are left out") for note in notes):
            differences["remarks"] = [f"none says that {twice} lines are left out"]
        dropped = {"its video occurred before": sum(bool(row.dropped) for row in rows)}
        found[f"ave_{split}"] = {
            "rows": len(rows),
            "records": len(labels),
            "dropped": dropped,
            "remarks": [note for note in notes if "left out because" in note],
            "compared": ["rows", "columns"],
            "differences": differences,
        }
    return found
