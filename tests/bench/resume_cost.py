"""What a killed run costs in calls: kill -9 at random calls, three times, and the same command again.

The endpoint answers nothing between a kill's call and the kill, and counts the replies that it delivered: each of them
is paid for. (Killed in the milliseconds between a reply's arrival and its place on disk, a run loses that reply.)
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests import faults

REPLIES, IN_FLIGHT, KILLS = 120, 8, 3
SETTLED_S = 0.5
"""Long after the last delivered reply is on disk."""


def run() -> dict[str, Any]:
    """{"resume_cost": calls paid for by a run that was killed and resumed / by an undisturbed one}."""
    undisturbed, _ = paid([])
    ours, delivered_twice = paid(sorted(random.Random(0).sample(range(REPLIES - 2 * IN_FLIGHT), KILLS)))
    return {
        "resume_cost": {
            "ratio": round(ours / undisturbed, 4),
            "ours": ours,
            "theirs": undisturbed,
            "unit": "calls",
            "note": f"{REPLIES} requests, {IN_FLIGHT} under way, killed {KILLS} times; {delivered_twice} requests paid "
            "for more than once",
        }
    }


def paid(kills: list[int]) -> tuple[int, int]:
    """Replies delivered until a run is through that is killed at these calls, and requests with more than one."""
    with tempfile.TemporaryDirectory() as folder, faults.Proxy(delay_s=0.1) as proxy:
        for kill in kills:
            struck(proxy, folder, kill)
        assert start(proxy, folder).wait() == 0
        return sum(proxy.delivered.values()), sum(count > 1 for count in proxy.delivered.values())


def struck(proxy: faults.Proxy, folder: str, kill: int) -> None:
    """Runs until so many replies were delivered in all, then dies with calls under way."""
    reached, dead = threading.Event(), threading.Event()

    def hold(number: int, tries: int) -> faults.Fault | None:
        if sum(proxy.delivered.values()) < kill and not reached.is_set():
            return None
        reached.set()
        dead.wait(60)
        return faults.Fault(how="reset")

    proxy.fault = hold
    running = start(proxy, folder)
    assert reached.wait(60)
    time.sleep(SETTLED_S)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    dead.set()
    proxy.fault = lambda number, tries: None


def start(proxy: faults.Proxy, folder: str) -> subprocess.Popen[bytes]:
    """The run, a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "tests.bench.resume_cost", proxy.url, folder])


def ask(url: str, folder: str) -> None:
    """All requests, by a teacher that may find some of the replies."""
    from ragdist.config import TeacherConfig
    from ragdist.teacher.endpoint import Endpoint

    teacher = Endpoint(TeacherConfig(url=url, model="m", in_flight=IN_FLIGHT), Path(folder))
    replies = list(teacher.ask(faults.requests(REPLIES), what="replies"))
    assert [reply.text for reply in replies] == [faults.answer_to(r.text) for r in faults.requests(REPLIES)]


if __name__ == "__main__":
    ask(*sys.argv[1:])
