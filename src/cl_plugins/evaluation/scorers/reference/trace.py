"""TRACE (BeyonderXX/TRACE, ``metrics.py`` and ``evaluations/``): the measure of each task that its table shows.

An empty answer counts 0 in every rule but SARI, which the original computes over all answers. It draws its answers at
temperature 0.1, which no scorer can reproduce.
"""

from __future__ import annotations

import re

from ...items import Item
from ..base import Scorer
from ..sari import sari
from ..sequences import similarity
from .base import ReferenceLibrary, RuleScorer
from .packages import need


SOURCE = "BeyonderXX/TRACE, commit 462e39f"
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def equal(item: Item) -> float:
    """C-STANCE, FOMC and NumGLUE: the same characters; case, spaces and full stops count."""
    return float(bool(item.prediction) and item.prediction == item.reference)


def first_letter(item: Item) -> float:
    """ScienceQA: the first character of the answer is that of the reference; "Because" is right for B."""
    return float(item.prediction[:1] == item.reference[:1] != "")


def literals(code: str) -> str:
    """Py150's placeholders as code: ``<STR_LIT:a>`` becomes ``a``, ``<NUM_LIT>`` 0, ``<STR_LIT>`` nothing.

    A literal that contains ``>`` is cut there, as in the original.
    """
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(lambda match: match[1], code)


def fuzzy(item: Item) -> float:
    """Py150: fuzzywuzzy's ``ratio``, a whole number of percent, of the two codes.

    The ratio is that of python-Levenshtein. Without that package fuzzywuzzy falls back to difflib, which gives other numbers.
    """
    given, wanted = literals(item.prediction), literals(item.reference)
    return round(100 * similarity(given, wanted)) / 100 if given and wanted else 0.0


def rouge_l(item: Item) -> float:
    """MeetingBank: F of ``rouge-l`` of the package ``rouge`` (1.0.1), which splits texts into sentences at full stops."""
    if not item.prediction or not item.reference:
        return 0.0
    scorer = need("rouge", "rouge==1.0.1", "peer:trace:meetingbank").Rouge(metrics=["rouge-l"])
    try:
        scores = scorer.get_scores(item.reference, item.prediction)
    except ValueError:  # a text of full stops only, at which the original stops
        return 0.0
    return float(scores[0]["rouge-l"]["f"])


def simplified(item: Item) -> float:
    """20Minuten: SARI as the ``datasets`` metric computes it: lower case, sacrebleu's tokens (``13a``), one reference.

    An empty answer is scored like any other: it has deleted everything that the reference leaves out.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split = Tokenizer13a()
    source, answer, right = (split(text.lower()).split() for text in (item.prompt, item.prediction, item.reference))
    return sari(source, answer, [right])


_ACCURACY = "the same characters, case and spaces included"
_SCORERS: dict[str, Scorer] = {
    "c_stance": RuleScorer("peer:trace:c_stance", equal, _ACCURACY, "choice_accuracy"),
    "fomc": RuleScorer("peer:trace:fomc", equal, _ACCURACY, "choice_accuracy"),
    "meetingbank": RuleScorer("peer:trace:meetingbank", rouge_l, "ROUGE-L of the package rouge", "rouge_l"),
    "py150": RuleScorer("peer:trace:py150", fuzzy, "fuzzywuzzy's ratio of the two codes", "edit_similarity"),
    "scienceqa": RuleScorer("peer:trace:scienceqa", first_letter, "the same first character", "choice_accuracy"),
    "numglue_cm": RuleScorer("peer:trace:numglue_cm", equal, _ACCURACY, "exact_match"),
    "numglue_ds": RuleScorer("peer:trace:numglue_ds", equal, _ACCURACY, "exact_match"),
    "20minuten": RuleScorer("peer:trace:20minuten", simplified, "SARI of lower-case 13a tokens", "sari"),
}
LIBRARY = ReferenceLibrary("trace", SOURCE, _SCORERS)
