"""The answer normalisation of the VQA challenge as the libraries implement it, errors included.

MSLoRA-CR (``llava/eval/eval_metrics/glossary.py`` at d606bc6) and the TextVQA evaluator that CoIN and MCITlib use.
"""

from __future__ import annotations

import re


NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"} | {
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The authors mean "not between digits", but their look-behind is written as a look-ahead for "<=" and a digit, which a
# full stop never is; so every full stop goes that is not followed by a digit, and "size.No" becomes "sizeno".
_FULL_STOP = re.compile(r"\.(?!\d)")
#: `re.UNICODE` is passed where `re.sub` takes the number of replacements: this limits the number of removed full stops.
MOST_FULL_STOPS = int(re.UNICODE)

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
#: A contraction with one of its apostrophes left out, to the contraction; one entry of the original list works
#: backwards.
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}


def without_punctuation(text: str) -> str:
    """Punctuation removed where it touches a space or a number holds a comma, else replaced by a space; full stops too."""
    result = text
    glued = _COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        result = result.replace(mark, "" if glued or f"{mark} " in text or f" {mark}" in text else " ")
    return _FULL_STOP.sub("", result, count=MOST_FULL_STOPS)


def plain_words(text: str) -> str:
    """Lower case, number words as digits, articles dropped (also as the only word), apostrophes put back."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_word(text: str) -> str:
    """MSLoRA-CR's ``normalize_word``: punctuation, words, and at last every comma that is left."""
    return plain_words(without_punctuation(text)).replace(",", "")


def textvqa_answer(text: str) -> str:
    """The TextVQA evaluator's answer processor."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(without_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))
