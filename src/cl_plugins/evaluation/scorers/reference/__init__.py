"""Scorers that reproduce how other libraries score, bug for bug: ``peer:<library>`` and ``peer:<library>:<task>``.

They exist so that scores can be compared with published numbers; for anything else use the strict scorers, which are
in ``strict_twin`` of every score. `docs/scorers.md` lists what each rule does and what is wrong with it.
"""

from __future__ import annotations

from . import coin, llamafactory, medical_cl, mllm_cl, mslora_cr, olora, trace
from .base import ReferenceLibrary, RuleScorer
from .medical_cl import printed_average


__all__ = ["LIBRARIES", "ReferenceLibrary", "RuleScorer", "printed_average"]

#: Name to library.
LIBRARIES: dict[str, ReferenceLibrary] = {
    library.name: library
    for library in (
        mllm_cl.LIBRARY,
        coin.MCITLIB,
        coin.COIN,
        coin.UCIT,
        mslora_cr.LIBRARY,
        medical_cl.LIBRARY,
        olora.LIBRARY,
        trace.LIBRARY,
        llamafactory.LIBRARY,
    )
}
