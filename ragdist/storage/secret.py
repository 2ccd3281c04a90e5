"""Secrets of this user's own, each in a file that nobody else can read."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from ragdist.storage.atomic import atomic_file, tighten

log = logging.getLogger("ragdist")


def secret_path(name: str) -> Path:
    """Where the secret of that name is, once it is made."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ragdist" / name


def secret_file(name: str) -> Path:
    """The file of that name, made on first use with a random secret in it; see `kept_secret`."""
    path = secret_path(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        with atomic_file(path) as half:
            half.touch(0o600, exist_ok=False)
            half.write_text(secrets.token_hex(32))
    return kept_secret(path)


def kept_secret(path: Path) -> Path:
    """The file, which nobody else can read from here on; it says so, if they could."""
    if path.exists() and tighten(path):
        log.warning("%s could be read by other users, and no longer can; put another secret into it", path)
    return path
