"""submit, status, logs and delete against an API server in memory, with our client and with the real kubectl."""

import json
import os
import subprocess

import pytest

from ragdist import cli
from ragdist.errors import ConfigError, TrainError
from ragdist.kube import client, render
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
