"""Chunks: never too long, never lossy, ended where a reader would end them."""

import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdist.config import ChunksConfig
from ragdist.data.chunks import cut
from ragdist.records import Document
from tests.tiny import tokenizer

WORDS = st.sampled_from(
    [
        "the file ",
        "a",
        "\n",
        "\n\n",
        "Read it. ",
        "    return x\n",
        "👩‍👩‍👧",
        "🏳️‍🌈",
        "你好世界。",
        "é",
        "e\u0301",
        "\u200b",
        "\U0001d4b3",
        "\t",
        "  ",
    ]
)
TEXTS = st.one_of(st.lists(WORDS, min_size=1, max_size=120).map("".join), st.text(min_size=1, max_size=300))


def document(text):
    return Document(id="d", title="t", text=text, source="s")


def joined(chunks):
    text = ""
    for chunk in chunks:
        assert chunk.start <= len(text)
        overlap = len(text) - chunk.start
        assert chunk.text[:overlap] == text[chunk.start :]
        text += chunk.text[overlap:]
    return text


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(16, 40), st.integers(0, 39))
def test_chunks_of_any_text_are_lossless_and_within_the_limit(text, tokens, overlap):
    """check 16: no chunk above the limit when it is tokenized anew; joined less overlaps they are the text."""
    config = ChunksConfig(tokens=tokens, overlap=min(overlap, tokens - 1))
    chunks = cut(document(text), tokenizer(), config)
    assert joined(chunks) == text
    assert all(len(tokenizer().encode(chunk.text).ids) <= tokens for chunk in chunks)
    assert all(text[chunk.start :].startswith(chunk.text) for chunk in chunks)
    assert [chunk.start for chunk in chunks] == sorted({chunk.start for chunk in chunks})
    assert len({chunk.id for chunk in chunks}) == len(chunks)


def test_short_document_is_one_chunk():
    (chunk,) = cut(document("Read the file."), tokenizer(), ChunksConfig(tokens=64, overlap=10))
    assert (chunk.text, chunk.start, chunk.document_id, chunk.title) == ("Read the file.", 0, "d", "t")


def test_chunk_has_nearly_the_tokens_asked_for_and_overlaps_as_asked():
    text = " ".join(f"word{i}" for i in range(2000))
    chunks = cut(document(text), tokenizer(), ChunksConfig(tokens=100, overlap=20))
    sizes = [len(tokenizer().encode(chunk.text).ids) for chunk in chunks[:-1]]
    assert min(sizes) >= 90
    shared = [len(tokenizer().encode(text[b.start : a.start + len(a.text)]).ids) for a, b in pairwise(chunks)]
    assert min(shared) >= 18 and max(shared) <= 20


@pytest.mark.parametrize(
    ("unit", "end"),
    [
        ("the number of rows and the name of the column\n\nthe file\n", "column\n\n"),
        ("the number of rows and the name of the column\nthe file ", "column\n"),
        ("The number of rows and the name of the column. The file ", "column. "),
        ("the number of rows and the name of the column ", " "),
    ],
)
def test_chunk_ends_at_the_strongest_border_near_its_limit(unit, end):
    chunks = cut(document(unit * 40), tokenizer(), ChunksConfig(tokens=80))
    assert len(chunks) > 5
    assert all(chunk.text.endswith((end, end.rstrip(" "))) for chunk in chunks[:-1])


def test_chunk_has_the_page_and_heading_that_it_begins_on():
    """The blank line between two pages belongs to the page before it, also where a chunk begins with it."""
    pages = ["the number of rows " * 12, "the name of the column " * 12, "the file that is read " * 12]
    text = "\n\n".join(pages)
    starts = (0, len(pages[0]) + 2, len(pages[0]) + len(pages[1]) + 4)
    names = ("", "Part", "Part > End")
    whole = Document(id="d", title="t", text=text, source="s", starts=starts, pages=(1, 2, 4), headings=names)
    chunks = cut(whole, tokenizer(), ChunksConfig(tokens=40))
    assert {(chunk.page, chunk.heading) for chunk in chunks} == {(1, ""), (2, "Part"), (4, "Part > End")}
    for chunk in chunks:
        before = text[: chunk.start + len(chunk.text) - len(chunk.text.lstrip())].count("\n\n")
        assert chunk.page == (1, 2, 4)[before]
    assert joined(chunks) == text


def test_chunk_of_a_document_without_pages_has_none_and_before_the_first_heading_no_heading():
    plain = cut(document("Read it. " * 50), tokenizer(), ChunksConfig(tokens=20))
    assert {(chunk.page, chunk.heading) for chunk in plain} == {(0, "")}
    late = Document(id="d", title="t", text="a\n\n# B\n", source="s", starts=(3,), pages=(0,), headings=("B",))
    assert cut(late, tokenizer(), ChunksConfig(tokens=64))[0].heading == ""


def test_cut_pickles_and_gives_the_same_twice():
    one = cut(document("Read it. " * 50), tokenizer(), ChunksConfig(tokens=20))
    assert pickle.loads(pickle.dumps(cut))(document("Read it. " * 50), tokenizer(), ChunksConfig(tokens=20)) == one
