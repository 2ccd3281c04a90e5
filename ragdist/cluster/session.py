"""The Ray cluster that a job runs on: one that is there, or a small one of this machine that ends with the job."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants

from ragdist.cluster import gauges, keeper
from ragdist.cluster.workers import last_line
from ragdist.config import ClusterConfig
from ragdist.config.hardware import LEAST_CPUS
from ragdist.errors import ConfigError, TrainError
from ragdist.storage.secret import secret_file
from ragdist.tracking.progress import say

REACH_S = 10.0
"""Longest wait, in seconds, for the head of a cluster to answer."""
SAY_EVERY_S = 30.0
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the process of a submitted job."""
OBJECT_STORE_BYTES = 256 * 1024**2


@contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """A Ray session for the block; the one that is open, where there is one.

    `cluster.address`, else RAY_ADDRESS (set in a `ray job submit` driver), names a cluster to join. With neither,
    a Ray of this machine starts: token authentication, no dashboard, no statistics sent, files private to the user.

    Raises:
        ConfigError: the cluster cannot be reached, or is too small for `cluster.workers`.
    """
    if ray.is_initialized():
        with _environment(_knobs(config)), gauges.kept():  # a process of a cluster that was joined has none of them
            yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    say(f"joining the cluster at {address}" if address else "starting Ray on this machine")
    with _environment(_knobs(config)), _joined(address) if address else _started(config.start_timeout_s), gauges.kept():
        _wait_for_room(config, deadline_s=config.start_timeout_s if address else 0.0)
        yield


def is_open() -> bool:
    """Whether this process has a Ray session already, of whatever machines."""
    return ray.is_initialized()


def is_job() -> bool:
    """Whether Ray started this process as a submitted job, in a folder that is removed with it."""
    return JOB_VARIABLE in os.environ


def refuse_relative(folder: str) -> None:
    """Holds the folder of a job's runs to what is still there when the job has ended.

    Raises:
        ConfigError: it is relative.
    """
    if not Path(folder).is_absolute():
        raise ConfigError(
            f"run.folder={folder!r} is relative, and a job's own folder on the cluster goes with it; set run.folder to "
            "an absolute path that all machines of the cluster see, as /mnt/shared/runs"
        )


def worker_cpus(config: ClusterConfig) -> float:
    """CPU cores of one worker; asked for, or an even share of this machine, or 1 on a cluster that was joined."""
    return config.cpus_per_worker or even_share(config, config.workers)


def even_share(config: ClusterConfig, workers: int, taken: float = 0.0) -> float:
    """CPU cores of each of `workers` processes that share what others, who asked for `taken`, leave of this machine; 1
    on a cluster that was joined."""
    if config.address or os.environ.get("RAY_ADDRESS"):
        return 1.0
    left = max(_total("CPU") - taken, LEAST_CPUS * workers)
    return int(10_000 * left / workers) / 10_000  # Ray counts in 1/10000


def _knobs(config: ClusterConfig) -> dict[str, str]:
    """What Ray only takes from the environment."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(config.start_timeout_s),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block; Ray reads them in this process, at any time."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in {*values, *(name for name in os.environ if name.startswith("RAY_"))}:  # Ray adds some of its own
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def _started(limit_s: float) -> Iterator[None]:
    """A Ray of this machine, living in a folder that no other user can enter and listening on loopback alone.

    RAY_AUTH_MODE stays unset: Ray reads it when it is imported, but turns tokens on by itself for a local cluster.
    """
    own = {"RAY_AUTH_TOKEN_PATH": str(secret_file("ray_token")), "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    own["RAY_gcs_rpc_server_reconnect_timeout_s"] = "10"  # nobody starts it again
    own[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes of Ray, as `_on_loopback` for this one
    home = Path(tempfile.mkdtemp(prefix="ragdist-", dir="/tmp"))  # Ray's sockets need a short path
    with keeper.kept(home) as marks, _environment(own | marks), _on_loopback(), _quiet_ray():
        try:
            _start(home, limit_s)
            yield
        finally:
            ray.shutdown()


def _start(home: Path, limit_s: float) -> None:
    """Starts a Ray in `home`. Ray's own handler of SIGTERM, which ends this process without a word, is not left.

    Raises:
        TrainError: one of its processes died, or it is not up in time.
        KeyboardInterrupt: SIGTERM meanwhile.
    """
    before = signal.getsignal(signal.SIGTERM)
    deadline = threading.Timer(limit_s, keeper.end, [str(home)])  # Ray itself waits for ever where a worker is lost
    deadline.daemon = True
    deadline.start()
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(home / "ray"),  # below, because Ray opens it to everyone
        )
    except SystemExit:
        raise KeyboardInterrupt from None
    except Exception as error:
        late = f"not up after {limit_s:g} s (cluster.start_timeout_s)" * deadline.finished.is_set()
        raise TrainError(
            f"Ray did not start on this machine: {late or last_line(error)}; the same command starts it again"
        ) from None
    finally:
        deadline.cancel()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Has a Ray that starts meanwhile take 127.0.0.1 for its address, as it does by itself where it makes no clusters.
    `_node_ip_address` cannot say so: Ray puts the machine's own address in its place."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Keeps Ray's remarks about its own future, and about tokens being on, out of the terminal."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """The cluster at `address`: `auto` or `host:port`; it outlives the block."""
    if address != "auto":
        _knock(address)
    with _quiet_ray():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"cluster.address={address!r} does not let this process in: {reason}; set cluster.address to the "
                "head's host:6379, RAY_AUTH_MODE and the token as on the cluster, or to nothing for a Ray of your own"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Opens a connection to the head's port, because Ray itself waits for minutes before it gives up."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"cluster.address={address!r} is no address; wanted host:port (6379 is usual), or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise ConfigError(
            f"cluster.address={address!r} does not answer: {error}; set cluster.address to the head's host:6379, "
            "or leave it empty for a Ray of this machine"
        ) from None


def _wait_for_room(config: ClusterConfig, deadline_s: float) -> None:
    """Returns when the cluster's machines together have a seat for each worker, taken or not.

    Raises:
        ConfigError: they still do not after `deadline_s`.
    """
    start = said = time.monotonic()
    while True:
        if (held := seats(config)) >= config.workers:
            return
        now = time.monotonic()
        short = (
            f"cluster.workers={config.workers} with {worker_cpus(config):g} CPUs and {config.gpus_per_worker:g} GPUs "
            f"each, the cluster has room for {held} ({room()})"
        )
        if now - start >= deadline_s:
            raise ConfigError(
                f"{short}; lower cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker, or add machines"
            )
        if now - said >= SAY_EVERY_S:
            said = now
            say(f"waiting for machines: {short}; {now - start:.0f} s of at most {deadline_s:.0f}")
        time.sleep(1.0)


def seats(config: ClusterConfig) -> int:
    """Workers that fit into the machines of the cluster, taken or not; one worker never spans two."""
    needs = [
        (kind, needed) for kind, needed in (("CPU", worker_cpus(config)), ("GPU", config.gpus_per_worker)) if needed
    ]
    return sum(min(int(has.get(kind, 0) / needed + 1e-6) for kind, needed in needs) for has in machines())


def machines() -> list[dict[str, float]]:
    """What each living machine of the cluster has, taken or not."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _total(kind: str) -> float:
    return sum(has.get(kind, 0.0) for has in machines())


def room() -> str:
    """What the cluster has, in words."""
    return f"{_total('CPU'):g} CPUs, {_total('GPU'):g} GPUs on {len(machines())} machines"
