"""Errors are planted in a bundle that has none; each is found, with its path."""

import copy
import json
import time

import pytest
import yaml

from ragdist import cli
from ragdist.errors import ConfigError
from ragdist.kube import check, render
from ragdist.kube.findings import Manifest
from tests.kube.bundles import CRDS, ROOT, needs_crds, plant, rendered, settings_of

CLUSTER = "spec.rayClusterSpec"
HEAD, ATTACKER = f"{CLUSTER}.headGroupSpec", f"{CLUSTER}.workerGroupSpecs[0]"
POD, CONTAINER = f"{ATTACKER}.template.spec", f"{ATTACKER}.template.spec.containers[0]"
SECURITY, QUEUE = f"{CONTAINER}.securityContext", "metadata.labels.kueue\\.x-k8s\\.io/queue-name"
JOB, NETWORK, STORAGE, SETTINGS = "job.yaml", "network.yaml", "storage.yaml", "settings.yaml"
LATE = [
    {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 9}},
    {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 3}},
]
SCHEMA = [
    (JOB, {"spec.backofLimit": 3}, "spec.backofLimit"),
    (JOB, {"spec.backoffLimit": "three"}, "spec.backoffLimit"),
    (
        JOB,
        {"spec.submissionMode": "K8sMode", "spec.submitterPodTemplate.spec.containers[0].ports": 1},
        "spec.submitterPodTemplate.spec.containers[0].ports",
    ),
    (JOB, {f"{HEAD}.template": ...}, f"{HEAD}.template"),
    (
        JOB,
        {f"{CONTAINER}.volumeMounts[2]": {"name": "storage", "mountPath": "/shared"}},
        f"{CONTAINER}.volumeMounts[2]",
    ),
    (JOB, {"spec.managedBy": "me"}, "spec.managedBy"),
    (JOB, {"spec.deletionStrategy": {}}, "spec.deletionStrategy"),
    (JOB, {"apiVersion": "ray.io/v2"}, "apiVersion"),
    (JOB, {f"{ATTACKER}.rayStartParams.object-store-memory": 1}, f"{ATTACKER}.rayStartParams.object-store-memory"),
    (JOB, {f"{CONTAINER}.resource": {}}, f"{CONTAINER}.resource"),
    (JOB, {f"{CLUSTER}.authOptions.mode": "tokens"}, f"{CLUSTER}.authOptions.mode"),
    (JOB, {f"{POD}.volumes[0].emptyDir.sizeLimit": "two"}, f"{POD}.volumes[0].emptyDir.sizeLimit"),
]
CORE = [
    (NETWORK, {"spec.podSelectors": {}}, "spec.podSelectors"),
    (NETWORK, {"spec.ingress[1].ports[0].protocol": 6}, "spec.ingress[1].ports[0].protocol"),
    (STORAGE, {"spec.accessModes": "ReadWriteMany"}, "spec.accessModes"),
    (NETWORK, {"kind": "NetworkPolicies"}, "kind"),
]
OPERATOR = [
    (JOB, {"metadata.name": "n" * 48}, "metadata.name"),
    (JOB, {"metadata.name": "2nd"}, "metadata.name"),
    (JOB, {"spec.shutdownAfterJobFinishes": False}, "spec.ttlSecondsAfterFinished"),
    (JOB, {"spec.suspend": True, "spec.shutdownAfterJobFinishes": False}, "spec.suspend"),
    (JOB, {f"{ATTACKER}.rayStartParams.num-cpus": "4"}, f"{ATTACKER}.rayStartParams"),
    (JOB, {f"{ATTACKER}.rayStartParams.labels": "a=b"}, f"{ATTACKER}.rayStartParams.labels"),
    (JOB, {f"{ATTACKER}.labels.team": "red team!"}, f"{ATTACKER}.labels"),
    (JOB, {f"{CLUSTER}.rayVersion": "2.40.0"}, f"{CLUSTER}.rayVersion"),
    (JOB, {f"{ATTACKER}.minReplicas": 7}, f"{ATTACKER}.minReplicas"),
    (JOB, {"spec.submissionMode": "InteractiveMode"}, "spec.backoffLimit"),
    (JOB, {"spec.submissionMode": "SidecarMode"}, "spec.submitterPodTemplate"),
    (JOB, {"spec.clusterSelector": {"ray.io/cluster": "old"}}, "spec.backoffLimit"),
    (JOB, {"spec.runtimeEnvYAML": "- pip"}, "spec.runtimeEnvYAML"),
    (JOB, {"spec.preRunningDeadlineSeconds": 0}, "spec.preRunningDeadlineSeconds"),
    (JOB, {"spec.deletionStrategy.deletionRules": LATE}, "spec.deletionStrategy.deletionRules[1].condition.ttlSeconds"),
    (JOB, {f"{CLUSTER}.enableInTreeAutoscaling": True, f"{POD}.restartPolicy": "Always"}, f"{POD}.restartPolicy"),
    (JOB, {f"{ATTACKER}.idleTimeoutSeconds": 60}, f"{ATTACKER}.idleTimeoutSeconds"),
    (JOB, {f"{CLUSTER}.networkPolicy": {"mode": "DenyAll"}}, f"{CLUSTER}.networkPolicy"),
    (JOB, {f"{CLUSTER}.authOptions.enableK8sTokenAuth": True}, f"{CLUSTER}.authOptions.enableK8sTokenAuth"),
    (
        JOB,
        {f"{HEAD}.template.spec.containers[0].env[0].name": "RAY_REDIS_ADDRESS"},
        f"{HEAD}.template.spec.containers[0].env",
    ),
]
OURS = [
    (JOB, {f"{CLUSTER}.authOptions.mode": "disabled"}, f"{CLUSTER}.authOptions.mode"),
    (JOB, {f"{CONTAINER}.resources.limits.memory": ...}, f"{CONTAINER}.resources.limits.memory"),
    (JOB, {f"{CONTAINER}.image": "ragdist:latest"}, f"{CONTAINER}.image"),
    (JOB, {f"{CONTAINER}.image": "registry.example.com:5000/ragdist"}, f"{CONTAINER}.image"),
    (JOB, {f"{CONTAINER}.env[0]": {"name": "HF_TOKEN", "value": "abc"}}, f"{CONTAINER}.env[0].value"),
    (JOB, {"spec.metadata.note": "AKIAABCDEFGHIJKLMNOP"}, "spec.metadata.note"),
    (SETTINGS, {"data.notes": "use hf_abcdefghijklmnopqrstuvwxyz"}, "data.notes"),
    (SETTINGS, {"kind": "Secret", "data": {"token": "YWJj"}}, "data"),
    (JOB, {f"{POD}.securityContext.runAsNonRoot": False}, f"{SECURITY}.runAsNonRoot"),
    (JOB, {f"{SECURITY}.allowPrivilegeEscalation": True}, f"{SECURITY}.allowPrivilegeEscalation"),
    (JOB, {f"{SECURITY}.capabilities": ...}, f"{SECURITY}.capabilities.drop"),
    (JOB, {f"{POD}.securityContext.seccompProfile": ...}, f"{POD}.securityContext.seccompProfile"),
    (JOB, {f"{POD}.automountServiceAccountToken": ...}, f"{POD}.automountServiceAccountToken"),
    (JOB, {f"{POD}.hostNetwork": True}, f"{POD}.hostNetwork"),
    (JOB, {f"{POD}.volumes[1]": {"name": "storage", "hostPath": {"path": "/"}}}, f"{POD}.volumes[1].hostPath"),
    (JOB, {f"{POD}.terminationGracePeriodSeconds": 30}, f"{POD}.terminationGracePeriodSeconds"),
    (JOB, {f"{POD}.volumes[0].emptyDir.sizeLimit": "64Mi"}, f"{POD}.volumes[0].emptyDir.sizeLimit"),
    (JOB, {f"{HEAD}.serviceType": "NodePort"}, f"{HEAD}.serviceType"),
    (JOB, {"spec.entrypoint": "ragdist train atm /etc/ragdist/settings.yaml run.name=$(date +%s)"}, "spec.entrypoint"),
    (JOB, {"spec.entrypoint": "ragdist train atm /etc/other/settings.yaml"}, "spec.entrypoint"),
    (JOB, {"spec.backoffLimit": 0}, "spec.backoffLimit"),
    (JOB, {f"{HEAD}.template.spec.volumes[1]": {"name": "storage", "emptyDir": {}}}, f"{HEAD}.template.spec.volumes"),
    (JOB, {f"{ATTACKER}.maxReplicas": 1, f"{ATTACKER}.minReplicas": 1}, f"{CLUSTER}.workerGroupSpecs"),
    (JOB, {f"{ATTACKER}.labels": {}}, f"{CLUSTER}.workerGroupSpecs"),
    (JOB, {f"{ATTACKER}.resources.GPU": ...}, f"{CLUSTER}.workerGroupSpecs"),
    (JOB, {f"{ATTACKER}.template.metadata.labels": {}}, f"{ATTACKER}.template.metadata.labels"),
    (JOB, {QUEUE: "q", f"{CLUSTER}.enableInTreeAutoscaling": True}, f"{CLUSTER}.enableInTreeAutoscaling"),
    (SETTINGS, {"data.settings\\.yaml": "{run: {folder: /shared/runs}}"}, "data.settings.yaml: run.name"),
    (SETTINGS, {"data.settings\\.yaml": "{atm: {sampels: 3}}"}, "data.settings.yaml"),
    (STORAGE, {"spec.accessModes": ["ReadWriteOnce"]}, "spec.accessModes"),
]  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """A folder without errors: ATM on GPUs, two ranks on each side."""
    render.write(rendered("atm", settings_of("atm", "gpu", "claim", "attacker.workers=2")), tmp_path)
    return tmp_path


def name_of(planted):
    file, changes, _ = planted
    return f"{file.removesuffix('.yaml')}-{'-'.join(path.rpartition('.')[2] for path in changes)}"


def paths_after(planted, folder, crds=None):
    """Paths of all findings once an error is planted."""
    file, changes, _ = planted
    document = yaml.safe_load((folder / file).read_text())
    for path, value in changes.items():
        plant(document, path, value)
    (folder / file).write_text(yaml.safe_dump(document))
    found = check.check(folder, crds).findings
    assert all(one.file == file and one.wanted and one.what for one in found if one.path == planted[2])
    return {one.path for one in found}


@pytest.mark.parametrize("planted", [*CORE, *OPERATOR, *OURS], ids=name_of)
def test_planted_error_is_found(planted, bundle):
    assert planted[2] in paths_after(planted, bundle)


@needs_crds
@pytest.mark.parametrize("planted", SCHEMA, ids=name_of)
def test_planted_error_against_the_schema_is_found(planted, bundle):
    assert planted[2] in paths_after(planted, bundle, CRDS)


def test_a_bucket_that_is_no_file_system_is_found(tmp_path):
    settings = settings_of("raft", "cpu", "s3", "kube.s3_driver=s3.csi.aws.com")
    render.write(rendered("raft", settings), tmp_path)
    assert "spec.csi.driver" in {one.path for one in check.check(tmp_path).findings}


@pytest.mark.parametrize("text", ["a: [", "- 1", "kind: RayJob"])
def test_what_is_no_object_is_found(text, bundle):
    (bundle / "other.yaml").write_text(text)
    assert [one.file for one in check.check(bundle).findings] == ["other.yaml"]


def paths_in(body, path=""):
    """Paths of everything in an object."""
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in pairs:
        here = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".removeprefix(".")
        yield here
        yield from paths_in(value, here)


def test_whatever_shape_an_object_has_it_is_read(bundle):
    """Each value in turn is something else: no crash, whatever the finding."""
    (bundle / "kustomization.yaml").unlink()
    documents, _ = check.read(bundle)
    junk = [None, 7, "x", [], {}, [{}], True]
    for number, document in enumerate(documents):
        paths = [path for path in paths_in(document.body) if "/" not in path]  # a label's key has dots of its own
        for count, path in enumerate(paths):
            body = copy.deepcopy(document.body)
            plant(body, path, junk[count % len(junk)])
            changed = [*documents[:number], Manifest(document.file, body), *documents[number + 1 :]]
            assert check.findings_of(changed) is not None


HEAD_OF_ONE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
MULTIPLIED = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
NO_OBJECTS = {
    "deep": "data: " + "[" * 3000 + "]" * 3000,
    "deeper": "data: " + "{a: " * 200_000,
    "leads back": "data: &a {x: *a}",
    "multiplies": MULTIPLIED,
    "a set": "data: !!set {a}",
    "a tag": "data: !!python/object/apply:os.mkdir [canary]",
    "a number of 5000 digits": f"data: {{a: {'9' * 5000}.0e+999}}",
    "a key that is a list": "? [a]\n: 1",
    "half a character": 'data: {a: "\\ud800"}',
    "not a number": "data: {a: .nan}",
    "no UTF-8": "data: {a: \udcff}",
    "a key twice": "data: {}\ndata: {}",
}


@pytest.mark.parametrize("name", NO_OBJECTS)
def test_what_no_api_server_reads_is_a_finding_and_is_not_sent(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.yaml").write_text(f"{HEAD_OF_ONE}{NO_OBJECTS[name]}\n", "utf-8", "surrogateescape")
    documents, findings = check.read(tmp_path)
    assert not documents and len(findings) == 1 and "\n" not in findings[0].what
    assert not (tmp_path / "canary").exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(["k8s", "check", "."])
    assert ended.value.code == 1 and "odd.yaml" in capsys.readouterr().out


def test_values_are_read_as_the_api_server_reads_them(tmp_path):
    (tmp_path / "one.yaml").write_text(f"{HEAD_OF_ONE}data: {{mode: 0644, day: 2026-99-99, 7: 8, on: 1_000}}\n---\n")
    (document,), _ = check.read(tmp_path)
    assert document.body["data"] == {"mode": 420, "day": "2026-99-99", "7": 8, "on": 1000}


def test_settings_of_a_config_map_that_are_no_text_are_a_finding(bundle):
    for content in (None, 7, [], {"a": 1}, "a: [", "[" * 5000):
        (holder,) = yaml.safe_load_all((bundle / SETTINGS).read_text())
        holder["data"] = dict.fromkeys(holder["data"], content)
        (bundle / SETTINGS).write_text(yaml.safe_dump(holder))
        assert "data." in str(check.check(bundle).findings)


@pytest.mark.parametrize(
    "content", ["", "spec: {versions: 7}", "spec: [", "spec: {versions: [{served: 1}]}", "[" * 5000]
)
def test_a_broken_definition_is_one_line(bundle, tmp_path, content):
    (tmp_path / "crds").mkdir()
    text = f"kind: CustomResourceDefinition\nnames:\n  kind: RayJob\n{content}\n"
    (tmp_path / "crds" / "rayjobs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"rayjobs\.yaml cannot be read"):
        check.check(bundle, tmp_path / "crds")


def test_exit_codes(bundle, tmp_path, capsys):
    def code(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["k8s", "check", *map(str, arguments)])
        return ended.value.code or 0, capsys.readouterr()

    unchecked, said = code(bundle)
    assert unchecked == 3 and "schema not checked" in said.err and not said.out
    if CRDS.is_dir():
        assert code(bundle, "--crds", CRDS)[0] == 0
    assert code(bundle, "--crds", bundle)[0] == 2
    assert code(tmp_path / "nowhere")[0] == 2
    job = yaml.safe_load((bundle / JOB).read_text())
    plant(job, f"{CONTAINER}.image", "ragdist")
    (bundle / JOB).write_text(yaml.safe_dump(job))
    found, said = code(bundle)
    assert found == 1 and said.out.startswith(f"job.yaml RayJob/night {CONTAINER}.image: 'ragdist'; wanted ")
    assert json.loads(code(bundle, "--json")[1].out)["findings"][0]["path"] == f"{CONTAINER}.image"


def test_a_folder_without_manifests_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="ragdist k8s render"):
        check.check(tmp_path)


@needs_crds
def test_checking_the_repository_is_fast():
    folder = ROOT / "clusters" / "kuberay"
    check.check(folder, CRDS)  # schemas are parsed once, then kept

    def seconds(work):
        def once():
            start = time.process_time()
            work()
            return time.process_time() - start

        return min(once() for _ in range(5))

    parsing = seconds(lambda: check.read(folder))
    assert seconds(lambda: check.check(folder, CRDS)) < 10 * parsing
