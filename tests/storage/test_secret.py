"""Secrets in files: nobody else reads them, from the first time on that we do."""

import logging
import os

import pytest

from ragdist.config import ServeConfig
from ragdist.serving import local
from ragdist.storage.secret import kept_secret, secret_file


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_S6_secret_that_others_could_read_no_longer_can_and_it_is_said(tmp_path, monkeypatch, caplog, mode):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = secret_file("ray_token")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    said = path.read_text()
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert secret_file("ray_token").read_text() == said
    assert path.stat().st_mode & 0o777 == 0o600
    assert "could be read by other users" in caplog.text and said not in caplog.text


def test_S6_token_file_of_a_server_is_closed_too(tmp_path):
    path = tmp_path / "token"
    path.write_text("secret-of-mine\n")
    path.chmod(0o644)
    assert local.token(ServeConfig(token_file=str(path))) == "secret-of-mine"
    assert path.stat().st_mode & 0o777 == 0o600


def test_S6_secret_of_another_user_is_left_as_it_is(tmp_path, monkeypatch):
    """As Kubernetes mounts them, and as a read-only file system has them."""
    path = tmp_path / "token"
    path.write_text("x")
    path.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert kept_secret(path).stat().st_mode & 0o777 == 0o644
