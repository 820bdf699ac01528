"""Messages of the package on a terminal."""

from __future__ import annotations

import io
import logging

import pytest

from cl_plugins.base import logs
from cl_plugins.base.status_line import Above


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("a message of several words", "a message of\n  several\n  words"),
        ("first\nsecond line that is long", "first\nsecond line\n  that is\n  long"),
        ("  12.50   33.33 in a table", "  12.50   33.33 in a table"),
        ("see/a/path/that/is/long and on", "see/a/path/that/is/long\n  and on"),
        ("a\n\nb", "a\n\nb"),
    ],
)
def test_long_lines_are_folded_between_words(text, shown):
    assert logs.folded(text, 12) == shown


def test_only_a_terminal_gets_folded_messages(monkeypatch):
    record = logging.LogRecord("cl_plugins", logging.INFO, "file", 1, "word " * 30, (), None)
    monkeypatch.setenv("COLUMNS", "40")
    assert "\n" not in logs._Formatter("%(message)s").format(record)
    for stream in (Terminal(), Above(None, io.StringIO())):  # the second is what a status line puts there
        monkeypatch.setattr("sys.stderr", stream)
        lines = logs._Formatter("%(message)s").format(record).split("\n")
        assert max(map(len, lines)) <= 40
        assert " ".join(line.strip() for line in lines) == record.getMessage().strip()
