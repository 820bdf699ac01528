"""What may not be written down or shown: credentials of a recipe, and training data inside error messages.

One rule decides what a credential is, by the name of the key (`is_secret`). Everything that writes or prints keys uses
it: ``run.json``, reports, ``plan``, ``compare``, ``validate`` and error messages.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any


MASK = "***"

_WORDS = frozenset(
    "secret secrets password passwords passwd passphrase passcode credential credentials authorization bearer webhook "
    "apikey apikeys accesskey authtoken accesstoken".split()
)
_KEYS = frozenset("api access private account auth signing encryption ssh".split())  # api_key, private_key, ...
# pad_token, image_token and the like are words of a vocabulary
_VOCABULARY = frozenset(
    "pad eos bos unk sep cls mask image video audio boi eoi special stop start end begin new next per think".split()
)
_SEVERAL_TOKENS = frozenset("api auth access refresh bearer hub".split())  # max_new_tokens is a number of tokens
_NAMES_BELOW = frozenset({"task_overrides"})  # the keys below are named by the user: a task may be called "secret"

_USER_OF_URL = re.compile(r"(?<=://)[^/\s'\"]+@")
_QUERY = re.compile(r"([?&]([\w.-]+)=)([^&\s#'\"]+)")
_SIGNED = frozenset({"sig", "signature", "x-amz-signature", "x-amz-credential", "x-goog-signature", "key"})
_VALUE = r"""("(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|[^\s,;)}\]]+)"""
_PAIRS = (
    re.compile(r"(([\w.-]+)=)" + _VALUE),  # key=value
    re.compile(r"(['\"]([\w.-]+)['\"]\s*:\s*)" + _VALUE),  # 'key': value
    re.compile(r"(^[ \t]*([\w.-]+):[ \t]+)" + _VALUE, re.MULTILINE),  # a line of YAML
)
_LITERAL = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![\w.])-?\d[\w.]*\w|(?<![\w.])\d""")


def is_secret(key: str) -> bool:
    """Whether the value of a key is a credential, by the words of its name.

    Words are separated by anything but letters and digits, and by a change from lower to upper case, so ``hfHubToken``
    and ``HF_HUB_TOKEN`` are one name. Of a dotted path the last part counts.

    Args:
        key: A key, or a path of keys (``cl.eval.backend_options.api_key``).
    """
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.rsplit(".", 1)[-1])
    words = [word for word in re.split(r"[^a-z0-9]+", last.lower()) if word]
    if any(word in _WORDS for word in words):
        return True
    for before, word in zip(["", *words], words, strict=False):
        if word in ("key", "keys") and before in _KEYS:
            return True
    return _is_token(words)


def _is_token(words: list[str]) -> bool:
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "token":
        return before not in _VOCABULARY
    return words[-1] == "tokens" and before in _SEVERAL_TOKENS


def masked(value: Any, key: str = "") -> Any:
    """A copy of plain data with every credential replaced by ``***``.

    Nested mappings and lists are followed. Below a secret key everything but ``None``, truth values and empty texts is
    masked, so ``use_auth_token: true`` stays. In other texts the user part of a URL and secret query parameters are
    masked.

    Args:
        value: Mappings, lists, tuples and scalars.
        key: The key that the value belongs to, if any.
    """
    if is_secret(key):
        counted = isinstance(value, int | float) and _is_token(re.split(r"[^a-z0-9]+", key.lower()))
        return value if value in (None, "") or isinstance(value, bool) or counted else MASK
    if isinstance(value, Mapping):
        names = key in _NAMES_BELOW
        return {name: masked(item, "" if names else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        copy = [masked(item) for item in value]
        return tuple(copy) if isinstance(value, tuple) else copy
    return _without_url_secrets(value) if isinstance(value, str) else value


def without_masked(value: Any) -> Any:
    """Masked data without what was masked, so that ``***`` is never used as a value.

    Args:
        value: What `masked` returned, possibly read back from a file.
    """
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if not (v == MASK and is_secret(str(k))) and not _holds_mask(v)}
        return {name: without_masked(item) for name, item in kept.items()}
    if isinstance(value, list | tuple):
        return [without_masked(item) for item in value if not _holds_mask(item)]
    return value


def _holds_mask(value: Any) -> bool:
    """Whether a text is a URL with a masked part."""
    if not isinstance(value, str) or MASK not in value:
        return False
    return f"://{MASK}@" in value or any(found[3] == MASK for found in _QUERY.finditer(value))


def _without_url_secrets(text: str) -> str:
    if "://" not in text:
        return text
    text = _USER_OF_URL.sub(f"{MASK}@", text)
    return _QUERY.sub(lambda m: m[1] + (MASK if is_secret(m[2]) or m[2].lower() in _SIGNED else m[3]), text)


def redact(text: str) -> str:
    """A message without credentials: URLs as in `masked`, and the values of ``key=value``, ``'key': value`` and YAML lines.

    Args:
        text: What is about to be shown.
    """
    text = _without_url_secrets(text)
    for pattern in _PAIRS:
        text = pattern.sub(lambda m: m[1] + MASK if is_secret(m[2]) else m[0], text)
    return text


def redact_about(where: str, what: str) -> str:
    """As `redact`, for a sentence about one key: if the key is secret, quoted texts and numbers are masked as well.

    Args:
        where: The path of the key.
        what: The sentence.
    """
    what = redact(what)
    return _LITERAL.sub(MASK, what) if is_secret(where) else what


def failure(error: BaseException, own: type[BaseException]) -> str:
    """What may be kept of an exception: its type, where it was raised, and its message without any data.

    Messages of other libraries may quote a whole training record. Of those only the words that are in the source code
    of the function that raised it are kept; what was filled in is left out.

    Args:
        error: The exception, with its traceback.
        own: Base class of the exceptions whose messages quote no data but that of the exceptions they were raised
            from.

    Returns:
        One line, or the message of an exception of ``own``.
    """
    name = type(error).__qualname__
    if isinstance(error, own):
        text, cause = f"{name}: {error}", error.__cause__
        while cause is not None and not isinstance(cause, own):
            for quoted in (str(cause), redact(str(cause))):
                text = text.replace(quoted, _said(cause) or MASK) if quoted else text
            cause = cause.__cause__
        return text[:2000]
    said = _said(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return name
    frame, line = frames[-1]
    module = str(frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).stem)
    return redact(f"{name} in {module}, line {line}" + (f": {said}" if said else ""))[:500]


def _said(error: BaseException) -> str:
    """The parts of a message that are literals of the function that raised it, with ``…`` for what was filled in."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    frames = list(traceback.walk_tb(error.__traceback__))
    message = str(error)
    literals = [const for const in frames[-1][0].f_code.co_consts if isinstance(const, str)] if frames else []
    pieces = {
        piece
        for const in literals
        for piece in re.split(r"\{[^{}]*\}|%[sdrfgx]", const)
        if " " in piece and len(piece) > 3
    }
    if not pieces:
        return ""
    known = re.compile("|".join(re.escape(piece) for piece in sorted(pieces, key=len, reverse=True)))
    found, end = "", 0
    for match in known.finditer(message):
        found += ("…" if match.start() > end else "") + match[0]
        end = match.end()
    return " ".join(f"{found}{'…' if found and end < len(message) else ''}".split())
