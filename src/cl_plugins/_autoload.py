"""What PyTorch calls on ``import torch`` (entry-point group ``torch.backends``): tiny, and it never raises."""

from __future__ import annotations

import os
import warnings


def activate() -> None:
    """Place the post-import hooks unless ``CL_PLUGINS_AUTOLOAD=0``."""
    if os.environ.get("CL_PLUGINS_AUTOLOAD", "1").strip().lower() in {"0", "false", "no", "off"}:
        return
    try:
        from .host.activation import activate as place_hooks

        place_hooks()
    except Exception as error:  # an exception here would break `import torch` for everybody
        warnings.warn(f"cl_plugins could not be activated: {error!r}", RuntimeWarning, stacklevel=2)
