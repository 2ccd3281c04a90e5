"""A finished run as a RayService: KubeRay keeps its pods, Ray Serve its replicas; each reads the run from the storage.

The run's folder is not on the machine that renders. It knows all settings of the run; what is told beside it is what
may be others where a run is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from ragdist.config import Settings
from ragdist.errors import ConfigError
from ragdist.kube import objects, pods, render
from ragdist.kube.objects import Manifest, named
from ragdist.kube.pods import SERVE

ENTRY = "ragdist.asking:serve_application"
"""What Ray Serve imports in the image."""
TOKEN = "RAGDIST_TOKEN"
PORT_NAME = "serve"
"""By which KubeRay knows the port of its service."""
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
"""What KubeRay adds itself to a head that names no port."""


def manifests(run: str, settings: Settings, told: Mapping[str, Any]) -> dict[str, list[Manifest]]:
    """Manifests by file name.

    Args:
        run: the folder of a finished run, as the pods see it; a relative one lies below `kube.mount`.
        settings: of `kube` and `serve`.
        told: of all settings, nested, those that the replicas are told.

    Raises:
        ConfigError: settings that cannot work in pods, or no memory of a replica.
    """
    kube, serve = settings.kube, settings.serve
    folder = PurePosixPath(kube.mount) / run
    _refuse(folder, settings)
    usual = folder.parent == PurePosixPath(kube.mount) / Settings().run.folder
    name = render.name_of(f"{folder.name if usual else folder}-serve")
    labels = objects.labels(settings, name, SERVE)
    spec = {
        "serveConfigV2": yaml.safe_dump(_config(folder, settings, told), sort_keys=False, allow_unicode=True),
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": _cluster(settings, name),
    }
    found = {
        "access.yaml": [objects.account(settings, name, labels)],
        "storage.yaml": objects.storage(settings, labels),
        "network.yaml": objects.policies(settings, name, labels),
        "service.yaml": [named("ray.io/v1", "RayService", name, settings, labels, spec=spec)],
    }
    ingress = found["network.yaml"][0]["spec"]["ingress"]
    ingress += objects.clients(settings, serve.port) + objects.monitors(kube, serve.port)
    return {file: documents for file, documents in found.items() if documents}


def _refuse(folder: PurePosixPath, settings: Settings) -> None:
    kube = settings.kube
    if folder == PurePosixPath(kube.mount):
        raise ConfigError("no run to serve; name its folder on the storage, as in `ragdist k8s render serve runs/demo`")
    if not folder.is_relative_to(kube.mount) or ".." in folder.parts:
        raise ConfigError(
            f"the run's folder {str(folder)!r} is not seen in the pods, which have {kube.mount}; copy it to the "
            "storage, with the folder data beside it, and name it by its path there, or change kube.mount"
        )
    if kube.queue:
        raise ConfigError(f"kube.queue={kube.queue} admits jobs that end, and a service does not; leave it out")
    render.refuse_deadlines(kube, "a service stays; leave it out")
    if not settings.serve.port:
        raise ConfigError("serve.port=0 takes any free port, which a Service could not name; set serve.port")


def _config(folder: PurePosixPath, settings: Settings, told: Mapping[str, Any]) -> Manifest:
    """What Ray Serve is to run."""
    serve = settings.serve
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": serve.port, "request_timeout_s": serve.proxy_timeout_s},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": folder.name,
                "route_prefix": "/",
                "import_path": ENTRY,
                "args": {"run": str(folder), "settings": dict(told)},
            }
        ],
    }


def _cluster(settings: Settings, name: str) -> Manifest:
    """Pods that wait for replicas, listen where clients ask, and know the token."""
    serve, kube = settings.serve, settings.kube
    head, workers = pods.serving(settings)
    spec = render.cluster(settings, name, SERVE, head, [workers])
    ours = [{"name": PORT_NAME, "containerPort": serve.port}]
    ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"] = ports + ours
    (group,) = spec["workerGroupSpecs"]
    if kube.autoscaling:
        group["replicas"] = group["minReplicas"] = math.ceil(serve.replicas / workers.ranks)
    container = group["template"]["spec"]["containers"][0]
    container["ports"] = ours
    if not serve.token_file:
        source = {"secretKeyRef": {"name": kube.secret, "key": TOKEN}}
        container["env"].append({"name": TOKEN, "valueFrom": source})
    return spec
