"""Documents that nearly repeat an earlier one, by MinHash over word triples: found in one pass, texts are not kept.

What is kept of a document is its signature and where its bands lie, about 2 KB. datasketch makes the signatures; its
own index of the bands would take three times that, for thousands of files more than all the rest of the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragdist.config import CorpusConfig
from ragdist.data.matching import words
from ragdist.records import Document
from ragdist.storage.stages import Counted

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 128
"""Numbers in a signature; the estimate of a similarity of 0.8 has a standard error of 0.035."""
FOUND = 0.95
"""Share of the pairs of exactly the similarity asked for that share a band; of more similar ones it is larger."""
SEED = 1
TRIPLE, BATCH = 3, 8192
NAMED = 20

Signature = NDArray[np.uint32]


class Index:
    """Signatures of documents without a near duplicate among them, found by the bands that they share; near duplicates
    have this Jaccard similarity of word triples or more."""

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self.rows = rows_of_a_band(similarity)
        # One block: small ones that stay, between a file's large ones that go, would keep the heap from shrinking.
        self._signatures = bytearray()
        self._size = 0
        self._bands: dict[int, int] = {}

    def add(self, signature: Signature) -> tuple[int, float] | None:
        """The most similar document of the index, by its number, the earliest of several, with the similarity; None
        if none is similar enough: then the document has joined the index, under the next number from 0 on."""
        free, earlier = self._look_up(signature)
        if earlier:
            number, share = self._most_similar(signature, sorted(earlier))
            if share >= self.similarity:
                return number, share
        self._bands.update(dict.fromkeys(free, self._size))
        self._signatures += signature.tobytes()
        self._size += 1
        return None

    def _look_up(self, signature: Signature) -> tuple[list[int], set[int]]:
        """For each band a free key, and the documents that share a band."""
        free, earlier = [], set[int]()
        for start in range(0, PERMUTATIONS - self.rows + 1, self.rows):
            band = start.to_bytes(2, "big") + signature[start : start + self.rows].tobytes()
            key = int.from_bytes(hashlib.blake2b(band, digest_size=8).digest(), "big")
            while (holder := self._bands.get(key)) is not None:  # those that share it lie at the keys that follow
                earlier.add(holder)
                key += 1
            free.append(key)
        return free, earlier

    def _most_similar(self, signature: Signature, earlier: list[int]) -> tuple[int, float]:
        rows = np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)[earlier]
        shares = (rows == signature).mean(axis=1)
        best = int(shares.argmax())
        return earlier[best], float(shares[best])


def rows_of_a_band(similarity: float) -> int:
    """The most signature numbers to a band with which `FOUND` of the pairs of this similarity share a band."""

    def found(rows: int) -> float:
        return 1 - (1 - similarity**rows) ** (PERMUTATIONS // rows)

    return max((rows for rows in range(1, PERMUTATIONS + 1) if found(rows) >= FOUND), default=1)


def signature_of(text: str, empty: MinHash) -> Signature:
    """The text's MinHash over the triples of its words, without case, accents and punctuation; [PERMUTATIONS].

    A text of fewer than three words counts as one triple. `empty` is a MinHash of nothing, whose permutations are used.
    """
    spoken, sketch = words(text).split() or [text], empty.copy()
    last = max(1, len(spoken) - TRIPLE + 1)
    triples = (" ".join(spoken[i : i + TRIPLE]).encode(errors="surrogatepass") for i in range(last))
    while batch := list(islice(triples, BATCH)):
        sketch.update_batch(batch)
    return np.asarray(sketch.hashvalues, dtype=np.uint32)


def sift(documents: Iterable[Document], config: CorpusConfig) -> Counted[Document]:
    """The documents in their order; with `near_duplicates=drop` without those that are nearly like one before them.

    Each is compared with those before it that are no near duplicates themselves, so that what is dropped and what is
    reported are the same documents, and a chain of small changes is not followed away from its beginning. Counted are
    `near_duplicates`, and `near_duplicates_named` are the first 20 as `that, like this`.
    """
    if config.near_duplicates == "keep":
        yield from documents
        return {}
    index, names, named = Index(config.similarity), list[str](), list[str]()
    from datasketch import MinHash  # loads scipy, which a person who mistyped a name would wait for

    empty = MinHash(num_perm=PERMUTATIONS, seed=SEED)
    repeats = 0
    for document in documents:
        found = index.add(signature_of(document.text, empty))
        if found is None:
            names.append(name_of(document))
        else:
            repeats += 1
            if len(named) < NAMED:
                named.append(f"{name_of(document)}, like {names[found[0]]} ({found[1]:.2f})")
        if found is None or config.near_duplicates == "report":
            yield document
    return {"near_duplicates": repeats, "near_duplicates_named": named}


def distinct(texts: Sequence[str], similarity: float) -> int:
    """How many of these texts are no near duplicates of one before them."""
    from datasketch import MinHash

    index, empty = Index(similarity), MinHash(num_perm=PERMUTATIONS, seed=SEED)
    return sum(index.add(signature_of(text, empty)) is None for text in texts)


def name_of(document: Document) -> str:
    """The document's file, and its title where the file holds several."""
    source, title = document.source, document.title
    return f"{source} ({title})" if title and not source.startswith(f"{title}.") else source
