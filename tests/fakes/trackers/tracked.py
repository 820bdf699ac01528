"""Where the stand-ins for experiment trackers note their calls: one JSON line each, in the file that ``TRACKED`` names."""

from __future__ import annotations

import json
import os


def note(call, **values):
    """Note a call; one named by ``TRACKED_FAILS`` fails."""
    if os.environ.get("TRACKED_FAILS") == call:
        raise ConnectionError("no network")
    with open(os.environ["TRACKED"], "a") as file:
        file.write(json.dumps({"call": call, "pid": os.getpid(), **values}, default=repr) + "\n")
