"""The API server of a cluster, asked through the official client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from ragdist.errors import ConfigError
from ragdist.kube.findings import Body

PLURALS = {
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "NetworkPolicy": "networkpolicies",
    "RayCluster": "rayclusters",
    "RayJob": "rayjobs",
    "RayService": "rayservices",
}
"""What is sent, in this order, and how the API names it."""
TIMEOUT_S = (10, 60)
"""Longest wait, in seconds, for a connection and for an answer."""


class TakenError(ConfigError):
    """The object is there already, or is another one by now."""


class Cluster:
    """The API server of a kubeconfig's context, empty for the current one; without a kubeconfig, of the cluster this
    pod is in. A ConfigError if no cluster is configured, or the client is not installed."""

    def __init__(self, context: str = "") -> None:
        try:
            import kubernetes as official
        except ImportError:
            raise ConfigError("ragdist k8s submit, status, logs and delete need `pip install ragdist[k8s]`") from None
        settings = official.client.Configuration()
        try:
            # Looked up now: theirs is from import.
            path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
            if context or os.environ.get("KUBECONFIG") or Path(path).exists():
                official.config.load_kube_config(path, context or None, settings)
            else:
                official.config.load_incluster_config(settings)
        except (
            official.config.ConfigException,
            yaml.YAMLError,
            OSError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:
            told = " ".join(str(error).split())[:300]
            raise ConfigError(f"no Kubernetes cluster: {told}; set KUBECONFIG, or --context to one of it") from None
        self.api = official.client.ApiClient(settings)

    def call(self, method: str, path: str, body: Body | None = None, **query: str) -> Any:
        """One request; None where there is no such object. A ConfigError if the server cannot be reached or refuses."""
        answer = self._request(method, path, body, query)
        try:
            return None if answer.status == 404 else json.loads(answer.data)
        except ValueError:
            host = self.api.configuration.host
            raise ConfigError(f"{host} is no Kubernetes: {method} {path} gives {_said(answer.data)!r:.80}") from None

    def stream(self, path: str, **query: str) -> Iterator[bytes]:
        """Parts of an answer that is no JSON, as they come. A ConfigError if it is cut, or there is no such object."""
        from urllib3.exceptions import HTTPError

        answer = self._request("GET", path, None, query, whole=False)
        if answer.status == 404:
            raise ConfigError(f"GET {path}: {_said(answer.data)}")
        try:
            yield from answer.stream(4096)
        except (HTTPError, OSError) as error:
            raise ConfigError(f"Kubernetes at {self.api.configuration.host} broke off {path}: {error}") from None

    def _request(self, method: str, path: str, body: Body | None, query: dict[str, str], whole: bool = True) -> Any:
        """An answer of the server; without `whole` it is read by the caller, for as long as it goes on."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers, told = {"Accept": "application/json", "Content-Type": kind}, list(query.items())
        self.api.update_params_for_auth(headers, told, ["BearerToken"])
        host, (connect_s, read_s) = self.api.configuration.host, TIMEOUT_S
        try:
            answer = self.api.rest_client.pool_manager.request(
                method,
                f"{host}{path}{'?' if told else ''}{urlencode(told)}",
                body=json.dumps(body) if body else None,
                headers=headers,
                timeout=Timeout(connect=connect_s, read=read_s if whole else None),
                preload_content=whole,
                retries=False,
            )
        except HTTPError as error:
            raise ConfigError(f"Kubernetes at {host} does not answer: {error}; see `kubectl cluster-info`") from None
        if answer.status >= 400 and answer.status != 404:
            wrong = TakenError if answer.status == 409 else ConfigError
            raise wrong(f"{method} {path}: {answer.status} {_said(answer.data)}")
        return answer


def _said(answer: bytes) -> str:
    """The server's own words, in one line."""
    try:
        text = str(json.loads(answer)["message"])
    except (TypeError, ValueError, KeyError):
        text = answer.decode(errors="replace")
    return " ".join(text.split())[:300]


def path_of(body: Body, named: bool = True) -> str:
    """The API's path of an object, or of its kind in its namespace."""
    version, kind, about = str(body["apiVersion"]), str(body["kind"]), body["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{about['namespace']}" if "namespace" in about else ""
    return f"{root}{namespace}/{PLURALS.get(kind, f'{kind.lower()}s')}" + (f"/{about['name']}" if named else "")
