"""Many runs: every recipe with every method, seed and task order, each in a process of its own, and a ledger of them."""

from __future__ import annotations
