"""Chunks ranked by their words: BM25."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import regex

from ragdist.config import RetrievalConfig
from ragdist.data.matching import ALONE, verbatim
from ragdist.errors import DataError
from ragdist.records import Chunk, Hit


@contextmanager
def _without_jax() -> Iterator[None]:
    """bm25s tries jax out when it is imported, and jax then takes three quarters of the GPU for itself."""
    modules: dict[str, Any] = sys.modules
    before = {"jax": modules["jax"]} if "jax" in modules else {}
    modules["jax"] = None
    try:
        yield
    finally:
        del modules["jax"]
        modules |= before


with _without_jax():
    from bm25s import BM25
    from bm25s.tokenization import Tokenized

_WORD = regex.compile(rf"[{ALONE}]\p{{M}}*|(?:(?![{ALONE}])[\p{{L}}\p{{M}}\p{{N}}_])+")
_ASCII_WORD = re.compile(r"\w+")
_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_+")


def terms(text: str) -> list[str]:
    """The words to search by, in small letters: names in code whole and in parts, scripts without spaces by character.

    Example: `terms("pathlib.readText(max_size)")` is pathlib, readtext, read, text, max_size, max, size.
    """
    found = []
    for word in _ASCII_WORD.findall(text) if text.isascii() else _WORD.findall(verbatim(text)):
        found.append(word.lower())
        parts = [part.lower() for part in _BORDER.split(word) if part]
        if len(parts) > 1:
            found += parts
    return found


class Bm25:
    """Implements Retriever: BM25 over title and text of all chunks, held in memory. A DataError without any."""

    def __init__(self, chunks: Iterable[Chunk], config: RetrievalConfig) -> None:
        vocabulary: dict[str, int] = {}
        tokens: dict[str, np.ndarray] = {}
        for chunk in chunks:
            found = terms(f"{chunk.title}\n{chunk.text}")
            tokens[chunk.id] = np.array([vocabulary.setdefault(w, len(vocabulary)) for w in found], np.int32)
        if not tokens:
            raise DataError("no chunk to search in; see corpus.source and chunks.tokens")
        # In the order of their ids, so that among equal scores the lower position is the lower id.
        self._ids = sorted(tokens)
        vocabulary.setdefault("", len(vocabulary))
        # The numpy backend by name: bm25s would compile with numba where that happens to be installed.
        self._index = BM25(k1=config.k1, b=config.b, backend="numpy")
        self._index.index(Tokenized([tokens[i] for i in self._ids], vocabulary), show_progress=False)

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query the best `count` chunks (all, when there are fewer), by falling score, then by id."""
        return [self._best(query, min(count, len(self._ids))) for query in queries]

    def _best(self, query: str, count: int) -> list[Hit]:
        known = self._index.get_tokens_ids(terms(query))
        scores = self._index.get_scores_from_ids(known) if known else np.zeros(len(self._ids), np.float32)
        # All that reach the last place's score, so that a tie at the cut is decided by id, not by the partition.
        reach = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        best = reach[np.argsort(-scores[reach], kind="stable")[:count]]
        return [Hit(chunk_id=self._ids[i], score=float(scores[i])) for i in best]
