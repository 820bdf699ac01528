"""Replay: which samples of past tasks are kept (selection, capacity), where (store), and how they meet new data (mixing).

Nothing here runs unless ``cl.replay`` asks for a buffer; a carry without one holds no sample.
"""

from __future__ import annotations
