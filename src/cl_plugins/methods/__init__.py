"""The methods: one folder each, found through the entry-point group ``cl_plugins.methods``."""

from __future__ import annotations

from ..contract.capabilities import Capabilities, RunFacts
from ..contract.method import Method
from ..contract.task import TaskContext
from .registry import get_method, list_methods


__all__ = ["Capabilities", "Method", "RunFacts", "TaskContext", "get_method", "list_methods"]
