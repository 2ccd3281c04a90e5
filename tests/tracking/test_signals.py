"""A signal is heeded once: by the work under way, or else where it ends."""

import os
import signal
import threading

import pytest

from ragdist.errors import Stopped, TrainError
from ragdist.tracking.signals import stop_on_signal


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_request_that_the_work_did_not_see_is_told_where_it_ends():
    asked = []
    with pytest.raises(Stopped, match="the same command goes on"), stop_on_signal(lambda: asked.append(1)) as stop:
        interrupt()
        assert stop.is_set()
    assert asked == [1]


def test_what_the_work_says_itself_comes_first():
    with pytest.raises(TrainError, match="its own words"), stop_on_signal():
        interrupt()
        raise TrainError("its own words")


def test_second_request_ends_at_once():
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        interrupt()
        interrupt()


def test_nothing_is_raised_without_a_signal_and_handlers_are_given_back():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not stop.is_set() and signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_on_signal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [before]
