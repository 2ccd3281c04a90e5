"""A job of ours on somebody's cluster: sent once under its run's name, followed, and resumed by the same call.

Ray refuses a submission id that it has seen, so the attempts at a run are `NAME-1`, `NAME-2` and so on. Of a run whose
attempt is under way no second one is made: its log is followed instead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from ragdist.cluster import session
from ragdist.config import Settings
from ragdist.config.loader import flatten
from ragdist.errors import ConfigError, Stopped, TrainError
from ragdist.tracking.progress import relayed, say
from ragdist.tracking.run import run_folder

EXCLUDED = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", "build", "dist", "node_modules"),
    *("*.safetensors", "*.gguf", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
)
"""What no job needs of a working folder, in the manner of .gitignore; so is `run.folder`, where it lies inside."""
POLL_S = 1.0
LOST_S = 60.0
"""Longest time, in seconds, that a head may not answer while its job is followed."""
NO_AGENT = "No available agent"
"""What a head says in its first seconds."""
TAKEN = "already exists"
"""What it says of a submission's id that another has."""
RUN, JOB = "ragdist.run", "ragdist.job"
"""Of a submission's metadata."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and where.

    Example: Order("raft", settings, "http://127.0.0.1:8265", Path("."))
    """

    job: str
    """raft, atm, duet, or sweep-raft and sweep-atm."""
    settings: Settings
    address: str
    """Of the head's dashboard."""
    working_dir: Path | None = None
    """Sent along, and where the job runs: relative paths in the settings are below it; None sends nothing."""
    excluded: tuple[str, ...] = ()
    """More patterns like EXCLUDED."""

    @property
    def name(self) -> str:
        """Of the run, the same for every attempt."""
        return run_folder(self.settings, self.job).name


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission. Example: Submission(id="raft-1f0a2b-1", run="raft-1f0a2b", status="SUCCEEDED", exit_code=0)"""

    id: str
    run: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None = None
    """Of the job's process, as on a laptop: 0 done, 1 failed, 2 bad input, 130 stopped; None while it runs."""


def submit(order: Order, out: TextIO | None = None) -> Submission:
    """Sends the job, or finds the one of that name that is under way.

    Args:
        order: what to run.
        out: where its log goes while it is followed to its end; None does not wait.

    Raises:
        ConfigError: the head cannot be reached, does not let us in, or does not take the job.
        TrainError: it was lost sight of, which does not end the job.
    """
    session.refuse_relative(order.settings.run.folder)
    order = replace(order, address=_dashboard(order.address))
    with _explained(order.address):
        client = JobSubmissionClient(order.address)
        found = _under_way(client, order)
    return _follow(client, order, found, out) if out else _seen(client, order, found)


def _dashboard(address: str) -> str:
    """The address with its scheme: one without would be taken for that of Ray's own port, and waited for."""
    found = address if "://" in address else f"http://{address}"
    if not found.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address} is no dashboard; give http://host:8265, or host:8265")
    return found


def _under_way(client: JobSubmissionClient, order: Order) -> str:
    """The submission that is under way, sent now if there is none; another's, where that comes between."""
    for taken in count():
        attempts = [found for found in client.list_jobs() if (found.metadata or {}).get(RUN) == order.name]
        if going := [found for found in attempts if not found.status.is_terminal()]:
            say(f"{order.name} is under way as {going[0].submission_id}; nothing is sent")
            return str(going[0].submission_id)
        try:
            found = _send(client, order, f"{order.name}-{1 + _highest(attempts) + taken}")
        except RuntimeError as error:
            if TAKEN not in str(error):
                raise
        else:
            say(f"{order.name} is sent as {found}; stop it by `ray job stop --address {order.address} {found}`")
            return found
    raise AssertionError


def entrypoint(order: Order) -> str:
    """The job's command: every setting that is not as it is by default, so that the dashboard shows what runs."""
    default = flatten(Settings())
    asked = flatten(order.settings) | {"run.name": order.name}
    changed = [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in asked.items() if value != default[key]
    ]
    words = order.job.split("-") if order.job.startswith("sweep-") else ["train", order.job]
    return shlex.join(["python3", "-m", "ragdist", *words, *changed])


def _send(client: JobSubmissionClient, order: Order, name: str) -> str:
    runtime: dict[str, Any] = {}
    if order.working_dir:
        runtime = {"working_dir": str(order.working_dir.resolve()), "excludes": _excludes(order)}
    end = time.monotonic() + order.settings.cluster.start_timeout_s
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint(order),
                submission_id=name,
                runtime_env=runtime,
                metadata={RUN: order.name, JOB: order.job},
            )
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > end:
                raise
            time.sleep(POLL_S)


def _excludes(order: Order) -> list[str]:
    assert order.working_dir
    runs = Path(order.settings.run.folder)
    inside = [f"/{runs.relative_to(here)}"] if runs.is_relative_to(here := order.working_dir.resolve()) else []
    return [*EXCLUDED, *inside, *order.excluded]


def _highest(attempts: list[JobDetails]) -> int:
    """The highest number of an attempt."""
    numbers = [str(found.submission_id).rpartition("-")[2] for found in attempts]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _seen(client: JobSubmissionClient, order: Order, name: str) -> Submission:
    found = client.get_job_info(name)
    code = found.driver_exit_code
    if found.status == JobStatus.STOPPED:
        code = 130
    elif found.status == JobStatus.FAILED and not code:
        code = 1  # its process was killed, or never began
    return Submission(name, order.name, found.status.value, code)


def _follow(client: JobSubmissionClient, order: Order, name: str, out: TextIO) -> Submission:
    """The job's log until it ends; picked up where it broke off when the connection does."""
    log, heard = _Log(client, name, out), time.monotonic()
    while True:
        try:
            asyncio.run(log.relay())
            sent = _seen(client, order, name)
            heard = time.monotonic()
            if sent.exit_code is not None:
                if sent.exit_code and not log.shown:  # its process never began
                    out.write(relayed(f"{client.get_job_info(name).message}\n"))
                return sent
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if time.monotonic() - heard > LOST_S:
                raise TrainError(
                    f"{order.address} does not answer ({' '.join(str(error).split())[:200]}); {name} may go on without "
                    "being watched: the same command follows it again"
                ) from None
        except KeyboardInterrupt:
            raise Stopped(f"{name} goes on without being watched; the same command follows it again") from None
        time.sleep(POLL_S)


class _Log:
    """A job's log as it comes."""

    def __init__(self, client: JobSubmissionClient, name: str, out: TextIO) -> None:
        self.client, self.name, self.out = client, name, out
        self.shown = 0
        """Characters that were written."""

    async def relay(self) -> None:
        """Writes what is new until the head ends the stream, which begins with the log's first character."""
        seen = 0
        async for text in self.client.tail_job_logs(self.name):
            self.out.write(relayed(text[max(0, self.shown - seen) :]))
            self.out.flush()
            seen += len(text)
            self.shown = max(self.shown, seen)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Ray's many ways to say that a head does not take a job, as one."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        yield
    except (AuthenticationError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:400]
        raise ConfigError(
            f"the cluster at {address} does not take the job: {reason}; give --address its dashboard "
            "(http://host:8265), RAY_AUTH_MODE=token and the token as on the cluster, and a --working-dir that is small"
        ) from None
