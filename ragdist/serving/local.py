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
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ragdist.config import ServeConfig
from ragdist.errors import ConfigError
from ragdist.storage.secret import kept_secret, secret_file, secret_path
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
    if given := _given(config):
        return _sendable(given, TOKEN)
    path = _token_file(config)
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.token_file={str(path)!r} cannot be read: {error}; name a file with a token") from None
    return _sendable(found, f"serve.token_file={str(path)!r}")


def _given(config: ServeConfig) -> str:
    """The environment's token, where no file is named."""
    return "" if config.token_file else os.environ.get(TOKEN, "").strip()


def _sendable(found: str, where: str) -> str:
    if not found or not found.isascii() or not found.isprintable():
        raise ConfigError(f"{where} holds no token; wanted one line of printable ASCII")
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
    return kept_secret(Path(config.token_file).expanduser()) if config.token_file else secret_file(OWN)


BACKLOG = 2048
FIRST_REQUEST_S = 20.0
"""So long may the head of a connection's first request take."""


@contextlib.contextmanager
def listening(config: ServeConfig) -> Iterator[socket.socket]:
    """A socket at the address of the settings, taken before any model is loaded.

    Raises:
        ConfigError: it is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _taken(config):
            listener.bind((config.host, config.port))
        yield listener


@contextlib.contextmanager
def _taken(config: ServeConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"serve.host={config.host} serve.port={config.port} cannot be listened on: "
            f"{getattr(error, 'strerror', '') or error}; set serve.port to a free port, or 0 for any"
        ) from None


class Impatient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """A connection that is closed where nobody asks anything: open ones are files, of which a process has few."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.loop.call_later(FIRST_REQUEST_S, self._leave_if_silent, transport)

    def _leave_if_silent(self, transport: Any) -> None:
        if self.cycle is None:
            transport.close()


def run(app: Any, listener: socket.socket, name: str, config: ServeConfig) -> None:
    """Answers requests until SIGTERM or Ctrl-C; those that are under way then are answered first."""
    host, port = listener.getsockname()[:2]
    with _taken(config):  # another that was started meanwhile may have begun first
        listener.listen(BACKLOG)
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1\n")
    sys.stdout.flush()
    known = TOKEN if _given(config) else _token_file(config)
    say(f"serving {name}; the token is in {known}; Ctrl-C ends")
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=Impatient,
            timeout_graceful_shutdown=int(config.timeout_s) + 1,
        )
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has ended
        server.run(sockets=[listener])
    say("ended")
