"""Chunks ranked by their vectors: the cosine of question and chunk, exact, over all of them.

faiss finds who may be among the best; who they are is settled by scores that depend on the two texts alone. So the
ranking is that of a plain scan, whatever else is searched for at the same time, in whatever shards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragdist.errors import ConfigError
from ragdist.records import Chunk, Hit
from ragdist.roles import Embedder
from ragdist.storage.atomic import translate_broken
from ragdist.storage.stages import Stage, Store
from ragdist.tracking.progress import Bar

VECTORS = "vectors.npy"
BLOCK = 256
"""Texts that are embedded at once; bounds memory and says how often progress is told."""
SPARE = 16
"""Chunks that faiss finds beyond those wanted, so that a tie at the cut seldom needs a second search."""


class Dense:
    """Implements Retriever: cosine between a question's vector and each chunk's.

    Args:
        ids: of the chunks, sorted, so that among equal scores the lower place is the lower id.
        vectors: [len(ids), dimensions] float32, rows of length one; read where they lie, so a memory map will do.
        embedder: who made them, and makes those of questions.
        query_prefix: put before each question.

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, ids: Sequence[str], vectors: np.ndarray, embedder: Embedder, query_prefix: str = "") -> None:
        _faiss()
        self.ids, self.vectors, self.embedder, self.query_prefix = ids, vectors, embedder, query_prefix
        # What a float32 sum of products can be wrong by, on either side of the cut (rows have length one).
        self._slack = 2 * (vectors.shape[1] + 2) * 2.0**-24

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query the best `count` chunks (all, when there are fewer), by falling cosine, then by id."""
        count, found = min(count, len(self.ids)), []
        for start in range(0, len(queries), BLOCK):
            asked = self.embedder.embed([self.query_prefix + query for query in queries[start : start + BLOCK]])
            scores, places = self._near(asked, count + SPARE)
            for query, near, at in zip(asked, scores, places, strict=True):
                reach = at if self._holds_all(near, count) else self._wider(query, count)
                found.append(self._best(query, reach, count))
        return found

    def _near(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """[len(queries), count] scores, falling, and places; nearly right."""
        faiss, reach = _faiss(), min(count, len(self.ids))
        scores, places = faiss.knn(queries, self.vectors, reach, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, places

    def _holds_all(self, scores: np.ndarray, count: int) -> bool:
        """Whether none that was not found can be among the best `count`."""
        return len(scores) == len(self.ids) or scores[-1] < scores[count - 1] - self._slack

    def _wider(self, query: np.ndarray, count: int) -> np.ndarray:
        """Places of all that may be among the best `count`, where very many have nearly the same score."""
        reach = count + SPARE
        while True:
            reach *= 4
            scores, places = self._near(query[None], reach)
            if self._holds_all(scores[0], count):
                nearest: np.ndarray = places[0]
                return nearest

    def _best(self, query: np.ndarray, places: np.ndarray, count: int) -> list[Hit]:
        places = np.sort(places)
        # Summed row by row in float64: no matrix product, whose last bits depend on how many rows it has.
        products = self.vectors[places].astype(np.float64) * query.astype(np.float64)
        scores = products.sum(axis=1).astype(np.float32)
        return [
            Hit(chunk_id=self.ids[places[i]], score=float(scores[i]))
            for i in np.argsort(-scores, kind="stable")[:count]
        ]


def open_vectors(
    store: Store, chunks: Mapping[str, Chunk], made_by: str, embedder: Embedder, passage_prefix: str = ""
) -> np.ndarray:
    """The vectors of title and text of all chunks, by sorted id: a memory map of `vectors.npy` in a stage of its own.

    The stage is named by the chunks' own (`made_by`), the embedder and the prefix that is put before each chunk;
    vectors that are there are only opened. A StorageError if they are torn.
    """
    stage = Stage("vectors", {"chunks": made_by}, {"embedder": embedder.fingerprint, "passage_prefix": passage_prefix})
    path = store.path(stage)
    with store.holding(stage):
        if not (path / VECTORS).exists():
            with store.writing(stage) as out:
                out.counts |= _write_vectors(out.folder / VECTORS, chunks, embedder, passage_prefix)
    with translate_broken(path / VECTORS):
        vectors: np.ndarray = np.lib.format.open_memmap(path / VECTORS, mode="r")
        if vectors.ndim != 2 or len(vectors) != len(chunks):
            raise ValueError(f"shape {vectors.shape}, wanted a vector for each of {len(chunks)} chunks")
    return vectors


def _write_vectors(path: Path, chunks: Mapping[str, Chunk], embedder: Embedder, prefix: str) -> dict[str, int]:
    """Written, not mapped: to a mapped file a full disk is a dead process."""
    ids, shape = sorted(chunks), (0, 0)
    with path.open("wb") as file, Bar("vectors", total=len(ids), unit="chunks") as bar:
        for start in range(0, len(ids), BLOCK):
            block = [chunks[chunk_id] for chunk_id in ids[start : start + BLOCK]]
            made = embedder.embed([f"{prefix}{chunk.title}\n{chunk.text}" for chunk in block])
            if not start:
                shape = (len(ids), made.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(made, "<f4").data)
            bar.advance(len(block))
        file.flush()
        os.fsync(file.fileno())
    return dict(zip(("vectors", "dimensions"), shape, strict=True))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "retrieval.kind is dense or hybrid, but faiss is not installed; pip install ragdist[dense], or set "
            "retrieval.kind=bm25"
        ) from None
    return faiss
