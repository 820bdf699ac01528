"""Results that others have published, as data: what was printed, how it is defined, and where it was read.

`reading` reads the files, `records` describes them, `derive` computes metrics from cells, and `check` finds the printed
numbers that do not follow from their cells. `cl_plugins.report.against_published` compares runs with an entry.
"""

from __future__ import annotations

from .check import Inconsistency, check_source
from .derive import Cells, cells_of, derive
from .reading import find_published, published_dir, read_published
from .records import KINDS, Measure, PublishedEntry, PublishedMetric, PublishedTable, Source


__all__ = [
    "KINDS",
    "Cells",
    "Inconsistency",
    "Measure",
    "PublishedEntry",
    "PublishedMetric",
    "PublishedTable",
    "Source",
    "cells_of",
    "check_source",
    "derive",
    "find_published",
    "published_dir",
    "read_published",
]
