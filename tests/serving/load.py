"""Many requests at once to a real `ragdist serve`, a tenth of them bad, some of whose senders go away.

    python -m tests.serving.load 10000

Every answer is compared with the one that the same question got alone. Prints counts and the server's memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

from ragdist.draws import rng_for
from tests.serving.finished import ROWS, raft_run

TOKEN, CLIENTS, DEADLINE_S = "load", 16, 60
WORDS = ["", "Say it shortly.", "Think of the ball.", "And of no other."]
BAD: tuple[bytes, ...] = (
    *(b"", b"{", b"[]", b"null", b'{"messages": 3}', b"\xff\xfe\x00", b"{}" * 1000),
    *(b'{"messages": [{"role": "user", "content": "\\u0007"}]}', b'{"messages": [{"role": "robot", "content": "a"}]}'),
    *(b'{"messages": [{"role": "user", "content": "a"}], "n": 3}', b'{"messages": ["a"]}'),
    json.dumps({"messages": [{"role": "user", "content": "word " * 3000}]}).encode(),
    json.dumps({"messages": [{"role": "user", "content": "a"}], "documents": ["a" * 200_000]}).encode(),
)


def bodies() -> list[dict[str, Any]]:
    """Good requests: retrieved, closed book, with documents."""
    asked = [f"{row['question']} {words}".strip() for row in ROWS for words in WORDS]
    found: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    found += [body | {"documents": []} for body in found[:6]]
    return found + [body | {"documents": [f"Ball is {at}.", "Other"]} for at, body in enumerate(found[:6])]


async def one(client: httpx.AsyncClient, number: int, alone: dict[int, str], counts: Counter[str]) -> None:
    """A request; what came of it is counted."""
    rng, good = rng_for(0, "load", str(number)), bodies()
    kind = rng.choices(("good", "stream", "bad", "nobody", "gone"), (60, 26, 8, 2, 4))[0]
    at = rng.randrange(len(good))
    if kind == "bad":
        status = (await client.post("/v1/chat/completions", content=rng.choice(BAD))).status_code
        counts["bad, refused" if status in (400, 413) else f"WRONG: bad, {status}"] += 1
    elif kind == "nobody":
        answer = await client.post("/v1/chat/completions", json=good[at], headers={"Authorization": "Bearer no"})
        counts["without token, refused" if answer.status_code == 401 else "WRONG: let in"] += 1
    elif kind == "good":
        answer = await client.post("/v1/chat/completions", json=good[at])
        text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else str(answer.text)
        counts["answered" if text == alone[at] else "WRONG: answer"] += 1
    else:
        text = ""
        async with client.stream("POST", "/v1/chat/completions", json=good[at] | {"stream": True}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:]).get("choices") or [{"delta": {}}]
                    text += choices[0]["delta"].get("content") or ""
                    if kind == "gone" and text:
                        break
        if kind == "gone":
            counts["went away"] += 1
        else:
            counts["streamed" if text == alone[at] else "WRONG: stream"] += 1


async def crowd(url: str, count: int, memory: Any) -> tuple[Counter[str], list[int]]:
    """Counts, and MiB of the server at each tenth of the way."""
    counts: Counter[str] = Counter()
    alone: dict[int, str] = {}
    held: list[int] = []
    limits = httpx.Limits(max_connections=CLIENTS)
    known = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, headers=known, timeout=DEADLINE_S, limits=limits) as client:
        for at, body in enumerate(bodies()):
            answer = await client.post("/v1/chat/completions", json=body)
            alone[at] = answer.json()["choices"][0]["message"]["content"]
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await one(client, number, alone, counts)
                if number % max(1, count // 10) == 0:
                    held.append(memory())

        await asyncio.gather(*(worker() for _ in range(CLIENTS)))
        metrics = (await client.get("/metrics")).text
        end = time.monotonic() + DEADLINE_S
        while "ragdist_texts_under_way 0.0" not in metrics and time.monotonic() < end:
            metrics = (await client.get("/metrics")).text
        counts["WRONG: texts left" if "ragdist_texts_under_way 0.0" not in metrics else "nothing left"] += 1
    return counts, held


def load(count: int, folder: Path) -> tuple[Counter[str], list[int], int]:
    """Counts, memory on the way, and the server's exit code after SIGTERM."""
    run = raft_run(folder)
    command = [sys.executable, "-m", "ragdist", "serve", str(run), "serve.port=0", "serve.max_request_kib=64"]
    environment = {**os.environ, "RAGDIST_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        url = process.stdout.readline().strip().removesuffix("/v1")
        server = psutil.Process(process.pid)
        try:
            counts, held = asyncio.run(crowd(url, count, lambda: server.memory_info().rss // 2**20))
            process.send_signal(signal.SIGTERM)
            return counts, held, process.wait(DEADLINE_S)
        finally:
            process.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        began = time.monotonic()
        found, memory, code = load(int(sys.argv[1]), Path(made))
    print(dict(found), f"MiB {memory}, exit code {code}, {time.monotonic() - began:.0f} s")  # noqa: T201
