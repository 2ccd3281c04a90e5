"""Roles played on this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ragdist.config import Settings, SideConfig
from ragdist.errors import TrainError
from ragdist.lm.checkpoints import MODEL, last_said
from ragdist.lm.turns import learned
from ragdist.roles import Answerer, Answerers, MicrobatchRef, Pair, Scorer
from ragdist.storage import steps
from ragdist.storage.atomic import make_folder
from ragdist.storage.tables import MicrobatchTask, Work, kept, rows_at, run_microbatch
from ragdist.tracking.run import metrics

if TYPE_CHECKING:
    from ragdist.lm.answerer import ModelAnswerer
    from ragdist.lm.shared import SharedBase

Out = TypeVar("Out")
BATCH = 256
"""Items that travel to a worker at once: enough that the trip costs little, few enough to keep memory flat."""


class SerialMapper:
    """Implements Mapper in this process."""

    def map(self, function: Callable[..., Out], items: Iterable[Any], *shared: Any) -> Iterator[Out]:
        """`function(item, *shared)` for each item, as results are asked for."""
        return (function(item, *shared) for item in items)


class ProcessMapper:
    """Implements Mapper with processes of this machine; results are those of SerialMapper, in the same order.

    Args:
        workers: processes.
        batch: items that travel to a worker at once.
    """

    def __init__(self, workers: int, batch: int = BATCH) -> None:
        self.workers, self.batch = workers, batch

    def map(self, function: Callable[..., Out], items: Iterable[Any], *shared: Any) -> Iterator[Out]:
        """`function(item, *shared)` for each item; the function must be importable, `shared` is sent once a worker.

        At most two batches a worker are under way, so neither items nor results pile up. An error in the function
        arrives as itself. Ending early, by an error or Ctrl-C, drops what has not begun and ends the processes.

        Raises:
            TrainError: a worker process died.
        """
        # spawn: a fork of a process that has threads (torch, Ray, a progress bar) may hang.
        executor = ProcessPoolExecutor(
            self.workers, multiprocessing.get_context("spawn"), _start_worker, (function, shared)
        )
        under_way: deque[Future[list[Out]]] = deque()
        try:
            source = iter(items)
            while batch := list(islice(source, self.batch)):
                under_way.append(executor.submit(_run_batch, batch))
                if len(under_way) >= 2 * self.workers:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        except BrokenProcessPool:
            raise TrainError(
                f"one of {self.workers} worker processes died, as when memory runs out; "
                "free some memory or use fewer workers, then type the same command again"
            ) from None
        finally:
            executor.shutdown(cancel_futures=True)


_work: tuple[Callable[..., Any], tuple[Any, ...]]


def _start_worker(function: Callable[..., Any], shared: tuple[Any, ...]) -> None:
    global _work
    _work = (function, shared)
    # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_batch(batch: list[Any]) -> list[Any]:
    function, shared = _work
    return [function(item, *shared) for item in batch]


class LocalAnswerers:
    """Implements Answerers in this process. Models that are open together hold their base once.

    Args:
        settings: `model`, `engines`, and `tokens_per_batch` and `engine` of `evaluation` are read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._base: SharedBase | None = None

    @contextmanager
    def open(self, *sources: str) -> Iterator[ModelAnswerer]:
        """See `roles.Answerers`."""
        from ragdist.lm.answerer import load_answerer

        with self._shared() if len(sources) > 1 else nullcontext() as base:
            answerer = load_answerer(self.settings, sources, base)
            for found in answerer.proofs:
                metrics("probe", **found)
            try:
                yield answerer
            finally:
                answerer.close() if base else answerer.release()

    @contextmanager
    def open_scorer(self, source: str, render: Callable[[Pair], Sequence[int]]) -> Iterator[Scorer]:
        """See `roles.Answerers`."""
        from ragdist.lm.score import ModelScorer

        with self._shared() as base:
            yield ModelScorer(base.classifier(source), render, self.settings.evaluation.tokens_per_batch)

    @contextmanager
    def _shared(self) -> Iterator[SharedBase]:
        """The base, loaded by whoever comes first and let go by the same."""
        from ragdist.lm.load import release
        from ragdist.lm.shared import SharedBase

        if self._base:
            yield self._base
            return
        self._base = SharedBase(self.settings.model)
        try:
            yield self._base
        finally:
            release(self._base.model)
            self._base = None


class StandingAnswerers:
    """Implements Answerers by others, of whom nothing that was opened is closed before the end.

    Args:
        answerers: who opens.
    """

    def __init__(self, answerers: Answerers) -> None:
        self.answerers = answerers
        self._open: dict[Hashable, Any] = {}
        self._until = ExitStack()

    @contextmanager
    def open(self, *sources: str) -> Iterator[Answerer]:
        """See `roles.Answerers`."""
        if sources not in self._open:
            self._open[sources] = self._until.enter_context(self.answerers.open(*sources))
        yield self._open[sources]

    @contextmanager
    def open_scorer(self, source: str, render: Callable[[Pair], Sequence[int]]) -> Iterator[Scorer]:
        """See `roles.Answerers`; of one source always with the first `render`."""
        if source not in self._open:
            self._open[source] = self._until.enter_context(self.answerers.open_scorer(source, render))
        yield self._open[source]

    def close(self) -> None:
        """Closes all that was opened."""
        self._until.close()
        self._open.clear()


class LocalSide:
    """Implements Side with one model in this process; its files and digests are those of `cluster.group.Group`. One
    with two models, see `lm.turns`, is a Side for each of them.

    Args:
        settings: all settings.
        side: this side's own.
        make: `make(source, settings, side, version)`: the plain object, `lm.resident.Resident` or `SharedResidents`.
        source: folder or name of the model that it starts with; of two models a tuple, as is the version.
        version: of that model.
    """

    def __init__(
        self, settings: Settings, side: SideConfig, make: Callable[..., Any], source: Any, version: Any
    ) -> None:
        self.settings, self.side, self.make = settings, side, make
        self.restart(source, version)

    def restart(self, source: Any, version: Any) -> None:
        """Takes up another model."""
        self.source, self._version, self._opened = source, version, False
        self._model = self.make(source, self.settings, self.side, version)

    @property
    def version(self) -> Any:
        """Of the weights."""
        return self._version

    def each(
        self,
        work: Work,
        inputs: Iterable[tuple[MicrobatchRef, ...]],
        *shared: Any,
        folder: Path,
        phase: str,
        writes: bool = False,
    ) -> Iterator[MicrobatchRef]:
        """See `roles.Side`; one after another, in order."""
        folder = make_folder(folder).resolve()
        for shards in inputs:
            name = shards[0].name
            target = folder / f"{name}.parquet"
            if not target.exists():
                if not self._opened:
                    for found in self._model.open_phase() or ():
                        metrics("probe", **found)
                    self._opened = True
                run_microbatch(
                    MicrobatchTask(work, shared, target, name, self._version),
                    self._model,
                    [shard.path or shard.at for shard in shards],
                )
            yield kept(name, target)

    def learn(
        self,
        loss: Callable[..., Any],
        shards: Sequence[MicrobatchRef],
        *,
        prepare: Callable[..., Any] | None,
        folder: Path,
        phase: str,
    ) -> list[dict[str, float]]:
        """See `roles.Side`."""
        folder = make_folder(folder).resolve()
        source, version = learned(self.source, self._version, loss, str(folder / MODEL))
        if (folder / MODEL).exists():
            if self.source != source:
                self.restart(source, version)
            return steps.noted(folder)
        if self._opened:
            self._model.close_phase()
            self._opened = False
        rows = [row for shard in shards for row in rows_at(shard.path or shard.at)]
        total, step = self._model.begin(loss, rows, prepare, folder)
        steps.cut(folder, step, last_said(folder, step))
        for _ in range(step, total):
            steps.note(folder, self._model.steps(1)[-1])
        self._model.finish()
        self.source, self._version = source, version
        return steps.noted(folder)
