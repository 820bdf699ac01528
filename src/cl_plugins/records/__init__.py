"""The formats of every file that a run or a carry consists of: one record, one reader and one writer for each.

Nothing above `base` is imported here, so that every room can read and write through this one.
"""

from __future__ import annotations
