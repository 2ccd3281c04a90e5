"""What a job needs beside its pods: an account that may do nothing, storage, and policies that shut its pods off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ragdist.config import KubeConfig, Settings
from ragdist.config.kube import block

Manifest = dict[str, Any]
OURS = {"app.kubernetes.io/name": "ragdist"}
RUN, JOB = "ragdist.io/run", "ragdist.io/job"
"""Labels of everything that is rendered, and of the pods."""
DASHBOARD = 8265
METRICS = 8080
"""Of every Ray node, as KubeRay starts it."""
METADATA_SERVERS = (
    *("169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", "100.100.100.200/32", "168.63.129.16/32"),
)
"""Where clouds hand out a machine's own credentials; a pod needs them for its own identity at most."""
METADATA_SERVERS_V6 = ("fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128")
GKE_IDENTITY = ("169.254.169.254:80", "169.254.169.252:988")
"""Where a pod on GKE becomes the account that its service account is bound to."""


def labels(settings: Settings, name: str, job: str) -> dict[str, str]:
    """Of everything that is rendered for a run, and of its pods."""
    told = dict(settings.kube.labels)
    if "azure.workload.identity/client-id" in settings.kube.account_annotations:
        told["azure.workload.identity/use"] = "true"
    return {**told, **OURS, RUN: name, JOB: job}


def named(version: str, kind: str, name: str, settings: Settings, labels: Mapping[str, str], **body: Any) -> Manifest:
    """An object of the namespace with these labels."""
    about = {"name": name, "namespace": settings.kube.namespace, "labels": dict(labels)}
    return {"apiVersion": version, "kind": kind, "metadata": about, **body}


def account(settings: Settings, name: str, labels: dict[str, str]) -> Manifest:
    """The pods' account: it may do nothing, and its token is not in the pods."""
    found = named("v1", "ServiceAccount", name, settings, labels, automountServiceAccountToken=False)
    if settings.kube.account_annotations:
        found["metadata"]["annotations"] = dict(settings.kube.account_annotations)
    return found


def storage(settings: Settings, labels: dict[str, str]) -> list[Manifest]:
    """The claim that holds run folders, and for a bucket the volume behind it. They outlive the job."""
    kube = settings.kube
    if kube.storage == "existing":
        return []
    own = {key: value for key, value in labels.items() if key not in (RUN, JOB)}  # shared by all runs
    size = {"storage": f"{kube.storage_gib}Gi"}
    spec: Manifest = {"accessModes": ["ReadWriteMany"], "resources": {"requests": size}}
    if kube.storage == "claim":
        if kube.storage_class:
            spec["storageClassName"] = kube.storage_class
        return [named("v1", "PersistentVolumeClaim", kube.claim, settings, own, spec=spec)]
    volume = named("v1", "PersistentVolume", f"{kube.namespace}-{kube.claim}", settings, own)
    del volume["metadata"]["namespace"]
    secret = {"name": kube.s3_secret, "namespace": kube.namespace}
    volume["spec"] = {
        "capacity": size,
        "volumeMode": "Filesystem",
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"name": kube.claim, "namespace": kube.namespace},
        "csi": {
            "driver": kube.s3_driver,
            "volumeHandle": volume["metadata"]["name"],
            "nodePublishSecretRef": secret,
        },
    }
    spec |= {"storageClassName": "", "volumeName": volume["metadata"]["name"]}
    return [volume, named("v1", "PersistentVolumeClaim", kube.claim, settings, own, spec=spec)]


def policies(settings: Settings, name: str, labels: dict[str, str]) -> list[Manifest]:
    """Who may talk with a run's pods, told by its label, and whom they may reach: nobody but each other, DNS, and the
    ports that are named."""
    ours: Manifest = {"podSelector": {"matchLabels": {RUN: name}}}
    kube = settings.kube
    egress: list[Manifest] = [{"to": [ours]}, _dns(kube)]
    for address in metadata_servers(kube):
        cidr, port = block(address)
        egress.append({"to": [{"ipBlock": {"cidr": cidr}}], "ports": _tcp(port)})
    if teacher := _teacher(settings):
        egress.append({"ports": _tcp(*teacher)})  # it may be a pod of this cluster, which no address block names
    if ports := kube.egress_ports:
        blocks = {"0.0.0.0/0": METADATA_SERVERS, "::/0": METADATA_SERVERS_V6}
        world = [{"ipBlock": {"cidr": cidr, "except": list(without)}} for cidr, without in blocks.items()]
        egress.append({"to": world, "ports": _tcp(*ports)})
    spec = {
        "podSelector": ours["podSelector"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [ours]},
            {"from": [_operator(settings)], "ports": _tcp(DASHBOARD)},
            *monitors(kube, METRICS),
        ],
        "egress": egress,
    }
    found = [named("networking.k8s.io/v1", "NetworkPolicy", name, settings, labels, spec=spec)]
    if kube.autoscaling:
        head = {"matchLabels": {RUN: name, "ray.io/node-type": "head"}}
        rules = [{"ports": _tcp(443, 6443)}]  # the address of the API server is the cluster's own affair
        spec = {"podSelector": head, "policyTypes": ["Egress"], "egress": rules}
        found.append(named("networking.k8s.io/v1", "NetworkPolicy", f"{name}.autoscaler", settings, labels, spec=spec))
    return found


def _dns(kube: KubeConfig) -> Manifest:
    """The way to DNS: its pods, and what machines have of their own. OpenShift's pods listen on 5353."""
    pods: Manifest = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.dns_namespace}}}
    usual = kube.dns_namespace == "kube-system"
    if usual:
        names = ["kube-dns", "node-local-dns"]
        pods["podSelector"] = {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": names}]}
    ports = [{"protocol": kind, "port": port} for port in (53, *(() if usual else (5353,))) for kind in ("UDP", "TCP")]
    return {"to": [pods, *({"ipBlock": {"cidr": block}} for block in kube.dns_addresses)], "ports": ports}


def metadata_servers(kube: KubeConfig) -> tuple[str, ...]:
    """Address and port of each that pods may reach."""
    bound = "iam.gke.io/gcp-service-account" in kube.account_annotations
    return (*kube.metadata_servers, *(GKE_IDENTITY if bound else ()))


def monitors(kube: KubeConfig, port: int) -> list[Manifest]:
    """Prometheus may read this port, where its namespace is known."""
    if not kube.prometheus_namespace:
        return []
    space = {"matchLabels": {"kubernetes.io/metadata.name": kube.prometheus_namespace}}
    return [{"from": [{"namespaceSelector": space}], "ports": _tcp(port)}]


def _tcp(*ports: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _teacher(settings: Settings) -> set[int]:
    """The port of the teacher's endpoint, if there is one."""
    if not settings.teacher.url:
        return set()
    url = urlsplit(settings.teacher.url)
    return {url.port or (443 if url.scheme == "https" else 80)}


def clients(settings: Settings, port: int) -> list[Manifest]:
    """Who may ask a run that is served at this port: pods of `kube.clients`; the operator asks whether it is well."""
    names = settings.kube.clients or (settings.kube.namespace,)
    spaces = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(names)}]}
    return [{"from": [{"namespaceSelector": spaces}, _operator(settings)], "ports": _tcp(port)}]


def _operator(settings: Settings) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.kube.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
