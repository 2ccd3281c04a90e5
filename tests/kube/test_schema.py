"""Schemas as the API server applies them, on a small definition of our own."""

import pytest
import yaml

from ragdist.errors import ConfigError
from ragdist.kube import schema
from ragdist.kube.findings import Manifest

SPEC = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "default": 3, "minimum": 1},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {}},
        "limits": {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        },
        "named": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "kind": {
            "type": "string",
            "x-kubernetes-validations": [
                {"rule": "self in ['a', 'b']", "message": "a or b"},
                {"rule": "self == oldSelf"},
            ],
        },
    },
}
WHOLE = {"type": "object", "properties": {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}, "spec": SPEC}}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "names": {"kind": "RayJob", "plural": "rayjobs"},
        "versions": [{"name": "v1", "served": True, "schema": {"openAPIV3Schema": WHOLE}}],
    },
}


@pytest.fixture
def schemas(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "rayjobs.yaml").write_text(yaml.safe_dump(DEFINITION))
    return schema.Schemas(tmp_path)


def found(schemas, version="ray.io/v1", **spec):
    body = {"apiVersion": version, "kind": "RayJob", "metadata": {"name": "a"}, "spec": spec}
    return [one.path for one in schemas.problems(Manifest("a.yaml", body))]


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({}, []),  # the default fills what is required
        ({"size": None}, []),  # null is absent
        ({"size": 0}, ["spec.size"]),
        ({"size": True}, ["spec.size"]),
        ({"sise": 1}, ["spec.sise"]),
        ({"free": {"any": {"thing": 1}}}, []),
        ({"limits": {"cpu": "1", "memory": 2}}, []),
        ({"limits": {"cpu": [1]}}, ["spec.limits.cpu"]),
        ({"named": [{"name": "a"}, {"name": "b"}]}, []),
        ({"named": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, ["spec.named[2]"]),
        ({"named": [{"nane": "a"}]}, ["spec.named[0].nane"]),
        ({"kind": "a"}, []),
        ({"kind": "c"}, ["spec.kind"]),
    ],
)
def test_schema(schemas, spec, paths):
    assert found(schemas, **spec) == paths
    assert found(schemas, **spec) == paths  # from the cache


def test_versions_and_kinds_that_are_not_there(schemas, tmp_path):
    assert found(schemas, version="ray.io/v2") == ["apiVersion"]
    other = Manifest("a.yaml", {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {}})
    assert [one.path for one in schemas.problems(other)] == ["kind"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="kubectl get crd"):
        schema.Schemas(tmp_path / "empty")


def test_a_home_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert schema.kept("a", lambda: {"b": 1}) == {"b": 1}
