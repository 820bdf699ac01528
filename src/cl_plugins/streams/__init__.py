"""Tasks and streams: what is learned, in which order, and how each task is scored."""

from __future__ import annotations

from .loader import builtin_streams, load_stream, stream_entries
from .model import Stream, Task
from .probes import Probe


__all__ = ["Probe", "Stream", "Task", "builtin_streams", "load_stream", "stream_entries"]
