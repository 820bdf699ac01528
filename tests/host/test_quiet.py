"""Commands keep the host quiet while they work, and leave the environment as it was."""

from __future__ import annotations

import logging
import os

import pytest

from cl_plugins.host.quiet import once, quiet


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


@pytest.fixture
def shown(monkeypatch):
    """What the host's handler shows."""
    monkeypatch.delenv(NAMES[0], raising=False)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("llamafactory")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.INFO)
    return records


def test_a_message_is_shown_once_and_an_error_every_time(shown):
    logger = logging.getLogger("llamafactory.hparams.parser")
    with once():
        for rank in (0, 0, 1):
            logger.info("Process rank: %d", rank)
            logger.error("broken")
        logging.getLogger("llamafactory.other").info("Process rank: 0")
    logger.info("Process rank: 0")
    assert shown == [
        *("Process rank: 0", "broken", "broken", "Process rank: 1", "broken"),
        *("Process rank: 0", "Process rank: 0"),
    ]


def test_what_the_method_changes_afterwards_is_not_shown(shown):
    logger = logging.getLogger("llamafactory.model.loader")
    with once():
        logger.info("trainable params: 1 || all params: 1 || trainable%: 100.0000")
        logger.info("Set multi model projector not trainable: ['multi_modal_projector'].")
        logger.info("Fine-tuning method: LoRA")
    assert shown == ["Fine-tuning method: LoRA"]


def test_what_was_shown_while_the_recipe_was_parsed_is_not_shown_again(shown):
    logger = logging.getLogger("llamafactory.hparams.parser")
    with once() as earlier:
        logger.warning("We recommend enable mixed precision training.")
    with once(earlier) as again:
        logger.warning("We recommend enable mixed precision training.")
        logger.warning("another")
    assert again is earlier
    with once():  # of another run in this process
        logger.warning("another")
    assert shown == ["We recommend enable mixed precision training.", "another", "another"]


def test_what_only_the_host_can_change_is_not_shown(shown):
    with once():
        logging.getLogger("llamafactory").warning("`torch_dtype` is deprecated! Use `dtype` instead!")
        logging.getLogger("llamafactory").warning("warmup_ratio is deprecated")
    assert shown == ["warmup_ratio is deprecated"]


def test_everything_is_shown_to_who_asks_for_it(shown, monkeypatch):
    monkeypatch.setenv(NAMES[0], "INFO")
    with once():
        for _ in range(2):
            logging.getLogger("llamafactory").info("trainable params: 1")
    assert shown == ["trainable params: 1"] * 2
