"""A real API server takes what is rendered, refuses what `check` finds, and keeps what it is told.
`make test-apiserver`"""

import copy
import json
import threading
from contextlib import contextmanager

import pytest

from ragdist import cli
from ragdist.errors import ConfigError
from ragdist.kube import check, client, names, render
from ragdist.kube.findings import Manifest, at, pod_specs, ray_groups
from ragdist.kube.findings import cluster as ray_cluster
from ragdist.kube.request import path_of
from tests.apiserver import server
from tests.kube.bundles import CRDS, JOBS, ROOT, plant, rendered, settings_of
from tests.kube.test_names import JOB, REFUSED

pytestmark = [
    pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"),
    pytest.mark.skipif(not server.BUILT, reason="no API server here: `make test-apiserver` builds one"),
    pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's schemas are not at {CRDS}"),
]
LATER = ("image", "groupName", "queue-name", "claimName", "imagePullSecrets", "terminationGracePeriodSeconds")
"""What this server does not look at: kubelet, operator and Kueue do, and later versions; no claim has such a name."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", "")
        with server.running(tmp_path_factory.mktemp("apiserver")) as found:
            for name in ("ragdist", "team"):
                about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                found.call("POST", "/api/v1/namespaces", about)
            yield found


def tried(cluster, body):
    """What the server says of an object, and of the pods that an operator would make of it, that it does not keep."""
    try:
        if cluster.call("POST", path_of(body, named=False), body, dryRun="All") is None:
            return "no such namespace"
        for number, (_, spec) in enumerate(pod_specs(Manifest("", body))):
            template = {"restartPolicy": "Never", **spec}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**about(body, number), "namespace": "ragdist"}}
            cluster.call("POST", "/api/v1/namespaces/ragdist/pods", pod | {"spec": template}, dryRun="All")
    except ConfigError as error:
        return str(error)
    return ""


def about(body, number):
    """Metadata of the pods' template that is the `number`th."""
    groups = [group for *_, group in ray_groups(*ray_cluster(Manifest("", body)))]
    of = groups[number]["template"] if number < len(groups) else body["spec"]["submitterPodTemplate"]
    return {"name": f"pod-{number}", **of["metadata"]}


def test_what_the_repository_holds_is_taken_with_its_pods(cluster):
    documents, _ = check.read(ROOT / "clusters" / "kuberay")
    ours = [one.body for one in documents if one.kind not in check.WITHOUT_SCHEMA]
    assert len(ours) > 20 and {tried(cluster, body) for body in ours} == {""}


@pytest.mark.parametrize("storage", ["claim", "s3"])
@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("job", JOBS)
def test_every_bundle_is_taken_with_its_pods(job, hardware, storage, cluster):
    more = (
        "kube.env={A: b}",
        "kube.labels={team: nlp}",
        "kube.annotations={sidecar.istio.io/inject: 'false'}",
        "kube.resources={rdma/hca: 1}",
        "kube.taints=['spot=true:NoSchedule', nvidia.com/gpu]",
        "kube.account_annotations={iam.gke.io/gcp-service-account: a@b}",
        "kube.prometheus_namespace=monitoring",
    )
    for standing in (False, True):
        for documents in rendered(job, settings_of(job, hardware, storage, *more), standing).values():
            for body in documents:
                assert tried(cluster, body) == ""


@pytest.mark.parametrize(("file", "path", "value"), [one for one in REFUSED if not one[1].endswith(LATER)])
def test_K7_what_check_finds_the_server_refuses(file, path, value, cluster):
    body = copy.deepcopy(rendered("atm", settings_of("atm", "gpu", "claim"))[file][0])
    assert tried(cluster, body) == ""
    plant(body, path, value)
    assert list(names.problems(Manifest(file, body))) and tried(cluster, body)


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["k8s", *map(str, arguments)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def test_K4_from_submit_to_delete_beside_another_job(cluster, tmp_path, capsys):
    for run in ("day", "night"):
        render.write(rendered("atm", settings_of("atm", "gpu", "s3", f"run.name={run}")), tmp_path / run)
        assert command(capsys, "submit", tmp_path / run)[:2] == (0, f"{run}\n")
    code, _, err = command(capsys, "submit", tmp_path / "night")
    assert code == 2 and "under way" in err
    told = json.loads(command(capsys, "status", tmp_path / "night", "--json")[1])
    assert (told["name"], told["state"], told["pods"], told["warnings"]) == ("night", "Initializing", [], [])
    code, out, err = command(capsys, "delete", tmp_path / "night", "--storage")
    assert code == 2 and not out and "RayJob/day" in err
    assert command(capsys, "delete", tmp_path / "day")[0] == 0
    code, out, _ = command(capsys, "delete", tmp_path / "night", "--storage")
    assert code == 0 and "PersistentVolumeClaim/ragdist" in out.split() and "RayJob/night" in out.split()
    assert json.loads(command(capsys, "status", tmp_path / "night", "--json")[1])["state"] == "absent"


@contextmanager
def collecting(cluster, body):
    """Ends what is deleted, as the garbage collector would, which is not here."""
    done = threading.Event()

    def collect():
        while not done.wait(0.2):
            if at(cluster.call("GET", path_of(body)), "metadata.deletionTimestamp"):
                cluster.call("PATCH", path_of(body), {"metadata": {"finalizers": None}})

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(20)


def test_K10_a_job_that_ended_begins_again_though_another_begins_it_at_once(cluster, tmp_path, capsys):
    render.write(rendered("raft", settings_of("raft", "cpu", "claim", "run.name=again")), tmp_path)
    command(capsys, "submit", tmp_path)
    (job,) = rendered("raft", settings_of("raft", "cpu", "claim", "run.name=again"))[JOB]
    over = {"status": {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "failed": 4, "message": "no room"}}
    cluster.call("PATCH", f"{path_of(job)}/status", over)
    code, out, _ = command(capsys, "status", tmp_path)
    assert code == 1 and "4 tries failed" in out
    before = cluster.call("GET", path_of(job))["metadata"]["uid"]
    cluster.call("DELETE", path_of(job), {"preconditions": {"uid": before}})
    made = cluster.call("POST", path_of(job, named=False), job)["metadata"]["uid"]
    with pytest.raises(client.TakenError):
        cluster.call("DELETE", path_of(job), {"preconditions": {"uid": before}})
    cluster.call("PATCH", f"{path_of(job)}/status", over)
    with collecting(cluster, job):
        assert command(capsys, "submit", tmp_path)[0] == 0
    assert cluster.call("GET", path_of(job))["metadata"]["uid"] not in (before, made)
