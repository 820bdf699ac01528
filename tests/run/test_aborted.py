"""A training that ends early: by LlamaBoard's abort it is not finished, by a callback of the user it is, and the log says so."""

from __future__ import annotations

import logging

import pytest
from running import NO_TESTS, go, recipe, steps, weights
from transformers import TrainerCallback

from cl_plugins.base.logs import logger
from cl_plugins.run.interrupt import EXIT_RUN_AGAIN


class Ends(TrainerCallback):
    """Ends the second task's training after its first step; ``aborts`` as LLaMA-Factory's `LogCallback` after SIGABRT."""

    def __init__(self, aborts):
        self.aborted, self._aborts = False, aborts

    def on_step_end(self, args, state, control, **kwargs):
        if "02_two" in args.output_dir:
            self.aborted = self._aborts
            control.should_training_stop = True


@pytest.fixture
def said():
    """The messages of the package."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_an_aborted_task_is_trained_again(llama, text_data, tmp_path, said):
    keys = recipe(llama, text_data, tmp_path / "run", cl=NO_TESTS)
    with pytest.raises(SystemExit) as caught:
        go(keys, callbacks=[Ends(aborts=True)])
    assert caught.value.code == EXIT_RUN_AGAIN
    assert steps(tmp_path / "run")[-1] == "consolidate:one"
    assert "stopped: 2 of 5 steps are finished; the same command resumes the run" in said
    go(keys)
    go(recipe(llama, text_data, tmp_path / "whole", cl=NO_TESTS))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_task_that_a_callback_ends_is_finished_and_remarked(llama, text_data, tmp_path, said):
    go(recipe(llama, text_data, tmp_path / "run", cl=NO_TESTS), callbacks=[Ends(aborts=False)])
    assert steps(tmp_path / "run")[-1] == "finish"
    assert [line for line in said if "a callback" in line] == [
        "train:two: a callback ended the training after 1 of 2 optimizer steps"
    ]
