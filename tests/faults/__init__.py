"""A proxy that spoils some calls on their way to a real server, and counts the replies that it delivers.

Without a server behind it, it answers by itself, after a while: always the same to the same message.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from ragdist.records import Request

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    """What happens to a call instead of a reply."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    how: str = "answer"
    """answer; reset: the connection breaks; cut: in the middle of the body; silent: no byte comes; slow: a byte now and
    then, for ever."""


def refusal(status: int, message: str, **headers: str) -> Fault:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "type": "error"}}).encode()
    return Fault(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def busy_until_date(seconds: float) -> Fault:
    """429 whose Retry-After is a date."""
    return refusal(429, "slow down", Retry_After=formatdate(time.time() + seconds, usegmt=True))


PASSING = {
    "busy": refusal(429, "slow down", Retry_After="1"),
    "busy, no word how long": refusal(429, "slow down"),
    "failing": refusal(500, "out of memory"),
    "overloaded": Fault(503, {}, b"<html>upstream</html>"),
    "garbage": Fault(body=b"\x00\xff{garbage"),
    "a page": Fault(body=b"<html>sign in</html>"),
    "another object": Fault(body=b'{"error": {"message": "provider is down"}}'),
    "a list": Fault(body=b"[]"),
    "a deep list": Fault(body=b"[" * 100_000),
    "reset": Fault(how="reset"),
    "cut": Fault(how="cut"),
    "silent": Fault(how="silent"),
    "slow": Fault(how="slow"),
}
"""Faults after which the same call may succeed."""


class Proxy:
    """Serves on a port of its own while it is used as a context.

    Args:
        target: address of the server behind, such as http://127.0.0.1:8000; empty answers by itself.
        fault: `fault(number of the call, tries of this request before)`: what goes wrong, None for nothing.
        delay_s: how long its own answers take, in seconds; a function of the message, or a number.
        usage: whether its own answers say how many tokens they cost: 10 read, 5 written.
    """

    def __init__(
        self,
        target: str = "",
        fault: Callable[[int, int], Fault | None] = lambda number, tries: None,
        *,
        delay_s: float | Callable[[str], float] = 0.0,
        usage: bool = True,
    ) -> None:
        self.target, self.fault, self.delay_s, self.usage = target, fault, delay_s, usage
        self.calls: list[tuple[float, str, dict]] = []
        """When, which request (its Idempotency-Key), and what was sent, for each try."""
        self.delivered: Counter[str] = Counter()
        """Replies that reached the socket, by request."""
        self.under_way = self.most_under_way = 0
        self.closing = threading.Event()
        self.on_call: Callable[[int], object] = lambda number: None
        self.on_headers: Callable[[Message], object] = lambda headers: None
        self.on_path: Callable[[str], object] = lambda path: None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def begin(self, key: str, body: dict) -> Fault | None:
        """Notes a call; what goes wrong with it."""
        with self._lock:
            tries = sum(seen == key for _, seen, _ in self.calls)
            self.calls.append((time.monotonic(), key, body))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            number = len(self.calls)
        self.on_call(number)
        return self.fault(number, tries)

    def end(self, key: str, delivered: bool) -> None:
        """Notes that a call is over."""
        with self._lock:
            self.under_way -= 1
            self.delivered[key] += delivered

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The server's answer, or one of its own."""
        if self.target:
            at = urlsplit(self.target)
            server = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
            server.request("POST", path, body, {"Content-Type": "application/json"})
            found = server.getresponse()
            return found.status, found.read()
        message = json.loads(body)["messages"][-1]["content"]
        self.closing.wait(self.delay_s(message) if callable(self.delay_s) else self.delay_s)
        return 200, completion(answer_to(message), usage=self.usage)


def answer_to(message: str) -> str:
    """What a proxy without a server says to a message."""
    return f"heard {hashlib.sha256(message.encode()).hexdigest()[:8]}"


def completion(text: str, reason: str = "stop", usage: bool = True) -> bytes:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    cost = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}} if usage else {}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], **cost}).encode()


def requests(count: int, **more: object) -> list[Request]:
    """Requests with an id and a text of their own."""
    return [Request(id=f"r{n}", text=f"question {n}", max_new_tokens=8, **more) for n in range(count)]  # type: ignore[arg-type]


@contextmanager
def transformers_serve(model: Path, folder: Path):
    """The address of `transformers serve` with this model, a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--device", "cpu"], stdout=log, stderr=log, env=environment
        )
    try:
        _wait_for(port, process, folder / "serve.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            server.request("GET", "/health")
            if server.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            server.close()
    raise TimeoutError(log.read_text())


class Handler(BaseHTTPRequestHandler):
    """One connection; `proxy` is set in a subclass."""

    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("Idempotency-Key", "")
        delivered = False
        self.proxy.on_headers(self.headers)
        self.proxy.on_path(self.path)
        try:
            fault = self.proxy.begin(key, json.loads(body))
            if fault is None:
                self.send(*self.proxy.answer(self.path, body))
                delivered = True
            else:
                self.spoil(fault)
        except OSError:  # the client went away
            self.close_connection = True
        finally:
            self.proxy.end(key, delivered)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def spoil(self, fault: Fault) -> None:
        if fault.how == "answer":
            return self.send(fault.status, fault.body, **fault.headers)
        self.close_connection = True
        if fault.how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault.how == "silent":
            self.proxy.closing.wait(20)
        else:
            self.drip(for_ever=fault.how == "slow")

    def drip(self, for_ever: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{")
        while for_ever and not self.proxy.closing.wait(0.05):
            self.wfile.write(b" ")

    def log_message(self, *_: object) -> None:
        """Says nothing."""
