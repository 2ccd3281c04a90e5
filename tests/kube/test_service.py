"""A finished run as a RayService: what is rendered is valid, planted errors are found, and it is sent like a job."""

import json

import pytest
import yaml

from ragdist import planning
from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.kube import check, service
from tests.kube.bundles import CRDS, load, needs_crds, plant
from tests.kube.test_check import paths_after
from tests.kube.test_client import command, kept, server  # noqa: F401  # a fixture

CLUSTER = "spec.rayClusterConfig"
WORKERS = f"{CLUSTER}.workerGroupSpecs[0]"
CONTAINER = f"{WORKERS}.template.spec.containers[0]"
APPLICATION = "spec.serveConfigV2: applications[0]"
SERVICE = "service.yaml"
TOLD = ("serve.replicas=2", "serve.max_replicas=3", "serve.cpus_per_replica=2", "retrieval.count=4")


def rendered(folder, *more):
    planning.render_service("runs/night", ["kube.memory_gib=6", *TOLD, *more], folder)
    return load(folder / SERVICE)[0]


@pytest.fixture
def bundle(tmp_path):
    rendered(tmp_path / "night")
    return tmp_path / "night"


@needs_crds
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("serve.gpus_per_replica=0.5", "kube.workers_per_pod=2", "kube.storage=s3"),
        ("kube.autoscaling=true", "kube.clients=[ingress-nginx, apps]", "serve.port=9000"),
        ("serve.token_file=/shared/token", "kube.storage=existing"),
    ],
    ids=["plain", "gpu", "scales", "token file"],
)
def test_every_bundle_is_valid(more, tmp_path):
    rendered(tmp_path, *more)
    checked = check.check(tmp_path, CRDS)
    assert checked.objects >= 3 and not checked.unchecked
    assert not checked.findings, "\n".join(map(str, checked.findings))


def test_replicas_are_told_what_may_be_others_and_nothing_else(tmp_path):
    settings = {
        "corpus": {"folder": "docs"},
        "atm": {"rounds": 3},
        "retrieval": {"count": 2},
        "kube": {"memory_gib": 4},
    }
    (tmp_path / "night.yaml").write_text(yaml.safe_dump(settings))
    planning.render_service("/shared/runs/night", [tmp_path / "night.yaml", "duet.arbiter=agreement"], tmp_path / "out")
    (found,) = config(load(tmp_path / "out" / SERVICE)[0])["applications"]
    told = {"retrieval": {"count": 2}, "duet": {"arbiter": "agreement"}}
    assert found["args"] == {"run": "/shared/runs/night", "settings": told} and found["name"] == "night"


def config(document):
    return yaml.safe_load(document["spec"]["serveConfigV2"])


def test_pods_have_room_for_all_replicas_and_the_token_is_in_none_of_the_files(bundle):
    document = load(bundle / SERVICE)[0]
    (group,) = document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["resources"]["CPU"]) == (3, "2")
    (token,) = [one for one in group["template"]["spec"]["containers"][0]["env"] if one["name"] == "RAGDIST_TOKEN"]
    assert token == {
        "name": "RAGDIST_TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "ragdist-keys", "key": "RAGDIST_TOKEN"}},
    }
    scaled = rendered(bundle, "kube.autoscaling=true", "kube.workers_per_pod=2")["spec"]["rayClusterConfig"]
    (group,) = scaled["workerGroupSpecs"]
    assert [group[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [1, 1, 2]


def test_only_named_namespaces_may_ask(bundle):
    def askers(folder):
        rules = load(folder / "network.yaml")[0]["spec"]["ingress"]
        (found,) = [rule for rule in rules if rule.get("ports", [{}])[0].get("port") == 8000]
        return found["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"]

    assert askers(bundle) == ["ragdist"]
    rendered(bundle, "kube.clients=[ingress]")
    assert askers(bundle) == ["ingress"]


@pytest.mark.parametrize(
    ("run", "more", "wanted"),
    [
        ("runs/night", ("kube.memory_gib=0",), "kube.memory_gib"),
        ("/home/me/runs/night", (), "kube.mount"),
        ("../night", (), "kube.mount"),
        ("", (), "runs/demo"),
        ("runs/night", ("kube.queue=research",), "kube.queue"),
        ("runs/night", ("serve.port=0",), "serve.port"),
        ("runs/night", ("serve.replica=2",), "serve.replicas"),
    ],
)
def test_what_cannot_work_in_pods_is_refused(run, more, wanted, tmp_path):
    with pytest.raises(ConfigError, match=wanted):
        planning.render_service(run, ["kube.memory_gib=6", *more], tmp_path)


def changed(path="", value=None):
    """serveConfigV2 with another value at a path, of the application or of the whole."""
    body = config_of_night()
    if path:
        plant(body, path if path.startswith("http") else f"applications[0].{path}", value)
    return yaml.safe_dump(body)


def config_of_night():
    args = {
        "run": "/shared/runs/night",
        "settings": {"serve": {"replicas": 2, "max_replicas": 3, "cpus_per_replica": 2}},
    }
    application = {
        "name": "night",
        "route_prefix": "/",
        "import_path": "ragdist.asking:serve_application",
        "args": args,
    }
    return {"http_options": {"host": "0.0.0.0", "port": 8000}, "applications": [application]}


CONFIG, SETTINGS = "spec.serveConfigV2", "args.settings"
IMPORTED, SLOTS = f"{APPLICATION}.import_path", f"{CLUSTER}.workerGroupSpecs"
HEAD_NAME = f"{CLUSTER}.headGroupSpec.headService.metadata.name"
POD = f"{WORKERS}.template.spec"
PLANTED = [
    (SERVICE, {f"{CONTAINER}.env": []}, f"{CONTAINER}.env"),
    (SERVICE, {f"{CONTAINER}.env[5].valueFrom.secretKeyRef.optional": True}, f"{CONTAINER}.env"),
    (SERVICE, {CONFIG: "applications: ["}, CONFIG),
    (SERVICE, {CONFIG: "- night"}, CONFIG),
    (SERVICE, {CONFIG: ...}, CONFIG),
    (SERVICE, {CONFIG: changed("import_path", "ragdist.runs:served_application")}, IMPORTED),
    (SERVICE, {CONFIG: changed("import_path", "ragdist.serv:application")}, IMPORTED),
    (SERVICE, {CONFIG: changed(f"{SETTINGS}.serve.replica", 2)}, f"{APPLICATION}.args.settings"),
    (SERVICE, {CONFIG: changed(f"{SETTINGS}.serve.max_replicas", 4)}, SLOTS),
    (SERVICE, {CONFIG: changed(f"{SETTINGS}.serve.cpus_per_replica", 3)}, SLOTS),
    (SERVICE, {CONFIG: changed("args.run", "/tmp/night")}, f"{POD}.volumes"),
    (SERVICE, {CONFIG: changed("http_options.host", "127.0.0.1")}, f"{CONFIG}: http_options.host"),
    (SERVICE, {CONFIG: changed("http_options.port", 9000)}, f"{CONTAINER}.ports"),
    (SERVICE, {"metadata.name": "n" * 48}, "metadata.name"),
    (SERVICE, {"spec.upgradeStrategy": {"type": "BlueGreen"}}, "spec.upgradeStrategy.type"),
    (SERVICE, {"spec.rayClusterDeletionDelaySeconds": -1}, "spec.rayClusterDeletionDelaySeconds"),
    (SERVICE, {HEAD_NAME: "a"}, HEAD_NAME),
    (SERVICE, {f"{CLUSTER}.authOptions.mode": "disabled"}, f"{CLUSTER}.authOptions.mode"),
    (SERVICE, {f"{POD}.hostNetwork": True}, f"{POD}.hostNetwork"),
    (SERVICE, {f"{WORKERS}.template.metadata.labels": {}}, f"{WORKERS}.template.metadata.labels"),
]  # fmt: skip


def test_planted_config_is_right_until_something_is_planted(bundle):
    assert paths_after((SERVICE, {CONFIG: changed()}, ""), bundle) == set()


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted[2].rpartition(".")[2])
def test_planted_error_is_found(planted, bundle):
    assert planted[2] in paths_after(planted, bundle)


@needs_crds
def test_planted_error_against_the_schema_is_found(bundle):
    assert "spec.serveConfig" in paths_after((SERVICE, {"spec.serveConfig": "a"}, "spec.serveConfig"), bundle, CRDS)


def test_from_submit_to_delete(server, bundle, capsys):  # noqa: F811
    assert command(capsys, "submit", bundle)[:2] == (0, "night-serve\n")
    assert kept(server) == ["NetworkPolicy", "PersistentVolumeClaim", "RayService", "ServiceAccount"]
    there = server.objects["ray.io/v1/rayservices", "ragdist", "night-serve"]
    unmet = {"type": "Ready", "status": "False", "message": "Active Serve endpoints are not ready"}
    there.patch({"status": {"conditions": [unmet]}})
    assert json.loads(command(capsys, "status", bundle, "--json")[1])["message"] == unmet["message"]
    there.patch({"status": {"serviceStatus": "Running", "conditions": []}})
    assert "night-serve: Running" in command(capsys, "status", bundle)[1]
    rendered(bundle, "retrieval.count=2")
    assert "RayService/night-serve: changed" in command(capsys, "submit", bundle)[2]  # in place: the operator updates
    (application,) = config(there.raw)["applications"]
    assert loader.load(application["args"]["settings"]).retrieval.count == 2
    assert command(capsys, "delete", bundle)[1].split()[0] == "RayService/night-serve"
    assert kept(server) == ["PersistentVolumeClaim"]


def test_K8_K9_K11_a_service_is_watched_has_a_name_of_its_own_and_no_deadline():
    found = service.manifests(
        "runs/demo", loader.load([*TOLD, "kube.memory_gib=6", "kube.prometheus_namespace=monitoring"]), {}
    )
    ports = [rule["ports"][0]["port"] for rule in found["network.yaml"][0]["spec"]["ingress"][1:]]
    assert {8080, 8000} <= set(ports)
    names = {
        service.manifests(run, loader.load([*TOLD, "kube.memory_gib=6"]), {})["service.yaml"][0]["metadata"]["name"]
        for run in ("runs/demo", "runs/Demo", "other/demo", "/shared/other/Demo", "demo")
    }
    assert len(names) == 5 and "demo-serve" in names
    for name in ("deadline_s", "start_timeout_s"):
        with pytest.raises(ConfigError, match=rf"kube\.{name}=60"):
            service.manifests("runs/demo", loader.load([*TOLD, "kube.memory_gib=6", f"kube.{name}=60"]), {})
