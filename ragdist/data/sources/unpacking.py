"""Packed files with an end to what they unpack to: a few kilobytes of gz, zst, docx or xlsx can hold gigabytes."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from ragdist.errors import DataError

LARGEST = 1 << 30
"""Bytes of all parts of a zip file, unpacked."""
FLOOR, RATIO = 32 << 20, 100
"""Bytes that any file may unpack to, and how many times its own size a larger one: texts pack to a tenth or so."""
OLE = b"\xd0\xcf\x11\xe0"
"""Begins an office document of the formats before docx and xlsx, and one with a password."""


def check_zip(data: bytes) -> None:
    """Lets pass what is a zip file and unpacks to no more than it may, by what it says of its parts.

    A part that unpacks to more than it says is an error of the reader's; all else is a DataError.
    """
    if data.startswith(OLE):
        raise DataError(
            "is of a format before docx and xlsx, or has a password; save it as .xlsx, .docx or .pptx without one"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            size = sum(part.file_size for part in parts.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"is torn or of another format than its name says ({error})") from None
    if size > LARGEST:
        raise DataError(f"unpacks to {size >> 20} MiB, more than the {LARGEST >> 20} that are read; split it")
    if said := excess(size, len(data)):
        raise DataError(said)


def excess(unpacked: int, packed: int) -> str:
    """What is wrong with so many bytes that unpack to so many; empty for what texts and tables do."""
    if unpacked <= max(FLOOR, RATIO * packed):
        return ""
    return (
        f"unpacks to more than {max(FLOOR, RATIO * packed) >> 20} MiB, {RATIO} times its size; give it as it is before "
        "it is packed, if that is meant"
    )


def check_arrow(path: Path) -> None:
    """A ValueError for an Arrow stream whose batches are packed: what they unpack to is only known when it is there.
    All else, torn files too, is left to their reader."""
    with suppress(pa.ArrowInvalid, OSError), pa.memory_map(str(path)) as file:
        if any(map(_is_packed, pa.ipc.MessageReader.open_stream(file))):
            raise ValueError("holds a packed table, which `save_to_disk` does not write; save it anew, or as parquet")


def _is_packed(message: pa.ipc.Message) -> bool:
    """By the flatbuffer of its metadata: its header, of a dictionary the batch in that, has a field `compression`."""
    data = memoryview(message.metadata)
    table = _field(data, _follow(data, 0), 2)
    for _ in range(message.type == "dictionary"):
        table = _field(data, _follow(data, table), 1)
    return message.type in ("record batch", "dictionary") and bool(_field(data, _follow(data, table), 3))


def _follow(data: memoryview, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a table of a flatbuffer has this field; 0 where it has none."""
    known = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, known)[0]
    inside = struct.unpack_from("<H", data, known + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
    return inside and table + int(inside)


class Unpacked(io.RawIOBase):
    """What a stream unpacks, as long as that is in proportion to what was read of its packed file; then an OSError."""

    def __init__(self, stream: BinaryIO, packed: BinaryIO) -> None:
        self._stream, self._packed, self._size = stream, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        data = self._stream.read(len(memoryview(buffer)))  # type: ignore[arg-type]
        self._size += len(data)
        if said := excess(self._size, self._packed.tell()):
            raise OSError(said)
        memoryview(buffer)[: len(data)] = data  # type: ignore[arg-type]
        return len(data)
