"""What an API server refuses of names, keys, ports and quantities is found, and what it takes is not."""

import copy

import pytest

from ragdist import cli
from ragdist.kube import check, names, render
from ragdist.kube.findings import Manifest
from tests.kube.bundles import plant, rendered, settings_of

POD = "spec.rayClusterSpec.workerGroupSpecs[0].template.spec"
CONTAINER = f"{POD}.containers[0]"
JOB, NETWORK, STORAGE, ACCESS, SETTINGS = "job.yaml", "network.yaml", "storage.yaml", "access.yaml", "settings.yaml"
QUEUE = "metadata.labels.kueue\\.x-k8s\\.io/queue-name"
ABOUT = f"{POD.removesuffix('.spec')}.metadata"
REFUSED = [
    (JOB, QUEUE, "Team A"),
    (JOB, QUEUE, "Team_A"),  # a label's value, but no queue has the name
    (JOB, f"{ABOUT}.labels.team", "red team"),
    (JOB, f"{ABOUT}.labels.team name", "red"),
    (JOB, f"{ABOUT}.labels.team", "x" * 64),
    (JOB, f"{ABOUT}.labels.a/b/c", "red"),
    (JOB, f"{ABOUT}.annotations", {"my note": "a"}),
    (ACCESS, "metadata.annotations", {"eks amazonaws/role": "a"}),
    (JOB, f"{POD}.nodeSelector", {"pool!": "spot"}),
    (JOB, f"{POD}.nodeSelector", {"pool": "spot machines"}),
    (STORAGE, "spec.storageClassName", "fast nfs"),
    (STORAGE, "spec.storageClassName", "Fast"),
    (STORAGE, "spec.resources.requests.storage", "10 Gi"),
    (STORAGE, "spec.resources.requests.storage", "-1Gi"),
    (STORAGE, "metadata.name", "My_Claim"),
    (STORAGE, "spec.accessModes", ["ReadWriteMany", "ReadWriteSome"]),
    (STORAGE, "metadata.namespace", "team.a"),
    (NETWORK, "spec.egress[2].ports[0].port", 70000),
    (NETWORK, "spec.egress[2].ports[0].port", 0),
    (NETWORK, "spec.egress[2].ports[0].port", "a port"),
    (NETWORK, "spec.egress[2].to[0].ipBlock.cidr", "10.0.0.1/8"),
    (NETWORK, "spec.egress[2].to[0].ipBlock.cidr", "300.0.0.0/8"),
    (NETWORK, "spec.podSelector.matchLabels.team", "a b"),
    (JOB, f"{CONTAINER}.ports", [{"name": "serve", "containerPort": 65536}]),
    (JOB, f"{CONTAINER}.ports", [{"name": "a-name-that-is-too-long", "containerPort": 80}]),
    (JOB, f"{CONTAINER}.envFrom[0].secretRef.name", "My Keys"),
    (JOB, f"{CONTAINER}.envFrom[0].secretRef.name", "keys_of_mine"),
    (JOB, f"{CONTAINER}.env[0].name", "1ST"),
    (JOB, f"{CONTAINER}.env[0].name", "A=B"),
    (JOB, f"{CONTAINER}.image", "RagDist:1"),
    (JOB, f"{CONTAINER}.image", "registry.example.com/Team/ragdist:1"),
    (JOB, f"{CONTAINER}.image", "ragdist :1"),
    (JOB, f"{CONTAINER}.image", "https://registry.example.com/ragdist:1"),
    (JOB, f"{CONTAINER}.resources.limits.gpu", "1"),
    (JOB, f"{CONTAINER}.resources.limits.nvidia\\.com/gpu", "0.5"),
    (JOB, f"{CONTAINER}.resources.limits.nvidia\\.com/g pu", "1"),
    (JOB, f"{CONTAINER}.resources.limits.memory", "8 GB"),
    (JOB, f"{CONTAINER}.resources.limits.memory", "8GB"),
    (JOB, f"{CONTAINER}.resources.requests.cpu", "64"),
    (JOB, f"{CONTAINER}.resources.requests.nvidia\\.com/gpu", "2"),
    (JOB, f"{CONTAINER}.resources.requests.rdma/hca", "1"),  # without a limit
    (JOB, f"{CONTAINER}.name", "Ray"),
    (JOB, f"{CONTAINER}.volumeMounts[0].name", "nowhere"),
    (JOB, f"{CONTAINER}.volumeMounts[1].mountPath", "/dev/shm"),
    (JOB, f"{POD}.volumes[1].name", "shared-memory"),
    (JOB, f"{POD}.volumes[1].persistentVolumeClaim.claimName", "My Claim"),
    (JOB, f"{POD}.tolerations[0].key", "no gpu"),
    (JOB, f"{POD}.tolerations[0].effect", "NoScheduling"),
    (JOB, f"{POD}.tolerations[1].effect", "NoSchedule"),  # tolerationSeconds beside it
    (JOB, f"{POD}.tolerations[0].value", "a"),  # with operator: Exists
    (JOB, f"{POD}.serviceAccountName", "night_run"),
    (JOB, f"{POD}.priorityClassName", "High"),
    (JOB, f"{POD}.imagePullSecrets", [{"name": "My Registry"}]),
    (JOB, f"{POD}.restartPolicy", "Sometimes"),
    (JOB, f"{POD}.securityContext.runAsUser", -1),
    (JOB, f"{POD}.terminationGracePeriodSeconds", -60),
    (JOB, "spec.rayClusterSpec.workerGroupSpecs[0].groupName", "the attacker"),
    (SETTINGS, "data.my settings\\.yaml", "a"),
    (SETTINGS, "data.big", "x" * 2**20),
    (SETTINGS, "metadata.name", "Night"),
]
SETTINGS_REFUSED = (
    "kube.queue=Team A",
    "kube.storage_class=fast nfs",
    "kube.account_annotations={role arn: a}",
    "kube.egress_ports=[70000]",
    "kube.node_labels={pool name: a}",
    "kube.node_labels={pool: a b}",
    "kube.secret=My_Keys",
    "kube.taints=['no gpu']",
    "kube.gpu_resource=gpu",
    "kube.image=RagDist:1",
    "kube.env={1ST: a}",
    "kube.labels={team: red team}",
    "kube.resources={efa: 4}",
    "kube.priority_class=High",
    "kube.group_taints={head: ['a:Never']}",
    "kube.dns_addresses=[10.0.0.1]",
    "kube.pull_secret=My_Registry",
    "kube.prometheus_namespace=a b",
    "kube.metadata_servers=['300.1.1.1:80']",
)


@pytest.fixture(scope="module")
def bodies():
    """The objects of a bundle without fault, by file."""
    return {file: one for file, (one, *_) in rendered("atm", settings_of("atm", "gpu", "claim")).items()}


@pytest.mark.parametrize(("file", "path", "value"), REFUSED)
def test_K7_what_an_api_server_refuses_is_found(file, path, value, bodies):
    body = copy.deepcopy(bodies[file])
    assert not list(names.problems(Manifest(file, body)))
    plant(body, path, value)
    found = list(names.problems(Manifest(file, body)))
    owner = path.replace("\\.", ".")
    assert any(owner.startswith(one.path) or one.path.startswith(owner.rpartition("[")[0]) for one in found), found


def test_K7_check_tells_of_them(bodies, tmp_path):
    changed = copy.deepcopy(bodies)
    for file, path, value in REFUSED[::9]:
        plant(changed[file], path, value)
    render.write({file: [body] for file, body in changed.items()}, tmp_path)
    told = {one.file for one in check.check(tmp_path).findings}
    assert told == {file for file, *_ in REFUSED[::9]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{CONTAINER}.image", "registry.example.com:5000/team/rag_dist/x:1.0-cuda"),
        (f"{CONTAINER}.image", f"Registry.example.com/ragdist@sha256:{'a' * 64}"),
        (f"{CONTAINER}.image", f"localhost/ragdist:1@sha256:{'a' * 64}"),
        (f"{POD}.nodeSelector", {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100", "a": ""}),
        (f"{ABOUT}.annotations", {"Example.com/Note": "any text, even this: ü"}),
        (f"{CONTAINER}.resources", {"limits": {"cpu": "500m", "memory": "1.5Gi"}, "requests": {"cpu": 0.25}}),
        (f"{CONTAINER}.resources", {"limits": {"hugepages-2Mi": "4Mi", "memory": 1e9, "cpu": 1}}),
        (f"{CONTAINER}.ports", [{"name": "serve", "containerPort": 65535}]),
        (f"{CONTAINER}.env[0]", {"name": "a.b-C_1", "value": "b c"}),
        (f"{POD}.tolerations", [{"operator": "Exists"}, {"key": "a.b/c", "operator": "Equal", "value": ""}]),
        (f"{POD}.tolerations", [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]),
    ],
)
def test_K7_what_an_api_server_takes_is_not_found(path, value, bodies):
    body = copy.deepcopy(bodies[JOB])
    plant(body, path, value)
    assert not list(names.problems(Manifest(JOB, body)))


@pytest.mark.parametrize("wrong", SETTINGS_REFUSED)
def test_K7_render_refuses_settings_that_come_to_it(wrong, tmp_path, capsys):
    arguments = ["raft", "model.source=owner/name", "kube.memory_gib=4", "run.name=a", "kube.autoscaling=false", wrong]
    with pytest.raises(SystemExit) as ended:
        cli.main(["k8s", "render", *arguments, "cluster.gpus_per_worker=1", "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1 and "kube." in said[0], said
    assert not (tmp_path / "out").exists()
