"""Libraries that only ``cl-plugins data`` needs, imported when they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from ...base.errors import DataError, Problem


#: Module -> what it is needed for.
LIBRARIES = {
    "pyarrow": "parquet files",
    "pyarrow.parquet": "parquet files",
    "zarr": "BSCCM's zarr arrays",
    "av": "videos",
    "numpy": "pixels",
    "PIL": "pictures",
    "PIL.Image": "pictures",
}


def library(name: str) -> ModuleType:
    """Import a library of the extra ``data``.

    Args:
        name: Module name, a key of `LIBRARIES`.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        what = f"is needed for {LIBRARIES.get(name, 'this')} and cannot be imported ({error})."
        raise DataError(Problem(name, what, 'Install it: pip install "cl-plugins[data]".')) from error
