"""What the objects of one folder promise each other: a retry finds its run, ranks find slots, pods are shut off."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from ragdist.config import Settings, loader, strict
from ragdist.errors import ConfigError
from ragdist.kube import pods, service
from ragdist.kube.findings import Body, Manifest, Violation, at, cluster, mappings, number, ray_groups, volume_at
from ragdist.kube.hardening import size
from ragdist.kube.names import QUEUE
from ragdist.kube.pods import WorkerRequest
from ragdist.plan.seats import unreserved

COMMAND = re.compile(r"ragdist (?:train (raft|duet|atm)|(sweep (?:raft|atm))) (\S+)((?: \S+=\S*)*)")
CHANGES = re.compile(r"\$|`|\bdate\b|\buuidgen\b")
"""What makes an entrypoint another one each time."""
NO_FILE_SYSTEM = ("s3.csi.aws.com", "gcsfuse.csi.storage.gke.io")
"""Drivers that mount a bucket but neither append to files nor lock them."""
Found = Iterator[tuple[Manifest, Violation]]


def problems(documents: Sequence[Manifest]) -> Found:
    """What does not fit together among the objects of one folder."""
    policies = [one for one in documents if one.kind == "NetworkPolicy"]
    for document in documents:
        found = cluster(document)
        if found:
            yield from ((document, problem) for problem in _shut_off(*found, policies))
            yield from ((document, problem) for problem in _queued(document, *found))
        if document.kind == "RayJob":
            yield from ((document, problem) for problem in _resumes(document))
            yield from _runs(document, documents)
        if document.kind == "RayService":
            yield from ((document, problem) for problem in _serves(document))
        yield from ((document, problem) for problem in _kept(document))


def _kept(document: Manifest) -> Iterator[Violation]:
    """Storage that all pods can write, and no secret beside it."""
    body = document.body
    if document.kind == "PersistentVolumeClaim" and "ReadWriteMany" not in at(body, "spec.accessModes", []):
        modes = ", ".join(map(str, at(body, "spec.accessModes", [])))
        yield Violation("spec.accessModes", modes or "missing", "ReadWriteMany: all pods write there")
    if at(body, "spec.csi.driver") in NO_FILE_SYSTEM:
        wanted = "a driver whose files can be appended to, renamed and locked, such as csi.juicefs.com"
        yield Violation("spec.csi.driver", at(body, "spec.csi.driver"), wanted)
    for key in ("data", "stringData"):
        if document.kind == "Secret" and body.get(key):
            yield Violation(key, "a secret in clear", "none among manifests; `kubectl create secret` makes it")


def _shut_off(path: str, spec: Body, policies: Sequence[Manifest]) -> Iterator[Violation]:
    for group_path, _, group in ray_groups(path, spec):
        labels = at(group, "template.metadata.labels", {})
        if not any(_covers(policy, labels) for policy in policies):
            wanted = "labels that a NetworkPolicy of this folder selects, with policyTypes Ingress"
            yield Violation(f"{group_path}.template.metadata.labels", "no policy shuts these pods off", wanted)


def _covers(policy: Manifest, labels: Body) -> bool:
    selected = at(policy.body, "spec.podSelector.matchLabels", {})
    shuts = "Ingress" in at(policy.body, "spec.policyTypes", [])
    return shuts and bool(selected) and selected.items() <= labels.items()


def _resumes(document: Manifest) -> Iterator[Violation]:
    spec = at(document.body, "spec", {})
    entrypoint = str(spec.get("entrypoint", ""))
    if CHANGES.search(entrypoint):
        yield Violation("spec.entrypoint", entrypoint, "the same command at every retry, nothing that a shell fills in")
    if not spec.get("backoffLimit") and not spec.get("clusterSelector"):
        yield Violation(
            "spec.backoffLimit", str(spec.get("backoffLimit", 0)), "1 or more: a lost head ends the job else"
        )


def _queued(document: Manifest, path: str, cluster: Body) -> Iterator[Violation]:
    """What Kueue needs of a job or cluster that it admits."""
    if not at(document.body, "metadata.labels", {}).get(QUEUE):
        return
    spec, wanted = at(document.body, "spec", {}), f"with label {QUEUE}"
    if document.kind == "RayJob" and not spec.get("shutdownAfterJobFinishes"):
        yield Violation("spec.shutdownAfterJobFinishes", "not true", f"true {wanted}")
    if cluster.get("enableInTreeAutoscaling"):
        yield Violation(f"{path}.enableInTreeAutoscaling", "true", f"none {wanted}")
    if spec.get("clusterSelector"):
        yield Violation("spec.clusterSelector", "set", f"none {wanted}")


def _runs(job: Manifest, documents: Sequence[Manifest]) -> Found:
    """The command, the settings that it reads, the storage, and the slots that it will request."""
    command = COMMAND.fullmatch(str(at(job.body, "spec.entrypoint", "")))
    found = cluster(job)
    if not command or not found:
        return
    path, spec = found
    head = at(spec, "headGroupSpec.template.spec", {})
    holder = _mounted(head, command[3], documents)
    if holder is None:
        wanted = f"a ConfigMap of this folder that is mounted at {PurePosixPath(command[3]).parent}"
        yield job, Violation("spec.entrypoint", f"no {command[3]} in the head's pod", wanted)
        return
    name = PurePosixPath(command[3]).name
    try:
        values = strict.parse(str(at(holder.body, "data", {}).get(name)), name) or {}
        settings = loader.load(command[4].split(), base=values)
    except (ConfigError, AttributeError, ValueError) as error:
        yield (
            holder,
            Violation(f"data.{name}", " ".join(str(error).split())[:300], "settings as `ragdist settings` has"),
        )
        return
    if not settings.run.name:
        yield holder, Violation(f"data.{name}: run.name", "empty", "a name, so that every retry resumes the run")
    yield from ((job, one) for one in _stored(path, spec, settings.run.folder))
    kind: Any = (command[1] or command[2]).replace(" ", "-")
    yield from ((job, one) for one in _placed(path, spec, settings, kind))


def _serves(document: Manifest) -> Iterator[Violation]:
    """What Ray Serve is told, and whether it will find it in the pods."""
    where = "spec.serveConfigV2"
    try:
        told = strict.parse(str(at(document.body, where, "")), where)
    except ConfigError:
        told = None
    if not (applications := mappings(told, "applications")):
        yield Violation(where, "no YAML mapping with applications", "what `serve deploy` takes, written as a text")
        return
    if (host := at(told, "http_options.host")) not in ("0.0.0.0", "::"):
        yield Violation(f"{where}: http_options.host", str(host), "0.0.0.0: the proxy of a pod is asked from outside")
    found = cluster(document)
    for path, _, group in ray_groups(*found) if found else ():
        port = {one.get("name"): one.get("containerPort") for one in _containers(group, "ports")}.get(service.PORT_NAME)
        if port != at(told, "http_options.port", 8000):
            wanted = f"{at(told, 'http_options.port', 8000)}, named {service.PORT_NAME}, as http_options.port"
            yield Violation(f"{path}.template.spec.containers[0].ports", str(port), wanted)
    for place, application in enumerate(applications):
        yield from _application(f"{where}: applications[{place}]", application, found)


def _application(where: str, application: Body, found: tuple[str, Body] | None) -> Iterator[Violation]:
    """One that Ray Serve builds in the pods; of others than ours only the image knows what they are."""
    entry = str(application.get("import_path", ""))
    if entry.partition(".")[0] == "ragdist" and not _importable(entry):
        yield Violation(f"{where}.import_path", entry, service.ENTRY)
    if entry != service.ENTRY or not found:
        return
    try:
        settings = loader.load(at(application, "args.settings", {}))
    except ConfigError as error:
        told = " ".join(str(error).split())[:300]
        yield Violation(f"{where}.args.settings", told, "settings as `ragdist settings` has")
        return
    yield from _stored(*found, str(at(application, "args.run", "")))
    yield from _placed(*found, settings, pods.SERVE)
    if not settings.serve.token_file:
        yield from _token(*found)


def _importable(entry: str) -> bool:
    try:
        return callable(pkgutil.resolve_name(entry))
    except (ImportError, AttributeError, ValueError):
        return False


def _token(path: str, spec: Body) -> Iterator[Violation]:
    """A pod without its secret waits and says so; one that may do without starts, and no replica does."""
    for place, group in enumerate(mappings(spec, "workerGroupSpecs")):
        known = [one for one in _containers(group, "env") if one.get("name") == service.TOKEN]
        source = at(known[0], "valueFrom.secretKeyRef", {}) if known else {}
        if not (source.get("name") and source.get("key")) or source.get("optional"):
            where = f"{path}.workerGroupSpecs[{place}].template.spec.containers[0].env"
            wanted = "valueFrom.secretKeyRef of a secret that must be there, or serve.token_file"
            yield Violation(where, f"no {service.TOKEN} of a secret", wanted)


def _containers(group: Body, key: str) -> list[Body]:
    """A list of a group's first container, Ray's own."""
    return [one for container in mappings(group, "template.spec.containers")[:1] for one in mappings(container, key)]


def _mounted(pod: Body, file: str, documents: Sequence[Manifest]) -> Manifest | None:
    """The ConfigMap that a file of a pod comes from."""
    name = PurePosixPath(file).name
    volume = _volume(pod, file)
    map_name = at(volume, "configMap.name")
    maps = (one for one in documents if one.kind == "ConfigMap" and one.name == map_name)
    return next((one for one in maps if name in at(one.body, "data", {})), None)


def _volume(pod: Body, path: str) -> Body:
    """The volume of a pod's first container that holds a path; empty where none does."""
    return volume_at(pod, PurePosixPath(path).is_relative_to)


def _stored(path: str, spec: Body, folder: str) -> Iterator[Violation]:
    """The run's folder lies on a claim in every pod: each rank writes there, and the next cluster reads it."""
    for group_path, _, group in ray_groups(path, spec):
        pod = at(group, "template.spec", {})
        if "persistentVolumeClaim" not in _volume(pod, folder):
            wanted = f"a claim mounted over run.folder, {folder}"
            yield Violation(f"{group_path}.template.spec.volumes", "the run folder would end with the pod", wanted)


def _placed(path: str, spec: Body, settings: Settings, job: str) -> Iterator[Violation]:
    groups = mappings(spec, "workerGroupSpecs")
    for request in pods.requests(settings, job):
        asked = unreserved(request.labels)
        fits = [group for group in groups if asked.items() <= at(group, "labels", {}).items()]
        room = sum(number(group.get("maxReplicas")) * _room(group, request) for group in fits)
        if room < request.ranks:
            labelled = "".join(f", labelled {key}={value}" for key, value in asked.items())
            each = f"{request.cpus:g} CPUs and {request.gpus:g} GPUs{labelled}"
            wanted = f"slots for {request.ranks} ranks of {request.name} with {each}"
            yield Violation(f"{path}.workerGroupSpecs", f"slots for {room}", wanted)


def _room(group: Body, request: WorkerRequest) -> int:
    """Ranks that fit into one pod of a group."""
    needs = {"CPU": request.cpus, "GPU": request.gpus, **request.resources}
    has = {kind: _has(group, kind) for kind in needs}
    return min((int(has[kind] / needed + 1e-6) for kind, needed in needs.items() if needed), default=0)


def _has(group: Body, kind: str) -> float:
    """What the Ray node of a pod has, as KubeRay tells it: `resources`, else the pod's limits."""
    told = at(group, "resources", {})
    if told or kind not in ("CPU", "GPU"):
        return size(told.get(kind)) or 0
    limits = at(next(iter(mappings(group, "template.spec.containers")), {}), "resources.limits", {})
    keys = ["cpu"] if kind == "CPU" else [key for key in limits if key.endswith("gpu")]
    return sum(size(limits.get(key)) or 0 for key in keys)
