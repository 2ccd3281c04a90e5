"""Files by address, on this machine (a path or file://) or in object storage (s3://, gs:// through pyarrow).

Credentials come from where the stores' own tools look for them (`AWS_ACCESS_KEY_ID`, `~/.aws`, an instance's role;
`GOOGLE_APPLICATION_CREDENTIALS`), never from an address. `AWS_ENDPOINT_URL` names an S3 server of your own.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from ragdist.data.sources import hub_sets
from ragdist.errors import ConfigError, StorageError

REMOTE = ("s3", "gs")
BUFFER = 1 << 20
"""Bytes that are asked of object storage at once, while a file is streamed."""
GIVE_UP = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A file, somewhere. Example: FileAddress("s3://bucket/docs/a/b.md", "a/b.md", "812 2026-03-01T10:00:00+00:00")."""

    address: str
    """A local path, or the whole address."""
    inside: str
    """Its path below the folder that it was found in, with `/`; of a single file its name."""
    stamp: str = ""
    """Size and time of the last change, of a file in object storage; empty for a local one."""
    leads: str = ""
    """Where a link leads that leaves its folder: what is there is never read; empty for all else."""

    @property
    def remote(self) -> bool:
        """Whether it lies in object storage, where a failure is more likely the network's than the file's."""
        return self.address.partition("://")[0] in REMOTE

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder, as a data set saved to disk is."""
        return not self.remote and Path(self.address).is_dir()

    @property
    def exists(self) -> bool:
        """Whether it is on this machine."""
        return not self.remote and Path(self.address).exists()

    def open(self) -> BinaryIO:
        """The file's bytes, from the beginning; can be sought in. A local file that cannot be read is an OSError, one
        in object storage a StorageError."""
        if self.leads:
            raise OSError(f"is a link to {self.leads}, outside its folder; put the file itself there, or remove it")
        if not self.remote:
            return Path(self.address).open("rb")
        system, path = _remote(self.address)
        try:
            return cast(BinaryIO, io.BufferedReader(_Remote(system.open_input_file(path), self.address), BUFFER))
        except OSError as error:
            raise _unreachable(self.address, error) from None

    def read(self) -> bytes:
        """All of the file's bytes; raises as `open` does."""
        with self.open() as file:
            return file.read()

    def digest(self) -> bytes:
        """32 bytes that change with the content; in object storage with size and time, as reading it all costs money. A
        ConfigError if it cannot be read."""
        if self.remote:
            return hashlib.sha256((self.stamp or _stamp(self.address)).encode()).digest()
        if self.leads:
            return hashlib.sha256(self.leads.encode(errors="surrogateescape")).digest()
        if self.is_folder:
            return bytes.fromhex(digest(files(self.address)))
        try:
            with self.open() as file:
                return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(f"{self.address} cannot be read: {why}; see corpus.questions, corpus.folder") from None


def at(address: str) -> FileAddress:
    """The file at a path or address, without looking whether it is there. A ConfigError if nothing is known of such
    addresses, or it holds credentials."""
    local = _local(address)
    return FileAddress(address, address.rpartition("/")[2]) if local is None else FileAddress(str(local), local.name)


def files(folder: str) -> list[FileAddress]:
    """All files below a folder, in the order of their paths, part by part; none that is hidden or in a hidden folder.

    Links to files in the same folder are followed, links to folders are not. Those to files elsewhere are named and
    cannot be opened, else a folder from outside would have documents made of a person's keys. A ConfigError if there is
    no such folder, or it cannot be read; a StorageError if object storage cannot be reached.
    """
    local = _local(folder) if folder else Path()
    if local is None:
        return _remote_files(folder)
    if not folder or not local.is_dir():
        raise ConfigError(f"corpus.folder={folder!r} is no folder; corpus.source=folder needs one with documents in it")
    try:
        return list(_walk(local, "", os.path.realpath(local)))
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be read: {error.strerror}; make it readable, or set corpus.folder to another"
        ) from None


def name(folder: str) -> str:
    """The folder's own name, without what it lies in."""
    local = _local(folder)
    return folder.rstrip("/").rpartition("/")[2] if local is None else local.resolve().name


def digest(found: Iterable[FileAddress]) -> str:
    """16 hexadecimal digits of all these files: where below their folder they are, and what they hold. A ConfigError if
    one cannot be read."""
    whole = hashlib.sha256()
    for place in found:
        whole.update(f"{place.inside}\x1f".encode(errors="surrogateescape") + place.digest())
    return whole.hexdigest()[:16]


def _walk(folder: Path, below: str, root: str) -> Iterator[FileAddress]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{below}{entry.name}/", root)
        elif entry.is_file():
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            leads = "" if not target or os.path.commonpath([root, target]) == root else target
            yield FileAddress(entry.path, below + entry.name, leads=leads)


def _local(address: str) -> Path | None:
    """The local path that an address means, None if it is in object storage."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return Path(os.path.expanduser(address))
    if scheme == hub_sets.SCHEME:
        return hub_sets.folder_of(address)
    if scheme == "file":
        parts = urlsplit(address)
        if parts.netloc in ("", "localhost"):
            return Path(unquote(parts.path))
    elif scheme in REMOTE:
        if "@" in rest.partition("/")[0]:
            raise ConfigError(
                f"an address {scheme}://...@... in corpus.folder or corpus.questions would keep its credentials in the "
                "run's settings; give them in the environment and write the address without"
            )
        if rest.partition("/")[0]:
            return None
    raise ConfigError(
        f"no file can be read from {address!r}; corpus.folder and corpus.questions take a path, file:///path, "
        "s3://bucket/path or gs://bucket/path, corpus.questions also hf://owner/name"
    )


@cache
def _filesystem(scheme: str, bucket: str) -> fs.FileSystem:
    """The store of a bucket, opened once a process."""
    if scheme == "gs":
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):  # what Google's own clients heed
            protocol, server = _server(emulator, "http")
            return fs.GcsFileSystem(anonymous=True, scheme=protocol, endpoint_override=server, retry_time_limit=GIVE_UP)
        return fs.GcsFileSystem(retry_time_limit=GIVE_UP)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return fs.S3FileSystem(region=fs.resolve_s3_region(bucket))
    protocol, server = _server(endpoint, "https")
    return fs.S3FileSystem(endpoint_override=server, scheme=protocol)


def _server(endpoint: str, usual: str) -> tuple[str, str]:
    """Protocol and host:port of an endpoint, which may be written without the first."""
    protocol, mark, server = endpoint.rstrip("/").rpartition("://")
    return protocol if mark else usual, server


def _remote(address: str) -> tuple[fs.FileSystem, str]:
    """The store that an address lies in, and the path there. A StorageError if it cannot be reached."""
    scheme, _, path = address.partition("://")
    try:
        return _filesystem(scheme, path.partition("/")[0]), path.rstrip("/")
    except OSError as error:
        raise _unreachable(address, error) from None


def _remote_files(folder: str) -> list[FileAddress]:
    system, path = _remote(folder)
    try:
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except FileNotFoundError:
        raise ConfigError(f"corpus.folder={folder!r} is not there; set it to the folder of your documents") from None
    except OSError as error:
        raise _unreachable(folder, error) from None
    places = (
        FileAddress(f"{folder.partition('://')[0]}://{info.path}", info.path[len(path) + 1 :], _stamp_of(info))
        for info in found
        if info.is_file
    )
    shown = (place for place in places if not any(part.startswith(".") for part in place.inside.split("/")))
    return sorted(shown, key=lambda place: place.inside.split("/"))


def _stamp(address: str) -> str:
    system, path = _remote(address)
    try:
        info = system.get_file_info(path)
    except OSError as error:
        raise _unreachable(address, error) from None
    if not info.is_file:
        raise ConfigError(f"{address} cannot be read: there is no such file; see corpus.questions, corpus.folder")
    return _stamp_of(info)


def _stamp_of(info: fs.FileInfo) -> str:
    return f"{info.size} {info.mtime.isoformat() if info.mtime else ''}"


def _unreachable(address: str, error: OSError) -> StorageError:
    return StorageError(
        f"{address} cannot be read ({' '.join(str(error).split())}); see to the network, the store's credentials and "
        "AWS_ENDPOINT_URL in the environment, then type the same command again"
    )


class _Remote(io.RawIOBase):
    """A file of pyarrow's as Python's raw stream, with errors that say which file."""

    def __init__(self, file: object, address: str) -> None:
        self._file, self._address = file, address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        data = self._read(len(memoryview(buffer)))  # type: ignore[arg-type]
        memoryview(buffer)[: len(data)] = data  # type: ignore[arg-type]
        return len(data)

    def readall(self) -> bytes:
        """In one request; the inherited one would make one for each 8 KB."""
        return self._read(None)

    def _read(self, size: int | None) -> bytes:
        try:
            return cast(bytes, self._file.read(size))  # type: ignore[attr-defined]
        except OSError as error:
            raise _unreachable(self._address, error) from None

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))  # type: ignore[attr-defined]

    def tell(self) -> int:
        return int(self._file.tell())  # type: ignore[attr-defined]

    def close(self) -> None:
        self._file.close()  # type: ignore[attr-defined]
        super().close()
