"""What a check finds: where it is, what is there, what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

Body = dict[str, Any]


class Violation(NamedTuple):
    """Something wrong in a document. Example: Violation("spec.entrypoint", "missing", "a command")."""

    path: str
    what: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a file of manifests."""

    file: str
    """Relative to the folder that is checked."""
    body: Body

    @property
    def kind(self) -> str:
        """RayJob, ConfigMap, ..."""
        return str(self.body.get("kind", ""))

    @property
    def name(self) -> str:
        """Its own, or nothing."""
        about = self.body.get("metadata")
        return str(about.get("name", "")) if isinstance(about, dict) else ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and where it is.

    Example: Finding("job.yaml", "RayJob/atm", "spec.backoffLimit", "-1", "0 or more")
    """

    file: str
    document: str
    """Kind and name; empty where the file itself is the problem."""
    path: str
    """In the document, as `spec.containers[0].image`."""
    what: str
    wanted: str

    def __str__(self) -> str:
        where = " ".join(part for part in (self.file, self.document, self.path) if part)
        return f"{where}: {self.what}; wanted {self.wanted}"


def at(body: Any, path: str, default: Any = None) -> Any:
    """What lies at a dotted path of keys; `default` where it is absent, null, or no mapping or list as `default` is.

    What has another shape than it should is the schema's business.
    """
    for key in path.split("."):
        if not isinstance(body, dict):
            return default
        body = body.get(key)
    wrong = isinstance(default, dict | list) and not isinstance(body, type(default))
    return default if body is None or wrong else body


def number(value: Any) -> int:
    """The whole number; 0 for anything else."""
    return value if isinstance(value, int) else 0


def mappings(body: Any, path: str) -> list[Body]:
    """The mappings in the list at a path; empty where there is none."""
    return [one for one in at(body, path, []) if isinstance(one, dict)]


def cluster(document: Manifest) -> tuple[str, Body] | None:
    """(path, body) of the Ray cluster in a document; None where there is none."""
    spec = document.body.get("spec")
    if not isinstance(spec, dict):
        return None
    if document.kind == "RayCluster":
        return "spec", spec
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document.kind, "")
    inner = spec.get(key)
    return (f"spec.{key}", inner) if isinstance(inner, dict) else None


def ray_groups(path: str, spec: Body) -> Iterator[tuple[str, str, Body]]:
    """(path, name, body) of the head's group and of each group of workers."""
    if isinstance(spec.get("headGroupSpec"), dict):
        yield f"{path}.headGroupSpec", "head", spec["headGroupSpec"]
    for number, group in enumerate(mappings(spec, "workerGroupSpecs")):
        yield f"{path}.workerGroupSpecs[{number}]", str(group.get("groupName", "")), group


def volume_at(pod: Body, mounted: Callable[[str], bool]) -> Body:
    """The volume that a pod's first container mounts at the longest such path; empty where none does."""
    mounts = [mount for one in mappings(pod, "containers")[:1] for mount in mappings(one, "volumeMounts")]
    over = [mount for mount in mounts if mounted(str(mount.get("mountPath", "-")))]
    name = max(over, key=lambda mount: len(str(mount["mountPath"]))).get("name") if over else None
    return next((one for one in mappings(pod, "volumes") if name and one.get("name") == name), {})


def pod_specs(document: Manifest) -> Iterator[tuple[str, Body]]:
    """(path, body) of every pod's specification in a Ray document, the submitter's too."""
    found = cluster(document)
    groups = list(ray_groups(*found)) if found else []
    places = [(f"{path}.template.spec", at(group, "template.spec")) for path, _, group in groups]
    if document.kind == "RayJob":
        places.append(("spec.submitterPodTemplate.spec", at(document.body, "spec.submitterPodTemplate.spec")))
    for path, spec in places:
        if isinstance(spec, dict):
            yield path, spec
