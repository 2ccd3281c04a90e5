"""Manifests of other kinds, names, ports and quantities than Kubernetes takes, nested rubbish, and files cut."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.bases import manifests
from tests.faults.calls import HOSTILE, ODD, Case, Surface, edited, share, spoiled

KINDS = ["Pod", "Service", "List", "RayJob", "RayService", "RayCluster", "PodMonitor", "ConfigMap", "Secret", "x", ""]
OBJECTS = st.fixed_dictionaries(
    {"apiVersion": st.one_of(st.sampled_from(["v1", "ray.io/v1", "apps/v1"]), ODD)},
    optional={"kind": st.one_of(st.sampled_from(KINDS), ODD), "metadata": ODD, "spec": ODD, "data": ODD, "items": ODD},
)
COMMANDS = st.sampled_from(
    [
        *("k8s check bundle", "k8s check bundle --json", "k8s submit bundle", "k8s status bundle", "k8s logs bundle"),
        *("k8s delete bundle", "k8s delete bundle --storage"),
    ]
)
WHOLE = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: "
NESTED = st.sampled_from(
    [
        *("[" * 5000 + "]" * 5000, "{a: " * 900 + "}" * 900, "&a {x: *a}", "&a [*a]", "!!set {a}", "2026-99-99"),
        *(
            "{7: 8, null: 1}",
            "{? [a] : 1}",
            f"[{9 * '&x0 [x],'}]",
            "{a: !!binary x}",
            "9" * 5000,
            "[&a [x]" + ", *a" * 999,
        ),
    ]
)


@pytest.fixture(scope="module")
def surface():
    with Surface("manifests", 0.08, manifests) as made:
        yield made


@pytest.fixture(scope="module")
def whole(surface):
    return {path.name: path.read_bytes() for path in sorted((surface.base / "bundle").iterdir())}


def as_bytes(documents):
    return yaml.safe_dump_all(documents).encode()


def changed(content):
    documents = list(yaml.safe_load_all(content))
    tags = st.one_of(HOSTILE, NESTED.map(lambda value: WHOLE + value)).map(
        lambda text: content + f"---\n{text}\n".encode(errors="surrogateescape")
    )
    return st.one_of(
        *3 * [edited(documents).map(lambda found: as_bytes(found if isinstance(found, list) else [found]))],
        spoiled(content),
        tags,
    )


@given(st.data(), COMMANDS)
@share(0.1)
def test_bundles(surface, whole, data, command):
    name = data.draw(st.sampled_from(sorted(whole)))
    files = {f"bundle/{name}": data.draw(changed(whole[name]))}
    if data.draw(st.booleans()):
        files["bundle/more.yaml"] = as_bytes(data.draw(st.lists(OBJECTS, min_size=1, max_size=3)))
    surface.run(Case(command.split(), files))
