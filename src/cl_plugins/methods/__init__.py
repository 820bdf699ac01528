"""The methods: one folder each, found through the entry-point group ``cl_plugins.methods``."""

from __future__ import annotations

from ..contract.capabilities import Capabilities, RunFacts
from ..contract.method import Method
from ..contract.task import TaskContext
from .chain import LoRAChain
from .one_lora import OneLoRA
from .registry import get_method, list_methods


__all__ = ["Capabilities", "LoRAChain", "Method", "OneLoRA", "RunFacts", "TaskContext", "get_method", "list_methods"]
