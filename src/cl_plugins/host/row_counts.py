"""How many records a data set has, read from its files before anything loads; only the display's estimate needs it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data import local_files, source_of
from .media import DataUse, media_columns
from .media_names import read_records


def row_count(use: DataUse) -> int | None:
    """Training samples that the host makes of one data set, before it drops unusable ones.

    JSON files have been read for their hashes already, and Parquet and Arrow files say it in their footer.

    Args:
        use: The data set, with its limit.

    Returns:
        The number, or None where it cannot be had without loading: data sets on a hub, other kinds of files.
    """
    files, problems = local_files(use.dataset_dir, [use.name])
    info = next((path for path in files if path.name == "dataset_info.json"), None)
    if problems or info is None or len(files) < 2:
        return None
    entry = json.loads(info.read_text(encoding="utf-8"))[use.name]
    if source_of(entry) != "file_name":  # a hub's form has splits, and the host knows which file is of which
        return None
    wanted = entry.get("num_samples") if isinstance(entry, Mapping) else None
    if isinstance(wanted, int) and wanted > 0:  # the host draws this number, with repetition if necessary
        return _limited(wanted, use.limit)
    total = 0
    for path in files:
        if path == info:
            continue
        try:
            count = _file_rows(path, entry, use)
        except (ValueError, OSError, csv.Error, ImportError):
            return None
        if count is None:
            return None
        total += count
    return _limited(total, use.limit)


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _file_rows(path: Path, entry: Any, use: DataUse) -> int | None:
    kind = path.suffix.lower()
    if kind in (".json", ".jsonl"):
        stat = path.stat()
        return read_records(str(path), stat.st_mtime_ns, stat.st_size, media_columns(entry), use.limit)[0]
    if kind == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    if kind == ".arrow":
        return _arrow_rows(path)
    if kind == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return max(0, sum(1 for row in csv.reader(file) if row) - 1)
    return None


def _arrow_rows(path: Path) -> int:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            reader: Any = pa.ipc.open_stream(source)
            return sum(batch.num_rows for batch in reader)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            return sum(file.get_batch(number).num_rows for number in range(file.num_record_batches))
