"""Signals become a wish to stop; what happens to the handlers when the run leaves."""

from __future__ import annotations

import os
import signal

import pytest

from cl_plugins.run.interrupt import EXIT_RUN_AGAIN, Interrupted, StopRequest


@pytest.fixture(autouse=True)
def handlers():
    """Signals as they were before, whatever a test leaves behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def under_torchrun(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_the_check_leaves(number, handlers, capfd):
    with StopRequest() as stop:
        stop.check()
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(Interrupted) as left:
            stop.check()
    assert left.value.code == EXIT_RUN_AGAIN == 75
    assert signal.getsignal(number) is handlers[number]
    assert ("press Ctrl-C again" in capfd.readouterr().err) is (number == signal.SIGINT)


def test_a_second_ctrl_c_stops_at_once(handlers):
    with pytest.raises(KeyboardInterrupt), StopRequest():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT]


def test_a_rank_gets_ctrl_c_twice_and_leaves_with_its_own_code(under_torchrun):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
    os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, for a rank that is about to exit
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_rank_that_was_not_asked_gets_its_handlers_back(under_torchrun, handlers):
    with StopRequest():
        pass
    assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]


def test_elsewhere_than_in_the_main_thread_nothing_is_caught(handlers):
    from threading import Thread

    seen = []

    def run():
        with StopRequest() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGTERM)))

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, handlers[signal.SIGTERM])]
