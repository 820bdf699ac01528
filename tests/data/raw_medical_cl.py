"""The miniatures of the raw data sets, which live beside the benchmark so that it needs no tests folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


_FILE = Path(__file__).parents[2] / "benchmarks" / "medical_cl" / "miniature.py"
_spec = importlib.util.spec_from_file_location("medical_cl_miniature", _FILE)
assert _spec is not None
assert _spec.loader is not None
miniature = importlib.util.module_from_spec(_spec)
sys.modules["medical_cl_miniature"] = miniature
_spec.loader.exec_module(miniature)
