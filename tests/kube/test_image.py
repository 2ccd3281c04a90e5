"""The image is built behind a mirror, and run as whoever the platform says, without a change of its file."""

import re
import subprocess

from tests.kube.bundles import ROOT

TEXT = (ROOT / "clusters" / "Dockerfile").read_text()


def test_K12_every_source_of_the_image_is_an_argument_of_the_build(tmp_path):
    arguments = set(re.findall(r"^ARG (\w+)", TEXT, re.M))
    assert {"REGISTRY", "APT_MIRROR", "PIP_INDEX_URL", "PIP_TRUSTED_HOST", "TORCH_INDEX"} <= arguments
    assert not re.search(r"^# *syntax=", TEXT, re.M)  # a frontend would be fetched from Docker's own registry
    assert set(re.findall(r"^FROM ([^:]+):", TEXT, re.M)) == {"${REGISTRY}/python"}
    stages = TEXT.split("\nFROM ")[1:]
    assert all(stage.index("ARG APT_MIRROR=") < stage.index("apt-get update") for stage in stages)
    sources = tmp_path / "debian.sources"
    for line in re.findall(r"sed -i (\"s#.+?#\") /etc/apt", TEXT):
        sources.write_text("URIs: http://deb.debian.org/debian\nURIs: http://deb.debian.org/debian-security\n")
        env = {"APT_MIRROR": "https://mirror.example.com/apt", "PATH": "/usr/bin:/bin"}
        subprocess.run(["sh", "-c", f"sed -i {line} {sources}"], env=env, check=True, timeout=20)
        assert sources.read_text().split() == [
            *("URIs:", "https://mirror.example.com/apt/debian"),
            *("URIs:", "https://mirror.example.com/apt/debian-security"),
        ]


def test_K12_any_user_of_group_0_has_a_home():
    assert "chgrp -R 0 /home/ragdist && chmod -R g=u /home/ragdist" in TEXT
    assert re.search(r"^ENV HOME=/home/ragdist USER=ragdist$", TEXT, re.M)
