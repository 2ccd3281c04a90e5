import pytest

from ragdist.config import RetrievalConfig
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.data.retrieval.dense import Dense
from ragdist.data.retrieval.hybrid import DEPTH, Hybrid, fuse, open_retriever, ranked_by
from ragdist.errors import DataError
from ragdist.records import Hit
from ragdist.storage.stages import Store
from tests.data.chunks import corpus
from tests.embedder import Words


def hits(*scored):
    return [Hit(chunk_id=name, score=score) for name, score in scored]


def test_fuse_by_hand():
    """a: 1/61 + 1/63, b: 1/62 + 1/61, c: 1/63 + 1/62, d: 1/64; e has no word of the question."""
    words = hits(("a", 9.0), ("b", 5.0), ("c", 1.0), ("e", 0.0))
    meaning = hits(("b", 0.9), ("c", 0.8), ("a", 0.7), ("d", -0.1))
    found = fuse([words, meaning], 60)
    assert [hit.chunk_id for hit in found] == ["b", "a", "c", "d"]
    expected = [0.03252247488, 0.03226645849, 0.03200204813, 0.015625]
    assert [hit.score for hit in found] == pytest.approx(expected, abs=1e-10)


def test_fuse_without_a_constant_by_hand():
    """Rank alone: a is 1 + 1/3, b is 1/2 + 1, c is 1/3 + 1/2."""
    found = fuse([hits(("a", 3), ("b", 2), ("c", 1)), hits(("b", 3), ("c", 2), ("a", 1))], 0)
    assert [(hit.chunk_id, hit.score) for hit in found] == [("b", 1.5), ("a", 1 + 1 / 3), ("c", 1 / 2 + 1 / 3)]


def test_fuse_breaks_ties_by_id_whatever_ranking_comes_first():
    one, two = hits(("b", 2.0), ("a", 1.0)), hits(("a", 2.0), ("b", 1.0))
    assert [hit.chunk_id for hit in fuse([one, two], 60)] == ["a", "b"]
    assert fuse([one, two], 60) == fuse([two, one], 60)


def test_hybrid_joins_the_best_of_both():
    """Reciprocal ranks over the first hundred of each, worked out here from the two rankings."""
    chunks = corpus(300)
    ids = sorted(chunks)
    vectors = Words().embed([f"{chunks[i].title}\n{chunks[i].text}" for i in ids])
    words, meaning = Bm25(chunks.values(), RetrievalConfig()), Dense(ids, vectors, Words())
    queries = ["w1 w2 w3", "w50 w51"]
    for query, found in zip(queries, Hybrid([words, meaning], 10).search(queries, 20), strict=True):
        ranks = [
            {hit.chunk_id: n for n, hit in enumerate(part.search([query], DEPTH)[0], 1) if hit.score}
            for part in (words, meaning)
        ]
        earned = {i: sum(1 / (10 + rank[i]) for rank in ranks if i in rank) for i in ids}
        assert [hit.chunk_id for hit in found] == sorted(ids, key=lambda i: (-earned[i], i))[:20]


def test_retriever_is_that_of_its_kind(tmp_path):
    chunks, store = corpus(30), Store(tmp_path)
    for kind, played in (("bm25", Bm25), ("dense", Dense), ("hybrid", Hybrid)):
        config = RetrievalConfig(kind=kind)
        opened = open_retriever(config, chunks, "abc", store, Words())
        assert type(opened) is played
        with pytest.raises(DataError, match=r"corpus\.source"):
            open_retriever(config, {}, "abc", store, Words())


def test_ranking_is_named_by_what_it_depends_on():
    """BM25 by k1 and b, as before there was anything else; each kind by nothing that it does not read."""
    named = {kind: ranked_by(RetrievalConfig(kind=kind), Words()) for kind in ("dense", "hybrid")}
    assert ranked_by(RetrievalConfig(), None) == {"k1": 0.9, "b": 0.4}
    dense = {"kind": "dense", "embedder": "words", "query_prefix": "", "passage_prefix": ""}
    assert named["dense"] == dense
    assert named["hybrid"] == {**dense, "kind": "hybrid", "k1": 0.9, "b": 0.4, "rank_constant": 60}
    unread = RetrievalConfig(count=9, embedder="other", query_prefix="q", rank_constant=3)
    assert ranked_by(unread, None) == {"k1": 0.9, "b": 0.4}
    assert ranked_by(RetrievalConfig(kind="dense", k1=2, b=0, rank_constant=3, count=9), Words()) == dense
