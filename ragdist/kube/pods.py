"""Which pods a job needs: the slots that it requests of Ray, and the memory that the plan counts, a group at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ragdist.config import AnswerersConfig, GroupConfig, Settings
from ragdist.errors import ConfigError
from ragdist.plan import memory
from ragdist.plan.fits import CLOSE, PlannedGroup
from ragdist.plan.layout import DRIVER, RAY, Plan
from ragdist.plan.seats import GIB, Role

KubeJob = Literal["raft", "duet", "atm", "sweep-raft", "sweep-atm"]
SERVE = "serve"
"""What a RayService's pods do, where those of a job have its name."""
ROLE = "ragdist.io/role"
"""Label of a group's pods and Ray nodes; ATM's two sides ask for theirs."""
LEAST_STORE = 2**30
"""Bytes of Ray's object store at least; rows and metrics of RAFT pass through it."""
LEAST_HEAD_GIB = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """Pods that are all alike. Example: Pods(name="attacker", count=2, ranks=1, cpus=4, gpus=1, memory=48, store=1)."""

    name: str
    count: int
    ranks: int
    """That share one of the pods."""
    cpus: int
    """Of one pod; the same number is told to Ray."""
    gpus: int
    memory: int
    """Of one pod, in GiB."""
    store: int
    """Of it, Ray's object store, in GiB."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the Ray node in it."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom Ray resources of one pod."""


def system(job: str) -> Literal["raft", "duet", "atm"]:
    """What a job runs, once or many times."""
    return "atm" if job.endswith("atm") else "duet" if job == "duet" else "raft"


def for_pods(settings: Settings, job: KubeJob, name: str) -> Settings:
    """The settings as the job is given them in its pods: a run that retries find again, by a name that does not depend
    on where the job runs, and ranks placed on the groups' pods."""
    folder = settings.run.folder
    settings = settings.unchecked("run.name", name).unchecked("cluster.address", "")
    if not folder.startswith("/"):
        settings = settings.unchecked("run.folder", f"{settings.kube.mount}/{folder}")
    if system(job) == "atm":
        for block in settings.groups[1]:
            settings = settings.unchecked(f"{block}.labels", {ROLE: _pod_name(block), **settings.group(block).labels})
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest(Role):
    """Ranks that a job asks of Ray, all that may be under way at once, with their custom Ray resources."""

    resources: Mapping[str, float] = field(default_factory=dict)


def requests(settings: Settings, job: str) -> list[WorkerRequest]:
    """The slots that a job, with settings from `for_pods`, requests on a cluster that it joins, where a rank takes one
    CPU unless told otherwise."""
    if job == SERVE:
        serve = settings.serve
        cpus, gpus = serve.cpus_per_replica, serve.gpus_per_replica
        return [WorkerRequest(name="replicas", ranks=serve.max_replicas, cpus=cpus, gpus=gpus)]
    times = settings.sweep.concurrent if job.startswith("sweep") else 1
    if system(job) == "atm":
        return [_request(_pod_name(block), settings.group(block), times) for block in settings.groups[1]]
    cluster = settings.cluster
    ranks = cluster.workers * (2 if job == "duet" and settings.kube.side_by_side else times)
    found = [
        WorkerRequest(name="workers", ranks=ranks, cpus=cluster.cpus_per_worker or 1.0, gpus=cluster.gpus_per_worker)
    ]
    answerers = settings.answerers(gpu_here=False)
    if answerers.workers and not _fit(answerers, found[0], times):
        found.append(_request("answerers", answerers, times))
    if job.startswith("sweep") and settings.sweep.gpus_per_trial:
        found.append(WorkerRequest(name="trials", ranks=times, cpus=0, gpus=settings.sweep.gpus_per_trial))
    return found


def _pod_name(block: str) -> str:
    return block.replace(".", "-")


def _request(name: str, group: GroupConfig, times: int) -> WorkerRequest:
    return WorkerRequest(
        name=name,
        ranks=group.workers * times,
        cpus=group.cpus_per_worker or 1.0,
        gpus=group.gpus_per_worker,
        labels=group.labels,
        resources={kind: count for kind, count in group.resources.items() if count},
    )


def _fit(answerers: AnswerersConfig, workers: WorkerRequest, times: int) -> bool:
    """Whether they fit into the places of the training workers, which are free while they answer."""
    return (
        answerers.workers * times <= workers.ranks
        and (answerers.cpus_per_worker or 1.0) <= workers.cpus
        and answerers.gpus_per_worker <= workers.gpus
        and not answerers.labels
        and not answerers.resources
    )


def groups(settings: Settings, job: KubeJob, plan: Plan) -> list[Pods]:
    """The groups of pods with slots for all that the job has under way at once; the plan is that of `system(job)` with
    these settings, from `for_pods`, for machines that are not known. A ConfigError if the memory of a rank is not
    known."""
    return [_pods(one, _memory(one, settings, plan), settings, store_gib(plan)) for one in requests(settings, job)]


def _pods(request: WorkerRequest, memory_each: float, settings: Settings, store: int) -> Pods:
    """Pods with these slots, a rank of `memory_each` bytes, and `store` GiB of object store in each pod."""
    together = min(settings.kube.workers_per_pod, request.ranks)
    return Pods(
        name=request.name,
        count=math.ceil(request.ranks / together),
        ranks=together,
        cpus=max(1, math.ceil(together * request.cpus)),
        gpus=math.ceil(together * request.gpus),
        memory=_rounded(together * memory_each + RAY) + store + 1,
        store=store,
        labels=request.labels or {ROLE: request.name},
        resources={kind: together * count for kind, count in request.resources.items()},
    )


def _memory(request: WorkerRequest, settings: Settings, plan: Plan) -> float:
    """Bytes of host memory of one rank: told, or of the largest group that may have the slot."""
    if request.name == "trials":
        return _asking(settings, plan) + memory.process(True, "host")
    if settings.kube.memory_gib:
        return settings.kube.memory_gib * GIB
    return max(_counted(group) for group in plan.groups if request.name in ("workers", _pod_name(group.role.name)))


def _counted(group: PlannedGroup) -> int:
    """Bytes of one rank, as the plan counts them. A ConfigError if it knows nothing of the model."""
    if group.held is None:
        raise ConfigError(
            f"the memory of a rank of {group.role.name} is unknown, because its model is not on this machine; "
            "set kube.memory_gib, or model.source to a folder with its config.json"
        )
    return group.peak("host")


def head(settings: Settings, job: KubeJob, plan: Plan) -> Pods:
    """The pod with the driver and, in a sweep whose trials ask on CPU, the trials' own processes beside it."""
    kube = settings.kube
    driver = plan.driver if job.endswith("atm") else _asking(settings, plan)
    processes = 1 + (settings.sweep.concurrent if job.startswith("sweep") and not settings.sweep.gpus_per_trial else 0)
    counted = _rounded(processes * driver)
    store = store_gib(plan)
    return Pods(
        name="head",
        count=1,
        ranks=0,
        cpus=kube.head_cpus,
        gpus=0,
        memory=math.ceil(kube.head_memory_gib) or max(LEAST_HEAD_GIB, counted) + store + 1,
        store=store,
    )


def serving(settings: Settings) -> tuple[Pods, Pods]:
    """The head of a RayService, and the pods with room for all of its replicas. A ConfigError if the memory of a
    replica is not told."""
    kube, store = settings.kube, math.ceil(LEAST_STORE / GIB)
    if not kube.memory_gib:
        raise ConfigError(
            "the memory of a replica is unknown, because its models are not on this machine; set kube.memory_gib"
        )
    (request,) = requests(settings, SERVE)
    memory_gib = math.ceil(kube.head_memory_gib) or LEAST_HEAD_GIB + store + 1
    head = Pods(name="head", count=1, ranks=0, cpus=kube.head_cpus, gpus=0, memory=memory_gib, store=store)
    return head, _pods(request, kube.memory_gib * GIB, settings, store)


def _asking(settings: Settings, plan: Plan) -> float:
    """Bytes of a process that asks a model: of as many as a rank where those are told, whether or not the model is on
    the machine that renders."""
    asks = not settings.answerers(gpu_here=bool(settings.sweep.gpus_per_trial)).workers
    return DRIVER + GIB * settings.kube.memory_gib if settings.kube.memory_gib and asks else plan.driver


def store_gib(plan: Plan) -> int:
    """GiB of each pod's object store: any of them may hold all that is in flight."""
    return math.ceil(max(plan.store, LEAST_STORE) / GIB)


def _rounded(size: float) -> int:
    """GiB of memory in which `size` bytes are not yet near the limit."""
    return math.ceil(size / CLOSE / GIB)
