"""One pool of answerers for all trials of a sweep: its processes stand as long as the sweep, a trial brings its models.

The pool is an actor that holds the ranks and deals the batches of one trial at a time, first come, first served. A
rank keeps its process and its place from trial to trial; only the weights change. Batches are cut by the trial's own
settings, so what is answered is what ranks of the trial's own would answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from ragdist.cluster import place, session
from ragdist.cluster.answerers import NAME, AnswererGroup, Dealer, RankAnswerers, group_of
from ragdist.cluster.ranks import cause_of
from ragdist.cluster.workers import last_line, log_to
from ragdist.config import Settings
from ragdist.errors import RagdistError, TrainError
from ragdist.lm.answerer import held
from ragdist.roles import Answerer
from ragdist.storage.atomic import make_folder
from ragdist.tracking.progress import say


class Models(NamedTuple):
    """What the ranks hold for whoever asks: opened again, the same folder may hold other weights."""

    opened: str
    """Of one opening."""
    sources: tuple[str, ...]
    settings: Settings
    """The trial's."""


class Pool:
    """The actor.

    Args:
        settings: the sweep's; `evaluation.answerers` and `cluster` are read.
        folder: the sweep's, for the ranks' logs.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.group: AnswererGroup | None = None
        self.models: Models | None = None

    @ray.method(concurrency_group="signs")
    def lives(self) -> bool:
        """That it does, while it deals."""
        return True

    def deal(self, models: Models, asks: Sequence[Callable[[Any], list[Any]]]) -> Iterator[list[Any]]:
        """See `Dealer.deal`; the ranks take these models first, unless they hold them."""
        with log_to(make_folder(self.folder / "logs") / f"{NAME}.log"):
            if self.models != models:
                self._take(models)
            assert self.group
            for rows in self.group.deal(asks):  # noqa: UP028  Ray sends into what it iterates over; a list takes nothing
                yield rows

    def _take(self, models: Models) -> None:
        if self.group:
            self.group.hold(models.sources, models.settings)
        else:
            with session.connect(self.settings.cluster):
                self.group = group_of(models.settings, self.folder, held, models.sources).__enter__()
        self.models = models


class PoolAnswerers(RankAnswerers):
    """Implements Answerers with the pool of the sweep that this process is a trial of; own ranks where the pool died.

    Scorers have own ranks too: no sweep asks any.

    Args:
        pool: the actor.
        settings: the trial's.
        folder: the trial's run.
    """

    def __init__(self, pool: Any, settings: Settings, folder: Path, *, heeds: bool = True) -> None:
        super().__init__(settings, folder, heeds=heeds)
        self.pool = pool

    @contextmanager
    def open(self, *sources: str) -> Iterator[Answerer]:
        """See `roles.Answerers`."""
        try:
            ray.get(self.pool.lives.remote(), timeout=self.settings.cluster.start_timeout_s)
        except (RayActorError, GetTimeoutError) as error:
            say(f"the sweep's answerers are gone ({last_line(error)}); this trial has its own")
            with super().open(*sources) as group:
                yield group
            return
        yield PoolAnswerer(self.pool, Models(uuid.uuid4().hex, sources, self.settings))


class PoolAnswerer(Dealer):
    """Implements Answerer with a pool."""

    def __init__(self, pool: Any, models: Models) -> None:
        self.pool, self.models = pool, models

    @property
    def settings(self) -> Settings:
        """See `Dealer`."""
        return self.models.settings

    def deal(self, asks: Sequence[Callable[[Any], list[Any]]]) -> Iterator[list[Any]]:
        """See `Dealer.deal`. It waits for its turn as long as the pool lives; what the pool waits for has deadlines."""
        try:
            for ref in self.pool.deal.options(num_returns="streaming").remote(self.models, asks):
                yield ray.get(ref)
        except Exception as error:  # as a rank or the pool met it, out of Ray's wrapping
            cause = cause_of(error)
            if isinstance(cause, RagdistError):
                raise cause from None
            raise TrainError(
                f"the sweep's answerers failed: {last_line(cause)}; the trial is tried again, or type the same command"
            ) from None


_standing: Any = None
"""The pool of the sweep that this process is a trial of."""


def use(pool: Any) -> None:
    """From now on this process asks the pool; None: ranks of its own."""
    global _standing
    _standing = pool


def standing() -> Any:
    """The pool that this process asks, or None."""
    return _standing


@contextmanager
def opened(settings: Settings, trial: Sequence[str], folder: Path) -> Iterator[Any]:
    """A pool for the block, where `evaluation.answerers` asks for ranks and they have room beside the trials' workers.

    Args:
        settings: the sweep's.
        trial: blocks of the worker groups that a trial holds at the same time.
        folder: the sweep's.
    """
    if not settings.evaluation.answerers.workers:
        yield None
        return
    blocks = [*trial] * settings.sweep.concurrent
    if not place.fit(settings, ["evaluation.answerers", *blocks]):
        say("no room for answerers beside the trials' workers: each trial has its own, in turn with its workers")
        yield None
        return
    remote: Any = ray.remote  # its types know no concurrency groups
    actor = remote(num_cpus=0, concurrency_groups={"signs": 1})(Pool).remote(settings, folder)
    try:
        yield actor
    finally:
        ray.kill(actor)  # its ranks end with it; `place.await_leaving` gives their places back
