"""Addresses of OpenAI-compatible endpoints that may be kept and shown."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ragdist.errors import ConfigError

SECRET = re.compile(r"key|token|secret|sig|pass|pwd|auth|cred|code|session|jwt|sas", re.IGNORECASE)


class Address(NamedTuple):
    """Of a model behind an endpoint. Example: Address("https://host/v1", "small")"""

    url: str
    model: str
    """As the endpoint calls it; empty where the endpoint is to take the one that it has."""

    @property
    def label(self) -> str:
        """Of the model in reports, where it is given none."""
        return self.model or urlsplit(self.url).netloc


def is_address(url: str) -> bool:
    """Whether this is an HTTP address that may be kept and shown: no user, no fragment, and parameters of which neither
    the names nor the values look like a secret."""
    if not re.fullmatch(r"https?://[^/@\s?#\\]+(/[^@\s?#]*)?(\?[^@\s#]+)?", url):
        return False
    asked = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return all(not SECRET.search(name) and re.fullmatch(r"[\w.:-]{0,24}", value) for name, value in asked)


def address_of(source: str) -> Address | None:
    """What the source of a model names where it is an address, as `http://host/v1#MODEL`; None where it is none.

    Raises:
        ConfigError: it begins as an address and is none, or holds what may not be kept.
    """
    if not re.match(r"https?:", source, re.IGNORECASE):
        return None
    url, _, model = source.partition("#")
    if not is_address(url) or re.search(r"[\s\x00-\x1f\x7f]", model):
        raise ConfigError(
            "the address of a model must be http(s)://host/path#MODEL, perhaps with ?api-version=..., without a name "
            "or key in it; the key belongs into the environment variable that teacher.key_variable names"
        )
    return Address(url, model)
