"""Tables, pictures and pages of one run, and the comparison of several.

Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

from .comparison_page import compare, compare_table
from .run_data import Run, read_run
from .run_report import terminal_table, write_report


__all__ = ["Run", "compare", "compare_table", "read_run", "terminal_table", "write_report"]
