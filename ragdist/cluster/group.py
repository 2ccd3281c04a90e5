"""A group: ranks with a model in memory that work beside shards and learn. Implements `roles.Side`.

Rows travel as Arrow tables from the rank that made them to the rank that needs them. The driver passes references
and never fetches a table. Each microbatch is a file before its reference is handed out, so whatever is lost is read
again from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError

from ragdist.cluster.ranks import OBJECT_LOST, POLL_S, GroupSpec, RankGroup, WorkerGroupDied, cause_of
from ragdist.cluster.tasks import MicrobatchRun, TableRef, place_of
from ragdist.cluster.workers import last_line, pack_order
from ragdist.errors import Stopped, TrainError
from ragdist.lm.checkpoints import MODEL, last_said
from ragdist.lm.turns import learned
from ragdist.roles import MicrobatchRef
from ragdist.storage import steps
from ragdist.storage.atomic import make_folder
from ragdist.storage.tables import KEPT_TABLES, Done, MicrobatchTask, Work, kept
from ragdist.tracking.run import metrics, steps_told

OBJECT_TRIES = 3
Group = TypeVar("Group", bound=AbstractContextManager[Any])


@contextmanager
def seated(*groups: Group) -> Iterator[tuple[Group, ...]]:
    """The groups for as long as the block lasts, started side by side: each loads a model."""
    with ExitStack() as stack, ThreadPoolExecutor(len(groups)) as pool:
        started = [pool.submit(group.__enter__) for group in groups]
        wait(started)
        for group, start in zip(groups, started, strict=True):
            if not start.exception():
                stack.push(group.__exit__)
        for start in started:
            start.result()
        yield groups


def _ignore(*_: Any) -> None:
    """Hears of a span or a step and does nothing."""


def _clear(folder: Path) -> None:
    """Removes the half files of ranks that were ended in the middle of writing."""
    for half in folder.glob("*.tmp"):
        half.unlink(missing_ok=True)


class WorkerGroup(RankGroup):
    """Implements Side with N actors in a placement group of their own, as a context.

    Args:
        plan: what it is made of.
        source: folder or name of the model that it starts with; of two models, see `lm.turns`, a tuple.
        version: of that model; of two models a tuple.
        on_span: told {group, rank, phase, microbatch, start, end} of each finished piece of work, seconds since 1970.
        on_step: told (phase, steps done, steps in all, metrics) after each optimizer step.
    """

    def __init__(
        self,
        plan: GroupSpec,
        source: Any,
        version: Any,
        *,
        on_span: Callable[[dict[str, Any]], None] = _ignore,
        on_step: Callable[[str, int, int, dict[str, float]], None] = _ignore,
    ) -> None:
        super().__init__(plan, source, version)
        self.on_span, self.on_step = on_span, on_step
        self._opened = False
        self._queues: list[list[tuple[Any, MicrobatchRun]]] = [[] for _ in range(plan.side.workers)]
        """What each rank was told and has not been seen to finish, in order."""
        self._since = [0.0] * plan.side.workers
        """When the head of each queue began, as far as the driver saw."""
        self._fresh: deque[TableRef] = deque()

    @property
    def version(self) -> Any:
        """Of the weights that all ranks hold."""
        return self._version

    def restart(self, source: Any, version: Any) -> None:
        """New processes that hold another model."""
        self.source, self._version = source, version
        self._ranks.kill()
        self._forget()
        self._ranks.begin(self.source, self._version)

    def take_up(self, source: str, version: int) -> None:
        """The same processes hold this model, in a group whose ranks do not learn."""
        self.source, self._version, self._opened = source, version, False
        limit_s = self.plan.settings.cluster.start_timeout_s
        try:
            self._ranks.call(lambda rank: rank.take_up.remote(source, version), "take_up", limit_s)
        except WorkerGroupDied as lost:
            self._rebuild(lost)

    def each(
        self,
        work: Work,
        inputs: Iterable[tuple[MicrobatchRef, ...]],
        *shared: Any,
        folder: Path,
        phase: str,
        writes: bool = False,
    ) -> Iterator[MicrobatchRef]:
        """See `roles.Side`. At most `cluster.in_flight` microbatches a rank are asked for and not yet yielded.

        Raises:
            RagdistError: as the work raised it.
            TrainError: another error in the work, a passed deadline, or ranks that died too often.
            Stopped: a stop was asked for; what is finished is kept.
        """
        folder = make_folder(folder).resolve()
        source = iter(inputs)
        limit = self.plan.settings.cluster.in_flight * self.plan.side.workers
        under_way: dict[Any, MicrobatchRun] = {}
        again: deque[MicrobatchRun] = deque()
        done: deque[MicrobatchRef] = deque()
        more = True
        try:
            while more or again or under_way or done:
                shard = done.popleft() if done else None
                while len(under_way) + len(done) < limit and (again or more):  # before the yield: no rank idles
                    if again:
                        task = again.popleft()
                    elif (shards := next(source, None)) is not None:
                        task = MicrobatchRun(shards, folder / f"{shards[0].name}.parquet", phase)
                    else:
                        more = False
                        continue
                    if task.target.exists():
                        done.append(kept(task.name, task.target))
                    else:
                        under_way[self._submit(work, shared, task)] = task
                if shard:
                    yield shard
                elif under_way and not done:
                    for ref in self._wait(list(under_way)):
                        self._settle(ref, under_way.pop(ref), done, again)
            _clear(folder)
        finally:
            for ref in under_way:
                self._seen(ref)

    def learn(
        self,
        loss: Callable[..., Any],
        shards: Sequence[MicrobatchRef],
        *,
        prepare: Callable[..., Any] | None,
        folder: Path,
        phase: str,
    ) -> list[dict[str, float]]:
        """See `roles.Side`. A model that `folder` holds already is taken up, by new processes where need be.

        Raises:
            RagdistError: as a rank raised it.
            TrainError: another error, a passed deadline, or ranks that died too often.
            Stopped: a stop was asked for; a checkpoint is kept.
        """
        folder = make_folder(folder).resolve()
        source, version = learned(self.source, self._version, loss, str(folder / MODEL))
        while not (folder / MODEL).exists():
            try:
                self._learn(loss, shards, prepare, folder, phase)
            except WorkerGroupDied as lost:  # perhaps after the model was whole, before anyone said so
                self._rebuild(lost)
            else:
                self.source, self._version = source, version
                break  # whether this machine sees it yet or not
        if self.source != source:
            self.restart(source, version)
        return steps.noted(folder)

    def _learn(
        self, loss: Callable[..., Any], shards: Sequence[MicrobatchRef], prepare: Any, folder: Path, phase: str
    ) -> None:
        """One attempt, from the newest checkpoint to the model.

        Raises:
            Lost: a rank died.
        """
        call, limit_s = self._ranks.call, self.plan.settings.cluster.deadline_s
        if self._opened:
            call(lambda rank: rank.close_phase.remote(), f"{phase}: close_phase")
            self._opened = False
        places = [shard.path or shard.at for shard in shards]
        begun = time.time()
        total, step = call(
            lambda rank: rank.begin.remote(loss, prepare, folder, *places),
            f"{phase}: begin",
            limit_s * max(1, len(shards)),
        )[0]
        self._spans(phase, "begin", begun, time.time())
        steps.cut(folder, step, last_said(folder, step))
        self._catch_up(folder, phase, total)
        while step < total:
            if self.plan.stop():
                call(lambda rank: rank.checkpoint.remote(), f"{phase}: checkpoint")
                raise Stopped(f"stopped in {phase} after step {step} of {total}; the same command goes on")
            said = call(lambda rank: rank.steps.remote(1), f"{phase}, step {step + 1}")
            step += 1
            for rank, (_, start, end) in enumerate(said):
                self._span(rank, phase, f"step-{step}", start, end)
            metrics = said[0][0][-1]
            steps.note(folder, metrics)
            self.on_step(phase, step, total, metrics)
        begun = time.time()
        call(lambda rank: rank.finish.remote(), f"{phase}: finish")
        self._spans(phase, "finish", begun, time.time())

    def _catch_up(self, folder: Path, phase: str, total: int) -> None:
        """Tells of steps that a killed driver had taken and could not tell of: the checkpoint came before its line."""
        told = steps_told(phase)
        for number, said in enumerate(steps.noted(folder), start=1):
            if number not in told:
                self.on_step(phase, number, total, said)

    def _submit(self, work: Work, shared: tuple[Any, ...], task: MicrobatchRun) -> Any:
        """Hands the task to the rank with the least to do."""
        self._open(task.phase)
        task.rank = min(range(len(self._queues)), key=lambda rank: len(self._queues[rank]))
        task.life = self._ranks.life
        job = MicrobatchTask(work, shared, task.target, task.name, self._version)
        order, refs = pack_order(job, [place_of(shard, by_file=task.tries > 0) for shard in task.shards])
        each: Any = self._ranks.ranks[task.rank].each.options(num_returns=2)
        done, task.table = each.remote(order, *refs)
        if not self._queues[task.rank]:
            self._since[task.rank] = time.monotonic()
        self._queues[task.rank].append((done, task))
        return done

    def ask(self, question: Callable[[Any], Any], what: str) -> list[Any]:
        """What each rank's model says to the question, a function of a module; `what` is for errors."""
        while True:
            self._open(what)
            try:
                return [said for said, *_ in self._ranks.call(lambda rank: rank.answer.remote(what, question), what)]
            except WorkerGroupDied as lost:
                self._rebuild(lost)

    def _open(self, phase: str) -> None:
        """Ranks may write and read from here on, each by itself."""
        while not self._opened:
            try:
                found = self._ranks.call(lambda rank: rank.open_phase.remote(), f"{phase}: open_phase")
                self._opened = True
                self._note_probes(found)
            except WorkerGroupDied as lost:
                self._rebuild(lost)

    def _note_probes(self, found: Sequence[Sequence[dict[str, Any]]]) -> None:
        """The rank whose engine is farthest off stands in metrics.jsonl for all."""
        for probes in zip(*found, strict=True):
            metrics("probe", **{"group": self.plan.name, **max(probes, key=lambda one: one["nats"])})

    def _wait(self, refs: list[Any]) -> list[Any]:
        """The finished ones, at least one; the rest of the group is watched meanwhile."""
        while True:
            if self.plan.stop():
                raise Stopped("stopped between microbatches; the finished ones are kept, the same command goes on")
            ready, _ = ray.wait(refs, num_returns=1, timeout=POLL_S)
            self._check_deadlines()  # of ranks that hang while others finish, too
            if ready and len(refs) > 1:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            if ready:
                return list(ready)

    def _check_deadlines(self) -> None:
        limit_s = self.plan.settings.cluster.deadline_s
        for rank, queue in enumerate(self._queues):
            if not queue or time.monotonic() - self._since[rank] <= limit_s:
                continue
            head, task = queue[0]
            if ray.wait([head], timeout=0)[0]:  # finished, and whoever asked for it has not looked yet
                self._seen(head)
            else:
                what = f"{task.phase}, microbatch {task.name}"
                raise self._ranks.overdue([rank], what, limit_s, "cluster.deadline_s")

    def _seen(self, ref: Any) -> None:
        """The rank has finished this and goes on with its next."""
        for rank, queue in enumerate(self._queues):
            left = [entry for entry in queue if entry[0] != ref]
            if len(left) < len(queue):
                self._queues[rank], self._since[rank] = left, time.monotonic()

    def _settle(self, ref: Any, task: MicrobatchRun, done: deque[MicrobatchRef], again: deque[MicrobatchRun]) -> None:
        """Makes a finished task's shard, or finds out what became of it.

        Raises:
            RagdistError: as the work raised it.
            TrainError: another error in the work, or ranks that died too often.
        """
        told = self._queues[task.rank]
        self._seen(ref)
        try:
            found = Done(*ray.get(ref))
        except Exception as error:  # distinguished: an input that is gone, a dead rank, the work itself
            if isinstance(cause_of(error), OBJECT_LOST) or isinstance(error, OBJECT_LOST):
                task.tries += 1
                if task.tries > OBJECT_TRIES:
                    name = self._ranks.name(task.rank)
                    raise TrainError(
                        f"{name} cannot get its input in {task.phase}, microbatch {task.name}: {last_line(error)}; "
                        "look at the machines, then type the same command again"
                    ) from None
            elif task.life == self._ranks.life:
                why = self._ranks.root_cause({task.rank: error}, self._doing(task, told, error), together=False)
                if not isinstance(why, WorkerGroupDied):
                    raise why from None
                self._rebuild(why)
            again.append(task)
            return
        self._span(task.rank, task.phase, task.name, found.start, found.end)
        held = TableRef(task.table, task.target)
        self._fresh.append(held)
        while len(self._fresh) > KEPT_TABLES * self.plan.settings.cluster.in_flight * self.plan.side.workers:
            self._fresh.popleft().ref = None
        done.append(MicrobatchRef(task.name, found.rows, found.digest, found.notes, at=held, path=str(task.target)))

    def _doing(self, task: MicrobatchRun, told: Sequence[tuple[Any, MicrobatchRun]], error: BaseException) -> str:
        """What the rank was at when this task failed: if it died, the first that it was told and had not kept."""
        died = isinstance(cause_of(error), RayActorError)
        at = next((other for _, other in told if died and not other.target.exists()), task)
        return f"{at.phase}, microbatch {at.name}"

    def _rebuild(self, lost: WorkerGroupDied) -> None:
        """New processes with the last version's weights; what was under way is done again by who asked for it."""
        self._forget()
        self._ranks.rebuild(lost, self.source, self._version)

    def _forget(self) -> None:
        self._opened = False
        self._queues = [[] for _ in self._queues]

    def _span(self, rank: int, phase: str, microbatch: str, start: float, end: float) -> None:
        span = {"group": self.plan.name, "rank": rank, "phase": phase, "microbatch": microbatch}
        self.on_span({**span, "start": start, "end": end})

    def _spans(self, phase: str, microbatch: str, start: float, end: float) -> None:
        for rank in range(self.plan.side.workers):
            self._span(rank, phase, microbatch, start, end)
