"""Signals become one exception, raised where nothing is half done."""

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from typing import ClassVar

import pytest

from reid.engine.distributed import ALONE, LostProcessError, Processes
from reid.engine.stop import Stopped, StopSignals


def test_raises_at_once_outside_a_piece() -> None:
    with StopSignals(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert stopped.value.clean


def test_waits_for_the_end_of_a_piece() -> None:
    done: list[str] = []
    with StopSignals() as stop, pytest.raises(Stopped) as stopped:
        with stop.in_one_piece():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the whole step")
        done.append("never")
    assert done == ["the whole step"]
    assert stopped.value.exit_code == 130
    assert stopped.value.clean


def test_a_second_signal_does_not_wait() -> None:
    with StopSignals() as stop, pytest.raises(Stopped) as stopped, stop.in_one_piece():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the second signal was ignored")
    assert not stopped.value.clean


def test_where_one_signal_counts_a_second_one_waits_too() -> None:
    with StopSignals(once=True) as stop, pytest.raises(Stopped) as stopped, stop.in_one_piece():
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
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: done.append(lost.exc_type.__name__))
    with StopSignals() as stop, pytest.raises(Stopped) as stopped:
        Finalised()
        done.append("went on")
        with stop.in_one_piece():
            done.append("the block")
    assert done == ["Stopped", "went on", "the block"]
    assert stopped.value.exit_code == 143


def test_others_are_notified_once_before_it_is_raised() -> None:
    notified: list[str] = []
    with StopSignals(first=lambda: notified.append("the workers")):
        for _ in range(2):
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), signal.SIGTERM)
    assert notified == ["the workers"]
    assert stopped.value.clean


def test_a_launcher_can_be_sent_it_by_its_worker() -> None:
    sent = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, clean=False)))
    assert (str(sent), sent.exit_code, sent.clean) == ("stopped by SIGTERM", 143, False)


class Two(Processes):
    """Two processes of which the other one is pretended: it had each of these signals (0: none), in turn."""

    others: ClassVar[Iterator[int]]

    def largest(self, value: int) -> int:
        return max(value, next(self.others, 0))


def two(*others: int) -> Two:
    processes = Two(0, 2)
    Two.others = iter(others)
    return processes


def test_processes_that_train_together_stop_at_the_end_of_the_same_piece() -> None:
    """Here no signal comes, the other process has had one; and the inner block is where they agree."""
    processes, steps = two(0, signal.SIGTERM), []
    with (
        StopSignals(once=True) as stop,
        pytest.raises(Stopped) as stopped,
        stop.in_one_piece(processes, of_steps=True),
    ):
        for step in range(5):
            with stop.in_one_piece(processes):
                steps.append(step)
    assert steps == [0, 1]
    assert stopped.value.exit_code == 143
    assert stopped.value.clean


def test_a_signal_between_the_steps_of_several_processes_waits_for_the_next() -> None:
    processes, steps = two(), []
    with (
        StopSignals(once=True) as stop,
        pytest.raises(Stopped),
        stop.in_one_piece(processes, of_steps=True),
    ):
        for step in range(5):
            os.kill(os.getpid(), signal.SIGTERM)
            with stop.in_one_piece(processes):
                steps.append(step)
    assert steps == [0]


def test_one_process_alone_stops_between_two_steps_at_once() -> None:
    steps = []
    with StopSignals() as stop, pytest.raises(Stopped) as stopped, stop.in_one_piece(ALONE, of_steps=True):
        for step in range(5):
            with stop.in_one_piece(ALONE):
                steps.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append(-1)
    assert steps == [0]
    assert stopped.value.clean


def test_a_lost_process_ends_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what is left ends by itself, deaf to torchrun
    stop, lost = StopSignals(), RuntimeError("[gloo] Connection closed by peer")
    with pytest.raises(LostProcessError, match="resume=auto"), stop.in_one_piece(two()):
        raise lost
    with pytest.raises(RuntimeError, match="Connection closed") as caught, stop.in_one_piece(ALONE):
        raise lost
    assert caught.value is lost


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
