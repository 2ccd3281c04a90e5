import json
import math
import sys

import numpy as np
import pytest

from ragdist.data.retrieval.dense import BLOCK, SPARE, Dense, open_vectors
from ragdist.errors import ConfigError, StorageError
from ragdist.local import ProcessMapper
from ragdist.records import Hit
from ragdist.storage.stages import Store
from tests.data.chunks import chunk, corpus
from tests.embedder import Words

QUERIES = ["w1 w2 w3", "w7", "t5 w9", "nothing known", *(f"w{n} w{n + 1}" for n in range(30))]


def dense(chunks, **options):
    ids = sorted(chunks)
    vectors = Words().embed([f"{chunks[i].title}\n{chunks[i].text}" for i in ids])
    return Dense(ids, vectors, Words(), **options)


def tied(size, copies):
    """A corpus and copies that differ in punctuation, so in their ids, and have one vector."""
    chunks = corpus(size)
    marks = ("w1 w2" + "!" * n for n in range(copies))
    return chunks | {c.id: c for c in (chunk(text, "t1") for text in marks)}


def brute_force(chunks, query):
    """Every cosine by an exact sum: hits of all chunks, best first, then by id."""
    asked = [float(x) for x in Words().embed([query])[0]]
    hits = []
    for c in chunks.values():
        vector = [float(x) for x in Words().embed([f"{c.title}\n{c.text}"])[0]]
        score = math.fsum(x * y for x, y in zip(asked, vector, strict=True))
        hits.append(Hit(chunk_id=c.id, score=float(np.float32(score))))
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))


@pytest.mark.parametrize("count", [1, 5, 40, 500])
def test_search_equals_a_brute_force_scan(count):
    """check 25: same ids, by score, then by id; copies make ties, more of them than a first look finds."""
    chunks = tied(200, copies=SPARE + 30)
    for query, hits in zip(QUERIES[:6], dense(chunks).search(QUERIES[:6], count), strict=True):
        assert hits == brute_force(chunks, query)[:count]


def test_search_among_nothing_but_ties():
    chunks = tied(0, copies=700)
    assert [hit.chunk_id for hit in dense(chunks).search(["w1 w2"], 3)[0]] == sorted(chunks)[:3]


def test_search_does_not_depend_on_what_else_is_asked():
    """One question goes another way through faiss than twenty; the scores are the same to the last bit."""
    retriever = dense(tied(200, copies=40))
    alone = [retriever.search([query], 7)[0] for query in QUERIES]
    assert retriever.search(QUERIES, 7) == alone
    assert retriever.search(QUERIES[::-1], 7) == alone[::-1]
    assert [hits[:7] for hits in retriever.search(QUERIES, 50)] == alone


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_search_over_shards_is_that_of_one_scan(shards):
    """check 25: each shard's best, put together by score then id, are the best of all."""
    chunks = tied(300, copies=40)
    ids = sorted(chunks)
    parts = [dense({i: chunks[i] for i in ids[n::shards]}).search(QUERIES, 9) for n in range(shards)]
    merged = [
        sorted((hit for hits in found for hit in hits), key=lambda hit: (-hit.score, hit.chunk_id))[:9]
        for found in zip(*parts, strict=True)
    ]
    assert merged == dense(chunks).search(QUERIES, 9)


def search_one(query, retriever):
    return retriever.search([query], 7)[0]


def test_search_over_workers_is_that_of_one_scan():
    """check 25, check 71: questions shared between processes."""
    retriever = dense(tied(200, copies=40))
    assert list(ProcessMapper(2, batch=5).map(search_one, QUERIES, retriever)) == retriever.search(QUERIES, 7)


def test_query_prefix_stands_before_each_question():
    retriever = dense(corpus(20), query_prefix="query: ")
    retriever.search(["w1", "w2"], 1)
    assert retriever.embedder.texts == ["query: w1", "query: w2"]


def test_vectors_are_made_once_and_mapped(tmp_path):
    """A stage of its own: a second opening, in this process or another, asks the embedder nothing."""
    chunks, store = corpus(BLOCK + 10), Store(tmp_path)
    first, second = Words(), Words()
    made = open_vectors(store, chunks, "abc", first, "passage: ")
    again = open_vectors(store, chunks, "abc", second, "passage: ")
    assert isinstance(again, np.memmap) and not second.texts
    assert np.array_equal(made, again)
    assert first.texts == [f"passage: {chunks[i].title}\n{chunks[i].text}" for i in sorted(chunks)]
    assert np.array_equal(made, Words().embed(first.texts))
    (folder,) = tmp_path.glob("vectors-*")
    assert json.loads((folder / "stage.json").read_text())["counts"] == {"vectors": 266, "dimensions": 48}
    for other in (("abd", Words(), "passage: "), ("abc", Words("other"), "passage: "), ("abc", Words(), "")):
        open_vectors(store, chunks, *other)
        assert other[1].texts
    assert len(list(tmp_path.glob("vectors-*"))) == 4


def test_vectors_of_a_run_that_died_are_as_if_never_begun(tmp_path):
    class Dies(Words):
        def embed(self, texts):
            if self.texts:
                raise KeyboardInterrupt
            return super().embed(texts)

    with pytest.raises(KeyboardInterrupt):
        open_vectors(Store(tmp_path), corpus(BLOCK + 1), "abc", Dies())
    assert not list(tmp_path.glob("vectors-*"))
    assert open_vectors(Store(tmp_path), corpus(BLOCK + 1), "abc", Words()).shape == (BLOCK + 1, 48)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"cos\nsystem\n", None])
def test_vectors_that_are_torn_are_one_line_and_those_that_are_gone_are_made_again(tmp_path, content):
    """A stage whose card is whole is not proof that its other files are."""
    chunks = corpus(5)
    open_vectors(Store(tmp_path), chunks, "abc", Words())
    (path,) = tmp_path.glob("vectors-*/vectors.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] if content is None else content)
    with pytest.raises(StorageError, match="is broken"):
        open_vectors(Store(tmp_path), chunks, "abc", Words())
    path.unlink()
    assert open_vectors(Store(tmp_path), chunks, "abc", Words()).shape == (5, 48)
    assert path.read_bytes() == whole


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install ragdist\[dense\]"):
        dense(corpus(3))
