"""A real API server with its etcd, and KubeRay's kinds: the objects of a cluster, without machines or operators."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from ragdist.kube import client, schema
from tests.kube.bundles import CRDS

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragdist" / "apiserver"
BUILT = (HOME / "kube-apiserver").exists() and (HOME / "etcd").exists()
TOKEN = "token-of-a-test"
WAIT_S = 180


@contextmanager
def running(folder: Path) -> Iterator[client.Cluster]:
    """A client of a fresh server; both processes end with the block."""
    etcd, peers, secure = _free_ports(3)
    (folder / "tokens.csv").write_text(f'{TOKEN},me,1,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", str(folder / "key.pem"), "2048"], check=True, capture_output=True)
    with ExitStack() as stack:
        address = f"http://127.0.0.1:{etcd}"
        stack.enter_context(
            _process(
                folder / "etcd.log",
                [str(HOME / "etcd"), f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={address}"],
                [f"--advertise-client-urls={address}", f"--listen-peer-urls=http://127.0.0.1:{peers}"],
                ["--max-request-bytes=10000000", "--unsafe-no-fsync"],
            )
        )
        stack.enter_context(
            _process(
                folder / "apiserver.log",
                [str(HOME / "kube-apiserver"), f"--etcd-servers={address}", f"--secure-port={secure}"],
                [f"--cert-dir={folder / 'certs'}", f"--token-auth-file={folder / 'tokens.csv'}"],
                [
                    "--authorization-mode=AlwaysAllow",
                    "--service-cluster-ip-range=10.0.0.0/24",
                    "--bind-address=127.0.0.1",
                ],
                ["--service-account-issuer=https://here", f"--service-account-key-file={folder / 'key.pem'}"],
                [
                    f"--service-account-signing-key-file={folder / 'key.pem'}",
                    "--disable-admission-plugins=ServiceAccount",
                ],
            )
        )
        os.environ["KUBECONFIG"] = str(_kubeconfig(folder / "kubeconfig", f"https://127.0.0.1:{secure}"))
        cluster = client.Cluster()
        _until(lambda: cluster.call("GET", "/api/v1/namespaces/default"), folder)
        _define(cluster, folder)
        yield cluster


@contextmanager
def _process(log: Path, *parts: list[str]) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen([word for part in parts for word in part], stdout=file, stderr=file)
    try:
        yield
    finally:
        process.kill()
        process.wait(20)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _kubeconfig(path: Path, server: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _until(asked: Any, folder: Path) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            if asked():
                return
        except client.ConfigError:  # survives a server that is not up
            pass
        if time.monotonic() > end:
            raise TimeoutError((folder / "apiserver.log").read_text()[-2000:])
        time.sleep(0.3)


def _define(cluster: client.Cluster, folder: Path) -> None:
    """KubeRay's kinds."""
    for plural in ("rayjobs", "rayclusters", "rayservices"):
        body = yaml.load((CRDS / f"ray.io_{plural}.yaml").read_bytes(), schema.Loader)
        body.pop("status", None)
        for version in body["spec"]["versions"]:
            version["schema"]["openAPIV3Schema"] = _told(version["schema"]["openAPIV3Schema"])
        cluster.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json.loads(json.dumps(body)))
        _until(lambda plural=plural: cluster.call("GET", f"/apis/ray.io/v1/namespaces/default/{plural}"), folder)


def _told(part: Any) -> Any:
    """A schema without descriptions and rules in CEL; an empty default is one that this version takes."""
    if isinstance(part, list):
        return [_told(one) for one in part]
    if not isinstance(part, dict):
        return part
    gone = {"x-kubernetes-validations"} | ({"description"} if isinstance(part.get("description"), str) else set())
    found = {key: _told(value) for key, value in part.items() if key not in gone}
    return found | ({"default": "unnamed"} if found.get("default") == "" else {})
