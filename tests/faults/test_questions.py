"""Question files and documents, as `init` and `plan` read them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.bases import QUESTIONS, documents, question_files
from tests.faults.calls import HOSTILE, WORDS, Case, Surface, share, spoiled

FILES = question_files()
CELLS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, HOSTILE),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(WORDS, below, max_size=3)),
)
COLUMNS = st.sampled_from(["id", "question", "answers", "answer", "documents", "split", "messages", "meta", "x"])
ROW = st.tuples(st.sampled_from(QUESTIONS), st.dictionaries(COLUMNS, CELLS, max_size=3))
ROWS = st.lists(ROW.map(lambda two: {**two[0], **two[1]}), min_size=1, max_size=4)
SPOILED = st.sampled_from(sorted(FILES)).flatmap(lambda name: spoiled(FILES[name]).map(lambda content: {name: content}))
ODD = st.one_of(
    ROWS.map(lambda rows: {"q.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}),
    ROWS.map(lambda rows: {"q.json": json.dumps(rows).encode()}),
    st.lists(st.lists(st.one_of(WORDS, HOSTILE), max_size=4).map(",".join), max_size=5).map(
        lambda lines: {"q.csv": "\n".join(["question,answer", *lines]).encode(errors="surrogatepass")}
    ),
)
SUFFIXES = st.sampled_from(["md", "txt", "html", "csv", "json", "pdf", "docx", "pptx", "rst", "xml", "gz", "zip"])
PAGE = b"<html><head><title>t</title></head><body><p>Kiln 1 is hot.</p><table><tr><td>a</td></tr></table></body></html>"
TEXTS = HOSTILE.map(lambda text: text.encode(errors="replace"))
DOCUMENTS = st.tuples(SUFFIXES, st.one_of(st.binary(max_size=200), spoiled(PAGE), TEXTS))


@pytest.fixture(scope="module")
def surface():
    with Surface("questions", 0.14, documents) as made:
        yield made


@pytest.fixture(scope="module")
def corpus():
    with Surface("corpus", 0.07, documents) as made:
        yield made


@given(st.one_of(SPOILED, ODD), st.booleans(), st.sampled_from(["init", "plan"]))
@share(0.2)
def test_question_files(surface, files, skip, command):
    (name,) = files
    more = ["corpus.broken=skip"] * skip
    asked = ["init", "documents", name, "--to", "made.yaml"]
    if command == "plan":
        asked = ["plan", "raft", "corpus.folder=documents", f"corpus.questions=[{name}]"]
    surface.run(Case([*asked, *more], files))


@given(DOCUMENTS, st.booleans())
@share(0.08)
def test_documents(corpus, document, skip):
    suffix, content = document
    files = {f"documents/odd.{suffix}": content}
    corpus.run(Case(["init", "documents", "q.csv", "--to", "made.yaml", *["corpus.broken=skip"] * skip], files))
