"""The ranks of one group: started together, called together, and replaced together when one dies.

A single restarted rank would have no process group, and its peers' would be broken; so all of them go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ragdist.cluster import place
from ragdist.cluster.workers import Rank, Rendezvous, Where, environment, last_line
from ragdist.config import GroupConfig, Settings
from ragdist.errors import RagdistError, Stopped, TrainError
from ragdist.storage.atomic import make_folder
from ragdist.tracking.progress import say
from ragdist.tracking.run import owner

POLL_S = 0.2
GRACE_S = 5.0
"""How long the other ranks may take to fail too: the first to complain is seldom the one that died."""
OBJECT_LOST = (ObjectLostError, ObjectFetchTimedOutError)


class WorkerGroupDied(Exception):
    """A rank died or lost its peers; the group can be built again."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What a group is made of."""

    name: str
    """For people, files and the timeline."""
    settings: Settings
    side: GroupConfig
    """Its own block of them."""
    make: Callable[..., Any]
    """`make(source, settings, side, version)`, a class or function of a module: the plain object of a rank."""
    run_folder: Path
    """Holds `logs/NAME-rank-N.log`; seen by all ranks."""
    stop: Callable[[], bool] = place.never
    """Asked between waits whether to end."""
    meet: bool = True
    """Whether the ranks share a torch process group, as ranks that learn do; the others are spared loading torch."""
    memory: str = ""
    """Setting to lower where a rank runs out of memory; empty: the microbatch that it learns from."""
    of: str = ""
    """The block that `block` is in; empty: none."""

    @property
    def block(self) -> str:
        """Of the settings, where `side` stands."""
        return f"{self.of}.{self.name}" if self.of else self.name


class Ranks:
    """The living actors of a group, in its seats."""

    def __init__(self, plan: GroupSpec) -> None:
        self.plan = plan
        self.ranks: list[Any] = []
        self.where: list[Where] = []
        self.life = 0
        """Grows with each start; what an earlier life was told is void."""
        self.failures = 0
        """Times that a rank died."""
        self._cpus = 0.0
        self._seats: Any = None
        self._stack = ExitStack()

    def open(self, source: Any, version: Any) -> None:
        """Takes the seats and begins in them.

        Raises:
            ConfigError: there is no room.
            TrainError: see `rebuild`.
        """
        plan = self.plan
        self._cpus = place.rank_cpus(plan.settings, plan.block)
        self._seats = self._stack.enter_context(
            place.seat(plan.block, plan.side, self._cpus, plan.settings.cluster, plan.stop)
        )
        try:
            self.begin(source, version)
        except BaseException:  # survives nothing: the seats are given back, then it is raised
            self.close()
            raise

    def begin(self, source: Any, version: Any) -> None:
        """`start`, more than once if a rank dies meanwhile."""
        try:
            self.start(source, version)
        except WorkerGroupDied as lost:
            self.rebuild(lost, source, version)

    def hold(self, plan: GroupSpec, source: Any) -> None:
        """The same actors hold another model, in a group whose ranks do not meet."""
        self.plan, cluster = plan, plan.settings.cluster
        about = (source, plan.settings, plan.side, 0)
        try:
            self.call(lambda rank: rank.hold.remote(plan.make, about), "start", cluster.start_timeout_s)
        except WorkerGroupDied as lost:
            self.rebuild(lost, source, 0)

    def close(self) -> None:
        """Ends the actors and gives the seats back."""
        try:
            self.kill()
        finally:
            self._stack.close()

    def kill(self) -> None:
        """Ends the actors of this group and nobody else's."""
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks, self.where = [], []

    def log(self, rank: int) -> Path:
        """Where a rank says what it does."""
        return self.plan.run_folder / "logs" / f"{self.plan.name}-rank-{rank}.log"

    def start(self, source: Any, version: Any) -> None:
        """New actors in the seats, each with the model of `source`; returns when all of them hold it.

        Raises:
            WorkerGroupDied: one died, or they did not find each other.
            ModelError, ConfigError: as a rank met it.
            TrainError: not so after `cluster.start_timeout_s`.
        """
        plan, side, cluster = self.plan, self.plan.side, self.plan.settings.cluster
        place.await_seats(self._seats, plan.block, side, cluster, plan.stop)
        make_folder(plan.run_folder / "logs")
        say(f"{plan.name}: starting {side.workers} rank{'s' if side.workers > 1 else ''}, which load the model")
        self.life += 1
        self.ranks = [self._actor(rank) for rank in range(side.workers)]
        met = [rank.where.remote() for rank in self.ranks]
        # The driver gives up first: its error names who is late.
        whole_card = side.gpus_per_worker >= 1
        backend = ("cpu:gloo,cuda:nccl" if whole_card else "gloo") if plan.meet else ""
        meeting = (backend, 2 * cluster.deadline_s)
        about = (source, plan.settings, side, version)
        refs = {
            actor.start.remote(plan.make, about, Rendezvous(rank, *meeting), *met): rank
            for rank, actor in enumerate(self.ranks)
        }
        self.where = self._collect(refs, "start", cluster.start_timeout_s, "cluster.start_timeout_s")
        say(f"{plan.name}: the model is loaded")

    def replace(self, rank: int, source: Any, version: int) -> Any:
        """A new actor in the place of one, in a group whose ranks do not meet; the reference to its start."""
        ray.kill(self.ranks[rank])
        self.ranks[rank] = actor = self._actor(rank)
        about = (source, self.plan.settings, self.plan.side, version)
        return actor.start.remote(self.plan.make, about, Rendezvous(0, "", 0), actor.where.remote())

    def _actor(self, rank: int) -> Any:
        """A process in the place of this rank, which holds nothing yet."""
        plan, side = self.plan, self.plan.side
        takes = place.needs(side, self._cpus)
        options: dict[str, Any] = {
            "num_cpus": takes.pop("CPU"),
            "num_gpus": takes.pop("GPU", 0),
            "resources": takes,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        threads = place.rank_threads(plan.settings.cluster, side)
        variables = environment(plan.settings.cluster, threads, side.gpus_per_worker)
        variables["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that waits leaves its core to the other group
        run, job = owner(plan.run_folder)
        where = {"run": run, "job": job, "group": plan.name, "rank": rank}
        strategy = PlacementGroupSchedulingStrategy(self._seats, placement_group_bundle_index=rank)
        actor: Any = ray.remote(Rank).options(**options, scheduling_strategy=strategy)
        return actor.remote(variables, str(self.log(rank)), where)

    def call(self, order: Callable[[Any], Any], what: str, limit_s: float = 0.0) -> list[Any]:
        """Gives all ranks the same order and waits for them: their results by rank.

        Args:
            order: given an actor, calls one of its methods and returns the reference.
            what: the phase and what is done in it, for errors.
            limit_s: longest wait, in seconds; 0 is `cluster.deadline_s`.

        Raises:
            WorkerGroupDied: a rank died.
            RagdistError: as a rank met it.
            TrainError: another error, or the deadline passed.
        """
        refs = {order(actor): rank for rank, actor in enumerate(self.ranks)}
        return self._collect(refs, what, limit_s or self.plan.settings.cluster.deadline_s, "cluster.deadline_s")

    def _collect(self, refs: Mapping[Any, int], what: str, limit_s: float, knob: str) -> list[Any]:
        end = time.monotonic() + limit_s
        results: dict[int, Any] = {}
        failed: dict[int, BaseException] = {}
        pending = list(refs)
        while pending and time.monotonic() < end:
            ready, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
            for ref in ready:
                try:
                    results[refs[ref]] = ray.get(ref)
                except Exception as error:  # any rank's; `root_cause` says which one counts and what becomes of it
                    end = min(end, time.monotonic() + GRACE_S)
                    failed[refs[ref]] = error
            if self.plan.stop() and what == "start":
                raise Stopped("stopped while the ranks were starting; the same command goes on")
        if failed:
            raise self.root_cause(failed, what)
        if pending:
            raise self.overdue([refs[ref] for ref in pending], what, limit_s, knob)
        return [results[rank] for rank in range(len(refs))]

    def root_cause(self, failed: Mapping[int, BaseException], what: str, *, together: bool = True) -> Exception:
        """The error to raise for what went wrong on some ranks.

        Args:
            failed: what `ray.get` raised, by rank.
            what: they were doing.
            together: whether the ranks needed each other for it.
        """
        causes = {rank: cause_of(error) for rank, error in failed.items()}
        for cause in causes.values():
            if isinstance(cause, RagdistError):
                return cause
        dead = [rank for rank, cause in causes.items() if isinstance(cause, RayActorError | OutOfMemoryError)]
        rank = (dead or sorted(causes))[0]
        why = last_line(causes[rank])
        if isinstance(causes[rank], OutOfMemoryError):
            lower = self.plan.memory or f"{self.plan.name}.train.microbatch"
            why = f"its machine ran out of memory; lower {lower}, or free some"
        said = f"{self.name(rank)} failed in {what}: {why}; its log is {self.log(rank)}"
        # A rank whose peer is gone gets a bare RuntimeError from gloo; of a rank alone it is its own.
        lost_peer = type(causes[rank]) is RuntimeError or type(causes[rank]).__module__.startswith("torch.distributed")
        if dead or (lost_peer and together and self.plan.side.workers > 1):
            return WorkerGroupDied(said)
        return TrainError(said)

    def overdue(self, ranks: list[int], what: str, limit_s: float, knob: str) -> TrainError:
        """The error for ranks that took too long.

        Args:
            ranks: that are late.
            what: they were doing.
            limit_s: they had, in seconds.
            knob: setting that gives them more.
        """
        late = " and ".join(self.name(rank) for rank in ranks)
        return TrainError(
            f"{late} did not finish {what} within {limit_s:g} s; see {self.log(ranks[0])}, or raise {knob}"
        )

    def name(self, rank: int) -> str:
        """Group, rank and node, for people."""
        node = f"{self.where[rank].ip} ({self.where[rank].node[:8]})" if self.where else "a node not known yet"
        return f"{self.plan.name} rank {rank} on {node}"

    def rebuild(self, lost: WorkerGroupDied, source: Any, version: Any) -> None:
        """Ends what is left and starts again, more than once if need be.

        Raises:
            TrainError: more than `cluster.max_failures`.
        """
        while True:
            self.kill()
            say(f"{lost.what}; building the {self.plan.name} again, {self.count(lost)}")
            try:
                return self.start(source, version)
            except WorkerGroupDied as again:
                lost = again

    def count(self, lost: WorkerGroupDied) -> str:
        """Counts a failure. Example: `2 of at most 3 times`.

        Raises:
            TrainError: more than `cluster.max_failures`.
        """
        self.failures += 1
        most = self.plan.settings.cluster.max_failures
        if self.failures > most:
            raise TrainError(
                f"{lost.what}; that is failure {self.failures} of the {self.plan.name}, cluster.max_failures={most}"
            ) from None
        return f"{self.failures} of at most {most} times"


class RankGroup:
    """A group for as long as the context lasts.

    Args:
        plan: what it is made of.
        source: what `plan.make` is given.
        version: of the model.
    """

    def __init__(self, plan: GroupSpec, source: Any, version: Any = 0) -> None:
        self.source, self._version = source, version
        self._ranks = Ranks(plan)

    def __enter__(self) -> Self:
        self._ranks.open(self.source, self._version)
        return self

    def __exit__(self, *_: object) -> None:
        self._ranks.close()

    @property
    def plan(self) -> GroupSpec:
        """What it is made of."""
        return self._ranks.plan

    @property
    def failures(self) -> int:
        """Times that a rank died."""
        return self._ranks.failures

    @property
    def pids(self) -> list[int]:
        """Processes of the ranks."""
        return [where.pid for where in self._ranks.where]

    @property
    def nodes(self) -> list[str]:
        """Ray's ids of the machines of the ranks."""
        return [where.node for where in self._ranks.where]


def cause_of(error: BaseException) -> BaseException:
    """What a remote function raised, without Ray's wrapping."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    return error
