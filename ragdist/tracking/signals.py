"""What SIGINT and SIGTERM mean to work that can go on later: first save and end, then end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ragdist.errors import Stopped
from ragdist.tracking.progress import say


@contextmanager
def stop_on_signal(
    ask: Callable[[], object] = lambda: None, what: str = "the workers save after this step"
) -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event and asks the workers to save and end, the second ends at once.

    Args:
        ask: called once, in the main thread, while anything may be under way; for workers that do not see the event.
        what: for people: what is waited for.

    Raises:
        Stopped: the work ended, asked to stop, and did not say so itself: the request came too late for its last step,
            and what comes after it is not begun.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals are the main thread's business
        return

    def heed(number: int, _: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        ask()
        say(f"stopping: {what}; once more ends at once")

    before = {number: signal.signal(number, heed) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.is_set():
        raise Stopped("stopped after the last step of what was under way; the same command goes on")
