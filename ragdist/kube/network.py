"""Who may talk with a job's pods, and whom they may reach: nobody but each other, DNS, and the ports that are named."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ragdist.config import Settings

RUN = "ragdist.io/run"
DASHBOARD = 8265
METADATA_SERVICE = "169.254.169.254/32"
"""Where clouds hand out a machine's own credentials; no pod needs them."""


def policies(settings: Settings, name: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """NetworkPolicy objects of a run's pods: head, ranks and submitter, told by the run's label."""
    ours: dict[str, Any] = {"podSelector": {"matchLabels": {RUN: name}}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.kube.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    egress: list[dict[str, Any]] = [
        {"to": [ours]},
        {"to": [dns], "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]},
    ]
    if teacher := _teacher(settings):
        egress.append({"ports": _tcp(*teacher)})  # it may be a pod of this cluster, which no address block names
    if ports := settings.kube.egress_ports:
        world = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [METADATA_SERVICE]}}, {"ipBlock": {"cidr": "::/0"}}]
        egress.append({"to": world, "ports": _tcp(*ports)})
    spec = {
        "podSelector": ours["podSelector"],
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [ours]}, {"from": [operator], "ports": _tcp(DASHBOARD)}],
        "egress": egress,
    }
    found = [_policy(settings, name, labels, spec)]
    if settings.kube.autoscaling:
        head = {"matchLabels": {RUN: name, "ray.io/node-type": "head"}}
        rules = [{"ports": _tcp(443, 6443)}]  # the address of the API server is the cluster's own affair
        spec = {"podSelector": head, "policyTypes": ["Egress"], "egress": rules}
        found.append(_policy(settings, f"{name}-autoscaler", labels, spec))
    return found


def _policy(settings: Settings, name: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    about = {"name": name, "namespace": settings.kube.namespace, "labels": dict(labels)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": about, "spec": spec}


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _teacher(settings: Settings) -> set[int]:
    """The port of the teacher's endpoint, if there is one."""
    if not settings.teacher.url:
        return set()
    url = urlsplit(settings.teacher.url)
    return {url.port or (443 if url.scheme == "https" else 80)}
