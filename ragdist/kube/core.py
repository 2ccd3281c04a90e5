"""Kubernetes' own objects against the schemas that `kubernetes-validate` brings along, strictly.

Its own function reads two megabytes of definitions again for every object; here what a kind needs of them is kept.
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
from ragdist.kube.schema import bare, explained, kept


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

    folder = _newest()
    if not re.fullmatch(r"[a-z0-9-]+\.json", file) or not (folder / file).is_file():
        return None

    def make() -> dict[str, Any]:
        definitions = json.loads((folder / "_definitions.json").read_bytes())["$defs"]
        return dict(_resolved(bare(json.loads((folder / file).read_bytes())), definitions, ()))

    return Draft202012Validator(kept(f"{folder.name}-{file.removesuffix('.json')}", make))


@cache
def _newest() -> Any:
    """The folder of strict schemas of the newest Kubernetes."""
    try:
        root = files("kubernetes_validate") / "kubernetes-json-schema"
    except ModuleNotFoundError:
        raise ConfigError("ragdist k8s check needs `pip install ragdist[k8s]`") from None
    versions = [found for one in root.iterdir() if (found := re.fullmatch(r"v1\.(\d+)\.0-local-strict", one.name))]
    return root / max(versions, key=lambda found: int(found[1]))[0]


def _resolved(schema: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    """The schema with what it refers to in its place; a definition within itself allows anything."""
    if isinstance(schema, list):
        return [_resolved(one, definitions, within) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {} if name in within else _resolved(bare(definitions[name]), definitions, (*within, name))
    return {key: _resolved(one, definitions, within) for key, one in schema.items()}
