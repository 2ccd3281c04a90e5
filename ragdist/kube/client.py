"""A rendered folder on a cluster: submit, status, logs, delete, through the official client.

The objects are sent as the files have them. What outlives a job (claims, volumes) is made once and left alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from ragdist.errors import ConfigError
from ragdist.kube import check
from ragdist.kube import status as standing
from ragdist.kube.findings import Body, Manifest, at, mappings, pod_specs
from ragdist.kube.names import SUBDOMAIN
from ragdist.kube.request import PLURALS, Cluster, TakenError, path_of
from ragdist.kube.status import Status, finished
from ragdist.tracking.progress import say

__all__ = ["Cluster", "Status", "delete", "finished", "logs", "status", "submit"]
LASTING = ("PersistentVolume", "PersistentVolumeClaim")
ENDED = ("Succeeded", "Failed")
"""Phases of a pod that has ended."""
VERSION = re.compile(r"([a-z0-9.-]+/)?[a-z0-9]+")
"""An apiVersion."""
POLL_S = 1.0
LOST_S = 60.0
"""Longest time, in seconds, that the server may not answer while a log is followed."""
GONE_S = 180.0
"""Longest wait, in seconds, for an object that was deleted to be gone."""


def submit(folder: Path, cluster: Cluster) -> str:
    """Sends the objects of a folder from `render.write`, and gives the job's name; a job that ended begins again,
    and resumes from its run folder. A ConfigError if the job is under way, KubeRay is not installed, or the cluster
    refuses."""
    objects = _objects(folder)
    main = _main(objects, folder)
    try:
        there = cluster.call("GET", path_of(main.body))
        if main.kind == "RayJob" and there and at(there, "status.jobDeploymentStatus", "") not in standing.OVER:
            raise ConfigError(f"{main.name} is under way; `ragdist k8s status {folder}`, or `ragdist k8s delete` first")
        for document in objects:
            if document is main and there and main.kind == "RayJob":
                told = {"propagationPolicy": "Foreground", "preconditions": {"uid": at(there, "metadata.uid")}}
                cluster.call("DELETE", path_of(main.body), told)
                _await_gone(main, at(there, "metadata.uid"), cluster)
            _send(document, cluster)
    except TakenError:
        raise ConfigError(
            f"{main.name} is being submitted by somebody else; `ragdist k8s status {folder}` tells how it stands"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{main.kind}/{main.name} was not submitted: {error}") from None
    return main.name


def _send(document: Manifest, cluster: Cluster) -> None:
    """Makes an object, or changes the one that is there; others that are submitted at once may make it just now."""
    there = cluster.call("GET", path_of(document.body))
    if there and document.kind in LASTING:
        return
    if there and document.kind == "RayJob":
        raise TakenError
    if not there:
        try:
            made = cluster.call("POST", path_of(document.body, named=False), document.body)
        except TakenError:
            if document.kind == "RayJob":
                raise
            made, there = {}, document.kind not in LASTING
        if made is None:
            namespace = document.body["metadata"].get("namespace", "")
            raise ConfigError(
                f"{document.kind}/{document.name} has no place: namespace {namespace} or its kind is not there; "
                f"`kubectl create namespace {namespace}`, and install KubeRay"
            )
    if there:
        cluster.call("PATCH", path_of(document.body), document.body)
    say(f"{document.kind}/{document.name}: {'changed' if there else 'made'}")


def _await_gone(document: Manifest, uid: str | None, cluster: Cluster) -> None:
    end = time.monotonic() + GONE_S
    while (there := cluster.call("GET", path_of(document.body))) and at(there, "metadata.uid") == uid:
        if time.monotonic() > end:
            raise ConfigError(f"the {document.kind} of before is still there after {GONE_S:.0f} s")
        time.sleep(POLL_S)


def status(folder: Path, cluster: Cluster) -> Status:
    """How the folder's job stands, with each of its pods and what it waits for."""
    return standing.of(_main(_objects(folder), folder), cluster)


def logs(folder: Path, cluster: Cluster, follow: bool = False) -> Iterator[str]:
    """What the job's driver says, line by line; with `follow` until it ends, through cuts of the connection.

    Raises:
        ConfigError: it says nothing yet, or the server does not answer any more.
    """
    main = _main(_objects(folder), folder)
    ours = [pod for pod in standing.list_pods(main, cluster) if "job-name" in at(pod, "metadata.labels", {})]
    begun = [pod for pod in ours if at(pod, "status.phase") != "Pending"]
    if not begun:
        raise ConfigError(f"{main.name} says nothing yet; `ragdist k8s status {folder}` tells what it waits for")
    newest = max(begun, key=lambda pod: str(at(pod, "metadata.creationTimestamp", "")))
    rest = b""
    for part in _said(path_of({"apiVersion": "v1", "kind": "Pod", **newest}), cluster, follow):
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


def _said(pod: str, cluster: Cluster, follow: bool) -> Iterator[bytes]:
    """A pod's log as it comes; after a cut what was shown is left out, as each answer begins with the first byte."""
    shown, heard, wanted = 0, time.monotonic(), {"follow": "true"} if follow else {}
    while True:
        seen = 0
        try:
            if shown and cluster.call("GET", pod) is None:
                return
            for part in cluster.stream(f"{pod}/log", **wanted):
                fresh, seen = part[max(0, shown - seen) :], seen + len(part)
                shown, heard = max(shown, seen), time.monotonic()
                if fresh:
                    yield fresh
            if not follow or at(cluster.call("GET", pod), "status.phase") != "Running":
                return
        except ConfigError:
            if not follow or time.monotonic() - heard > LOST_S:
                raise
        time.sleep(POLL_S)


def delete(folder: Path, cluster: Cluster, storage: bool = False) -> list[str]:
    """Removes the folder's objects, the job first, and names them; claims and volumes stay unless `storage` says so. A
    ConfigError, and nothing is removed, if another job uses a claim that would go."""
    removed, objects = [], _objects(folder)
    if storage:
        _refuse_used([one for one in objects if one.kind == "PersistentVolumeClaim"], _main(objects, folder), cluster)
    for document in reversed(objects):
        if document.kind in LASTING and not storage:
            continue
        if cluster.call("DELETE", path_of(document.body), propagationPolicy="Background") is not None:
            removed.append(f"{document.kind}/{document.name}")
    return removed


def _refuse_used(claims: list[Manifest], main: Manifest, cluster: Cluster) -> None:
    for claim in claims:
        if users := sorted(_users(claim, main, cluster)):
            raise ConfigError(
                f"claim {claim.name} is used by {', '.join(users)}, whose runs would go with it; end what uses it "
                "first, or leave --storage out"
            )


def _users(claim: Manifest, main: Manifest, cluster: Cluster) -> Iterator[str]:
    """Pods and jobs that mount a claim, whether they have pods yet or not, other than ours."""
    run = at(main.body, "metadata.labels", {}).get("ragdist.io/run", "")
    place = {"namespace": at(claim.body, "metadata.namespace", "default")}
    for kind in ("Pod", "RayJob", "RayService", "RayCluster"):
        version = "v1" if kind == "Pod" else "ray.io/v1"
        about = {"apiVersion": version, "kind": kind, "metadata": place}
        for body in mappings(cluster.call("GET", path_of(about, named=False)), "items"):
            over = at(body, "status.phase") in ENDED or at(body, "status.jobDeploymentStatus") in standing.OVER
            itself = (kind, at(body, "metadata.name")) == (main.kind, main.name)
            ours = itself or at(body, "metadata.labels", {}).get("ragdist.io/run") == run
            owned = bool(at(body, "metadata.ownerReferences", [])) and kind != "Pod"  # its owner is asked
            found = Manifest("", {**body, "kind": kind})
            pods = [at(body, "spec", {})] if kind == "Pod" else [pod for _, pod in pod_specs(found)]
            mounted = {at(one, "persistentVolumeClaim.claimName") for pod in pods for one in mappings(pod, "volumes")}
            if claim.name in mounted and not (over or ours or owned):
                yield f"{kind}/{found.name}"


def _objects(folder: Path) -> list[Manifest]:
    """The folder's objects, in the order in which they are sent. A ConfigError if a file cannot be read, or holds what
    `render` does not write."""
    documents, unreadable = check.read(folder)
    if unreadable:
        raise ConfigError(str(unreadable[0]))
    strange = [one for one in documents if one.kind not in PLURALS]
    if strange:
        raise ConfigError(
            f"{strange[0].file} holds a {strange[0].kind}, which is not ours to send; send the folder by "
            f"`kubectl apply -k {folder}`"
        )
    if lost := [one for one in documents if not _has_address(one.body)]:
        raise ConfigError(
            f"{lost[0].file}: a {lost[0].kind} whose apiVersion, metadata.name and metadata.namespace make no address; "
            f"wanted those of a Kubernetes object, see `ragdist k8s check {folder}`"
        )
    return sorted(documents, key=lambda one: list(PLURALS).index(one.kind))


def _has_address(body: Body) -> bool:
    about = at(body, "metadata", {})
    names = (about.get("name"), about.get("namespace", "default"))
    return bool(VERSION.fullmatch(str(body.get("apiVersion")))) and all(
        SUBDOMAIN.fullmatch(str(name)) for name in names
    )


def _main(objects: list[Manifest], folder: Path) -> Manifest:
    found = [one for one in objects if one.kind in ("RayJob", "RayCluster", "RayService")]
    if len(found) != 1:
        raise ConfigError(
            f"{folder} holds {len(found)} RayJobs, RayServices and RayClusters, wanted one; "
            f"`ragdist k8s render JOB settings.yaml -o {folder}` makes such a folder"
        )
    return found[0]
