"""Signals become one exception, raised where nothing is half done."""

import os
import signal

import pytest

from reid.engine.stop import Stopped, StopSignals


def test_raises_at_once_outside_a_deferred_block() -> None:
    with StopSignals(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert stopped.value.clean


def test_waits_for_the_end_of_a_deferred_block() -> None:
    done: list[str] = []
    with StopSignals() as stop, pytest.raises(Stopped) as stopped:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the whole step")
        done.append("never")
    assert done == ["the whole step"]
    assert stopped.value.exit_code == 130
    assert stopped.value.clean


def test_a_second_signal_does_not_wait() -> None:
    with StopSignals() as stop, pytest.raises(Stopped) as stopped, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the second signal was ignored")
    assert not stopped.value.clean


def test_the_handlers_from_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_except_exception_swallows_it() -> None:
    assert not issubclass(Stopped, Exception)
