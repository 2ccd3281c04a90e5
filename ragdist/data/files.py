"""JSON lines read with the file and line of each, and what becomes of input that cannot be used."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from ragdist.data.places import Place, at
from ragdist.data.values import Number
from ragdist.errors import DataError

READ_ERRORS = (OSError, EOFError, zlib.error)
"""What a missing, forbidden or torn file raises."""


class Broken:
    """What becomes of a file or row that cannot be used: the run stops, or it is named and left out."""

    def __init__(self, policy: Literal["stop", "skip"], named: list[str]) -> None:
        self.policy, self.named = policy, named

    def add(self, where: str, why: object) -> None:
        """Notes one, as `where: why`.

        Raises:
            DataError: the policy is to stop.
        """
        if self.policy == "stop":
            raise DataError(f"{where}: {why}; mend it, or set corpus.broken=skip to leave such input out")
        self.named.append(f"{where}: {why}")


def json_lines(file: Place | Path, broken: Broken) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path, line n`, object) for each line of a JSONL file, gzipped if its name ends in .gz; blank lines are no rows.

    Raises:
        DataError: a line is not a JSON object, or the file cannot be read (and the policy is to stop).
        StorageError: object storage cannot be reached.
    """
    place = at(str(file)) if isinstance(file, Path) else file
    gzipped = place.inside.casefold().endswith(".gz")
    try:
        with place.open() as opened, gzip.open(opened) if gzipped else nullcontext(opened) as unzipped:
            for number, line in enumerate(_lines(unzipped), start=1):
                if not line.strip():
                    continue
                where = f"{place.address}, line {number}"
                try:
                    row = as_json(line)
                except ValueError as error:
                    broken.add(where, f"is not JSON ({why(error)})")
                    continue
                if isinstance(row, dict):
                    yield where, row
                else:
                    broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")
    except (*READ_ERRORS, UnicodeError) as error:
        broken.add(place.address, f"cannot be read ({why(error)})")


def as_json(text: str | bytes) -> Any:
    """The value of a JSON text, with numbers as they are written.

    Raises:
        ValueError: it is none, or in no encoding that JSON may be in; see `why`.
    """
    return json.loads(text, parse_float=Number)


def why(error: Exception) -> str:
    """What an error of reading says, with the way out where bytes are in another encoding than JSON's."""
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"JSON is UTF-8 by its standard, and byte {byte:#04x} at {error.start} is not; save it as UTF-8"
    return str(error)


def _lines(file: Any) -> Iterable[str | bytes]:
    """The lines of a file in any encoding that JSON may be in: UTF-8, UTF-16 or UTF-32, with its mark or without."""
    encoding = json.detect_encoding(file.peek(4)[:4])  # type: ignore[attr-defined]
    return file if encoding.startswith("utf-8") else io.TextIOWrapper(file, encoding)
