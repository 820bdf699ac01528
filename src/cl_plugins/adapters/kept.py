"""What rows were given at their prompts, and how it lives on the cache of their conversation."""

from __future__ import annotations

from typing import Any


_KEPT = "cl_kept"


class Kept(dict[str, Any]):
    """What rows were given at their prompts: tensors or lists with the row first."""

    @property
    def rows(self) -> int | None:
        """Number of rows; None if nothing is kept."""
        return next((len(value) for value in self.values()), None)

    def select(self, rows: list[int]) -> Kept:
        """Those of some rows."""
        found = {n: [v[i] for i in rows] if isinstance(v, list) else v[rows] for n, v in self.items()}
        return Kept(found)

    @classmethod
    def join(cls, parts: list[Kept]) -> Kept:
        """The rows of several batches as one."""
        import torch

        joined = cls()
        for name, first in parts[0].items():
            values = [part[name] for part in parts]
            joined[name] = [x for value in values for x in value] if isinstance(first, list) else torch.cat(values)
        return joined


def kept_of(cache: Any) -> Kept | None:
    """What the rows of a cache of keys and values were given; None if they were given nothing."""
    return getattr(cache, _KEPT, None)


def keep_on(cache: Any, kept: Kept | None) -> None:
    """Let a cache carry what its rows were given."""
    if kept is not None:
        setattr(cache, _KEPT, kept)
