"""A rendered folder on a cluster: submit, status, logs, delete, through the official client.

The objects are sent as the files have them. What outlives a job (claims, volumes) is made once and left alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ragdist.errors import ConfigError, TrainError
from ragdist.kube import check
from ragdist.kube.findings import Body, Manifest, at, mappings
from ragdist.tracking.progress import say

PLURALS = {
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "NetworkPolicy": "networkpolicies",
    "RayCluster": "rayclusters",
    "RayJob": "rayjobs",
    "RayService": "rayservices",
}
"""What is sent, in this order, and how the API names it."""
LASTING = ("PersistentVolume", "PersistentVolumeClaim")
OVER = ("Complete", "Failed")
TIMEOUT_S = (10, 60)
"""Longest wait, in seconds, for a connection and for an answer."""
POLL_S = 1.0
GONE_S = 180.0
"""Longest wait, in seconds, for an object that was deleted to be gone."""


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


class Cluster:
    """The API server of a kubeconfig's context, empty for the current one; without a kubeconfig, of the cluster this
    pod is in. A ConfigError if no cluster is configured, or the client is not installed."""

    def __init__(self, context: str = "") -> None:
        try:
            import kubernetes as official
        except ImportError:
            raise ConfigError("ragdist k8s submit, status, logs and delete need `pip install ragdist[k8s]`") from None
        settings = official.client.Configuration()
        try:
            # Looked up now: theirs is from import.
            path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
            if context or os.environ.get("KUBECONFIG") or Path(path).exists():
                official.config.load_kube_config(path, context or None, settings)
            else:
                official.config.load_incluster_config(settings)
        except official.config.ConfigException as error:
            raise ConfigError(f"no Kubernetes cluster: {error}; set KUBECONFIG, or --context to one of it") from None
        self.api = official.client.ApiClient(settings)

    def call(self, method: str, path: str, body: Body | None = None, **query: str) -> Any:
        """One request; None where there is no such object. A ConfigError if the server cannot be reached or refuses."""
        answer = self._request(method, path, body, query)
        return None if answer.status == 404 else json.loads(answer.data)

    def text(self, path: str, **query: str) -> Iterator[str]:
        """Lines of an answer that is no JSON, as they come."""
        rest = b""
        for part in self._request("GET", path, None, query, whole=False).stream(4096):
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    def _request(self, method: str, path: str, body: Body | None, query: dict[str, str], whole: bool = True) -> Any:
        """An answer of the server; without `whole` it is read by the caller, for as long as it goes on."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers, told = {"Accept": "application/json", "Content-Type": kind}, list(query.items())
        self.api.update_params_for_auth(headers, told, ["BearerToken"])
        host, (connect_s, read_s) = self.api.configuration.host, TIMEOUT_S
        try:
            answer = self.api.rest_client.pool_manager.request(
                method,
                f"{host}{path}{'?' if told else ''}{urlencode(told)}",
                body=json.dumps(body) if body else None,
                headers=headers,
                timeout=Timeout(connect=connect_s, read=read_s if whole else None),
                preload_content=whole,
                retries=False,
            )
        except HTTPError as error:
            raise ConfigError(f"Kubernetes at {host} does not answer: {error}; see `kubectl cluster-info`") from None
        if answer.status >= 400 and answer.status != 404:
            raise ConfigError(f"{method} {path}: {answer.status} {_said(answer.data)}")
        return answer


def _said(answer: bytes) -> str:
    """The server's own words, in one line."""
    try:
        text = str(json.loads(answer)["message"])
    except (TypeError, ValueError, KeyError):
        text = answer.decode(errors="replace")
    return " ".join(text.split())[:300]


def path_of(body: Body, named: bool = True) -> str:
    """The API's path of an object, or of its kind in its namespace."""
    version, about = str(body["apiVersion"]), body["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{about['namespace']}" if "namespace" in about else ""
    return f"{root}{namespace}/{PLURALS[body['kind']]}" + (f"/{about['name']}" if named else "")


def submit(folder: Path, cluster: Cluster) -> str:
    """Sends the objects of a folder from `render.write`, and gives the job's name; a job that ended begins again,
    and resumes from its run folder. A ConfigError if the job is under way, KubeRay is not installed, or the cluster
    refuses."""
    objects = _objects(folder)
    main = _main(objects, folder)
    try:
        there = cluster.call("GET", path_of(main.body))
        if main.kind == "RayJob" and there and at(there, "status.jobDeploymentStatus", "") not in OVER:
            raise ConfigError(f"{main.name} is under way; `ragdist k8s status {folder}`, or `ragdist k8s delete` first")
        for document in objects:
            if document is main and there and main.kind == "RayJob":
                cluster.call("DELETE", path_of(main.body), propagationPolicy="Foreground")
                _await_gone(main, cluster)
            _send(document, cluster)
    except ConfigError as error:
        raise ConfigError(f"{main.kind}/{main.name} was not submitted: {error}") from None
    return main.name


def _send(document: Manifest, cluster: Cluster) -> None:
    there = cluster.call("GET", path_of(document.body))
    if there and document.kind in LASTING:
        return
    if there:
        cluster.call("PATCH", path_of(document.body), document.body)
    elif cluster.call("POST", path_of(document.body, named=False), document.body) is None:
        namespace = document.body["metadata"].get("namespace", "")
        raise ConfigError(
            f"{document.kind}/{document.name} has no place: namespace {namespace} or its kind is not there; "
            f"`kubectl create namespace {namespace}`, and install KubeRay"
        )
    say(f"{document.kind}/{document.name}: {'changed' if there else 'made'}")


def _await_gone(document: Manifest, cluster: Cluster) -> None:
    end = time.monotonic() + GONE_S
    while cluster.call("GET", path_of(document.body)):
        if time.monotonic() > end:
            raise ConfigError(f"the {document.kind} of before is still there after {GONE_S:.0f} s")
        time.sleep(POLL_S)


def status(folder: Path, cluster: Cluster) -> Status:
    """How the folder's job stands, with each of its pods and what it waits for."""
    main = _main(_objects(folder), folder)
    found = cluster.call("GET", path_of(main.body)) or {}
    told = at(found, "status", {})
    absent = "absent" if not found else "Initializing"
    return Status(
        name=main.name,
        state=str(told.get("jobDeploymentStatus") or told.get("serviceStatus") or told.get("state") or absent),
        job=str(told.get("jobStatus", "")),
        failed=int(told.get("failed", 0)),
        message=str(told.get("message") or told.get("reason") or _unmet(told)),
        pods=tuple(_pods(main, cluster)),
    )


def _pods(main: Manifest, cluster: Cluster) -> Iterator[Pod]:
    for pod in _raw_pods(main, cluster):
        labels = at(pod, "metadata.labels", {})
        group = labels.get("ray.io/group") or ("submitter" if "job-name" in labels else "")
        yield Pod(pod["metadata"]["name"], group, str(at(pod, "status.phase", "Unknown")), _why(pod))


def _raw_pods(main: Manifest, cluster: Cluster) -> list[Body]:
    namespace = main.body["metadata"]["namespace"]
    run = main.body["metadata"]["labels"]["ragdist.io/run"]
    found = cluster.call("GET", f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"ragdist.io/run={run}") or {}
    return list(found.get("items", []))


def _why(pod: Body) -> str:
    """What a pod waits for or died of."""
    for container in at(pod, "status.containerStatuses", []):
        for state in ("waiting", "terminated"):
            if reason := at(container, f"state.{state}.reason"):
                return " ".join(f"{reason} {at(container, f'state.{state}.message', '')}".split())
    return _unmet(at(pod, "status", {}))


def _unmet(status: Body) -> str:
    """What the first condition says that is not met."""
    unmet = [one for one in mappings(status, "conditions") if one.get("status") == "False" and one.get("message")]
    return " ".join(str(unmet[0]["message"]).split()) if unmet else ""


def logs(folder: Path, cluster: Cluster, follow: bool = False) -> Iterator[str]:
    """What the job's driver says, line by line; with `follow` until it ends; a ConfigError before the first."""
    main = _main(_objects(folder), folder)
    ours = [pod for pod in _raw_pods(main, cluster) if "job-name" in at(pod, "metadata.labels", {})]
    begun = [pod for pod in ours if at(pod, "status.phase") != "Pending"]
    if not begun:
        raise ConfigError(f"{main.name} says nothing yet; `ragdist k8s status {folder}` tells what it waits for")
    newest = max(begun, key=lambda pod: str(at(pod, "metadata.creationTimestamp", "")))
    about = newest["metadata"]
    wanted = {"follow": "true"} if follow else {}
    yield from cluster.text(f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}/log", **wanted)


def delete(folder: Path, cluster: Cluster, storage: bool = False) -> list[str]:
    """Removes the folder's objects, the job first, and names them; claims and volumes stay unless `storage` says so."""
    removed = []
    for document in reversed(_objects(folder)):
        if document.kind in LASTING and not storage:
            continue
        if cluster.call("DELETE", path_of(document.body), propagationPolicy="Background") is not None:
            removed.append(f"{document.kind}/{document.name}")
    return removed


def finished(found: Status) -> None:
    """Passes a job that is under way or complete, a TrainError if it failed for good."""
    if found.state == "Failed":
        raise TrainError(f"{found.name} failed {found.failed} times: {found.message}; `ragdist k8s logs` has the story")


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
    return sorted(documents, key=lambda one: list(PLURALS).index(one.kind))


def _main(objects: list[Manifest], folder: Path) -> Manifest:
    found = [one for one in objects if one.kind in ("RayJob", "RayCluster", "RayService")]
    if len(found) != 1:
        raise ConfigError(
            f"{folder} holds {len(found)} RayJobs, RayServices and RayClusters, wanted one; "
            f"`ragdist k8s render JOB settings.yaml -o {folder}` makes such a folder"
        )
    return found[0]
