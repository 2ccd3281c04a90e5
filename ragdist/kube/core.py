"""Kubernetes' own objects against the schemas that `kubernetes-validate` brings along, strictly."""

from __future__ import annotations

from collections.abc import Iterator

from ragdist.errors import ConfigError
from ragdist.kube.findings import Document, Problem


def problems(document: Document) -> Iterator[Problem]:
    """What the API server would refuse: the first of it.

    Raises:
        ConfigError: `kubernetes-validate` is not installed.
    """
    try:
        import kubernetes_validate as kubernetes
    except ImportError:
        raise ConfigError("ragdist k8s check needs `pip install ragdist[k8s]`") from None
    from ragdist.kube.schema import explained

    try:
        kubernetes.validate(document.body, kubernetes.latest_version(), strict=True)
    except kubernetes.ValidationError as error:
        yield explained(error)
    except kubernetes.SchemaNotFoundError:
        told = f"{document.body['apiVersion']} {document.kind}"
        yield Problem("kind", f"{told} is not known", "an object of Kubernetes or KubeRay")
