"""Questions from Python: a `datasets.Dataset`, a pandas frame or dicts, kept as a question file of the run's data."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.errors import DataError
from ragdist.storage.atomic import atomic_file, make_folder


class Frame(Protocol):
    """What pandas and `datasets` have in common here."""

    def to_json(self, path: Any, *, orient: str, lines: bool) -> Any:
        """Writes a row a line."""


QuestionRows = Frame | Iterable[Mapping[str, Any]]
"""Questions as a question file has them, a row each."""


def with_questions(settings: Settings, rows: QuestionRows | None) -> Settings:
    """The settings with these questions in place of `corpus.questions`; None leaves them.

    The file is named by its content, so the same questions find the same stages again. Without `corpus.folder` the
    documents are those of the rows.

    Raises:
        DataError: a row is no mapping, or holds what JSON has no word for.
    """
    if rows is None:
        return settings
    text = _lines(rows)
    path = (
        make_folder(Path(settings.run.folder) / "data", private=True)
        / f"given-{hashlib.sha256(text).hexdigest()[:12]}.jsonl"
    )
    with atomic_file(path) as half:
        half.write_bytes(text)
    values = settings.model_dump(mode="json")
    source = "folder" if settings.corpus.folder and not settings.corpus.benchmark else "records"
    values["corpus"] |= {"questions": [str(path)], "source": source, "benchmark": ""}
    return resolve(values)


def _lines(rows: QuestionRows) -> bytes:
    """The rows as JSON lines."""
    if hasattr(rows, "to_json"):
        file = io.BytesIO()
        rows.to_json(file, orient="records", lines=True)
        return file.getvalue()
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"questions[{number}] is a {type(row).__name__}, wanted a mapping such as a dict")
        try:
            found.append(json.dumps(dict(row), default=_plain) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(f"questions[{number}] cannot be written as JSON: {error}") from None
    return "".join(found).encode()


def _plain(value: Any) -> Any:
    """An array or number of numpy as Python has it, a date as text."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"it holds a {type(value).__name__}")
