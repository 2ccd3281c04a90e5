"""Documents of a folder, in the order of their paths, with ids that are hashes of title and text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ragdist.config import CorpusConfig
from ragdist.data.files import READ_ERRORS, Broken, json_lines
from ragdist.errors import ConfigError, DataError
from ragdist.records import Document, content_id

SUFFIXES = (".txt", ".md", ".json", ".jsonl", ".jsonl.gz", ".parquet")
Rows = Iterator[tuple[str, dict[str, Any]]]


def read(config: CorpusConfig, broken: list[str]) -> Iterator[Document]:
    """The documents below `config.folder`; an exact copy of an earlier one is left out, hidden files are not read.

    A txt or md file is one document, titled by its path without the suffix. A json file holds one object or a list
    of them, jsonl one a line, parquet one a row: `text` is the text, `title` the title where there is one.

    Args:
        config: `folder` is where to read, `broken` what to do with a file or row that cannot be read.
        broken: gets `where: why` for each one that is skipped.

    Raises:
        ConfigError: there is no such folder.
        DataError: a file or row cannot be read or has no text (and `broken` is stop), or there is no document at all.
    """
    folder = Path(config.folder)
    if not config.folder or not folder.is_dir():
        raise ConfigError(f"corpus.folder={config.folder!r} is no folder; set it to the folder of your documents")
    policy, seen = Broken(config.broken, broken), set[str]()
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).parts):
        inside = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        for where, row in _rows(path, str(inside.with_suffix("")), policy):
            text, title = row.get("text"), row.get("title") or ""
            if not isinstance(text, str) or not text.strip():
                policy.add(where, "has no `text`" if text is None else "has an empty `text` or one that is no string")
            elif (name := content_id(str(title), text)) not in seen:
                seen.add(name)
                yield Document(id=name, title=str(title), text=text, source=inside.as_posix())
    if not seen:
        skipped = f", {len(broken)} skipped" if broken else ""
        raise DataError(
            f"corpus.folder={config.folder!r} has no documents{skipped}; wanted {', '.join(SUFFIXES)} files"
        )


def _rows(path: Path, title: str, broken: Broken) -> Rows:
    """(where, row with `text` and perhaps `title`) of one file; nothing for a file of another kind."""
    try:
        if path.suffix in (".txt", ".md"):
            yield str(path), {"title": title, "text": path.read_text(encoding="utf-8-sig")}
        elif path.suffix == ".json":
            yield from _json(path, broken)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from json_lines(path, broken)
        elif path.suffix == ".parquet":
            yield from _parquet(path)
    except (*READ_ERRORS, ValueError, pa.ArrowException) as error:
        broken.add(str(path), f"cannot be read ({error})")


def _json(path: Path, broken: Broken) -> Rows:
    value = json.loads(path.read_bytes())
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"{path}, item {number}" if isinstance(value, list) else str(path)
        if isinstance(row, dict):
            yield where, row
        else:
            broken.add(where, f"holds a JSON {type(row).__name__}, wanted an object")


def _parquet(path: Path) -> Rows:
    with parquet.ParquetFile(path) as file:
        columns = [name for name in ("title", "text") if name in file.schema_arrow.names]
        if "text" not in columns:
            raise ValueError(f"no column `text`, only {', '.join(file.schema_arrow.names)}")
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
