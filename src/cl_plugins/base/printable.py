"""Text that is safe on a terminal: names that come from files may hold escape sequences."""

from __future__ import annotations

import re


# C0 and C1 control characters but for tab and line feed, DEL, line separators, marks that reverse the direction of
# writing, and surrogates, which no encoding can print.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with every control character shown as an escape such as ``\x1b``; tabs and line feeds stay.

    Args:
        text: Any text, for example a task's name from a stream file.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def printable_json(text: str) -> str:
    r"""JSON with the same characters written as ``\u009b``; its value does not change.

    Args:
        text: A serialised JSON value; such characters are only inside its strings.
    """
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
