"""Hits that are kept: the same queries are searched once, for all runs that ask them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ragdist.records import Hit, Ranked
from ragdist.roles import Retriever
from ragdist.storage.stages import Stage, Store


class KeptRetriever:
    """Implements Retriever; what it finds is a stage, named by the chunks' fingerprint and what the ranking depends on,
    and no index is there before a search that is not."""

    def __init__(
        self, store: Store, chunks: str, ranked_by: Mapping[str, Any], open_retriever: Callable[[], Retriever]
    ) -> None:
        self.store, self.chunks, self.ranked_by, self.open_retriever = store, chunks, ranked_by, open_retriever

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """See `roles.Retriever`."""
        asked = hashlib.sha256(json.dumps(list(queries)).encode()).hexdigest()
        stage = Stage("hits", {"chunks": self.chunks, "queries": asked}, {"count": count, **self.ranked_by})

        def produce() -> Iterator[Ranked]:
            for hits in self.open_retriever().search(queries, count):
                ids, scores = tuple(hit.chunk_id for hit in hits), tuple(hit.score for hit in hits)
                yield Ranked(chunk_ids=ids, scores=scores)

        rows = self.store.make(stage, Ranked, produce)
        pairs = (zip(row.chunk_ids, row.scores, strict=True) for row in rows)
        return [[Hit(chunk_id=chunk_id, score=score) for chunk_id, score in found] for found in pairs]
