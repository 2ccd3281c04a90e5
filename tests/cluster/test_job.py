"""`ray job submit` with the real command, a real head with token authentication, the entry point as it is shipped."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def head(tmp_path_factory):
    """(dashboard address, environment) of a head of our own, ended by its process."""
    home = tmp_path_factory.mktemp("head")
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": "/tmp"}
    dashboard = _free_port()
    command = [RAY, "start", "--head", "--block", f"--port={_free_port()}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", "--num-cpus=2", "--object-store-memory=150000000"]
    command += [f"--dashboard-agent-listen-port={_free_port()}"]  # Ray has one by default: two heads would share it
    command += ["--disable-usage-stats", f"--temp-dir=/tmp/ragdist-test-{os.getpid()}", "--include-dashboard=true"]
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{dashboard}/api/gcs_healthz", home / "head.log")
            yield f"http://127.0.0.1:{dashboard}", env
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, log: Path) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the head does not answer: {log.read_text()[-2000:]}")


def _submitted(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The job's end; a head that answers may still wait for its own agent for some seconds."""
    for _ in range(20):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    return done


def test_submitted_job_trains_on_the_cluster_and_needs_the_token(head, tmp_path):
    address, env = head
    rows = (
        {"question": f"Colour of ball {n}?", "answers": [("red", "blue")[n % 2]], "split": "test" if n < 2 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is round.", "kind": "golden"}]}
        for n in range(10)
    )
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        *(f"run.folder={tmp_path / 'runs'}", "run.name=job", f"model.source={tiny.model_folder(tmp_path)}"),
        *("model.dtype=float32", "model.max_tokens=512", "corpus.source=records"),
        *(f"corpus.questions=[{tmp_path / 'q.jsonl'}]", "contexts.documents=2", "contexts.distractors=random"),
        *("train.examples_per_step=4", "train.microbatch=4", "evaluation.conditions=[closed_book]"),
    ]
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT / "jobs"), "--"]
    job = [sys.executable, "raft.py", *settings]
    refused = subprocess.run(
        [*submit, *job], env=env | {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, capture_output=True, text=True, timeout=120
    )
    assert refused.returncode != 0 and not (tmp_path / "runs").exists()
    done = _submitted([*submit, *job], env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "runs" / "job" / "model" / "model.safetensors").exists()
    assert "closed" in done.stdout
    secret = Path(env["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert not [
        path for path in (tmp_path / "runs").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
    ]
