"""Locks: one holder at a time, let go of when it dies, and never made by asking."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ragdist.storage.locks import is_locked, locked

HOLDER = """
import sys, time
from pathlib import Path
from ragdist.storage.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_a_process_that_is_killed_is_free(tmp_path):
    path, told = tmp_path / ".lock", []
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n" and is_locked(path)

        def busy(waited_s):
            told.append(waited_s)
            if len(told) == 3:
                other.send_signal(signal.SIGKILL)

        with locked(path, busy):
            assert is_locked(path)
    assert not is_locked(path) and told == sorted(told) and told[2] >= 0.2


def test_lock_of_a_process_that_forked_ends_with_it(tmp_path):
    """A child that lives on, such as a worker of a pool, keeps nothing."""
    path = tmp_path / ".lock"
    with locked(path):
        if not (child := os.fork()):
            signal.pause()
    try:
        assert not is_locked(path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_who_gives_up_waiting_holds_nothing(tmp_path):
    def refuse(_):
        raise PermissionError("no")

    path = tmp_path / ".lock"
    with locked(path):
        with pytest.raises(PermissionError), locked(path, refuse):
            pass
        assert is_locked(path)
    assert not is_locked(path)


def test_asking_makes_no_file(tmp_path):
    assert not is_locked(tmp_path / "none" / ".lock")
    assert not list(tmp_path.iterdir())


def test_lock_taken_by_one_thread_may_be_let_go_of_by_another(tmp_path):
    held = locked(tmp_path / ".lock")
    held.__enter__()
    thread = threading.Thread(target=held.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not is_locked(tmp_path / ".lock")
