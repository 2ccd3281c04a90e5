"""Seats for a group: one placement group, all of its ranks or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from ragdist.cluster import session
from ragdist.config import ClusterConfig, GroupConfig, Settings
from ragdist.errors import ConfigError, Stopped, TrainError
from ragdist.tracking.progress import say

SAY_EVERY_S = 30.0
POLL_S = 0.2
LEAVE_S = 30.0
"""Longest wait, in seconds, for processes that were ended to be gone."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def rank_cpus(settings: Settings, block: str) -> float:
    """CPU cores of one rank of a group: asked for, or an even share of what the groups that ask leave of this machine,
    in all groups that are there at the same time, or 1 on a joined cluster."""
    together = [settings.group(other) for other in next(blocks for blocks in settings.groups if block in blocks)]
    asked: float = settings.group(block).cpus_per_worker
    taken = sum(group.workers * group.cpus_per_worker for group in together)
    sharing = sum(group.workers for group in together if not group.cpus_per_worker)
    return asked or session.even_share(settings.cluster, sharing, taken)


def rank_threads(config: ClusterConfig, side: GroupConfig) -> float:
    """Threads of one rank: its CPU cores, or where groups share this machine, as many as if its own were alone.

    Learning is for one group at a time, so half the cores would rest most of the time.
    """
    return side.cpus_per_worker or session.even_share(config, side.workers)


def fit(settings: Settings, blocks: Sequence[str]) -> bool:
    """Whether the ranks of all these worker groups have room at the same time on the machines that are there."""
    free = session.machines()
    groups = [(block, settings.group(block)) for block in blocks]
    for takes in (needs(side, rank_cpus(settings, block)) for block, side in groups for _ in range(side.workers)):
        for has in free:
            if all(has.get(kind, 0.0) + 1e-6 >= count for kind, count in takes.items()):
                for kind, count in takes.items():
                    has[kind] -= count
                break
        else:
            return False
    return True


def needs(side: GroupConfig | ClusterConfig, cpus: float) -> dict[str, float]:
    """What one rank takes, in Ray's words."""
    gpu = {"GPU": side.gpus_per_worker} if side.gpus_per_worker else {}
    own = getattr(side, "resources", {})  # training workers have none
    return {"CPU": cpus, **gpu, **{kind: count for kind, count in own.items() if count}}


@contextmanager
def seat(
    block: str, side: GroupConfig, cpus: float, cluster: ClusterConfig, stop: Callable[[], bool] = never
) -> Iterator[PlacementGroup]:
    """A placement group with a bundle for each rank, as near to each other as there is room; removed at the end.

    Args:
        block: of the settings, the group's.
        side: how many ranks, what each takes and the labels of machines that may hold it.
        cpus: CPU cores of a rank.
        cluster: how long to wait for machines.
        stop: asked while waiting.

    Raises:
        ConfigError: no room after `cluster.start_timeout_s`.
        Stopped: `stop` said so.
    """
    labels = [dict(side.labels)] * side.workers
    group = placement_group([needs(side, cpus)] * side.workers, "PACK", bundle_label_selector=labels)
    try:
        await_seats(group, block, side, cluster, stop)
        yield group
    finally:
        try:
            remove_placement_group(group)
        except RayError:
            say(f"{block}: its seats could not be given back, the cluster is gone")


def await_seats(
    group: PlacementGroup, block: str, side: GroupConfig, cluster: ClusterConfig, stop: Callable[[], bool] = never
) -> None:
    """Returns when all bundles have a machine, also after one died; says every half minute what it waits for.

    Raises:
        ConfigError: not so after `cluster.start_timeout_s`.
        Stopped: `stop` said so.
    """
    start = said = time.monotonic()
    while placement_group_table(group)["state"] != "CREATED":
        now = time.monotonic()
        takes = ", ".join(f"{count:g} {kind}" for kind, count in group.bundle_specs[0].items())
        where = "".join(f", on machines labelled {key}={value}" for key, value in side.labels.items())
        short = f"{block}.workers={side.workers} ranks with {takes} each{where}; the cluster has {session.room()}"
        if stop():
            raise Stopped("stopped while waiting for machines; the same command goes on")
        if now - start >= cluster.start_timeout_s:
            raise ConfigError(
                f"no room for {short}; lower {block}.workers, {block}.cpus_per_worker, {block}.gpus_per_worker or "
                f"{block}.resources, change {block}.labels, add machines, or raise cluster.start_timeout_s"
            )
        if now - said >= SAY_EVERY_S:
            said = now
            say(f"waiting for room for {short}; {now - start:.0f} s of at most {cluster.start_timeout_s:.0f}")
        time.sleep(POLL_S)


def tidy() -> list[str]:
    """Gives back the placement groups of this session whose creator, an actor, is dead. Returns their ids."""
    left = [group for group in _groups() if group.creator_actor_dead]
    for group in left:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    if left:
        say(f"gave back {len(left)} placement groups that a trial left behind")
    return [group.placement_group_id.hex() for group in left]


def _groups() -> list[Any]:
    """The placement groups that actors of this session made and that hold or want seats.

    Ray's public table does not tell who made a group.
    """
    kind: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]
    tables = state._connect_and_get_accessor().get_placement_group_table()
    job = ray.get_runtime_context().get_job_id()
    removed = kind.PlacementGroupState.Value("REMOVED")
    return [
        group
        for group in map(kind.FromString, tables)
        if group.state != removed
        and group.creator_job_id.hex() == job
        and not ray.ActorID(group.creator_actor_id).is_nil()
        and not group.is_detached
    ]


def await_leaving() -> None:
    """Returns when no trial holds a seat.

    Raises:
        TrainError: one still does after `LEAVE_S`.
    """
    end = time.monotonic() + LEAVE_S
    while left := _groups():
        tidy()
        if time.monotonic() > end:
            raise TrainError(f"{len(left)} placement groups of trials are still there {LEAVE_S:.0f} s after the last")
        time.sleep(POLL_S)
