"""Task selectors: find out from a row which of the learned tasks it is like, when no task is given at test.

A selector of another package is a subclass of `Selector`, registered in the entry-point group ``cl_plugins.selectors``.
"""

from __future__ import annotations

from .registry import SELECTORS, make_selector
from .selector import Selector, SelectorConfig
from .trained import TrainedSelector


__all__ = ["SELECTORS", "Selector", "SelectorConfig", "TrainedSelector", "make_selector"]
