"""Replay: which samples of past tasks are kept (selection, capacity), where (store), and how they are mixed in.

Nothing here runs unless ``cl.replay`` requests a buffer; a carry without one holds no sample.
"""

from __future__ import annotations
