"""An object against its schema, as the API server does it: defaults, unknown fields, types, lists, CEL.

KubeRay's schemas are third-party and not shipped: a folder of CustomResourceDefinitions is given. They are a megabyte
of YAML each, so what is needed of one is kept as JSON in the cache, by the hash of its file. Core objects are checked
by `kubernetes-validate`, which brings its schemas along.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ragdist.errors import ConfigError
from ragdist.kube.findings import Manifest, Violation
from ragdist.storage.atomic import atomic_file

PRESERVE = "x-kubernetes-preserve-unknown-fields"
LIST_TYPE = "x-kubernetes-list-type"
RULES = "x-kubernetes-validations"
KINDS = ("RayCluster", "RayCronJob", "RayJob", "RayService")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Schemas:
    """The schemas of a folder of CustomResourceDefinitions, a YAML file for each kind, read when first needed. A
    ConfigError if it has none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {path: path.read_bytes() for path in sorted(folder.glob("*.y*ml"))}
        if not any(b"CustomResourceDefinition" in text for text in self.files.values()):
            raise ConfigError(
                f"--crds {folder} holds no CustomResourceDefinition; save those of your cluster there: "
                "`kubectl get crd rayjobs.ray.io -o yaml > crds/rayjobs.yaml`, rayclusters and rayservices too"
            )
        self._known: dict[str, dict[str, Any] | None] = {}

    def problems(self, document: Manifest) -> Iterator[Violation]:
        """What the API server would refuse in a Ray object."""
        version = str(document.body.get("apiVersion", "")).removeprefix("ray.io/")
        if document.kind not in self._known:
            self._known[document.kind] = self._read(document.kind)
        versions = self._known[document.kind]
        if versions is None:
            yield Violation("kind", f"{document.kind} has no schema in {self.folder}", "its CustomResourceDefinition")
        elif version not in versions:
            served = " or ".join(f"ray.io/{version}" for version in versions)
            yield Violation("apiVersion", document.body.get("apiVersion", "missing"), served)
        else:
            schema = versions[version]
            body = defaulted(schema, copy.deepcopy(document.body))
            yield from (explained(error) for error in _validator()(schema).iter_errors(body))
            yield from _rules(schema, body, "")

    def _read(self, kind: str) -> dict[str, Any] | None:
        """Schemas of a kind by version."""
        for path, text in self.files.items():
            if f"kind: {kind}\n".encode() in text:
                try:
                    return _kept(text)
                except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                    why = " ".join(str(error).split())[:200]
                    raise ConfigError(f"--crds: {path} cannot be read ({type(error).__name__}: {why})") from None
        return None


def _kept(text: bytes) -> dict[str, Any]:
    """Schemas of a definition by version, without its prose."""

    def parse() -> dict[str, Any]:
        served = [version for version in yaml.load(text, Loader)["spec"]["versions"] if version["served"]]
        return {version["name"]: bare(version["schema"]["openAPIV3Schema"]) for version in served}

    return kept(hashlib.sha256(text).hexdigest()[:16], parse)


def kept(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, from the cache if it was made before."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragdist" / "schemas"
    path = home / f"{name}.json"
    if path.exists():
        return dict(json.loads(path.read_bytes()))
    made = make()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as half:
            half.write_text(json.dumps(made))
    except OSError:
        pass  # a home that cannot be written costs a second each time, nothing else
    return made


def bare(schema: Any) -> Any:
    """A schema without its prose, which is most of it."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    prose = {key for key in ("description", "format") if isinstance(schema.get(key), str)}
    return {key: bare(part) for key, part in schema.items() if key not in prose}


@cache
def _validator() -> Any:
    """JSON Schema, with unknown fields refused as `kubectl --validate=strict` does."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import ValidationError

    inherited = Draft202012Validator.VALIDATORS["properties"]

    def properties(validator: Any, known: dict[str, Any], instance: Any, schema: dict[str, Any]) -> Iterator[Any]:
        yield from inherited(validator, known, instance, schema)
        if isinstance(instance, dict) and "additionalProperties" not in schema and not schema.get(PRESERVE):
            for name in sorted(instance.keys() - known.keys()):
                near = difflib.get_close_matches(name, known, n=1, cutoff=0)
                wanted = f"a known field, such as {near[0]}" if near else "no field"
                yield ValidationError("unknown field", validator="unknown", validator_value=wanted, path=[name])

    return validators.extend(Draft202012Validator, {"properties": properties})


def explained(error: Any) -> Violation:
    """An error of jsonschema in our words."""
    path, value = joined(error.absolute_path), error.validator_value
    if error.validator == "unknown":
        return Violation(path, "unknown field", value)
    if error.validator == "additionalProperties":
        name = next(name for name in error.instance if name not in error.schema.get("properties", {}))
        return Violation(f"{path}.{name}" if path else name, "unknown field", "no such field")
    if error.validator == "required":
        name = next(name for name in value if name not in error.instance)
        return Violation(f"{path}.{name}" if path else name, "missing", "a value")
    if error.validator == "anyOf":
        value = " or ".join(str(part.get("type")) for part in value)
    wanted = " or ".join(map(str, value)) if error.validator == "enum" else f"{error.validator} {value}"
    return Violation(path, _short(error.instance), wanted)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def joined(path: Any) -> str:
    """`spec.containers[0].image` of its parts."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """The value with the schema's defaults, in place, as the API server fills them in before it looks.

    A field that is null counts as absent where the schema does not allow null.
    """
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if value.get(name, ...) is None and not part.get("nullable"):
                del value[name]
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                defaulted(part, value[name])
        others = schema.get("additionalProperties")
        if isinstance(others, dict):
            for one in value.values():
                defaulted(others, one)
    elif isinstance(value, list):
        for one in value:
            defaulted(schema.get("items", {}), one)
    return value


def _rules(schema: dict[str, Any], value: Any, path: str) -> Iterator[Violation]:
    """CEL rules and lists whose entries must differ, wherever the value has them."""
    for rule in schema.get(RULES, ()):
        if not holds(rule["rule"], value):
            yield Violation(path, _short(value), rule.get("message", rule["rule"]))
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, one in value.items():
            part = schema.get("properties", {}).get(name) or others
            if isinstance(part, dict):
                yield from _rules(part, one, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list):
        yield from _repeated(schema, value, path)
        for number, one in enumerate(value):
            yield from _rules(schema.get("items", {}), one, f"{path}[{number}]")


def _repeated(schema: dict[str, Any], value: list[Any], path: str) -> Iterator[Violation]:
    if schema.get(LIST_TYPE) not in ("map", "set"):
        return
    keys, seen = schema.get("x-kubernetes-list-map-keys"), set()
    for number, one in enumerate(value):
        named = {key: one.get(key) for key in keys if key in one} if keys and isinstance(one, dict) else one
        told = json.dumps(named, sort_keys=True)
        if told in seen:
            yield Violation(f"{path}[{number}]", f"a second {told}", "each only once")
        seen.add(told)


def holds(rule: str, value: Any) -> bool:
    """Whether a CEL rule holds for the value; rules about a change hold for an object that is new."""
    if re.search(r"\boldSelf\b", rule):
        return True
    from celpy.adapter import json_to_cel  # half a second, and hardly any object has a rule

    return bool(_program(rule).evaluate({"self": json_to_cel(value)}))


@cache
def _program(rule: str) -> Any:
    import celpy

    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
