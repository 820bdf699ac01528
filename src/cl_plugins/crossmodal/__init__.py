"""A classifier over several frozen encoders whose blocks see each other through adapters, and its losses.

In the spirit of Chee, Hsu and Lee (ECAI 2025, arXiv 2511.06723), whose equations are not public in full: every
reconstruction is an option, numbered C1 to C13 on the card of the method `crossmodal`.
"""

from __future__ import annotations
