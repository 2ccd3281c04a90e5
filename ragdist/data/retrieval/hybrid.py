"""Several rankings joined into one by reciprocal rank, and who ranks chunks, as `retrieval` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragdist.config import RetrievalConfig
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.data.retrieval.dense import Dense, open_vectors
from ragdist.errors import DataError
from ragdist.records import Chunk, Hit
from ragdist.roles import Embedder, Retriever
from ragdist.storage.stages import Store

WORDS, VECTORS, FUSION = {"k1", "b"}, {"kind", "query_prefix", "passage_prefix"}, {"rank_constant"}
"""Settings that a ranking by words, by vectors, and of both joined depends on."""
DEPTH = 100
"""Hits of each ranking that are joined, or more if more are wanted."""


class Hybrid:
    """Implements Retriever: what others rank, joined by reciprocal rank (Cormack, Clarke, Buettcher 2009)."""

    def __init__(self, retrievers: Sequence[Retriever], rank_constant: int) -> None:
        self.retrievers, self.rank_constant = retrievers, rank_constant

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query at most `count` hits, by falling score, equal scores by chunk id."""
        ranked = [retriever.search(queries, max(DEPTH, count)) for retriever in self.retrievers]
        return [fuse(hits, self.rank_constant)[:count] for hits in zip(*ranked, strict=True)]


def fuse(rankings: Iterable[Sequence[Hit]], rank_constant: int) -> list[Hit]:
    """All hits once, each scored by the sum of 1 / (rank_constant + rank) over the rankings that it is in.

    Ranks count from 1. A hit of score 0, such as BM25 gives a chunk without a word of the question, earns nothing.

    Example: with a constant of 60, first in one ranking and third in the other is 1 / 61 + 1 / 63.
    """
    earned: dict[str, float] = {}
    for hits in rankings:
        for rank, hit in enumerate(hits, start=1):
            if hit.score != 0:
                earned[hit.chunk_id] = earned.get(hit.chunk_id, 0.0) + 1 / (rank_constant + rank)
    best = sorted(earned.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Hit(chunk_id=chunk_id, score=score) for chunk_id, score in best]


def ranked_by(config: RetrievalConfig, embedder: Embedder | None) -> dict[str, Any]:
    """What the ranking depends on, and nothing else: part of the name of every stage that asks for one."""
    found: dict[str, Any] = {}
    if config.kind != "dense":
        found |= config.model_dump(include=WORDS)
    if config.kind != "bm25":
        found |= config.model_dump(include=VECTORS)
        found["embedder"] = _known(embedder, config).fingerprint
    if config.kind == "hybrid":
        found |= config.model_dump(include=FUSION)
    return found


def open_retriever(
    config: RetrievalConfig, chunks: Mapping[str, Chunk], made_by: str, store: Store, embedder: Embedder | None
) -> Retriever:
    """Who ranks chunks, as `retrieval.kind` says; `made_by` is the fingerprint of the chunks' stage, `store` keeps
    their vectors. A DataError if there is no chunk, a ConfigError for dense and hybrid without their packages."""
    if not chunks:
        raise DataError("no chunk to search in; see corpus.source and chunks.tokens")
    if config.kind == "bm25":
        return Bm25(chunks.values(), config)
    known = _known(embedder, config)
    vectors = open_vectors(store, chunks, made_by, known, config.passage_prefix)
    dense = Dense(sorted(chunks), vectors, known, config.query_prefix)
    return dense if config.kind == "dense" else Hybrid([Bm25(chunks.values(), config), dense], config.rank_constant)


def _known(embedder: Embedder | None, config: RetrievalConfig) -> Embedder:
    if embedder is None:
        raise ValueError(f"retrieval.kind={config.kind} needs an embedder; hand one to Pipeline")
    return embedder
