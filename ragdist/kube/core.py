"""Kubernetes' own objects against the schemas that `kubernetes-validate` brings along, strictly.

Its own function reads two megabytes of definitions again for every object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from ragdist.errors import ConfigError
from ragdist.kube.findings import Manifest, Violation
from ragdist.kube.schema import explained


def problems(document: Manifest) -> Iterator[Violation]:
    """What the API server would refuse. A ConfigError without `kubernetes-validate`."""
    version = str(document.body["apiVersion"])
    group, slash, number = version.rpartition("/")
    validator = _validator(f"{document.kind.lower()}-{group.partition('.')[0]}{'-' if slash else ''}{number}.json")
    if validator is None:
        yield Violation("kind", f"{version} {document.kind} is not known", "an object of Kubernetes or KubeRay")
    else:
        yield from map(explained, validator.iter_errors(document.body))


@cache
def _validator(file: str) -> Any:
    """Of one kind; None where there is no such kind."""
    from jsonschema import Draft202012Validator

    path = _newest() / file
    if not re.fullmatch(r"[a-z0-9-]+\.json", file) or not path.is_file():
        return None
    return Draft202012Validator(json.loads(path.read_bytes()), registry=_definitions())


@cache
def _definitions() -> Any:
    """What the schemas of all kinds refer to."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    definitions = json.loads((_newest() / "_definitions.json").read_bytes())
    return Registry().with_resource("/api/_definitions.json", DRAFT202012.create_resource(definitions))


@cache
def _newest() -> Any:
    """The folder of strict schemas of the newest Kubernetes."""
    try:
        root = files("kubernetes_validate") / "kubernetes-json-schema"
    except ModuleNotFoundError:
        raise ConfigError("ragdist k8s check needs `pip install ragdist[k8s]`") from None
    versions = [found for one in root.iterdir() if (found := re.fullmatch(r"v1\.(\d+)\.0-local-strict", one.name))]
    return root / max(versions, key=lambda found: int(found[1]))[0]
