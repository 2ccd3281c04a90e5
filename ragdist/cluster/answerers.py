"""Ranks that answer, each with the whole model: batches are dealt from one queue. Implements `roles.Answerers`.

Ranks know nothing of each other. One that dies costs its batch, which goes back to the head of the queue while a new
process takes the place.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import ray

from ragdist.cluster import session
from ragdist.cluster.place import never
from ragdist.cluster.ranks import POLL_S, GroupSpec, RankGroup, WorkerGroupDied
from ragdist.config import Settings
from ragdist.errors import Stopped
from ragdist.lm.answerer import ModelAnswerer, example_batches, held, held_scorer, prompt_batches
from ragdist.lm.read import room
from ragdist.lm.score import ModelScorer, scoring_batches
from ragdist.records import Example, Prompt, Written
from ragdist.roles import Answerer, Pair, Scorer
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

NAME = "answerers"


class RankAnswerers:
    """Implements Answerers with `evaluation.answerers` on the cluster.

    Args:
        settings: all settings.
        folder: the run's, for the ranks' logs; seen by all ranks.
        heeds: whether SIGINT and SIGTERM stop the asking between batches; else whoever asks sees to it.
    """

    def __init__(self, settings: Settings, folder: Path, *, heeds: bool = True) -> None:
        self.settings, self.folder, self.heeds = settings, folder.resolve(), heeds

    @contextmanager
    def open(self, *sources: str) -> Iterator[Answerer]:
        """See `roles.Answerers`."""
        with self._group(held, sources) as group:
            yield group

    @contextmanager
    def open_scorer(self, source: str, render: Callable[[Pair], Sequence[int]]) -> Iterator[Scorer]:
        """See `roles.Answerers`."""
        with self._group(held_scorer, (source, render)) as group:
            yield RankScorer(group, render)

    @contextmanager
    def _group(self, make: Callable[..., Any], source: Any) -> Iterator[AnswererGroup]:
        stopping = stop_on_signal(what="what is answered is kept") if self.heeds else nullcontext(Event())
        with (
            session.connect(self.settings.cluster),
            stopping as stop,
            group_of(self.settings, self.folder, make, source, stop.is_set) as group,
        ):
            yield group


def group_of(
    settings: Settings,
    folder: Path,
    make: Callable[..., Any],
    source: Any,
    stop: Callable[[], bool] = never,
) -> AnswererGroup:
    """A group in the places of `evaluation.answerers`, not opened yet.

    Args:
        settings: all settings.
        folder: the run's, for the ranks' logs.
        make: the plain object of a rank.
        source: what `make` is given.
        stop: asked between batches.
    """
    side = settings.evaluation.answerers
    lower = "evaluation.tokens_per_batch"
    spec = GroupSpec(NAME, settings, side, make, folder, stop, meet=False, memory=lower, of="evaluation")
    return AnswererGroup(spec, source)


class Batch(NamedTuple):
    """What one rank is asked at once."""

    name: str
    ask: Callable[[Any], list[Any]]
    """Given the plain object of a rank, gives the answers; pickles."""


class Dealer(ABC):
    """Implements Answerer with batches that are dealt to ranks."""

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """`evaluation.tokens_per_batch` says how batches are cut, `evaluation.answerers` who is asked."""

    @property
    def on_cpu(self) -> bool:
        """Whether the ranks have no GPU."""
        return not self.settings.evaluation.answerers.gpus_per_worker

    @abstractmethod
    def deal(self, asks: Sequence[Callable[[Any], list[Any]]]) -> Iterator[list[Any]]:
        """The answers of each batch, in the order in which they come; the first batches are begun first.

        Args:
            asks: given the plain object of a rank, each gives a batch's answers; pickles.
        """

    def write(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, done: Collection[str] = (), **how: Any
    ) -> Iterator[list[Written]]:
        """See `roles.Answerer`."""
        how["max_new_tokens"] = max_new_tokens
        batches = prompt_batches(prompts, self.settings.evaluation.tokens_per_batch, max_new_tokens, done)
        return self.deal([partial(ModelAnswerer.write_batch, batch=batch, how=how) for batch in batches])

    def read(
        self, examples: Sequence[Example], *, done: Collection[str] = ()
    ) -> Iterator[list[tuple[str, list[float]]]]:
        """See `roles.Answerer`."""
        tokens = self.settings.evaluation.tokens_per_batch
        batches, shared = example_batches(examples, tokens, self.on_cpu, done)
        return self.deal([partial(ModelAnswerer.read_batch, batch=batch, shared=shared) for batch in batches])


class AnswererGroup(RankGroup, Dealer):
    """Implements Answerer with ranks, as a context.

    Args:
        plan: what the group is made of.
        source: what `plan.make` is given.
    """

    def __init__(self, plan: GroupSpec, source: Any) -> None:
        super().__init__(plan, source)
        self._under_way: dict[Any, tuple[int, Batch | None, float]] = {}
        """What a rank is at and since when, by reference; None: it loads the model."""

    @property
    def settings(self) -> Settings:
        """See `Dealer`."""
        return self.plan.settings

    def hold(self, source: Any, settings: Settings) -> None:
        """The same processes hold another model, as these settings say."""
        self.source, before = source, self.failures
        self._ranks.hold(replace(self.plan, settings=settings), source)
        if self.failures > before:  # all are new, and none is at what the last ones were at
            self._under_way.clear()

    def deal(self, asks: Sequence[Callable[[Any], list[Any]]]) -> Iterator[list[Any]]:
        """The answers of each batch, in the order in which they come; the first batches are begun first.

        Raises:
            RagdistError: as a rank met it.
            TrainError: another error, a passed deadline, or ranks that died too often.
            Stopped: a stop was asked for.
        """
        queue = deque(Batch(f"{number + 1} of {len(asks)}", ask) for number, ask in enumerate(asks))
        try:
            self._hand_out(queue)
            while queue or any(batch for _, batch, _ in self._under_way.values()):
                found = [rows for ref in self._wait() if (rows := self._settle(ref, queue)) is not None]
                self._hand_out(queue)  # before the yield: no rank idles
                yield from found
        finally:
            for ref in [ref for ref, (_, batch, _) in self._under_way.items() if batch]:
                del self._under_way[ref]

    def _hand_out(self, queue: deque[Batch]) -> None:
        """A batch for each rank that has nothing to do."""
        busy = {rank for rank, _, _ in self._under_way.values()}
        for rank, actor in enumerate(self._ranks.ranks):
            if queue and rank not in busy:
                batch = queue.popleft()
                self._under_way[actor.answer.remote(*batch)] = rank, batch, time.monotonic()

    def _wait(self) -> list[Any]:
        """The references that are there, at least one."""
        while True:
            if self.plan.stop():
                raise Stopped("stopped between batches; the answers so far are kept, the same command goes on")
            ready, waiting = ray.wait(list(self._under_way), num_returns=1, timeout=POLL_S)
            if ready:
                return [*ready, *(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else [])]
            self._check_deadlines()

    def _check_deadlines(self) -> None:
        cluster = self.plan.settings.cluster
        for rank, batch, since in self._under_way.values():
            knob = "deadline_s" if batch else "start_timeout_s"
            if time.monotonic() - since > (limit_s := getattr(cluster, knob)):
                raise self._ranks.overdue([rank], _doing(batch), limit_s, f"cluster.{knob}")

    def _settle(self, ref: Any, queue: deque[Batch]) -> list[Any] | None:
        """A batch's answers; None where a rank has just started, or died and lost its batch, which is next again.

        Raises:
            RagdistError: as the rank met it.
            TrainError: another error, or ranks that died too often.
        """
        rank, batch, _ = self._under_way.pop(ref)
        try:
            found = ray.get(ref)
        except Exception as error:  # distinguished: a dead rank, or the work itself
            why = self._ranks.root_cause({rank: error}, _doing(batch), together=False)
            if not isinstance(why, WorkerGroupDied):
                raise why from None
            self._replace(rank, why)
            if batch:
                queue.appendleft(batch)
            return None
        if batch is None:
            self._ranks.where[rank] = found
            return None
        rows: list[Any] = found[0]
        return rows

    def _replace(self, rank: int, lost: WorkerGroupDied) -> None:
        """A new process for a dead one; the others go on.

        Raises:
            TrainError: more than `cluster.max_failures` have died.
        """
        say(f"{lost.what}; a new one takes its place, {self._ranks.count(lost)}")
        self._under_way[self._ranks.replace(rank, self.source, 0)] = rank, None, time.monotonic()


def _doing(batch: Batch | None) -> str:
    return f"batch {batch.name}" if batch else "start"


class RankScorer:
    """Implements Scorer with the ranks of a group.

    Args:
        group: its ranks hold scorers.
        render: tokens of a pair.
    """

    def __init__(self, group: AnswererGroup, render: Callable[[Pair], Sequence[int]]) -> None:
        self.group, self.render = group, render

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """See `roles.Scorer`."""
        asked = [tuple(self.render(pair)) for pair in pairs]
        tokens = room(self.group.settings.evaluation.tokens_per_batch, self.group.on_cpu)
        found = self.group.deal([partial(ModelScorer.scored, rows=rows) for rows in scoring_batches(asked, tokens)])
        by_row: dict[tuple[int, ...], float] = dict(pair for batch in found for pair in batch)
        return [by_row[row] for row in asked]
