"""Clears away a Ray of this machine when whoever started it has ended, however it ended: `python keeper.py HOME FILES`.

Run as a script, in a session of its own, where no signal of the driver's terminal reaches it. It reads a pipe that the
driver holds open: its end is the driver's, by SIGKILL too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOME = "RAGDIST_RAY_HOME"
"""In the environment of every process of such a Ray."""
GRACE_S, PAUSE_S = 3.0, 0.2
"""Seconds that its processes have to end by themselves, and between two looks at what is left."""
WAIT_S = 15.0


@contextmanager
def kept(home: Path) -> Iterator[dict[str, str]]:
    """A keeper of `home` for the block: what the environment of all processes that live there must hold.

    Leaves when they are gone and the folder is removed, with what they left in a folder for temporary files.
    """
    files = tempfile.mkdtemp(prefix="ragdist-")  # where the user wants them
    with subprocess.Popen(
        [sys.executable, "-I", __file__, str(home), files], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
    ) as keeper:
        try:
            yield {HOME: str(home), "TMPDIR": files}
        finally:
            assert keeper.stdin is not None
            with suppress(BrokenPipeError):
                keeper.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                keeper.wait(WAIT_S)


def living(home: str, variable: str = HOME) -> list[psutil.Process]:
    """All processes but this one that began with this in their environment: those of the Ray in `home`. One that has
    ended has no environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(variable) == home:
                found.append(process)
    return found


def end(home: str) -> None:
    """Kills what lives in `home`, and what that starts meanwhile."""
    while left := living(home):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, GRACE_S)


def clear(home: str, files: str) -> None:
    """Ends what lives in `home` a moment later, and removes both folders."""
    ends = time.monotonic() + GRACE_S
    while living(home) and time.monotonic() < ends:
        time.sleep(PAUSE_S)
    end(home)
    for folder in (home, files):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    clear(*sys.argv[1:])
