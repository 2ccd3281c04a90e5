"""What every group of settings is."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class SettingsBlock(BaseModel):
    """A group of settings that one part of the architecture owns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes true for 1."""
        if _holds_truth(value) and not _takes_truth(cls.model_fields[str(info.field_name)].annotation):
            raise PydanticCustomError("truth", "wanted another value than true or false")
        return value

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


def _holds_truth(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_holds_truth, inside))


def _takes_truth(kind: Any) -> bool:
    is_block = isinstance(kind, type) and issubclass(kind, SettingsBlock)  # whose own fields say so
    return kind in (bool, Any) or is_block or any(map(_takes_truth, get_args(kind)))
