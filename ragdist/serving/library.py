"""The documents of a finished run, found again where it is served: on another machine, after files have changed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ragdist import parts
from ragdist.config import Settings
from ragdist.data.pipeline import Pipeline
from ragdist.data.retrieval import hybrid
from ragdist.data.retrieval.own import OwnRetriever
from ragdist.errors import ConfigError
from ragdist.records import Chunk
from ragdist.roles import Embedder, Retriever
from ragdist.serving.service import Query, Shown
from ragdist.storage.atomic import read_texts, write_json
from ragdist.storage.stages import Rows, Store

NOTED = "library.json"
"""In a run's folder."""


class Noted(NamedTuple):
    """What a run notes of its documents. Example: Noted("chunks-3f9a1c02d4e5", "apidocs")"""

    chunks: str
    """The stage that holds them."""
    dataset: str
    """Of its questions, which says how answers are compared."""


def note(folder: Path, pipeline: Pipeline) -> Noted:
    """Writes into a run's folder which documents it was made with."""
    found = Noted(pipeline.chunks.folder.name, next(iter(pipeline.questions)).dataset)
    write_json(folder / NOTED, found._asdict())
    return found


def read(folder: Path) -> Noted | None:
    """What the run noted; None of a run of an earlier version."""
    return Noted(**read_texts(folder / NOTED, *Noted._fields)) if (folder / NOTED).exists() else None


def data_folder(folder: Path, settings: Settings) -> Path:
    """Where the stages of the run in this folder lie."""
    beside = folder.parent / "data"
    return beside if beside.is_dir() else Path(settings.run.folder) / "data"


def open_library(
    noted: Noted, stages: Path, settings: Settings, embedder: Embedder | None, own: parts.Retriever | None = None
) -> Library:
    """The documents that a run noted, or those that a retriever of the user's own finds.

    Raises:
        ConfigError: they are not there.
    """
    rows = Rows(stages / noted.chunks, Chunk)
    if not rows.path.exists():
        raise ConfigError(
            f"the run's documents are not there: no {rows.folder}; copy that folder along with the run's, or make the "
            "run here"
        )
    chunks = {chunk.id: chunk for chunk in rows}
    if own:
        found = OwnRetriever(own, None, chunks)
        return Library(found.chunks, found, settings.retrieval.count)
    retriever = hybrid.open_retriever(settings.retrieval, chunks, rows.fingerprint, Store(stages), embedder)
    return Library(chunks, retriever, settings.retrieval.count)


class Library:
    """Implements Finder: the documents of a run, as its questions are shown them.

    Args:
        chunks: by id.
        retriever: ranks them.
        count: as many are shown.
    """

    def __init__(self, chunks: Mapping[str, Chunk], retriever: Retriever, count: int) -> None:
        self.chunks, self.retriever, self.count = chunks, retriever, count
        self._one_at_a_time = threading.Lock()

    def shown(self, query: Query) -> tuple[Shown, ...]:
        """What is shown with a question; nothing where no document has anything in common with it."""
        if query.documents is not None:
            return query.documents
        with self._one_at_a_time:
            (hits,) = self.retriever.search([query.question], self.count)
        found = [(self.chunks[hit.chunk_id], hit) for hit in hits if any(one.score for one in hits)]
        return tuple(Shown(chunk.title, chunk.text, chunk.id, round(hit.score, 4)) for chunk, hit in found)
