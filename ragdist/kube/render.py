"""The manifests of a job: a folder of YAML for `kubectl apply -k`, or for `ragdist k8s submit`.

    settings.yaml   ConfigMap: the settings, as the driver reads them        access.yaml    ServiceAccount
    storage.yaml    PersistentVolumeClaim (s3: and PersistentVolume)         network.yaml   NetworkPolicy
    job.yaml        RayJob; `standing`: cluster.yaml, a RayCluster           kustomization.yaml
    service.yaml    RayService in place of job and settings: `service.py`
    monitor.yaml    PodMonitor, and dashboard.yaml, alone: `monitoring.py`

The driver runs in the head's pod, which has no slots; ranks run in groups of pods that carry the labels the job asks
for. A retry begins with new pods and the same run name, so it resumes from the run's folder.
"""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

from ragdist import __version__
from ragdist.config import KubeConfig, Settings
from ragdist.errors import ConfigError
from ragdist.kube import objects, pods
from ragdist.kube.hardening import secret
from ragdist.kube.names import QUEUE
from ragdist.kube.objects import Manifest, named
from ragdist.kube.pods import SERVE, KubeJob, Pods
from ragdist.plan.layout import Plan
from ragdist.storage.atomic import make_folder
from ragdist.tracking.progress import say
from ragdist.tracking.run import run_folder

SETTINGS_FOLDER = "/etc/ragdist"
FILES = (
    *("settings.yaml", "access.yaml", "storage.yaml", "network.yaml", "job.yaml", "cluster.yaml", "service.yaml"),
    *("monitor.yaml", "dashboard.yaml"),
)
LONGEST_NAME = 47
"""Characters of a RayJob's name: KubeRay makes longer ones of it."""
LOST_S = 30
"""Seconds that a pod stays with a machine that is lost; by default they are the 300 in which KubeRay gives up."""
REMOTE = re.compile(r"[a-z0-9]+://")


def render(settings: Settings, job: KubeJob, plan: Plan, standing: bool = False) -> dict[str, list[Manifest]]:
    """Manifests by file name, by the plan of `pods.system(job)` for machines that are not known; with `standing` a
    RayCluster for `ray job submit` in place of a RayJob. A ConfigError for settings that cannot work in pods."""
    run = settings.run.name or run_folder(settings, job).name
    inside = pods.for_pods(settings, job, run)
    _refuse(inside, standing)
    name = name_of(run)
    spec = cluster(inside, name, job, pods.head(inside, job, plan), pods.groups(inside, job, plan))
    labels = objects.labels(inside, name, job)
    found = {
        "settings.yaml": [named("v1", "ConfigMap", f"{name}-settings", inside, labels)],
        "access.yaml": [objects.account(inside, name, labels)],
        "storage.yaml": objects.storage(inside, labels),
        "network.yaml": objects.policies(inside, name, labels),
    }
    told = differences(inside.model_dump(mode="json"), Settings().model_dump(mode="json"))
    found["settings.yaml"][0]["data"] = {"settings.yaml": yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}
    if standing:
        found["cluster.yaml"] = [named("ray.io/v1", "RayCluster", name, inside, _queued(inside, labels), spec=spec)]
    else:
        found["job.yaml"] = [_job(inside, name, job, labels, spec)]
    return {file: manifests for file, manifests in found.items() if manifests}


def write(manifests: dict[str, list[Manifest]], folder: Path) -> list[Path]:
    """Writes the files and a kustomization of them, in place of what was rendered there before; other files stay."""
    make_folder(folder, "give --to another place")
    for name in set(FILES) - manifests.keys():
        (folder / name).unlink(missing_ok=True)
    listed = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(manifests)}
    written = []
    for name, documents in {**manifests, "kustomization.yaml": [listed]}.items():
        (folder / name).write_text(yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, allow_unicode=True))
        written.append(folder / name)
    return written


class _Blocks(yaml.SafeDumper):
    """Texts of several lines as they are, nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Blocks.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def differences(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Those values that are not the usual ones, at any depth."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(usual.get(key), dict):
            if other := differences(value, usual[key]):
                found[key] = other
        elif key not in usual or value != usual[key]:
            found[key] = value
    return found


def name_of(run: str) -> str:
    """The run's name as Kubernetes takes it for a RayJob: lower case letters, digits, dashes, at most 47. One that is
    not of this form is told from all that look like it by its hash."""
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    name = name if name[:1].isalpha() else f"run-{name}".rstrip("-")
    if name != run or len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 7].rstrip('-')}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"
    return name


def _refuse(settings: Settings, standing: bool) -> None:
    """Stops settings that would only fail in the pods, by a ConfigError."""
    kube = settings.kube
    for name, value in kube.env.items():
        if secret(name, value):
            raise ConfigError(
                f"kube.env.{name} would be a secret in clear; put it into the secret {kube.secret!r} instead"
            )
    if standing:
        refuse_deadlines(kube, "a cluster stays; leave it or --cluster out")
    if kube.queue and kube.autoscaling:
        raise ConfigError(
            f"kube.queue={kube.queue} admits a job with all of its pods, kube.autoscaling=true adds pods later; "
            "choose one of the two"
        )
    seen = {"run.folder": (settings.run.folder,), "corpus.questions": settings.corpus.questions}
    seen["corpus.folder"] = (settings.corpus.folder,) if settings.corpus.folder else ()
    for key in ("model", "attacker", "generator"):
        source = getattr(settings, key).source
        seen[f"{key}.source"] = (source,) if source.startswith((".", "/", "~")) or source.endswith(".gguf") else ()
    for key, paths in seen.items():
        for path in paths:
            if not (path.startswith(f"{kube.mount}/") or REMOTE.match(path)):
                raise ConfigError(
                    f"{key}={path!r} is not seen in the pods, which have {kube.mount}; copy it to the storage and name "
                    f"it {kube.mount}/..., or an address such as s3://bucket/path, or change kube.mount"
                )


def refuse_deadlines(kube: KubeConfig, instead: str) -> None:
    """Stops deadlines of something that does not end, by a ConfigError."""
    for name in ("deadline_s", "start_timeout_s"):
        if seconds := getattr(kube, name):
            raise ConfigError(f"kube.{name}={seconds} ends a job, and {instead}")


def _warn(settings: Settings, groups: list[Pods]) -> None:
    """Says which settings choose no pods, and which pods may come onto machines that Ray finds to be others."""
    there = ["head", *(group.name for group in groups)]
    for key, told in (("node_labels", settings.kube.group_node_labels), ("taints", settings.kube.group_taints)):
        if absent := [name for name in told if name not in there]:
            say(
                f"warning: kube.group_{key} names {', '.join(absent)}, and this job has {', '.join(there)}; it chooses "
                "nothing there"
            )
    for group in groups:
        own = [f"{key}={value}" for key, value in group.labels.items() if key.startswith("ray.io/")]
        if own and not {**settings.kube.node_labels, **settings.kube.group_node_labels.get(cast(Any, group.name), {})}:
            say(
                f"warning: {group.name} asks for {', '.join(own)}, by which Kubernetes chooses no machine; set "
                f"kube.group_node_labels.{group.name} to labels that such machines carry"
            )


def entrypoint(job: KubeJob) -> str:
    """The driver's command; the same each time, so that a retry finds the run."""
    verb = job.replace("-", " ") if job.startswith("sweep") else f"train {job}"
    return f"ragdist {verb} {SETTINGS_FOLDER}/settings.yaml"


def _job(settings: Settings, name: str, job: KubeJob, labels: dict[str, str], ray_cluster: Manifest) -> Manifest:
    kube = settings.kube
    small = Pods(name="submitter", count=1, ranks=0, cpus=1, gpus=0, memory=1, store=0)
    submitter = _template(settings, name, job, small)
    submitter["spec"]["restartPolicy"] = "Never"
    spec = {
        "entrypoint": entrypoint(job),
        "submissionMode": "K8sJobMode",
        "backoffLimit": kube.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": kube.keep_s,
        "submitterConfig": {"backoffLimit": kube.submitter_retries},
        "submitterPodTemplate": submitter,
        "rayClusterSpec": ray_cluster,
    }
    told = {"activeDeadlineSeconds": kube.deadline_s, "preRunningDeadlineSeconds": kube.start_timeout_s}
    spec |= {key: seconds for key, seconds in told.items() if seconds}
    return named("ray.io/v1", "RayJob", name, settings, _queued(settings, labels), spec=spec)


def _queued(settings: Settings, labels: dict[str, str]) -> dict[str, str]:
    """The labels, with that of the queue that admits the object."""
    return {**labels, **({QUEUE: settings.kube.queue} if settings.kube.queue else {})}


def cluster(settings: Settings, name: str, job: str, head: Pods, workers: list[Pods]) -> Manifest:
    """The specification of a Ray cluster with these pods."""
    _warn(settings, workers)
    spec: Manifest = {"rayVersion": metadata.version("ray"), "authOptions": {"mode": "token"}}
    scales = settings.kube.autoscaling
    if scales:
        small = {"cpu": "500m", "memory": "512Mi"}
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 120,
            "resources": {"limits": small, "requests": dict(small)},
            "securityContext": _hardened(),
        }
    params = {"object-store-memory": str(head.store * 2**30)}
    spec["headGroupSpec"] = {
        "rayStartParams": {"dashboard-host": "0.0.0.0", **params},
        "resources": {"CPU": "0"},
        "template": _template(settings, name, job, head, no_restart=scales),
    }
    spec["workerGroupSpecs"] = [
        {
            "groupName": group.name,
            "replicas": 0 if scales else group.count,
            "minReplicas": 0 if scales else group.count,
            "maxReplicas": group.count,
            "labels": dict(group.labels),
            "resources": _resources(group),
            "rayStartParams": params,
            "template": _template(settings, name, job, group, no_restart=scales),
        }
        for group in workers
    ]
    return spec


def _resources(group: Pods) -> dict[str, str]:
    """What the Ray node in such a pod has, in Ray's words."""
    found = {"CPU": str(group.cpus)} | ({"GPU": str(group.gpus)} if group.gpus else {})
    return found | {kind: f"{count:g}" for kind, count in group.resources.items()}


def _template(settings: Settings, name: str, job: str, group: Pods, no_restart: bool = False) -> Manifest:
    """A pod: hardened, with limits, storage, shared memory, and time to end."""
    kube, in_ray = settings.kube, group.name != "submitter"
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []

    def mount(volume: str, path: str, source: Manifest, **more: Any) -> None:
        volumes.append({"name": volume, **source})
        mounts.append({"name": volume, "mountPath": path, **more})

    if in_ray:
        shared = {"medium": "Memory", "sizeLimit": f"{group.store + 1}Gi"}
        mount("shared-memory", "/dev/shm", {"emptyDir": shared})
        mount("storage", kube.mount, {"persistentVolumeClaim": {"claimName": kube.claim}})
    if group.name == "head" and job != SERVE:
        mount("settings", SETTINGS_FOLDER, {"configMap": {"name": f"{name}-settings"}}, readOnly=True)
    size = {"cpu": str(group.cpus), "memory": f"{group.memory}Gi"}
    if group.gpus:
        size[kube.gpu_resource] = str(group.gpus)
    if group.ranks:
        size |= {kind: str(count) for kind, count in kube.resources.items()}
    container: Manifest = {
        "name": "ray" if in_ray else "ray-job-submitter",
        "image": kube.image or f"ragdist:{__version__}",
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": size, "requests": dict(size)},
        "securityContext": _hardened(),
    }
    if in_ray:
        container["env"] = _environment(kube)
        container["envFrom"] = [{"secretRef": {"name": kube.secret, "optional": True}}]
        container["volumeMounts"] = mounts
    spec: Manifest = {
        "securityContext": {
            "runAsNonRoot": True,
            **(dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), kube.user) if kube.user else {}),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": kube.grace_s if in_ray else 30,
        "containers": [container],
    }
    # Only the autoscaler has a token: KubeRay lets the account of the head's pod scale.
    spec |= {"serviceAccountName": name, "automountServiceAccountToken": kube.autoscaling and group.name == "head"}
    spec |= _placed(settings, group)
    if no_restart:
        spec["restartPolicy"] = "Never"
    if volumes:
        spec["volumes"] = volumes
    about: Manifest = {"labels": objects.labels(settings, name, job)}
    if kube.annotations:
        about["annotations"] = dict(kube.annotations)
    return {"metadata": about, "spec": spec}


def _placed(settings: Settings, group: Pods) -> Manifest:
    """On which machines a pod may be, and what it needs to be pulled."""
    kube = settings.kube
    owner: Any = "head" if group.name == "submitter" else group.name
    found: Manifest = {}
    labels = kube.node_labels if group.ranks else kube.head_node_labels
    if labels := {**labels, **kube.group_node_labels.get(owner, {})}:
        found["nodeSelector"] = labels
    taints = (*(kube.taints if group.ranks or group.gpus else ()), *kube.group_taints.get(owner, ()))
    lost = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_S}
    found["tolerations"] = [
        *map(_tolerated, dict.fromkeys(taints)),
        *({"key": f"node.kubernetes.io/{state}", **lost} for state in ("not-ready", "unreachable")),
    ]
    if kube.priority_class:
        found["priorityClassName"] = kube.priority_class
    if kube.pull_secret:
        found["imagePullSecrets"] = [{"name": kube.pull_secret}]
    return found


def _tolerated(taint: str) -> Manifest:
    """A toleration of a taint as `kubectl taint` takes it: key, key=value, either with :EFFECT."""
    text, _, effect = taint.partition(":")
    key, equals, value = text.partition("=")
    found = {"key": key, "operator": "Equal" if equals else "Exists"}
    return found | ({"value": value} if equals else {}) | ({"effect": effect} if effect else {})


def _hardened() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _environment(kube: KubeConfig) -> list[Manifest]:
    """Models of the hub are fetched once, into the storage; a driver that is stopped has time to save.

    What torch compiles stays in the pod: a build that was killed leaves a lock that nobody opens.
    """
    values = {
        "TORCH_EXTENSIONS_DIR": "/tmp/torch_extensions",
        "HF_HOME": f"{kube.mount}/cache/huggingface",
        "XDG_CACHE_HOME": f"{kube.mount}/cache",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": str(kube.grace_s - 30),
        **kube.env,
    }
    return [{"name": key, "value": value} for key, value in values.items()]
