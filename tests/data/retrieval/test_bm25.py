import math
import os
import subprocess
import sys
from collections import Counter

import pytest

from ragdist.config import RetrievalConfig
from ragdist.data.retrieval.bm25 import Bm25, terms
from ragdist.errors import DataError
from ragdist.local import ProcessMapper
from tests.data.chunks import chunk, corpus


def brute_force(chunks, query, config):
    """Lucene's BM25 by its formula, one document at a time: (score, id) of every chunk, best first."""
    bags = {i: Counter(terms(f"{c.title}\n{c.text}")) for i, c in chunks.items()}
    mean = sum(bag.total() for bag in bags.values()) / len(bags)
    scores = dict.fromkeys(bags, 0.0)
    for term in terms(query):
        holding = sum(term in bag for bag in bags.values())
        idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
        for i, bag in bags.items():
            norm = config.k1 * (1 - config.b + config.b * bag.total() / mean)
            scores[i] += idf * bag[term] / (bag[term] + norm)
    return sorted(((score, i) for i, score in scores.items()), key=lambda pair: (-round(pair[0], 5), pair[1]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rome was built.", ["rome", "was", "built"]),
        ("pathlib.Path.read_text", ["pathlib", "path", "read_text", "read", "text"]),
        ("readText(max_size=-1)", ["readtext", "read", "text", "max_size", "max", "size", "1"]),
        ("HTTPServer", ["httpserver"]),
        ("首都 is", ["首", "都", "is"]),
        ("--- ***", []),
    ],
)
def test_terms_of_code_and_prose(text, expected):
    assert terms(text) == expected


@pytest.mark.parametrize("count", [1, 5, 40, 500])
def test_search_equals_a_brute_force_scan(count):
    """check 25: same ids, by score, then by id; copies of one text make real ties."""
    chunks = corpus(200)
    for n in range(30):
        copy = chunk("w1 w2 the same text", f"t{n}")
        chunks[copy.id] = copy
    retriever = Bm25(chunks.values(), RetrievalConfig())
    queries = ["w1 w2 w3", "w7", "t5 same", "nothing known", ""]
    for query, hits in zip(queries, retriever.search(queries, count), strict=True):
        expected = brute_force(chunks, query, RetrievalConfig())[:count]
        assert [hit.chunk_id for hit in hits] == [i for _, i in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected], rel=1e-4)


def test_search_does_not_depend_on_workers_or_order_of_chunks():
    """check 25, check 71: queries shared between processes, chunks in another order."""
    chunks = corpus(100)
    queries = [f"w{n} w{n + 1}" for n in range(20)]
    backwards = Bm25(reversed(chunks.values()), RetrievalConfig())
    whole = Bm25(chunks.values(), RetrievalConfig()).search(queries, 7)
    assert backwards.search(queries, 7) == whole
    assert list(ProcessMapper(2, batch=3).map(search_one, queries, backwards)) == whole


def search_one(query, retriever):
    return retriever.search([query], 7)[0]


def test_search_in_texts_without_words():
    assert [hit.score for hit in Bm25([chunk("---"), chunk("***")], RetrievalConfig()).search(["a"], 5)[0]] == [0, 0]
    with pytest.raises(DataError, match=r"corpus\.source"):
        Bm25([], RetrievalConfig())


def test_jax_is_left_alone_where_it_is_installed(tmp_path):
    """On import bm25s would have it take three quarters of a GPU's memory."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was loaded')")
    (tmp_path / "jax" / "lax.py").touch()
    asked = [sys.executable, "-c", "import sys, ragdist.data.retrieval.bm25; sys.exit('jax' in sys.modules)"]
    subprocess.run(asked, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}, check=True, timeout=60)
