"""What the API server (and, of images, the kubelet) refuses in names, keys, ports, quantities and addresses, wherever
in an object they are: a schema takes any text there, and a Ray object's pods are only looked at when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any, NamedTuple

from ragdist.kube.findings import Body, Manifest, Violation, at, mappings, pod_specs
from ragdist.kube.hardening import QUANTITY, size

QUEUE = "kueue.x-k8s.io/queue-name"
PART = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = re.compile(rf"(?=.{{1,253}}$){PART}(\.{PART})*")
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY = re.compile(rf"((?=[^/]{{1,253}}/){PART}(\.{PART})*/)?{WORD}")
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
WITH_DOT = r"[A-Za-z0-9][-A-Za-z0-9]*(\.[A-Za-z0-9][-A-Za-z0-9]*)+"
HOST = rf"(localhost|{WITH_DOT}|\[[0-9a-fA-F:]+\]|[A-Za-z0-9][-A-Za-z0-9.]*(?=:))"
FOLDER = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
IMAGE = re.compile(rf"({HOST}(:\d+)?/)?{FOLDER}(/{FOLDER})*(:\w[\w.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?", re.ASCII)
STANDARD = ("cpu", "memory", "storage", "ephemeral-storage")
"""Resources without a domain before them; pages of memory (`hugepages-2Mi`) are the others."""
LARGEST_MAP = 2**20
"""Bytes of a ConfigMap's texts, together."""
OPAQUE = ("data", "binaryData", "stringData", "rayStartParams")
"""Maps whose keys are nobody's names; a ConfigMap's are files."""


class Rule(NamedTuple):
    """What a text must be. Example: Rule("a port's name", PORT_NAME.fullmatch)"""

    wanted: str
    holds: Callable[[str], Any]


def _cidr(text: str) -> bool:
    try:
        return bool(ip_network(text)) and "/" in text
    except ValueError:
        return False


def _one_of(*values: str) -> Rule:
    return Rule(" or ".join(values), values.__contains__)


NAME = Rule("lower case letters, digits, dashes and dots, at most 253", SUBDOMAIN.fullmatch)
LABEL = Rule("lower case letters, digits and dashes, at most 63", re.compile(PART).fullmatch)
QUALIFIED = Rule("a key such as example.com/name: letters, digits, -, _ and . in it, at most 63", KEY.fullmatch)
VALUE = Rule("letters, digits, -, _ and ., at most 63", re.compile(f"({WORD})?").fullmatch)
FILE = Rule("letters, digits, -, _ and .", re.compile(r"(?!\.\.?$|\.\.)[-._A-Za-z0-9]{1,253}").fullmatch)
PORT = Rule("a port from 1 to 65535, or a port's name of at most 15", PORT_NAME.fullmatch)
TEXTS = {
    r"metadata\.namespace": LABEL,
    r"(containers|initContainers|volumes|volumeMounts)\[\]\.name": LABEL,
    r"(imagePullSecrets\[\]|configMap|claimRef|(secret|configMap)(Key)?Ref|\w+SecretRef)\.name": NAME,
    r"claimName|secretName|serviceAccountName|priorityClassName|runtimeClassName|volumeName|csi\.driver": NAME,
    r"storageClassName": Rule(f"{NAME.wanted}; or empty", lambda text: not text or SUBDOMAIN.fullmatch(text)),
    r"(secretKeyRef|configMapKeyRef)\.key": FILE,
    r"env\[\]\.name": Rule(
        "letters, digits, -, _ and ., no digit first", re.compile(r"[-._A-Za-z][-._\w]*", re.A).fullmatch
    ),
    r"workerGroupSpecs\[\]\.groupName": VALUE,
    r"ports\[\]\.name": Rule("a port's name: lower case letters, digits and dashes, at most 15", PORT_NAME.fullmatch),
    r"image": Rule("[registry/]name[:tag][@digest], the name in lower case", IMAGE.fullmatch),
    r"(matchExpressions\[\]|tolerations\[\])\.key": QUALIFIED,
    r"matchExpressions\[\]\.values\[\]|tolerations\[\]\.value": VALUE,
    r"tolerations\[\]\.operator": _one_of("Exists", "Equal"),
    r"tolerations\[\]\.effect": _one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
    r"restartPolicy": _one_of("Always", "OnFailure", "Never"),
    r"imagePullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    r"protocol": _one_of("TCP", "UDP", "SCTP"),
    r"policyTypes\[\]": _one_of("Ingress", "Egress"),
    r"accessModes\[\]": _one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"),
    r"persistentVolumeReclaimPolicy": _one_of("Retain", "Delete", "Recycle"),
    r"ipBlock\.(cidr|except\[\])": Rule("a block of addresses such as 10.0.0.0/8", _cidr),
    r"sizeLimit|capacity\.\w+": Rule("a quantity such as 4Gi", QUANTITY.fullmatch),
    r"mountPath": Rule("a path without a colon", re.compile(r"[^:]+").fullmatch),
    r"(port|containerPort|hostPort|targetPort|nodePort)": PORT,
}
"""Rules of texts by the end of their path."""
PLACES = [(re.compile(rf"(.*\.)?({place})"), rule) for place, rule in TEXTS.items()]
NUMBERS = {
    "terminationGracePeriodSeconds": range(2**63),
    **dict.fromkeys(("port", "containerPort", "hostPort", "targetPort", "nodePort"), range(1, 65536)),
    **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), range(2**31)),
}


def problems(document: Manifest) -> Iterator[Violation]:
    """What would be refused in an object of any kind."""
    rule = LABEL if document.kind in ("Namespace", "Service") else NAME
    if not document.kind.startswith("Ray") and not rule.holds(document.name):
        yield Violation("metadata.name", repr(document.name), rule.wanted)
    queue = at(document.body, "metadata.labels", {}).get(QUEUE, "queue")
    if not SUBDOMAIN.fullmatch(str(queue)):
        yield Violation("metadata.labels", f"{QUEUE}: {queue}", f"a queue's name: {NAME.wanted}")
    if document.kind == "ConfigMap":
        yield from _files(at(document.body, "data", {}))
    yield from _walk(document.body, "")
    for path, pod in pod_specs(document):
        yield from _pod(path, pod)


def _files(data: Body) -> Iterator[Violation]:
    """The texts of a ConfigMap."""
    for key in data:
        if not FILE.holds(str(key)):
            yield Violation("data", repr(key), FILE.wanted)
    if (total := sum(len(str(text).encode()) for text in data.values())) > LARGEST_MAP:
        yield Violation("data", f"{total} bytes", f"at most {LARGEST_MAP}")


def _walk(body: Any, path: str) -> Iterator[Violation]:
    if isinstance(body, list):
        for number, one in enumerate(body):
            yield from _walk(one, f"{path}[{number}]")
    elif isinstance(body, dict):
        for key, value in body.items():
            yield from _entry(str(key), value, f"{path}.{key}".removeprefix("."))
    elif isinstance(body, str):
        plain = re.sub(r"\[\d+\]", "[]", path)
        yield from (
            Violation(path, repr(body), rule.wanted)
            for at, rule in PLACES
            if at.fullmatch(plain) and not rule.holds(body)
        )
    elif isinstance(body, int) and body not in NUMBERS.get(path.rpartition(".")[2], (body,)):
        among = NUMBERS[path.rpartition(".")[2]]
        yield Violation(path, str(body), f"{among.start} to {among.stop - 1}")


def _entry(key: str, value: Any, path: str) -> Iterator[Violation]:
    if not isinstance(value, dict):
        yield from _walk(value, path)
    elif key in ("labels", "matchLabels", "nodeSelector", "annotations"):
        for name, told in value.items():
            keyed = QUALIFIED.holds(str(name).lower() if key == "annotations" else str(name))
            if not keyed or (key != "annotations" and isinstance(told, str) and not VALUE.holds(told)):
                yield Violation(
                    path,
                    f"{name}: {told}",
                    f"{QUALIFIED.wanted}; a value of {VALUE.wanted}" if keyed else QUALIFIED.wanted,
                )
    elif key in ("limits", "requests"):
        yield from _resources(value, path)
    elif key not in OPAQUE:
        yield from _walk(value, path)


def _resources(told: Body, path: str) -> Iterator[Violation]:
    for name, count in told.items():
        extended = "/" in str(name)
        if not QUALIFIED.holds(str(name)) or not (extended or name in STANDARD or str(name).startswith("hugepages-")):
            yield Violation(
                path, str(name), f"{', '.join(STANDARD)}, or a name with its domain, such as nvidia.com/gpu"
            )
        elif not QUANTITY.fullmatch(str(count)) or str(count).startswith("-"):
            yield Violation(f"{path}.{name}", str(count), "a quantity such as 4Gi or 500m, not below 0")
        elif extended and not str(count).isdigit():
            yield Violation(f"{path}.{name}", str(count), "a whole number")


def _pod(path: str, pod: Body) -> Iterator[Violation]:
    """What one pod's lists promise each other."""
    volumes = [str(one.get("name")) for one in mappings(pod, "volumes")]
    containers = [
        (kind, number, one)
        for kind in ("initContainers", "containers")
        for number, one in enumerate(mappings(pod, kind))
    ]
    yield from _repeated(f"{path}.volumes", volumes)
    yield from _repeated(f"{path}.containers", [str(one.get("name")) for *_, one in containers])
    for number, one in enumerate(mappings(pod, "tolerations")):
        where = f"{path}.tolerations[{number}]"
        if one.get("operator") == "Exists" and one.get("value"):
            yield Violation(f"{where}.value", str(one["value"]), "none with operator: Exists")
        if "tolerationSeconds" in one and one.get("effect") != "NoExecute":
            yield Violation(f"{where}.tolerationSeconds", str(one["tolerationSeconds"]), "effect: NoExecute beside it")
    for kind, number, container in containers:
        where = f"{path}.{kind}[{number}]"
        mounts = mappings(container, "volumeMounts")
        yield from _repeated(f"{where}.volumeMounts", [str(one.get("mountPath")) for one in mounts])
        for place, mount in enumerate(mounts):
            if str(mount.get("name")) not in volumes:
                yield Violation(f"{where}.volumeMounts[{place}].name", str(mount.get("name")), "a volume of the pod")
        yield from _above(f"{where}.resources.requests", at(container, "resources", {}))


def _repeated(path: str, names: list[str]) -> Iterator[Violation]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Violation(path, f"a second {name}", "each only once")


def _above(path: str, resources: Body) -> Iterator[Violation]:
    """Requests above their limits, or unlike them where a device cannot be shared."""
    limits = at(resources, "limits", {})
    for name, asked in at(resources, "requests", {}).items():
        most, least = size(limits.get(name)), size(asked)
        whole = "/" in str(name) or str(name).startswith("hugepages-")
        if least is not None and ((whole and least != most) or (most is not None and least > most)):
            yield Violation(f"{path}.{name}", str(asked), f"{'' if whole else 'at most '}the limit, {limits.get(name)}")
