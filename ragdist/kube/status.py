"""How a job on a cluster stands: its own state, each pod with what it waits for or died of, and the cluster's warnings.

The pods' words come first where there are any; pods that were refused never were, so the Ray cluster's conditions and
the events tell of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ragdist.errors import ConfigError, TrainError
from ragdist.kube.findings import Body, Manifest, at, mappings, number
from ragdist.kube.request import Cluster, path_of

OVER = ("Complete", "Failed", "ValidationFailed")
"""States of a job that does nothing more by itself."""
LOST = ("failed", "validationfailed")
DULL = ("ContainerCreating", "PodInitializing", "Completed")
"""Reasons that say nothing."""
BAD = ("ReplicaFailure", "RayClusterReplicaFailure", "RayClusterSuspended", "DisruptionTarget")
"""Conditions that are bad when they are met."""
MOST_EVENTS = 5


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a job. Example: Pod("nq-7x2-head", "headgroup", "Pending", "0/3 nodes have nvidia.com/gpu")."""

    name: str
    group: str
    phase: str
    why: str
    """What it waits for or died of, in Kubernetes' words."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a job stands."""

    name: str
    state: str
    """Of the deployment: Initializing, Running, Complete, Failed, Suspended, ...; `absent` where there is no job."""
    job: str
    """Of the driver: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty before it has begun."""
    failed: int
    """Tries that failed."""
    message: str
    pods: tuple[Pod, ...]
    warnings: tuple[str, ...] = ()
    """The newest events of the job, its cluster and its pods that warn of something."""


def of(main: Manifest, cluster: Cluster) -> Status:
    """How the RayJob, RayCluster or RayService of a rendered folder stands."""
    found = cluster.call("GET", path_of(main.body)) or {}
    told, ray = at(found, "status", {}), _ray_cluster(main, found, cluster)
    pods = list_pods(main, cluster)
    names = [main.name, at(ray, "metadata.name", ""), *(one["metadata"]["name"] for one in pods)]
    events = _events(main, names, cluster) if found else []
    absent = "absent" if not found else "Initializing"
    said = [": ".join(str(told[key]) for key in ("reason", "message") if told.get(key)), _unmet(told), _unmet(ray)]
    return Status(
        name=main.name,
        state=str(told.get("jobDeploymentStatus") or told.get("serviceStatus") or told.get("state") or absent),
        job=str(told.get("jobStatus", "")),
        failed=number(told.get("failed")),
        message=next(filter(None, said), ""),
        pods=tuple(_pod(pod, events) for pod in pods),
        warnings=tuple(dict.fromkeys(_line(event) for event in events))[-MOST_EVENTS:],
    )


def finished(found: Status) -> None:
    """Passes a job that is under way or complete, a TrainError if it failed for good, was refused or was stopped."""
    if found.state.lower() in LOST or found.job == "STOPPED":
        how = (
            "was stopped" if found.job == "STOPPED" else f"failed {found.failed} times" if found.failed else found.state
        )
        raise TrainError(f"{found.name} {how}: {found.message}; `ragdist k8s logs` has the story")


def list_pods(main: Manifest, cluster: Cluster) -> list[Body]:
    """Those of the job, of all tries that are still there."""
    namespace = main.body["metadata"]["namespace"]
    run = main.body["metadata"]["labels"]["ragdist.io/run"]
    found = cluster.call("GET", f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"ragdist.io/run={run}") or {}
    return list(found.get("items", []))


def _ray_cluster(main: Manifest, found: Body, cluster: Cluster) -> Body:
    """The status of the Ray cluster that the pods belong to, with its name; empty where there is none."""
    if main.kind == "RayCluster":
        return found
    paths = ("rayClusterName", "pendingServiceStatus.rayClusterName", "activeServiceStatus.rayClusterName")
    name = next((name for path in paths if (name := at(found, f"status.{path}"))), None)
    namespace = main.body["metadata"]["namespace"]
    path = f"/apis/{main.body['apiVersion']}/namespaces/{namespace}/rayclusters/{name}"
    return cluster.call("GET", path) or {} if name else {}


def _events(main: Manifest, names: Sequence[str], cluster: Cluster) -> list[Body]:
    """Warnings about these objects, oldest first; none for who may not read events."""
    path = f"/api/v1/namespaces/{main.body['metadata']['namespace']}/events"
    try:
        found = cluster.call("GET", path, fieldSelector="type=Warning") or {}
    except ConfigError:  # survives a role without events
        return []
    ours = [
        one
        for one in mappings(found, "items")
        if one.get("type") == "Warning" and at(one, "involvedObject.name") in names
    ]
    return sorted(ours, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))


def _line(event: Body) -> str:
    about = at(event, "involvedObject", {})
    return _words(f"{about.get('kind', '')}/{about.get('name', '')}:", event.get("reason"), event.get("message"))


def _pod(pod: Body, events: Sequence[Body]) -> Pod:
    name, labels = pod["metadata"]["name"], at(pod, "metadata.labels", {})
    group = labels.get("ray.io/group") or ("submitter" if "job-name" in labels else "")
    phase = str(at(pod, "status.phase", "Unknown"))
    ours = [one for one in events if at(one, "involvedObject.name") == name]
    warned = _words(ours[-1].get("reason"), ours[-1].get("message")) if ours and phase == "Pending" else ""
    return Pod(name, group, phase, next(filter(None, _reasons(pod)), "") or warned or _unmet(pod))


def _reasons(pod: Body) -> Iterator[str]:
    """What a pod waits for or died of: it itself, then its containers in the order in which they start."""
    yield _words(at(pod, "status.reason"), at(pod, "status.message"))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in mappings(pod, f"status.{kind}"):
            said = _container(container)
            yield f"{container.get('name')}: {said}" if said and kind.startswith("init") else said


def _container(container: Body) -> str:
    """What it waits for or died of, and what it died of before that."""
    now = at(container, "state.waiting", {}) or at(container, "state.terminated", {})
    dull = now.get("reason") in DULL and not now.get("exitCode")
    before, count = at(container, "lastState.terminated", {}), number(container.get("restartCount"))
    again = f"restarted {count} times, the last: {_died(before)}" if before else ""
    return again if dull or not now else _words(_died(now), now.get("message"), f"({again})" if again else "")


def _died(state: Body) -> str:
    code = state.get("exitCode")
    return _words(state.get("reason"), f"(exit code {code})" if code else "")


def _unmet(body: Body) -> str:
    """What the first condition says that is not met, or that tells of pods that could not be made."""
    conditions = mappings(body, "status.conditions") or mappings(body, "conditions")
    bad = [
        one
        for one in conditions
        if one.get("message") and one.get("status") == ("True" if one.get("type") in BAD else "False")
    ]
    return _words(bad[0]["message"]) if bad else ""


def _words(*parts: object) -> str:
    """The parts that say something, in one line."""
    return " ".join(" ".join(str(part) for part in parts if part).split())
