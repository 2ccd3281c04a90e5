"""A microbatch on its way, and where its rows are meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragdist.roles import MicrobatchRef


class TableRef:
    """A shard's rows: by reference while they are fresh, then by file."""

    def __init__(self, ref: Any, path: Path) -> None:
        self.ref, self.path = ref, str(path)


@dataclass(slots=True, eq=False)
class MicrobatchRun:
    """A microbatch on its way."""

    shards: tuple[MicrobatchRef, ...]
    target: Path
    phase: str
    rank: int = -1
    life: int = -1
    tries: int = 0
    """Times that an input was lost; after the first, inputs are read from files."""
    table: Any = None

    @property
    def name(self) -> str:
        """The microbatch."""
        return self.shards[0].name


def place_of(shard: MicrobatchRef, *, by_file: bool) -> Any:
    """Where a rank gets the rows: a reference, which Ray resolves on the way, or what it reads itself."""
    if isinstance(shard.at, TableRef):
        return shard.at.path if by_file or shard.at.ref is None else shard.at.ref
    return shard.at
