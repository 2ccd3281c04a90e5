"""What every group of settings is."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class SettingsBlock(BaseModel):
    """A group of settings that one part of the architecture owns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with any value of the block."""
        return digest(self.model_dump(mode="json"))

    def replaced(self, key: str, value: Any) -> Self:
        """The same with another value of one dotted key, which is not checked."""
        name, _, rest = key.partition(".")
        return self.model_copy(update={name: getattr(self, name).replaced(rest, value) if rest else value})


def digest(values: Any) -> str:
    """12 hexadecimal digits that change with any of the values, which are plain JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
