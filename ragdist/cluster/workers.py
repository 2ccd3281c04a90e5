"""A rank: a process that holds one plain object (a model) and does what it is told, one call after another.

Nothing here loads torch before the environment is set: it reads OMP_NUM_THREADS when it is loaded.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray import cloudpickle

from ragdist.config import ClusterConfig
from ragdist.storage.tables import MicrobatchTask, packed, rows_at, run_microbatch
from ragdist.tracking import logs

log = logging.getLogger("ragdist")


class Where(NamedTuple):
    """A rank's process."""

    node: str
    ip: str
    port: int
    """Of this machine, held by this process: the ranks meet at rank 0's."""
    pid: int


class Rendezvous(NamedTuple):
    """How the ranks of a group find each other."""

    rank: int
    backend: str
    """Of torch.distributed; empty: they need not meet, and a model without torch never loads it."""
    timeout_s: float
    """Longest wait of a collective operation."""


class Rank:
    """The actor. `start` comes first, then any verb of the plain object; a verb's errors go to the log and out.

    Args:
        variables: environment variables.
        log: all that the rank says.
        where: run, group and rank, for the log that machines read.
    """

    def __init__(self, variables: Mapping[str, str], log: str, where: Mapping[str, Any]) -> None:
        os.environ.update(variables)
        logs.note(**where)
        self.log = Path(log)
        self.model: Any = None
        ip = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        reach = ip if ip.startswith("127.") else ""  # a Ray of this machine is nobody else's
        self._door = socket.create_server((reach, 0), backlog=1024)  # held from here on: nobody else gets its port
        self.folder: Path | None = None
        """Of the phase in which it learns."""

    def where(self) -> Where:
        """This process."""
        port = self._door.getsockname()[1]
        node = ray.get_runtime_context().get_node_id()
        ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return Where(node, ip, port, os.getpid())

    def start(self, make: Callable[..., Any], about: tuple[Any, ...], meeting: Rendezvous, *ranks: Where) -> Where:
        """Joins the group's process group, if it has one, and makes the plain object, `make(*about)`."""
        with self._logged("start"):
            pa.array([])  # loads pandas, once a process; the first microbatch has a deadline
            if meeting.backend:
                join(meeting, ranks, self._door)
            self._door.close()
            self.model = make(*about)
        return ranks[meeting.rank]

    def hold(self, make: Callable[..., Any], about: tuple[Any, ...]) -> None:
        """Another plain object, once the memory of the last is free."""
        with self._logged("hold"):
            self.model = None
            gc.collect()
            self.model = make(*about)

    def each(self, order: bytes, *tables: pa.Buffer) -> tuple[list[Any], pa.Buffer]:
        """One microbatch; the two results travel apart, so that the driver need not see the second, the rows.

        Args:
            order: what `pack_order` made.
            tables: rows that another rank made and Ray brought here.
        """
        job, places = unpack_order(order, tables)
        with self._logged("done", job.target.parent, microbatch=job.name):
            done, table = run_microbatch(job, self.model, places)
            return list(done), packed(table)

    def answer(self, name: str, ask: Callable[[Any], list[Any]]) -> tuple[list[Any], float, float]:
        """`ask(the plain object)` for the batch of that name; its start and end in seconds since 1970."""
        start = time.time()
        with self._logged("answered", microbatch=name):
            return ask(self.model), start, time.time()

    def begin(self, loss: Callable[..., Any], prepare: Callable[..., Any] | None, folder: Path, *places: Any) -> Any:
        """The plain object's `begin`, with the rows of all places."""
        with self._logged("begin", folder):
            self.folder = folder
            rows = [row for place in places for row in rows_at(place)]
            return self.model.begin(loss, rows, prepare, folder)

    def steps(self, count: int) -> tuple[list[dict[str, float]], float, float]:
        """`count` optimizer steps: their metrics, start and end in seconds since 1970."""
        start = time.time()
        with self._logged(f"{count} steps", self.folder):
            return self.model.steps(count), start, time.time()

    def checkpoint(self) -> None:
        """The plain object's `checkpoint`."""
        with self._logged("checkpoint", self.folder):
            self.model.checkpoint()

    def finish(self) -> Path:
        """The plain object's `finish`."""
        with self._logged("finish", self.folder):
            return Path(self.model.finish())

    def take_up(self, source: str, version: int) -> None:
        """The plain object's `take_up`."""
        with self._logged("take_up"):
            self.model.take_up(source, version)

    def open_phase(self) -> list[dict[str, Any]]:
        """The plain object's `open_phase`, and what it found out about its engine."""
        with self._logged("open_phase"):
            return self.model.open_phase() or []

    def close_phase(self) -> None:
        """The plain object's `close_phase`."""
        with self._logged("close_phase"):
            self.model.close_phase()

    def _logged(self, what: str, folder: Path | None = None, **where: Any) -> AbstractContextManager[None]:
        return log_to(self.log, what, **(phase_at(folder) if folder else {}), **where)


def pack_order(job: MicrobatchTask, places: Sequence[Any]) -> tuple[bytes, list[Any]]:
    """The job and where its rows are, for `Rank.each`: bytes, which Ray carries cheaper than objects, and references.

    Ray sends references that are arguments of their own after what they refer to.
    """
    known = [None if isinstance(place, ray.ObjectRef) else place for place in places]
    order: bytes = cloudpickle.dumps((job, known))  # type: ignore[no-untyped-call]
    return order, [place for place in places if isinstance(place, ray.ObjectRef)]


def unpack_order(order: bytes, tables: Sequence[pa.Buffer]) -> tuple[MicrobatchTask, list[Any]]:
    """What `pack_order` was given, with the tables where references were."""
    job, known = cloudpickle.loads(order)
    brought = iter(tables)
    return job, [next(brought) if place is None else place for place in known]


def join(meeting: Rendezvous, ranks: Sequence[Where], door: socket.socket) -> None:
    """Makes this process one of the ranks of a torch process group that meets at rank 0.

    Args:
        meeting: who this process is.
        ranks: all processes, by rank.
        door: listens at this process's port; rank 0's is where they meet.
    """
    here = ranks[meeting.rank].node
    local = [rank for rank, where in enumerate(ranks) if where.node == here]
    # With GPUs, Ray shows each rank only its own, which is then number 0.
    local_rank = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") else local.index(meeting.rank)
    os.environ |= {
        "RANK": str(meeting.rank),
        "WORLD_SIZE": str(len(ranks)),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(len(local)),
        "MASTER_ADDR": ranks[0].ip,
        "MASTER_PORT": str(ranks[0].port),
    }
    from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]

    first, patience = meeting.rank == 0, timedelta(seconds=meeting.timeout_s)
    listening = door.detach() if first else None
    store = TCPStore(ranks[0].ip, ranks[0].port, len(ranks), first, patience, master_listen_fd=listening)
    init_process_group(meeting.backend, store=store, rank=meeting.rank, world_size=len(ranks), timeout=patience)


def environment(cluster: ClusterConfig, cpus: float, gpus: float) -> dict[str, str]:
    """Environment variables of a process that holds a model."""
    found = {"OMP_NUM_THREADS": str(max(1, int(cpus))), "TOKENIZERS_PARALLELISM": "false"}
    if not gpus:
        found |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    if cluster.network_interface:
        found |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), cluster.network_interface)
    return found


@contextmanager
def log_to(path: Path, what: str = "", **where: Any) -> Iterator[None]:
    """Whatever this worker prints, warns of, logs or dies of goes into `path`; what it logs, also as JSON beside it.

    Args:
        path: `logs/NAME.log`; the other is `logs/NAME.jsonl`.
        what: is done; said in the JSON with the seconds it took, unless it is empty.
        where: round, phase, microbatch.
    """
    _keep_lines(path.with_suffix(".jsonl"))
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file), logs.at(**where):
        handler = logging.StreamHandler(file)
        handler.setLevel(logging.WARNING)  # progress is on its stderr already
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logging.getLogger().addHandler(handler)
        start = time.monotonic()
        try:
            yield
            if what:
                log.info("%s: %.3f s", what, time.monotonic() - start)
        except BaseException:  # survives nothing: written to the log, then raised
            log.exception("failed in %s", what or "its work")
            raise
        finally:
            logging.getLogger().removeHandler(handler)


@cache
def _keep_lines(path: Path) -> None:
    """What this process logs goes into the file too, from now on: opened once, not for each microbatch."""
    logging.getLogger().addHandler(logs.Lines(path))
    log.setLevel(logging.INFO)


def phase_at(folder: Path) -> dict[str, Any]:
    """Round and phase of what is kept in a folder such as `runs/mine/round-0/forged`."""
    above = folder.parent.name
    return logs.phase(f"{above}/{folder.name}" if above.startswith("round-") else folder.name)


def last_line(error: BaseException) -> str:
    """The line of an error's text that says what it is about: the last of a remote traceback, but not CUDA's advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "CUDA error" in line), lines[-1]).strip()[:300]
