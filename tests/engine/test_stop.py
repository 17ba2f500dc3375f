"""Signals become one exception, raised where nothing is half done."""

import os
import pickle
import signal
import sys

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


def test_where_one_signal_counts_a_second_one_waits_too() -> None:
    with StopSignals(once=True) as stop, pytest.raises(Stopped) as stopped, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.clean


def test_a_process_that_stops_without_the_others_saves_nothing_with_them() -> None:
    with StopSignals(once=True, together=True), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert not stopped.value.clean


def test_one_that_is_lost_in_a_finaliser_is_raised_by_the_next_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    done: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: done.append(told.exc_type.__name__))
    with StopSignals() as stop, pytest.raises(Stopped) as stopped:
        Finalised()
        done.append("went on")
        with stop.deferred():
            done.append("the block")
    assert done == ["Stopped", "went on", "the block"]
    assert stopped.value.exit_code == 143


def test_others_are_told_once_before_it_is_raised() -> None:
    told: list[str] = []
    with StopSignals(first=lambda: told.append("the workers")):
        for _ in range(2):
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["the workers"]
    assert stopped.value.clean


def test_a_launcher_can_be_sent_it_by_its_worker() -> None:
    sent = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, clean=False)))
    assert (str(sent), sent.exit_code, sent.clean) == ("stopped by SIGTERM", 143, False)


def test_processes_that_agree_stop_at_the_end_of_the_same_block() -> None:
    """Here no signal comes, another process has had one; and the inner block is where they agree."""
    answers = iter([0, signal.SIGTERM])
    steps = []
    with StopSignals(once=True) as stop, pytest.raises(Stopped) as stopped, stop.deferred(lambda _: 0):
        for step in range(5):
            with stop.deferred(lambda _: next(answers)):
                steps.append(step)
    assert steps == [0, 1]
    assert stopped.value.exit_code == 143


def test_a_signal_between_the_steps_of_several_processes_waits_for_the_next() -> None:
    steps = []
    with StopSignals(once=True) as stop, pytest.raises(Stopped), stop.deferred(lambda asked: asked):
        for step in range(5):
            os.kill(os.getpid(), signal.SIGTERM)
            with stop.deferred(lambda asked: asked):
                steps.append(step)
    assert steps == [0]


def test_a_handler_that_another_has_set_stays() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with StopSignals():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_handlers_from_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_except_exception_swallows_it() -> None:
    assert not issubclass(Stopped, Exception)
