"""Rows of data sets that are not local files: hashed, because they may change between two starts."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger


if TYPE_CHECKING:
    from .media import DataUse
    from .task_args import HostArgs


ROWS = 256  # hashed at a time


def hub_digest(use: DataUse, args: HostArgs) -> str | None:
    """SHA-256 over all rows of a data set, pictures included, in hex.

    Args:
        use: The data set.
        args: The host's arguments.

    Returns:
        The hash; None for data that the host streams, which are not pinned.

    Raises:
        DataError: The host cannot load the data set.
    """
    from datasets.exceptions import DatasetsError

    from .test_sets import load_raw

    if args.data.streaming and not use.test:
        logger.warning("data set '%s' is streamed: changes between two starts are not detected", use.name)
        return None
    data = copy.copy(args.data)
    data.dataset_dir, data.max_samples, data.streaming = use.dataset_dir, None, False
    try:
        rows, _ = load_raw(use.name, args, data)
    except (ValueError, OSError, DatasetsError, ImportError) as error:
        what = f"cannot be loaded ({error.__cause__ or error})."
        fix = "Check its name and the connection, or download it and use the file."
        raise DataError(Problem(f"data set '{use.name}'", what, fix)) from error
    return content_digest(rows)


def content_digest(rows: Any) -> str:
    """SHA-256 over names and values of all columns, in hex; how the rows are stored does not matter.

    Args:
        rows: A data set of the `datasets` library.
    """
    digest = hashlib.sha256(json.dumps(list(rows.column_names)).encode())
    for table in rows.with_format("arrow").iter(batch_size=ROWS):
        for row in table.to_pylist():
            digest.update(json.dumps(row, default=_other, sort_keys=True).encode())
    return digest.hexdigest()


def _other(value: Any) -> str:
    """Bytes by their hash, times and the like as text."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
