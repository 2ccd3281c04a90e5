"""Queries are searched once; no index is there before it is needed."""

import pytest

from ragdist.data.retrieval.kept import KeptRetriever
from ragdist.records import Hit
from ragdist.storage.stages import Store


class Searched:
    """Plays Retriever, and notes what it is asked."""

    def __init__(self):
        self.queries = []

    def search(self, queries, count):
        self.queries += queries
        return [[Hit(chunk_id=f"{query}-{n}", score=1 / (n + 3)) for n in range(count)] for query in queries]


@pytest.fixture
def kept(tmp_path):
    """A function that makes one, and what it searches with, opened as often as the list is long."""

    def make(chunks="c", **ranked_by):
        opened = []

        def open_retriever():
            opened.append(Searched())
            return opened[-1]

        return KeptRetriever(Store(tmp_path), chunks, ranked_by, open_retriever), opened

    return make


def test_the_same_queries_are_searched_once(kept):
    first, opened = kept()
    assert not opened
    found = first.search(["a", "b"], 3)
    assert found == Searched().search(["a", "b"], 3)
    again, not_opened = kept()
    assert again.search(["a", "b"], 3) == found
    assert len(opened) == 1 and not not_opened


@pytest.mark.parametrize("change", [{"chunks": "other"}, {"k1": 2.0}])
def test_another_corpus_or_ranking_is_searched_anew(kept, change):
    kept()[0].search(["a"], 2)
    other, opened = kept(**change)
    other.search(["a"], 2)
    assert len(opened) == 1


def test_other_queries_or_more_hits_are_searched_anew(kept):
    retriever, opened = kept()
    for queries, count in ((["a"], 2), (["a"], 3), (["a", "b"], 2), (["b", "a"], 2)):
        assert retriever.search(queries, count) == Searched().search(queries, count)
    assert len(opened) == 4
