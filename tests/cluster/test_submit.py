"""Jobs on a real head with token authentication: Ray's own command with the entry point as shipped, and ours."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ragdist.cluster.submit import Order, entrypoint
from ragdist.config import loader
from tests import tiny
from tests.cluster import heads

ROOT = Path(__file__).parents[2]
RAY = heads.RAY
PLANTED = "planted-5e1f0c7d"
"""A secret in the environment of the head, and so of the job."""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    own = {"HF_TOKEN": PLANTED, "OPENAI_API_KEY": PLANTED, "RAY_metrics_report_interval_ms": "500"}
    with heads.started(tmp_path_factory.mktemp("head"), own) as found:
        yield found


def _until(found, what: str, limit_s: float = 120.0):
    """What `found()` returns once it is something."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.3)
    return pytest.fail(f"no {what} within {limit_s:.0f} s")


def _settings(folder: Path, questions: str | Path, *more: str) -> list[str]:
    rows = (
        {"question": f"Colour of ball {n}?", "answers": [("red", "blue")[n % 2]], "split": "test" if n < 2 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is round.", "kind": "golden"}]}
        for n in range(10)
    )
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *(f"run.folder={folder / 'runs'}", "run.name=job", f"model.source={tiny.model_folder(folder)}"),
        *("model.dtype=float32", "model.max_tokens=512", "corpus.source=records"),
        *(f"corpus.questions=[{questions}]", "contexts.documents=2", "contexts.distractors=random"),
        *("train.examples_per_step=4", "train.microbatch=4", "evaluation.conditions=[closed_book]", *more),
    ]


def _said(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)


def _ours(head: heads.Head, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ragdist", "submit", *arguments, "--address", head.address]


def _holding(folder: Path, secret: str) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_job_by_rays_own_command_trains_on_the_cluster_and_needs_the_token(head, tmp_path):
    settings = _settings(tmp_path, tmp_path / "q.jsonl")
    submit = [RAY, "job", "submit", "--address", head.address, "--working-dir", str(ROOT / "jobs"), "--"]
    job = [sys.executable, "raft.py", *settings]
    refused = _said([*submit, *job], head.env | {"RAY_AUTH_TOKEN_PATH": "/dev/null"})
    assert refused.returncode != 0 and not (tmp_path / "runs").exists()
    for _ in range(20):  # a head that answers may still wait for its own agent for some seconds
        done = _said([*submit, *job], head.env)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "runs" / "job" / "model" / "model.safetensors").exists()
    assert "closed" in done.stdout
    token = Path(head.env["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert not _holding(tmp_path / "runs", token.read_text())


def test_submit_follows_ends_as_the_job_did_and_keeps_no_secret(head, tmp_path):
    """Relative paths are below the working folder, of which the run's own folder stays behind."""
    send = _ours(head, "raft", *_settings(tmp_path, "q.jsonl"), "--working-dir", str(tmp_path))
    done = _said(send, head.env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "closed" in done.stdout and "sent as job-1" in done.stderr
    again = _said([*send, "--json"], head.env)
    assert json.loads(again.stdout) == {"id": "job-2", "run": "job", "status": "SUCCEEDED", "exit_code": 0}
    missing = _said(_ours(head, "raft", *_settings(tmp_path, "nowhere.jsonl", "run.name=missing")), head.env)
    assert missing.returncode == 2 and "nowhere.jsonl" in missing.stdout and "Traceback" not in missing.stdout
    for secret in (PLANTED, Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text()):
        assert not _holding(tmp_path / "runs", secret)
        assert not _holding(head.folder, secret)


def test_stopped_job_saves_and_the_same_command_goes_on_watched_by_prometheus_check_72(head, tmp_path):
    settings = _settings(tmp_path, tmp_path / "q.jsonl", "train.epochs=400", "train.checkpoint_every=1000")
    send, run = _ours(head, "raft", *settings, "--no-follow"), tmp_path / "runs" / "job"
    first = _said(send, head.env)
    assert first.returncode == 0, first.stderr
    name = first.stdout.strip()
    assert _said(send, head.env).stdout.strip() == name, "a second job beside the first"

    def steps() -> list[int]:
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        return [row["step"] for row in map(json.loads, lines) if row["phase"] == "train"]

    _until(lambda: len(steps()) > 3, "third step")

    def exported() -> bool:
        with urllib.request.urlopen(head.metrics, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return any(re.match(r'(ray_)?ragdist_loss\{.*run="job"', line) and 'phase="train"' in line for line in lines)

    _until(exported, "loss at the metrics port", 30)
    assert _said([RAY, "job", "stop", "--address", head.address, name], head.env).returncode == 0
    state = json.loads((run / "state.json").read_text())
    before = steps()
    assert state["state"] == "stopped" and before[-1] < 800
    done = _said(_ours(head, "raft", *settings), head.env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert steps() == list(range(1, 801)), "a step was lost or done twice"
    lines = [json.loads(line) for line in (run / "logs" / "rank-0.jsonl").read_text().splitlines()]
    assert {"run": "job", "job": "raft", "phase": "train", "rank": 0}.items() <= lines[-1].items()


def test_submit_refuses_before_anything_is_sent(tmp_path):
    closed = f"http://127.0.0.1:{heads.free_port()}"
    for arguments, said in (
        (["raft", "run.folder=runs"], "run.folder='runs' is relative"),
        (["raft", f"run.folder={tmp_path}", "contexts.documents=0"], "contexts.documents"),
        (["raft", f"run.folder={tmp_path}"], f"the cluster at {closed} does not take the job"),
        (["rafd"], "no job 'rafd'; wanted one of raft"),
    ):
        done = _said([sys.executable, "-m", "ragdist", "submit", *arguments, "--address", closed], dict(os.environ))
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_job_of_another_token_is_one_error(head, tmp_path):
    other = tmp_path / "token"
    other.write_text(secrets.token_hex(32))
    done = _said(_ours(head, "raft", f"run.folder={tmp_path}/runs"), head.env | {"RAY_AUTH_TOKEN_PATH": str(other)})
    assert done.returncode == 2 and "RAY_AUTH_MODE=token" in done.stderr and "Traceback" not in done.stderr


def test_entrypoint_says_every_setting_that_differs_and_reads_back():
    swept = 'sweep.over={"train.epochs": [1, 2]}'
    settings = loader.load(["contexts.oracle_fraction=0.4", "corpus.questions=[a b.jsonl]", swept])
    words = shlex.split(entrypoint(Order("sweep-raft", settings, "")))
    assert words[:5] == ["python3", "-m", "ragdist", "sweep", "raft"]
    read = loader.load(words[5:])
    assert read.run.name.startswith("sweep-raft-")
    assert read.model_copy(update={"run": settings.run}) == settings
