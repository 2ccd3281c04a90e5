"""The image, built by buildah from a mirror of this machine, in a store that goes with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import parse_sdist_filename, parse_wheel_filename

from tests.kube.bundles import ROOT

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragdist" / "image"
MADE = shutil.which("buildah") is not None and os.geteuid() == 0 and (HOME / "packages" / ".made").exists()
FILE = ROOT / "clusters" / "Dockerfile"
PYTHON = re.findall(r"^ARG PYTHON=(\S+)", FILE.read_text(), re.M)[0]
BASE = f"python:{PYTHON}-slim-bookworm"
HUB = "docker.io/library"
SECRET = "password-of-the-mirror"
"""Stands in the address of the mirror of packages; nobody who gets the image may read it."""
DONE = "done: all of it"
"""What a script says last: output that was lost is no empty one."""
RUBBISH = (
    *(".env", ".git/config", "runs/night/model/model.safetensors", "notes.txt", "jobs/__pycache__/atm.cpython-311.pyc"),
    *("ragdist/kube/__pycache__/pods.cpython-311.pyc", "clusters/kuberay/night/secret.yaml", "tests/keys.txt"),
)
"""Planted beside the sources before they are sent to the build."""


class Builder:
    """buildah over a store in one folder; STORAGE_DRIVER=vfs where a layer cannot be mounted over another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ["--root", folder / "root", "--runroot", folder / "run"]

    def __call__(self, command: str, *arguments: object, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
        """What a command of buildah said and ended with."""
        words = ["buildah", *self.store, command, *arguments]
        # Its packed layers would lie in /var/tmp.
        env = os.environ | {"TMPDIR": str(self.folder)}
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout, env=env)

    def did(self, command: str, *arguments: object) -> str:
        """What a command said that has to succeed."""
        done = self(command, *arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout.strip()


class Container:
    """A container of the image, whose commands run as in a pod: with its user, variables and folder."""

    def __init__(self, builder: Builder, image: str) -> None:
        self.builder, self.image = builder, image
        self.name = builder.did("from", "--pull-never", image)

    def run(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """What a command in it said and ended with; `user` takes the place of the image's own."""
        who = ["--user", user] if user else []
        return self.builder("run", "--isolation", "chroot", *who, self.name, "--", *command)

    def said(self, script: str, user: str = "") -> str:
        """What a script of bash said that has to succeed."""
        done = self.run("bash", "-c", f"{script}\n[ $? = 0 ] && echo {DONE}", user=user)
        assert done.stdout.endswith(f"{DONE}\n"), done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.removesuffix(f"{DONE}\n").strip()


@contextmanager
def building() -> Iterator[Builder]:
    """A builder whose images and containers end with the block."""
    with tempfile.TemporaryDirectory(prefix="ragdist-image-") as folder:
        builder = Builder(Path(folder))
        try:
            yield builder
        finally:
            builder("rm", "--all")


def base(builder: Builder) -> str:
    """The registry that has Python's image: Docker Hub, or the store, with what `parts.sh` made under its name."""
    if builder("pull", "--retry", "0", f"{HUB}/{BASE}", timeout=300).returncode == 0:
        return HUB
    made = builder.did("from", "scratch")
    builder.did("add", "--quiet", made, HOME / "base.tar", "/")
    builder.did("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", made)
    builder.did("commit", "--quiet", "--rm", made, f"localhost/mirror/{BASE}")
    return "localhost/mirror"


@contextmanager
def mirror(folder: Path) -> Iterator[str]:
    """An index of the packages that `parts.sh` fetched, at an address with a password in it."""
    for path in (HOME / "packages").glob("[!.]*"):
        name = (parse_wheel_filename if path.suffix == ".whl" else parse_sdist_filename)(path.name)[0]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://reader:{SECRET}@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """Lists folders as an index of packages does."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def context(folder: Path) -> list[str]:
    """Copies what git tracks, and rubbish, into a folder, as a checkout with umask 007; the names of what it tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in RUBBISH:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("rubbish")
    for path in folder.rglob("*"):
        path.chmod(0o770)
    return tracked


def build(builder: Builder, folder: Path) -> tuple[Container, list[str]]:
    """A container of the image, and the names of the files that git tracks."""
    tracked = context(folder / "context")
    with mirror(folder / "index") as packages:
        told = {"REGISTRY": base(builder), "PIP_INDEX_URL": packages, "PIP_TRUSTED_HOST": "127.0.0.1"}
        told |= {"TORCH_INDEX": packages}
        if at := os.environ.get("APT_MIRROR"):
            told["APT_MIRROR"] = at
        words = [word for name, value in told.items() for word in ("--build-arg", f"{name}={value}")]
        file = folder / "context" / FILE.relative_to(ROOT)
        builder.did("bud", "--isolation", "chroot", "-f", file, "-t", "ragdist:test", *words, folder / "context")
    return Container(builder, "ragdist:test"), tracked
