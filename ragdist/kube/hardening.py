"""What a pod of ours must be: it may do nothing but its work, takes no more than it says, and runs a known image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ragdist.kube.findings import Body, Manifest, Violation, at, cluster, mappings, pod_specs, ray_groups, volume_at

SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY)", re.I)
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|xox[abprs]-[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
PINNED = re.compile(r".+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9_][A-Za-z0-9_.-]*)")
LEAST_GRACE_S = 60
"""Seconds: Ray drains a machine in 30, and a rank saves after the step that it is in."""
UNITS = {"": 1.0} | {unit: 1000.0 ** (power - 3) for power, unit in enumerate(("n", "u", "m", "", "k", *"MGTPE"))}
UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)}
QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(|[KMGTPE]i|[numkMGTPE])")


def problems(document: Manifest) -> Iterator[Violation]:
    """What is not as it must be in the pods of a RayJob, RayService or RayCluster."""
    found = cluster(document)
    if found:
        path, spec = found
        if at(spec, "authOptions.mode") != "token":
            yield Violation(f"{path}.authOptions.mode", str(at(spec, "authOptions.mode", "missing")), "token")
        yield from _exposed(f"{path}.headGroupSpec", at(spec, "headGroupSpec", {}))
        for group_path, _, group in ray_groups(path, spec):
            yield from _shared_memory(group_path, group)
    scales = bool(found and found[1].get("enableInTreeAutoscaling"))
    for path, pod in pod_specs(document):
        submitter = "submitterPodTemplate" in path
        yield from _pod(path, pod, needs_token=scales and ".headGroupSpec." in path)
        if not submitter and _seconds(pod) < LEAST_GRACE_S:
            yield Violation(f"{path}.terminationGracePeriodSeconds", str(_seconds(pod)), f"{LEAST_GRACE_S} or more")
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(mappings(pod, kind)):
                yield from _container(f"{path}.{kind}[{number}]", container, at(pod, "securityContext", {}))


def _seconds(pod: Body) -> int:
    found = pod.get("terminationGracePeriodSeconds", 30)
    return found if isinstance(found, int) else 0


def _exposed(path: str, head: Body) -> Iterator[Violation]:
    """The dashboard is a remote shell; it stays in the cluster."""
    for key in ("serviceType", "headService.spec.type"):
        if at(head, key, "ClusterIP") != "ClusterIP":
            yield Violation(f"{path}.{key}", str(at(head, key)), "ClusterIP: the dashboard runs whatever it is sent")
    if head.get("enableIngress"):
        yield Violation(f"{path}.enableIngress", "true", "none: the dashboard runs whatever it is sent")


def _pod(path: str, pod: Body, *, needs_token: bool) -> Iterator[Violation]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield Violation(f"{path}.{key}", "true", "none")
    for number, volume in enumerate(mappings(pod, "volumes")):
        if "hostPath" in volume:
            yield Violation(f"{path}.volumes[{number}].hostPath", "a folder of the machine", "a claim or emptyDir")
    if pod.get("automountServiceAccountToken") is not False and not needs_token:
        wanted = "false: no process here talks with the API server"
        yield Violation(f"{path}.automountServiceAccountToken", "not false", wanted)
    if at(pod, "securityContext.seccompProfile.type") not in ("RuntimeDefault", "Localhost"):
        yield Violation(f"{path}.securityContext.seccompProfile", "none", "type: RuntimeDefault")


def _container(path: str, container: Body, pod_context: Body) -> Iterator[Violation]:
    context = at(container, "securityContext", {})
    if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
        yield Violation(f"{path}.securityContext.runAsNonRoot", "not true", "true, here or for the pod")
    if context.get("allowPrivilegeEscalation") is not False:
        yield Violation(f"{path}.securityContext.allowPrivilegeEscalation", "not false", "false")
    if context.get("privileged"):
        yield Violation(f"{path}.securityContext.privileged", "true", "none")
    if "ALL" not in at(context, "capabilities.drop", []):
        yield Violation(f"{path}.securityContext.capabilities.drop", str(at(context, "capabilities.drop", [])), "[ALL]")
    for kind in ("cpu", "memory"):
        if not at(container, f"resources.limits.{kind}"):
            yield Violation(f"{path}.resources.limits.{kind}", "missing", "a limit")
    image = str(container.get("image", ""))
    if not PINNED.fullmatch(image.rpartition("/")[2]):
        yield Violation(f"{path}.image", repr(image), "a tag other than latest, or a digest")
    for number, variable in enumerate(mappings(container, "env")):
        name = str(variable.get("name", ""))
        if secret(name, variable.get("value")):
            where = f"{path}.env[{number}].value"
            yield Violation(where, f"the value of {name}", "valueFrom.secretKeyRef, or envFrom a secret")


def secret(name: str, value: Any) -> bool:
    """Whether a variable of this name and value is one."""
    named = SECRET_NAME.search(name) and not name.endswith("_PATH")
    return bool(value and (named or SECRET_VALUE.search(str(value))))


def _shared_memory(path: str, group: Body) -> Iterator[Violation]:
    """Ray's object store lies in /dev/shm, which is 64 MiB where nobody makes it larger."""
    pod = at(group, "template.spec", {})
    volume = volume_at(pod, "/dev/shm".__eq__)
    if not volume:
        return  # KubeRay adds one as large as the pod's memory
    where = f"{path}.template.spec.volumes"
    if at(volume, "emptyDir.medium") != "Memory":
        yield Violation(where, f"{volume['name']} on disk at /dev/shm", "emptyDir.medium: Memory")
    store = size(at(group, "rayStartParams.object-store-memory"))
    room = size(at(volume, "emptyDir.sizeLimit"))
    if store and room and room < store:
        where = f"{where}[{mappings(pod, 'volumes').index(volume)}].emptyDir.sizeLimit"
        yield Violation(where, str(at(volume, "emptyDir.sizeLimit")), f"object-store-memory, {int(store)}, or more")


def size(quantity: Any) -> float | None:
    """Bytes (or units) of a Kubernetes quantity such as 4Gi; None where it is none."""
    match = QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * UNITS[match[2]] if match else None


def in_clear(body: Any, path: str = "") -> Iterator[Violation]:
    """Texts that look like a key or a token, anywhere in an object."""
    if isinstance(body, dict):
        for key, value in body.items():
            yield from in_clear(value, f"{path}.{key}".removeprefix("."))
    elif isinstance(body, list):
        for number, value in enumerate(body):
            yield from in_clear(value, f"{path}[{number}]")
    elif isinstance(body, str) and (match := SECRET_VALUE.search(body)):
        yield Violation(path, f"what looks like a secret, {match[0][:6]}...", "a Secret that is made by hand")
