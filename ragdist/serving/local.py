"""Serves an application from this process."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from ragdist.config import ServeConfig
from ragdist.errors import ConfigError
from ragdist.storage.secret import secret_file, secret_path
from ragdist.tracking.progress import say

TOKEN = "RAGDIST_TOKEN"
"""Environment variable with the token."""
OWN = "serve_token"
"""This user's own secret of that name."""


def token(config: ServeConfig) -> str:
    """The token that requests must carry.

    Raises:
        ConfigError: its file cannot be read, or holds none.
    """
    if not config.token_file and (given := os.environ.get(TOKEN, "").strip()):
        return given
    path = _token_file(config)
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.token_file={str(path)!r} cannot be read: {error}; name a file with a token") from None
    if not found or not found.isascii() or not found.isprintable():
        raise ConfigError(f"serve.token_file={str(path)!r} holds no token; wanted one line of printable ASCII")
    return found


def shared_token(config: ServeConfig, fingerprint: str) -> str:
    """The token on one of several machines, of which none makes its own.

    Args:
        config: says where it is.
        fingerprint: of the token that all machines have; empty where nobody knows it.

    Raises:
        ConfigError: it is not there, or another one.
    """
    wanted = "set serve.token_file to a file that all machines see, or RAGDIST_TOKEN where Ray is started on each"
    if not (config.token_file or os.environ.get(TOKEN, "").strip() or secret_path(OWN).exists()):
        raise ConfigError(f"there is no token on {socket.gethostname()}; {wanted}")
    found = token(config)
    if fingerprint and not hmac.compare_digest(fingerprint_of(found), fingerprint):
        raise ConfigError(
            f"the token on {socket.gethostname()} is another one than where `ragdist serve` runs; {wanted}"
        )
    return found


def fingerprint_of(token: str) -> str:
    """What tells whether a token is the same, and neither the token nor, by trying, a short one."""
    return hashlib.scrypt(token.encode(), salt=b"ragdist", n=2**14, r=8, p=1).hex()


def _token_file(config: ServeConfig) -> Path:
    return Path(config.token_file).expanduser() if config.token_file else secret_file(OWN)


@contextlib.contextmanager
def listening(config: ServeConfig) -> Iterator[socket.socket]:
    """A socket at the address of the settings, taken before any model is loaded.

    Raises:
        ConfigError: it is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise ConfigError(
                f"serve.host={config.host} serve.port={config.port} cannot be listened on: {error.strerror or error}; "
                "set serve.port to a free port, or 0 for any"
            ) from None
        yield listener


def run(app: Any, listener: socket.socket, name: str, config: ServeConfig) -> None:
    """Answers requests until SIGTERM or Ctrl-C; those that are under way then are answered first."""
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1\n")
    sys.stdout.flush()
    known = f"{TOKEN}" if os.environ.get(TOKEN) and not config.token_file else _token_file(config)
    say(f"serving {name}; the token is in {known}; Ctrl-C ends")
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(config.timeout_s) + 1,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has ended
        server.run(sockets=[listener])
    say("ended")
