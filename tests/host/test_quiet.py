"""Commands keep the host quiet while they work, and leave the environment as it was."""

from __future__ import annotations

import logging
import os

import pytest

from cl_plugins.host.quiet import quiet


NAMES = ("LLAMAFACTORY_VERBOSITY", "TRANSFORMERS_VERBOSITY")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("transformers", [None, "info"])
def test_the_environment_is_restored(monkeypatch, transformers, fails):
    monkeypatch.delenv(NAMES[0], raising=False)
    monkeypatch.delenv(NAMES[1], raising=False)
    if transformers:
        monkeypatch.setenv(NAMES[1], transformers)
    logger = logging.getLogger("llamafactory")
    before, level = dict(os.environ), logger.level

    def work():
        with quiet():
            assert os.environ[NAMES[0]] == "ERROR"
            assert os.environ[NAMES[1]] == (transformers or "error")
            assert logger.level == logging.ERROR
            if fails:
                raise ValueError("went wrong")

    if fails:
        with pytest.raises(ValueError, match="went wrong"):
            work()
    else:
        work()
    assert dict(os.environ) == before
    assert logger.level == level


def test_what_the_user_set_holds(monkeypatch):
    monkeypatch.setenv(NAMES[0], "DEBUG")
    before = dict(os.environ)
    with quiet():
        assert dict(os.environ) == before
    assert dict(os.environ) == before
