"""A head of our own from `ray start`: token authentication, job server, ended by its process."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
START_S = 60.0


@dataclass
class Head:
    """A running head."""

    address: str
    """Of its dashboard."""
    env: dict[str, str]
    """Of whoever may use it."""
    metrics: str
    """Where its machine's Prometheus numbers are."""
    folder: Path
    """What Ray itself writes."""
    gcs: str
    """Where drivers join it."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(home: Path, own: dict[str, str]):
    """A head for the block.

    Args:
        home: holds its token and log.
        own: environment variables of the head, and so of its jobs.
    """
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": "/tmp"}
    dashboard, metrics, gcs, temp = free_port(), free_port(), free_port(), Path(f"/tmp/ragdist-test-{os.getpid()}")
    command = [RAY, "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", "--num-cpus=2", "--object-store-memory=150000000"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # Ray has one by default: two heads would share it
    command += ["--disable-usage-stats", f"--temp-dir={temp}", "--include-dashboard=true"]
    command += [f"--metrics-export-port={metrics}"]
    own = {"PATH": f"{BIN}:{env['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "60"} | own
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env | own, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{dashboard}/api/gcs_healthz", home / "head.log")
            yield Head(
                f"http://127.0.0.1:{dashboard}", env, f"http://127.0.0.1:{metrics}/metrics", temp, f"127.0.0.1:{gcs}"
            )
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"the head does not answer: {log.read_text()[-2000:]}")
