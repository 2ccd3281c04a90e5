"""How much of a teacher's time is used: 32 calls under way at a server that takes 200 ms for each.

The ideal is 160 replies a second. The server is a process of its own and answers any number of calls at once; what is
lost is the client's work, a reply's way to the disk, and waiting for the slowest at the end.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import faults

LATENCY_S, IN_FLIGHT, REPLIES = 0.2, 32, 1600


def run() -> dict[str, Any]:
    """{"teacher_overlap": replies per second / those of 32 calls that never wait for the client}."""
    from ragdist.config import TeacherConfig
    from ragdist.records import Request
    from ragdist.teacher.endpoint import Endpoint

    with tempfile.TemporaryDirectory() as folder, served() as url:
        teacher = Endpoint(TeacherConfig(url=url, model="m", in_flight=IN_FLIGHT), Path(folder))
        asked = (Request(id=str(n), text=f"question {n}", max_new_tokens=8) for n in itertools.count())
        list(teacher.ask(itertools.islice(asked, IN_FLIGHT), what="warm up"))
        began = time.monotonic()
        replies = sum(1 for _ in teacher.ask(itertools.islice(asked, REPLIES), what="replies"))
        seconds = time.monotonic() - began
        teacher.close()
    ideal = IN_FLIGHT / LATENCY_S
    return {
        "teacher_overlap": {
            "ratio": round(replies / seconds / ideal, 3),
            "ours": round(replies / seconds, 1),
            "theirs": ideal,
            "unit": "replies/s",
            "note": f"{REPLIES} replies, {LATENCY_S * 1000:.0f} ms each, {IN_FLIGHT} under way, each on disk (fsync) "
            "before it is given out",
        }
    }


@contextmanager
def served() -> Iterator[str]:
    """The address of the server."""
    with subprocess.Popen([sys.executable, "-m", "tests.bench.teacher_overlap"], stdout=subprocess.PIPE) as server:
        assert server.stdout
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.kill()


async def serve() -> None:
    """Answers after a while, whatever it is asked; says its port on stdout."""
    body = faults.completion("Because.")
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(sizes[0].partition(b":")[2]))
            await asyncio.sleep(LATENCY_S)
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
