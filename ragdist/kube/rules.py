"""What the operator refuses although the schema allows it (KubeRay 1.7, `controllers/ray/utils/validation.go`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import yaml

from ragdist.kube.findings import Body, Manifest, Violation, at, cluster, mappings, number, ray_groups

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = {"RayJob": 47, "RayCluster": 53, "RayService": 47}
TOKENS_SINCE = (2, 52)
RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
POLICIES = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
"""Of deletion, from the first that may come to the last."""
UPGRADES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
GATED = {"networkPolicy": "RayClusterNetworkPolicy", "tlsOptions": "RayClusterMTLS"}
GATED |= {"historyServerOptions": "RayClusterHistoryServer"}


def problems(document: Manifest) -> Iterator[Violation]:
    """What the operator would refuse in a RayJob, RayService or RayCluster."""
    name = document.name
    longest = LONGEST[document.kind]
    if len(name) > longest or not DNS_1035.fullmatch(name):
        wanted = f"lower case letters, digits and dashes, a letter first, at most {longest}"
        yield Violation("metadata.name", f"{name!r} of {len(name)} characters", wanted)
    spec = document.body.get("spec")
    if document.kind == "RayJob" and isinstance(spec, dict):
        for part in (_job, _selector, _modes, _deletion):
            yield from part(spec)
    if document.kind == "RayService" and isinstance(spec, dict):
        yield from _service(spec)
    found = cluster(document)
    if found:
        path, body = found
        yield from _authentication(path, body, document.kind)
        yield from _tolerance(path, body, document)
        yield from _scaling(path, body)
        for key in GATED.keys() & body.keys():
            yield Violation(f"{path}.{key}", "set", f"none: it needs the operator's feature gate {GATED[key]}")
        for group in ray_groups(path, body):
            yield from _group(*group, body)


def _job(spec: Body) -> Iterator[Violation]:
    ttl = number(spec.get("ttlSecondsAfterFinished"))
    if ttl < 0:
        yield Violation("spec.ttlSecondsAfterFinished", str(ttl), "0 or more")
    if ttl > 0 and not spec.get("shutdownAfterJobFinishes"):
        yield Violation("spec.ttlSecondsAfterFinished", str(ttl), "spec.shutdownAfterJobFinishes: true beside it")
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield Violation("spec.suspend", "true", "spec.shutdownAfterJobFinishes: true beside it")
    if number(spec.get("backoffLimit")) < 0:
        yield Violation("spec.backoffLimit", str(spec["backoffLimit"]), "0 or more")
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if number(spec.get(key, 1)) <= 0:
            yield Violation(f"spec.{key}", str(spec[key]), "1 or more")
    try:
        told = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError:
        told = None
    if not isinstance(told, dict):
        yield Violation("spec.runtimeEnvYAML", "no YAML mapping", "one, written as a text")


def _service(spec: Body) -> Iterator[Violation]:
    named = "spec.rayClusterConfig.headGroupSpec.headService.metadata.name"
    if at(spec, named.removeprefix("spec.")):
        yield Violation(named, str(at(spec, named.removeprefix("spec."))), "none: the operator names it")
    if (kind := at(spec, "upgradeStrategy.type", "None")) not in UPGRADES:
        yield Violation("spec.upgradeStrategy.type", str(kind), ", ".join(UPGRADES))
    if number(spec.get("rayClusterDeletionDelaySeconds")) < 0:
        where = "spec.rayClusterDeletionDelaySeconds"
        yield Violation(where, str(spec["rayClusterDeletionDelaySeconds"]), "0 or more")


def _selector(spec: Body) -> Iterator[Violation]:
    chosen = spec.get("clusterSelector")
    if not chosen:
        if "rayClusterSpec" not in spec:
            yield Violation("spec.rayClusterSpec", "missing", "a cluster, or spec.clusterSelector")
        return
    if not isinstance(chosen, dict) or not chosen.get("ray.io/cluster"):
        yield Violation("spec.clusterSelector", "names no cluster", "ray.io/cluster: NAME")
    if spec.get("suspend"):
        yield Violation("spec.suspend", "true", "none beside spec.clusterSelector")
    if number(spec.get("backoffLimit")) > 0:
        yield Violation("spec.backoffLimit", str(spec["backoffLimit"]), "0 beside spec.clusterSelector")
    if spec.get("submissionMode") == "SidecarMode":
        yield Violation("spec.submissionMode", "SidecarMode", "another one beside spec.clusterSelector")


def _modes(spec: Body) -> Iterator[Violation]:
    mode = spec.get("submissionMode")
    if mode == "InteractiveMode" and number(spec.get("backoffLimit")) > 0:
        yield Violation("spec.backoffLimit", str(spec["backoffLimit"]), "0 with submissionMode: InteractiveMode")
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig"):
            if key in spec:
                yield Violation(f"spec.{key}", "set", "none with submissionMode: SidecarMode")
        policy = at(spec, "rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Never")
        if policy != "Never":
            path = "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy"
            yield Violation(path, policy, "Never with submissionMode: SidecarMode")


def _deletion(spec: Body) -> Iterator[Violation]:
    path, rules = "spec.deletionStrategy.deletionRules", mappings(spec, "deletionStrategy.deletionRules")
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield Violation(path, "beside shutdownAfterJobFinishes: true", "one of the two")
    waits: dict[str, list[tuple[int, int, int]]] = {}
    for place, rule in enumerate(rules):
        policy, condition = rule.get("policy"), at(rule, "condition", {})
        if policy not in POLICIES or not isinstance(condition, dict):
            continue
        if policy == "DeleteWorkers" and at(spec, "rayClusterSpec.enableInTreeAutoscaling"):
            yield Violation(f"{path}[{place}].policy", policy, "another one with autoscaling")
        if policy != "DeleteSelf" and spec.get("clusterSelector"):
            yield Violation(f"{path}[{place}].policy", policy, "DeleteSelf beside spec.clusterSelector")
        when = str(condition.get("jobStatus") or condition.get("jobDeploymentStatus"))
        waits.setdefault(when, []).append((POLICIES.index(policy), number(condition.get("ttlSeconds")), place))
    for ordered in map(sorted, waits.values()):
        for (before, earlier, _), (rank, later, place) in pairwise(ordered):
            if rank == before:
                yield Violation(f"{path}[{place}].policy", f"a second {POLICIES[rank]}", "one for each condition")
            elif later < earlier:
                wanted = f"{earlier} or more: {POLICIES[rank]} comes after {POLICIES[before]}"
                yield Violation(f"{path}[{place}].condition.ttlSeconds", str(later), wanted)


def _authentication(path: str, spec: Body, kind: str) -> Iterator[Violation]:
    tokens, by_kubernetes = at(spec, "authOptions.mode") == "token", at(spec, "authOptions.enableK8sTokenAuth")
    version = str(spec.get("rayVersion", ""))
    match = re.match(r"(\d+)\.(\d+)", version)
    if tokens and (not match or (int(match[1]), int(match[2])) < TOKENS_SINCE):
        yield Violation(f"{path}.rayVersion", repr(version), "2.52.0 or later with authOptions.mode: token")
    if by_kubernetes and (kind != "RayCluster" or not tokens):
        wanted = f"none in a {kind}" if kind != "RayCluster" else "authOptions.mode: token beside it"
        yield Violation(f"{path}.authOptions.enableK8sTokenAuth", "true", wanted)


def _tolerance(path: str, spec: Body, document: Manifest) -> Iterator[Violation]:
    """GCS fault tolerance and Redis."""
    head = at(spec, "headGroupSpec", {})
    names = {str(one.get("name")) for one in _head_env(spec)}
    where = f"{path}.headGroupSpec.template.spec.containers[0].env"
    params = at(head, "rayStartParams", {})
    tolerant = "gcsFaultToleranceOptions" in spec
    if tolerant and at(document.body, "metadata.annotations", {}).get("ray.io/ft-enabled"):
        yield Violation("metadata.annotations", "ray.io/ft-enabled", "none beside gcsFaultToleranceOptions")
    for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
        if name in names and (tolerant or name == "RAY_REDIS_ADDRESS"):
            yield Violation(where, name, f"{path}.gcsFaultToleranceOptions to say so")
    if "REDIS_USERNAME" in names or params.get("redis-username"):
        yield Violation(where, "a Redis user", f"{path}.gcsFaultToleranceOptions.redisUsername")
    if tolerant and params.get("redis-password"):
        yield Violation(
            f"{path}.headGroupSpec.rayStartParams", "redis-password", "gcsFaultToleranceOptions.redisPassword"
        )


def _head_env(spec: Body) -> list[Body]:
    containers = mappings(spec, "headGroupSpec.template.spec.containers")
    return mappings(containers[0], "env") if containers else []


def _scaling(path: str, spec: Body) -> Iterator[Violation]:
    scales = bool(spec.get("enableInTreeAutoscaling"))
    switch = [one for one in _head_env(spec) if one.get("name") == "RAY_enable_autoscaler_v2"]
    where = f"{path}.headGroupSpec.template.spec.containers[0].env"
    if switch and not scales and str(switch[0].get("value")) in ("1", "true"):
        yield Violation(where, "RAY_enable_autoscaler_v2", "enableInTreeAutoscaling: true beside it")
    version = at(spec, "autoscalerOptions.version")
    if switch and scales and version:
        yield Violation(where, "RAY_enable_autoscaler_v2", "autoscalerOptions.version alone")
    idle = number(at(spec, "autoscalerOptions.idleTimeoutSeconds"))
    if idle < 0:
        yield Violation(f"{path}.autoscalerOptions.idleTimeoutSeconds", str(idle), "0 or more")
    if scales and version != "v1":  # v2 is the default of these versions of Ray
        for group_path, _, group in ray_groups(path, spec):
            policy = at(group, "template.spec.restartPolicy", "Never")
            if policy != "Never":
                yield Violation(
                    f"{group_path}.template.spec.restartPolicy", policy, "Never, or none, with autoscaler v2"
                )


def _group(path: str, name: str, group: Body, spec: Body) -> Iterator[Violation]:
    """A group of pods that become Ray nodes."""
    params = at(group, "rayStartParams", {})
    if not mappings(group, "template.spec.containers"):
        yield Violation(f"{path}.template.spec.containers", "none", "at least one")
    doubled = [key for key in RESOURCES if isinstance(params, dict) and params.get(key)]
    if doubled and group.get("resources"):
        yield Violation(f"{path}.rayStartParams", ", ".join(doubled), f"none beside {path}.resources")
    if isinstance(params, dict) and "labels" in params:
        yield Violation(f"{path}.rayStartParams.labels", str(params["labels"]), f"{path}.labels instead")
    if name != "head":
        yield from _replicas(path, group, spec)


def _replicas(path: str, group: Body, spec: Body) -> Iterator[Violation]:
    fewest, most = (number(group.get(key, default)) for key, default in (("minReplicas", 0), ("maxReplicas", 2**31)))
    for key, count in (("minReplicas", fewest), ("maxReplicas", most)):
        if count < 0:
            yield Violation(f"{path}.{key}", str(count), "0 or more")
    if fewest > most:
        yield Violation(f"{path}.minReplicas", str(fewest), f"at most maxReplicas, {most}")
    scales = bool(spec.get("enableInTreeAutoscaling"))
    if scales and group.get("suspend"):
        yield Violation(f"{path}.suspend", "true", "none with autoscaling")
    if scales and at(spec, "autoscalerOptions.version") != "v1":
        return
    for key in ("idleTimeoutSeconds", "priority"):
        if group.get(key):
            yield Violation(f"{path}.{key}", str(group[key]), "none without autoscaler v2")
