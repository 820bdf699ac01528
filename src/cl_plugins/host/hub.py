"""Rows of data sets that are not local files: hashed, because they may change between two starts."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from .media_names import names_in, texts_only


if TYPE_CHECKING:
    from collections.abc import Iterator

    from .media import DataUse
    from .task_args import HostArgs


KINDS = ("images", "videos", "audios")  # attributes of a data set that name a column of media
ROWS = 256  # hashed at a time


def hub_digest(use: DataUse, args: HostArgs) -> str | None:
    """SHA-256 over all rows of a data set, in hex; pictures in it, and those of this machine that it names, included.

    Args:
        use: The data set.
        args: The host's arguments.

    Returns:
        The hash; None for data that the host streams, which are not pinned.

    Raises:
        DataError: The host cannot load the data set.
    """
    from .media import media_digest, there
    from .test_sets import load_raw

    if args.data.streaming and not use.test:
        logger.warning("data set '%s' is streamed: changes between two starts are not detected", use.name)
        return None
    data = copy.copy(args.data)
    data.dataset_dir, data.max_samples, data.streaming = use.dataset_dir, None, False
    try:
        rows, attributes = load_raw(use.name, args, data)
    except Exception as error:  # each hub has a library, and each library its own classes
        what = f"cannot be loaded ({error.__cause__ or error})."
        fix = "Check its name and the connection, or download it and use the file."
        raise DataError(Problem(f"data set '{use.name}'", what, fix)) from error
    digest = content_digest(rows)
    names = there(use, _named_media(rows, [getattr(attributes, kind) for kind in KINDS]))
    return hashlib.sha256(f"{digest} {media_digest(use, names)}".encode()).hexdigest() if names else digest


def _named_media(rows: Any, columns: list[str | None]) -> Iterator[str]:
    """What the columns of media name, as far as they hold texts."""
    kinds = {field.name: field.type for field in rows.features.arrow_schema}
    wanted = [name for name in columns if name in kinds and texts_only(kinds[name])]
    for table in rows.select_columns(wanted).with_format("arrow").iter(batch_size=ROWS) if wanted else ():
        for row in table.to_pylist():
            yield from names_in([row[name] for name in wanted])


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
