"""The manifests in the repository are what `ragdist k8s render` writes, and valid in all combinations."""

import os
import shlex
import shutil
import subprocess

import pytest
import yaml

from ragdist import cli
from ragdist.kube import check
from tests.kube.bundles import CRDS, ROOT, needs_crds

FOLDER = ROOT / "clusters" / "kuberay"
COMMANDS = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("ragdist k8s render ")]
needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@needs_crds
def test_repository_is_valid():
    checked = check.check(FOLDER, CRDS)
    assert checked.objects > 20 and not checked.unchecked
    assert not checked.findings, "\n".join(map(str, checked.findings))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.rpartition("/")[2])
def test_base_is_what_its_command_writes(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    *arguments, folder = shlex.split(command)[1:]
    cli.app(args=[*arguments, str(tmp_path)], standalone_mode=False)
    names = sorted(path.name for path in (ROOT / folder).iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_text() == (ROOT / folder / name).read_text(), f"run: {command}"


@needs_crds
@needs_kubectl
@pytest.mark.parametrize("storage", ["pvc", "s3"])
@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("base", ["raft", "duet", "atm", "sweep", "cluster"])
def test_overlays_go_together(base, hardware, storage, tmp_path):
    built = put_together(tmp_path, base, hardware, storage)
    assert ('nvidia.com/gpu: "1"' in built) is (hardware == "gpu")


@needs_crds
@needs_kubectl
@pytest.mark.parametrize("storage", ["pvc", "s3"])
def test_overlays_go_with_a_service(storage, tmp_path):
    assert "kubernetes.io/arch: amd64" in put_together(tmp_path, "serve", "cpu", storage)


def put_together(tmp_path, base, hardware, storage):
    """All objects, which are valid."""
    there = os.path.relpath(FOLDER, tmp_path.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{there}/base/{base}"],
        "components": [f"{there}/overlays/{hardware}", f"{there}/overlays/{storage}"],
        "images": [{"name": "ragdist", "newName": "registry.example.com/ragdist", "newTag": "9"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "all.yaml").write_text(built.stdout)
    checked = check.check(tmp_path / "out", CRDS)
    assert not checked.findings, "\n".join(map(str, checked.findings))
    assert "image: ragdist" not in built.stdout and "registry.example.com/ragdist:9" in built.stdout
    return built.stdout


@needs_kubectl
def test_example_builds():
    done = subprocess.run(["kubectl", "kustomize", FOLDER / "example"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "kind: RayJob" in done.stdout, done.stderr
