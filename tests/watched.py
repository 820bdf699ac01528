"""A run that is watched from outside, as a mapping."""

from __future__ import annotations

from cl_plugins.testing import watch as watching
from cl_plugins.testing.watch import inputs, logits


__all__ = ["inputs", "logits", "watch"]


def watch(keys):
    """See `cl_plugins.testing.watch.Watched`."""
    return vars(watching.watch(keys))
