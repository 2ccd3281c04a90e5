"""Packed files with an end to what they unpack to: a few kilobytes of gz, zst, docx or xlsx can hold gigabytes."""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

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
