"""A function over many records as tasks of the Ray cluster, in batches; results in the order of the records.

Tasks, not actors: a cluster that has room for fewer than were asked for still does them all, one that grows does more
at once, and Ray does the batch of a killed worker again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from ragdist.cluster import session
from ragdist.cluster.ranks import cause_of
from ragdist.cluster.workers import last_line
from ragdist.config import ClusterConfig
from ragdist.errors import Stopped, TrainError
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

Out = TypeVar("Out")
BATCH = 256
"""Items that travel to a worker at once: enough that the trip costs little, few enough to keep memory flat."""
GRACE_S = 1.0
"""Before tasks are cancelled."""
POLL_S = 0.2
SAY_EVERY_S = 30.0


class RayMapper:
    """Implements Mapper with tasks of one CPU each; results are those of `local.SerialMapper`, byte for byte.

    A context: the cluster is joined, or started, by the first call of `map`, and left at the end of the block.

    Args:
        workers: at most two batches for each are under way, wherever in the cluster there is room.
        cluster: which one; `max_failures` is how often a batch is done again after its worker died,
            `start_timeout_s` the longest wait for a batch, in seconds.
        batch: items that travel to a worker at once.
    """

    def __init__(self, workers: int, cluster: ClusterConfig, batch: int = BATCH) -> None:
        self.workers, self.cluster, self.batch = workers, cluster, batch
        self._session = ExitStack()

    def __enter__(self) -> RayMapper:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def map(self, function: Callable[..., Out], items: Iterable[Any], *shared: Any) -> Iterator[Out]:
        """`function(item, *shared)` for each item; the function must be importable, `shared` is sent once a worker.

        Items are taken as batches have room, so neither they nor results pile up. An error in the function arrives as
        itself. Ending early, by an error or a signal, ends the tasks under way.

        Raises:
            ConfigError: the cluster cannot be reached.
            Stopped: SIGINT or SIGTERM.
            TrainError: a batch lost its worker too often, or did not come back in time.
        """
        if not ray.is_initialized():
            self._session.enter_context(session.connect(self.cluster))
        # The driver owns it: what a worker puts dies with the worker.
        held = ray.put((function, shared))
        task: Any = ray.remote(_run_batch).options(num_cpus=1, max_retries=self.cluster.max_failures)
        under_way: deque[Any] = deque()
        source = iter(items)
        with stop_on_signal(what="work under way is dropped") as stop:
            try:
                while batch := list(islice(source, self.batch)):
                    # In a list, because Ray would fetch a bare reference for every batch.
                    under_way.append(task.remote([held], batch))
                    if len(under_way) >= 2 * self.workers:
                        yield from self._result(under_way, function.__name__, stop)
                while under_way:
                    yield from self._result(under_way, function.__name__, stop)
            finally:
                _cancel(under_way)
            if stop.is_set():
                raise Stopped(_stopped(function.__name__))

    def _result(self, under_way: deque[Any], what: str, stop: threading.Event) -> list[Any]:
        """Waits for the oldest batch and takes it off."""
        start = said = time.monotonic()
        limit_s = self.cluster.start_timeout_s
        while True:
            done, _ = ray.wait([under_way[0]], timeout=POLL_S)
            if stop.is_set():
                raise Stopped(_stopped(what))
            if done:
                return self._fetched(under_way, what)
            now = time.monotonic()
            if now - start >= limit_s:
                raise TrainError(
                    f"{self._late(what)} did not come back within {limit_s:g} s; raise cluster.start_timeout_s, add "
                    "machines, or set run.mapper=processes"
                )
            if now - said >= SAY_EVERY_S:
                said = now
                say(f"waiting for {self._late(what)}; {now - start:.0f} s of at most {limit_s:.0f}")

    def _late(self, what: str) -> str:
        return f"a batch of {self.batch} for {what} on a cluster with {session.room()}"

    def _fetched(self, under_way: deque[Any], what: str) -> list[Any]:
        try:
            results: list[Any] = ray.get(under_way.popleft())
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError as error:
            raise TrainError(
                f"a batch of {self.batch} for {what} lost its worker {self.cluster.max_failures + 1} times, as when "
                f"memory runs out ({last_line(error)}); lower run.processes or raise cluster.max_failures, then type "
                "the same command again"
            ) from None
        return results


_held: tuple[str, Any] = ("", None)


def _run_batch(held: list[Any], batch: list[Any]) -> list[Any]:
    """Runs in a worker, which keeps what the batches share."""
    global _held
    name = held[0].hex()
    if _held[0] != name:
        _held = (name, ray.get(held[0]))
    function, shared = _held[1]
    return [function(item, *shared) for item in batch]


def _stopped(what: str) -> str:
    return f"stopped during {what}; the same command begins this stage again, finished ones stay"


def _cancel(under_way: Sequence[Any]) -> None:
    """Ends tasks; short ones by themselves, as Ray 2.60 ends this process where a task ends while it is cancelled."""
    left = (
        ray.wait(list(under_way), num_returns=len(under_way), timeout=GRACE_S, fetch_local=False)[1]
        if under_way
        else ()
    )
    for ref in left:
        ray.cancel(ref, force=True)
