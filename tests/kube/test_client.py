"""submit, status, logs and delete against an API server in memory, with our client and with the real kubectl."""

import json
import os
import socket
import subprocess
import threading

import pytest
import yaml

from ragdist import cli
from ragdist.errors import ConfigError, TrainError
from ragdist.kube import client, render
from ragdist.kube.findings import Manifest
from ragdist.kube.request import TakenError, path_of
from tests.kube.bundles import load, rendered, settings_of
from tests.kube.server import TOKEN, emulated, kubeconfig
from tests.kube.test_manifests import needs_kubectl

JOB = "ray.io/v1/rayjobs", "ragdist", "night"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with emulated(tmp_path) as (emulator, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield emulator


@pytest.fixture
def bundle(tmp_path):
    render.write(rendered("atm", settings_of("atm", "gpu", "s3")), tmp_path / "atm")
    return tmp_path / "atm"


def command(capsys, *arguments):
    """Exit code, stdout and stderr of `ragdist k8s`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["k8s", *map(str, arguments)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def kept(server):
    """Kinds of all objects that are there."""
    return sorted(obj.raw["kind"] for obj in server.objects.values() if not obj.deleted)


def set_status(server, **status):
    server.objects[JOB].patch({"status": status})


def test_from_submit_to_delete(server, bundle, capsys):
    assert command(capsys, "status", bundle, "--json")[0] == 0
    code, out, err = command(capsys, "submit", bundle)
    assert (code, out) == (0, "night\n") and "RayJob/night: made" in err
    sent = ["ConfigMap", "NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim", "RayJob", "ServiceAccount"]
    assert kept(server) == sent
    assert server.objects[JOB].raw == load(bundle / "job.yaml")[0]
    assert all(one.headers["Authorization"] == f"Bearer {TOKEN}" for one in server)

    code, _, err = command(capsys, "submit", bundle)
    assert code == 2 and "under way" in err
    set_status(server, jobDeploymentStatus="Running", jobStatus="RUNNING")
    assert "Running RUNNING" in command(capsys, "status", bundle)[1]

    code, out, _ = command(capsys, "delete", bundle)
    assert code == 0 and out.split()[0] == "RayJob/night"  # first, so that nothing runs on without its policy
    assert kept(server) == ["PersistentVolume", "PersistentVolumeClaim"]
    assert command(capsys, "delete", bundle, "--storage")[1].split() == [
        "PersistentVolumeClaim/ragdist",
        "PersistentVolume/ragdist-ragdist",
    ]
    assert kept(server) == []


@pytest.mark.parametrize(
    "changed",
    [
        *({"metadata": found} for found in (5, None, {}, {"name": "../../nodes/x"}, {"name": [1]})),
        *({"metadata": {"name": "x", "namespace": found}} for found in (None, {"a": 1}, "a?x=1")),
        *({"apiVersion": found} for found in ({}, "v1?x")),
    ],
    ids=str,
)
def test_R3_an_object_without_an_address_is_one_line_and_nothing_is_sent(changed, server, bundle, capsys):
    path = bundle / "settings.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))
    for asked in ("submit", "delete"):
        code, _, err = command(capsys, asked, bundle)
        assert code == 2 and err.count("\n") == 1 and err.startswith("settings.yaml") and "wanted" in err
    assert kept(server) == []


@pytest.mark.parametrize("found", [None, 5, {"ragdist.io/run": 7}], ids=str)
def test_R3_storage_of_a_job_without_labels_is_removed_all_the_same(found, server, bundle, capsys):
    command(capsys, "submit", bundle)
    (path,) = (one for one in bundle.glob("*.yaml") if "kind: RayJob\n" in one.read_text())
    job = yaml.safe_load(path.read_text())
    job["metadata"]["labels"] = found
    path.write_text(yaml.safe_dump(job))
    assert command(capsys, "delete", bundle, "--storage")[0] == 0
    assert kept(server) == []


def test_a_job_that_failed_begins_again_with_the_same_run(server, bundle, capsys):
    command(capsys, "submit", bundle)
    settings = server.objects["v1/configmaps", "ragdist", "night-settings"].raw["data"]
    set_status(server, jobDeploymentStatus="Failed", jobStatus="FAILED", failed=4, message="no room")
    code, out, err = command(capsys, "status", bundle)
    assert code == 1 and "4 tries failed" in out and "no room" in err
    code, _, err = command(capsys, "submit", bundle)
    assert code == 0 and "ConfigMap/night-settings: changed" in err and "RayJob/night: made" in err
    assert "status" not in server.objects[JOB].raw
    assert server.objects["v1/configmaps", "ragdist", "night-settings"].raw["data"] == settings


def pod(name, group="", phase="Running", **status):
    labels = {"ragdist.io/run": "night"} | ({"ray.io/group": group} if group else {"job-name": "night"})
    about = {"name": name, "namespace": "ragdist", "labels": labels, "creationTimestamp": f"2026-01-0{name[-1]}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "status": {"phase": phase, **status}}


def test_status_says_what_a_pod_waits_for(server, bundle, capsys):
    command(capsys, "submit", bundle)
    unmet = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    pulling = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    for one in (
        pod("a-1", "attacker", "Pending", conditions=[unmet]),
        pod("g-1", "generator", "Pending", containerStatuses=[pulling]),
        pod("h-1", "headgroup"),
    ):
        server.objects["v1/pods", "ragdist", one["metadata"]["name"]] = one
    told = json.loads(command(capsys, "status", bundle, "--json")[1])
    why = {one["group"]: one["why"] for one in told["pods"]}
    assert why == {"attacker": unmet["message"], "generator": "ImagePullBackOff not found", "headgroup": ""}
    code, _, err = command(capsys, "logs", bundle)
    assert code == 2 and "status" in err
    asked = [dict(one.params) for one in server if one.url.path.endswith("/pods")]
    assert asked and all(one == {"labelSelector": "ragdist.io/run=night"} for one in asked)


def test_logs_are_those_of_the_newest_submitter(server, bundle, capsys):
    command(capsys, "submit", bundle)
    for one in (pod("try-1"), pod("try-2"), pod("h-1", "headgroup")):
        server.objects["v1/pods", "ragdist", one["metadata"]["name"]] = one
    server["get /api/v1/namespaces/ragdist/pods/try-2/log"] << "round 1\nround 2 \xe4\nend".encode()
    assert command(capsys, "logs", bundle)[1] == "round 1\nround 2 \xe4\nend\n"


def test_a_cluster_that_is_not_there_is_said_so(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "nowhere", "http://127.0.0.1:9")))
    code, _, err = command(capsys, "submit", bundle)
    assert code == 2 and "http://127.0.0.1:9" in err and "Traceback" not in err
    code, _, err = command(capsys, "status", bundle, "--context", "other")
    assert code == 2 and "--context" in err


def test_a_refusal_is_told_in_the_servers_words(server, bundle, capsys):
    server["post /apis/ray.io/v1/namespaces/ragdist/rayjobs"] << 403 << {"message": "you may not"}
    code, _, err = command(capsys, "submit", bundle)
    assert code == 2 and "403 you may not" in err


def test_a_folder_that_is_not_ours_is_not_sent(bundle, tmp_path):
    (bundle / "more.yaml").write_text("{apiVersion: v1, kind: Pod, metadata: {name: a}}")
    with pytest.raises(ConfigError, match="kubectl apply -k"):
        client.status(bundle, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="ragdist k8s render"):
        client.status(tmp_path / "empty", None)
    with pytest.raises(TrainError):
        client.finished(client.Status("a", "Failed", "FAILED", 1, "", ()))


def put(server, kind, body):
    """An object on the server, as a controller would have made it."""
    server.objects[kind, "ragdist", body["metadata"]["name"]] = body


def mounting(kind, name, claim="ragdist", run="other", owner=None, **status):
    """An object whose pods mount a claim."""
    about = {"name": name, "namespace": "ragdist", "labels": {"ragdist.io/run": run}}
    about |= {"ownerReferences": [{"kind": "RayJob", "name": owner}]} if owner else {}
    pod_spec = {"volumes": [{"name": "s", "persistentVolumeClaim": {"claimName": claim}}]}
    group = {"template": {"spec": pod_spec}}
    ray = {"headGroupSpec": group, "workerGroupSpecs": [group]}
    spec = {
        "Pod": pod_spec,
        "RayCluster": ray,
        "RayJob": {"rayClusterSpec": ray},
        "RayService": {"rayClusterConfig": ray},
    }
    version = "v1" if kind == "Pod" else "ray.io/v1"
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": spec[kind], "status": status}


@pytest.mark.parametrize(
    ("plural", "user", "refused"),
    [
        ("v1/pods", mounting("Pod", "look", phase="Running"), "Pod/look"),
        ("v1/pods", mounting("Pod", "look", phase="Pending"), "Pod/look"),
        ("v1/pods", mounting("Pod", "look", phase="Succeeded"), ""),
        ("v1/pods", mounting("Pod", "look", claim="mine", phase="Running"), ""),
        ("v1/pods", mounting("Pod", "head", run="night", phase="Running"), ""),  # its own
        ("ray.io/v1/rayjobs", mounting("RayJob", "day", jobDeploymentStatus="Running"), "RayJob/day"),
        ("ray.io/v1/rayjobs", mounting("RayJob", "day", jobDeploymentStatus="Suspended"), "RayJob/day"),  # no pod yet
        ("ray.io/v1/rayjobs", mounting("RayJob", "day", jobDeploymentStatus="Failed"), ""),
        ("ray.io/v1/rayservices", mounting("RayService", "asked"), "RayService/asked"),
        ("ray.io/v1/rayclusters", mounting("RayCluster", "stays"), "RayCluster/stays"),
        (
            "ray.io/v1/rayclusters",
            mounting("RayCluster", "day-x", owner="day"),
            "",
        ),  # its job is over, or is found itself
    ],
)
def test_K4_storage_that_another_run_uses_is_not_removed(plural, user, refused, server, bundle, capsys):
    command(capsys, "submit", bundle)
    put(server, plural, user)
    before = kept(server)
    code, out, err = command(capsys, "delete", bundle, "--storage")
    if refused:
        assert code == 2 and not out and f"claim ragdist is used by {refused}" in err and len(err.splitlines()) == 1
        assert kept(server) == before  # the job goes on too
        code, out, _ = command(capsys, "delete", bundle)
        assert code == 0 and "PersistentVolumeClaim/ragdist" not in out
    else:
        assert code == 0 and "PersistentVolumeClaim/ragdist" in out.split()


def waiting(reason, message="", name="ray"):
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


KILLED = {"reason": "OOMKilled", "exitCode": 137}


@pytest.mark.parametrize(
    ("phase", "status", "why"),
    [
        (
            "Pending",
            {
                "initContainerStatuses": [waiting("ImagePullBackOff", "no such image", "wait-gcs-ready")],
                "containerStatuses": [waiting("PodInitializing")],
            },
            "wait-gcs-ready: ImagePullBackOff no such image",
        ),
        (
            "Pending",
            {"initContainerStatuses": [{"name": "setup", "state": {"terminated": {"reason": "Error", "exitCode": 1}}}]},
            "setup: Error (exit code 1)",
        ),
        ("Failed", {"reason": "Evicted", "message": "low on memory"}, "Evicted low on memory"),
        (
            "Running",
            {"containerStatuses": [{"name": "ray", "state": {"terminated": KILLED}}]},
            "OOMKilled (exit code 137)",
        ),
        (
            "Running",
            {
                "containerStatuses": [
                    {"name": "ray", "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": KILLED}}
                ]
            },
            "restarted 2 times, the last: OOMKilled (exit code 137)",
        ),
        (
            "Running",
            {
                "containerStatuses": [
                    {"name": "ray", "state": {"running": {}}},
                    waiting("CrashLoopBackOff", "back-off", "autoscaler")
                    | {"restartCount": 3, "lastState": {"terminated": {"reason": "Error", "exitCode": 2}}},
                ]
            },
            "CrashLoopBackOff back-off (restarted 3 times, the last: Error (exit code 2))",
        ),
        ("Succeeded", {"containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}, ""),
        ("Pending", {"containerStatuses": [waiting("ContainerCreating")]}, "FailedMount no claim ragdist"),
    ],
)
def test_K6_status_says_what_pods_wait_for_and_died_of(phase, status, why, server, bundle, capsys):
    command(capsys, "submit", bundle)
    put(server, "v1/pods", pod("g-1", "generator", phase, **status))
    put(server, "v1/events", event("Pod", "g-1", "FailedMount", "no claim ragdist"))
    code, out, _ = command(capsys, "status", bundle, "--json")
    assert code == 0 and [one["why"] for one in json.loads(out)["pods"]] == [why]


def event(kind, name, reason, message, warns="Warning"):
    about = {"name": f"{name}.{reason}".lower(), "namespace": "ragdist"}
    told = {"apiVersion": "v1", "kind": "Event", "metadata": about, "type": warns, "reason": reason, "message": message}
    return told | {"involvedObject": {"kind": kind, "name": name}, "lastTimestamp": "2026-01-01T00:00:00Z"}


def test_K6_pods_that_were_refused_are_told_by_the_ray_cluster_and_its_events(server, bundle, capsys):
    command(capsys, "submit", bundle)
    set_status(server, jobDeploymentStatus="Initializing", rayClusterName="night-x7")
    quota = 'pods "night-x7-attacker" is forbidden: exceeded quota'
    conditions = [
        {"type": "HeadPodReady", "status": "True", "message": "ready"},
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "message": quota},
    ]
    about = {"name": "night-x7", "namespace": "ragdist"}
    ray = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": about, "status": {"conditions": conditions}}
    put(server, "ray.io/v1/rayclusters", ray)
    put(server, "v1/events", event("RayCluster", "night-x7", "FailedToCreateWorkerPod", quota))
    put(server, "v1/events", event("RayCluster", "other", "FailedToCreateWorkerPod", "not ours"))
    put(server, "v1/events", event("RayCluster", "night-x7", "Created", "all is well", "Normal"))
    told = json.loads(command(capsys, "status", bundle, "--json")[1])
    assert told["message"] == quota
    assert told["warnings"] == [f"RayCluster/night-x7: FailedToCreateWorkerPod {quota}"]
    assert "exceeded quota" in command(capsys, "status", bundle)[1]
    server["get /api/v1/namespaces/ragdist/events"] << 403 << {"message": "you may not"}
    code, out, _ = command(capsys, "status", bundle)  # a role without events
    assert code == 0 and "exceeded quota" in out


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "name too long"}, 1),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, 1),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 1),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, 0),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}, 0),
    ],
)
def test_K6_status_ends_as_the_job_did(status, code, server, bundle, capsys):
    command(capsys, "submit", bundle)
    set_status(server, **status)
    found, out, err = command(capsys, "status", bundle)
    assert found == code and status.get("message", "") in out + err
    submitted = command(capsys, "submit", bundle)
    over = status["jobDeploymentStatus"] != "Retrying"
    assert submitted[0] == (0 if over else 2)  # what was refused can be sent again, once mended


class Cut:
    """A log of which the first answers break off; `None` is the end of one that does not."""

    def __init__(self, *answers, phases=("Running",)):
        self.answers, self.phases = list(answers), list(phases)
        self.asked = 0

    def call(self, method, path, **query):
        if path.endswith("/pods"):
            return {"items": [pod("try-1")]}
        return {"status": {"phase": self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]}}

    def stream(self, path, **query):
        self.asked += 1
        *parts, end = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        yield from parts
        if end is not None:
            raise ConfigError(end)


def test_K10_a_log_that_is_cut_goes_on_where_it_broke_off(bundle, monkeypatch):
    monkeypatch.setattr(client, "POLL_S", 0)
    cut = Cut(
        [b"one\ntw", "reset"],
        ["no route"],
        [b"one\n", None],
        [b"on", b"e\ntwo\nthr", b"ee", None],
        phases=[*["Running"] * 4, "Succeeded"],
    )
    assert list(client.logs(bundle, cut, follow=True)) == ["one", "two", "three"]
    assert cut.asked == 4
    gone = Cut([b"one\n", "reset"], ["not found"])
    monkeypatch.setattr(
        gone, "call", lambda method, path, **query: {"items": [pod("try-1")]} if path.endswith("/pods") else None
    )
    assert list(client.logs(bundle, gone, follow=True)) == ["one"]  # who deletes the job ends the watching
    once = Cut([b"one\n", "reset"])
    with pytest.raises(ConfigError, match="reset"):
        list(client.logs(bundle, once))
    assert once.asked == 1
    monkeypatch.setattr(client, "LOST_S", 0)
    with pytest.raises(ConfigError, match="reset"):
        list(client.logs(bundle, Cut([b"one\n", "reset"]), follow=True))


def test_K10_a_connection_that_breaks_is_one_line(bundle, tmp_path, monkeypatch, capsys):
    """A real socket that ends in the middle of a chunked answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for answer in (json.dumps({"items": [pod("try-1")]}).encode(), None):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if answer:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
                    connection.sendall(head.encode() + answer)
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nround \r\n9\r\n1\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "cut", address)))
    monkeypatch.setattr(client, "LOST_S", 0)
    code, out, err = command(capsys, "logs", bundle, "--follow")
    thread.join(20)
    listener.close()
    assert code == 2 and out in ("", "round 1\n") and "broke off" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "7", "{apiVersion: v1, kind: Config, current-context: x}", "clusters: {a: 1}"]
)
def test_K10_a_kubeconfig_that_is_none_is_one_line(text, bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    code, _, err = command(capsys, "status", bundle)
    assert code == 2 and "KUBECONFIG" in err and len(err.splitlines()) == 1


def test_K10_a_server_that_is_no_kubernetes_is_one_line(server, bundle, capsys):
    server["get /apis/ray.io/v1/namespaces/ragdist/rayjobs/night"] << b"<html>log in</html>"
    code, _, err = command(capsys, "status", bundle)
    assert code == 2 and "is no Kubernetes" in err and len(err.splitlines()) == 1


def test_K10_who_submits_at_once_disturbs_nobody(server, bundle, capsys):
    """An object that another makes in between is changed, and of two jobs there is one."""
    made = server.objects
    command(capsys, "submit", bundle)
    set_status(server, jobDeploymentStatus="Running")
    found = client.Cluster()
    (job,) = load(bundle / "job.yaml")
    with pytest.raises(TakenError):
        found.call("POST", path_of(job, named=False), job)
    (account,) = load(bundle / "access.yaml")
    blind = Blind(found)
    client._send(Manifest("access.yaml", account), blind)
    assert blind.asked == ["GET", "POST", "PATCH"] and made
    with pytest.raises(TakenError):
        client._send(Manifest("job.yaml", job), Blind(found))


class Blind:
    """A cluster that does not see at first what somebody else makes at that moment."""

    def __init__(self, cluster):
        self.cluster, self.asked = cluster, []

    def call(self, method, path, body=None, **query):
        self.asked.append(method)
        return None if self.asked == ["GET"] else self.cluster.call(method, path, body, **query)


@needs_kubectl
def test_kubectl_takes_the_same_job(server, bundle, tmp_path):
    def kubectl(*arguments):
        env = {**os.environ, "HOME": str(tmp_path)}  # its cache of what the server has
        done = subprocess.run(["kubectl", *arguments], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    kubectl("create", "--validate=false", "-f", str(bundle / "job.yaml"))
    assert server.objects[JOB].raw["spec"] == load(bundle / "job.yaml")[0]["spec"]
    assert kubectl("get", "rayjob", "night", "-o", "jsonpath={.spec.entrypoint}").startswith("ragdist train atm ")
    kubectl("delete", "--wait=false", "rayjob", "night")
    assert kept(server) == []
