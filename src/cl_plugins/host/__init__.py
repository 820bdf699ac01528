"""The only room that imports LLaMA-Factory: activation, the ``cl`` field, dispatch, the key table, one task's run.

Nothing here imports the host when it is itself imported; a process that never trains pays nothing.
"""

from __future__ import annotations
