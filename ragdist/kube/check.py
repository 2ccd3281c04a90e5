"""A folder of manifests, read as the API server, the operator and our rules would read it. Starts and asks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from ragdist.config import strict
from ragdist.errors import ConfigError
from ragdist.kube import bundle, core, hardening, names, rules
from ragdist.kube.findings import Finding, Manifest, Violation
from ragdist.kube.schema import KINDS, Schemas

WITHOUT_SCHEMA = ("PodMonitor",)
"""Kinds of other operators that we render."""
KUSTOMIZE = "kustomize.config.k8s.io/"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to."""

    objects: int
    findings: list[Finding]
    unchecked: int
    """Ray objects whose schema was not there."""


def check(folder: Path, crds: Path | None = None) -> Checked:
    """Checks every manifest below a folder; without KubeRay's CustomResourceDefinitions in `crds` the schema of Ray
    objects is not checked. A ConfigError if the folder holds no manifest, or `crds` no definition."""
    documents, findings = read(folder)
    if not documents and not findings:
        raise ConfigError(f"{folder} holds no manifest; `ragdist k8s render JOB settings.yaml -o {folder}` writes them")
    schemas = Schemas(crds) if crds else None
    unchecked = sum(document.kind in KINDS for document in documents) if schemas is None else 0
    return Checked(len(documents), [*findings, *findings_of(documents, schemas)], unchecked)


def findings_of(documents: Sequence[Manifest], schemas: Schemas | None = None) -> list[Finding]:
    """What is wrong with each object, then what objects of one folder do not keep of what they promise each other."""
    found = [_finding(document, one) for document in documents for one in _of_one(document, schemas)]
    for _, together in groupby(sorted(documents, key=_folder), key=_folder):
        found += [_finding(document, one) for document, one in bundle.problems(list(together))]
    return found


def _folder(document: Manifest) -> str:
    return str(PurePosixPath(document.file).parent)


def _finding(document: Manifest, problem: Violation) -> Finding:
    return Finding(document.file, f"{document.kind}/{document.name}", *problem)


def _of_one(document: Manifest, schemas: Schemas | None) -> Iterator[Violation]:
    yield from hardening.in_clear(document.body)
    yield from names.problems(document)
    if document.kind in KINDS:
        if schemas:
            yield from schemas.problems(document)
        if document.kind in rules.LONGEST:
            yield from rules.problems(document)
            yield from hardening.problems(document)
    elif document.kind not in WITHOUT_SCHEMA:
        yield from core.problems(document)


def read(folder: Path) -> tuple[list[Manifest], list[Finding]]:
    """The objects of all files below a folder, and what cannot be read. Kustomizations are left to kustomize."""
    documents: list[Manifest] = []
    findings: list[Finding] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml")):
        file = path.relative_to(folder).as_posix()
        try:
            bodies = strict.parse_manifests(path.read_text("utf-8-sig"), "it")
        except (ConfigError, UnicodeDecodeError) as error:
            findings.append(Finding(file, "", "", str(error), "YAML in UTF-8"))
            continue
        for number, body in enumerate(bodies):
            if body is None:
                continue
            if not isinstance(body, dict) or not body.get("kind") or not body.get("apiVersion"):
                findings.append(Finding(file, "", f"document {number + 1}", "no object", "apiVersion and kind"))
            elif not str(body["apiVersion"]).startswith(KUSTOMIZE):
                documents.append(Manifest(file, body))
    return documents, findings
