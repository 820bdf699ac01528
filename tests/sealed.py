"""Records with other content and a valid checksum, as another program could have written them."""

from __future__ import annotations

import json
from pathlib import Path

from cl_plugins.base.files import sha256
from cl_plugins.records.carry import CarryRecord
from cl_plugins.records.record import checksum


def edit(path: Path, change) -> dict:
    """Change the content of a record; ``change`` is given the content and may return another one."""
    content = json.loads(Path(path).read_text())
    content = change(content) or content
    content["checksum"] = checksum(content)
    Path(path).write_text(json.dumps(content))
    return content


def table(folder: Path) -> dict:
    """Hash and size of every file of a carry, as its ``files`` holds them."""
    names = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != "carry.json")
    return {str(p.relative_to(folder)): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in names}


def rehash(folder: Path) -> None:
    """Write the hashes of a carry's files anew."""
    edit(Path(folder) / "carry.json", lambda content: {**content, "files": table(folder)})


def make_carry(folder: Path, tasks, method: str, meta=None, base=None) -> None:
    """Write ``carry.json`` for the files that lie in a folder."""
    record = {"method": method, "stream": "s", "tasks": list(tasks), "base": base or {}, "meta": meta or {}}
    CarryRecord.write(Path(folder) / "carry.json", {**record, "files": table(folder)})
