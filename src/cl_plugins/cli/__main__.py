"""``python -m cl_plugins.cli``, where the script is not on the path."""

from __future__ import annotations

import sys

from . import main


sys.exit(main())
