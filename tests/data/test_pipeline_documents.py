"""The first two stages over a folder of documents: what is made again, and what chunks know of their place."""

import json

import pytest

from ragdist.config.loader import resolve
from ragdist.data.pipeline import Pipeline
from ragdist.errors import DataError
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.storage.stages import Store
from tests import documents
from tests.tiny import tokenizer

FIRST = "the number of rows and the name of the column " * 20
FILES = {
    "a.pdf": documents.pdf([FIRST[:400], FIRST[400:800]], [(1, 1, "Rows")]),
    "b/guide.docx": documents.word(["# Guide", "Read it.", "## Install", "Write it."]),
    "c.html": "<h1>Page</h1><p>Seen.</p>",
    "d.md": "# Head\n\n" + FIRST,
    "e.txt": FIRST + "and one more",
}


def pipeline(tmp_path, mapper=None, **corpus):
    settings = {"corpus": {"source": "folder", "folder": str(tmp_path / "docs"), **corpus}, "chunks": {"tokens": 64}}
    return Pipeline(resolve(settings), Store(tmp_path / "stages"), tokenizer(), mapper or SerialMapper())


def test_chunks_of_all_kinds_of_files_know_page_and_heading(tmp_path):
    """check 16: joined they are the document, whatever it came from."""
    documents.write(tmp_path / "docs", FILES)
    made = pipeline(tmp_path)
    chunks = list(made.chunks)
    by_title = {title: [c for c in chunks if c.title == title] for title in ("a", "b/guide", "c", "d", "e")}
    assert {(c.page, c.heading) for c in by_title["a"]} == {(1, "Rows"), (2, "Rows")}
    assert {(c.page, c.heading) for c in by_title["b/guide"]} == {(0, "Guide")}
    assert [(c.text, c.heading) for c in by_title["c"]] == [("Page\n\nSeen.", "Page")]
    assert {c.heading for c in by_title["d"]} == {"Head"} and {c.heading for c in by_title["e"]} == {""}
    for document in made.documents:
        assert "".join(c.text for c in by_title[document.title]) == document.text


@pytest.mark.parametrize("workers", [1, 3])
def test_stages_are_byte_equal_for_any_number_of_processes(tmp_path, workers):
    """check 71"""
    documents.write(tmp_path / "docs", FILES)
    one = pipeline(tmp_path)
    other = Pipeline(one.settings, Store(tmp_path / f"{workers}"), tokenizer(), ProcessMapper(workers, batch=2))
    for name in ("documents", "chunks"):
        assert getattr(one, name).path.read_bytes() == getattr(other, name).path.read_bytes()


def test_documents_are_read_again_only_when_a_file_or_what_is_done_with_it_changes(tmp_path):
    documents.write(tmp_path / "docs", FILES)
    (tmp_path / "docs" / ".cache").write_text("1")
    first = pipeline(tmp_path).documents.fingerprint
    (tmp_path / "docs" / ".cache").write_text("2")
    assert pipeline(tmp_path).documents.fingerprint == first
    others = {
        pipeline(tmp_path, near_duplicates="drop").documents.fingerprint,
        pipeline(tmp_path, similarity=0.5).documents.fingerprint,
    }
    (tmp_path / "docs" / "c.html").rename(tmp_path / "docs" / "b" / "c.html")
    others.add(pipeline(tmp_path).documents.fingerprint)
    (tmp_path / "docs" / "b" / "c.html").write_text("<p>new</p>")
    others.add(pipeline(tmp_path).documents.fingerprint)
    assert len(others - {first}) == 4


def test_card_tells_near_duplicates_copies_broken_and_other_files(tmp_path):
    """By hand: 200 words in a row have 198 triples, three more words have three more, so the similarity is 198/201."""
    long = " ".join(f"word{number}" for number in range(200))
    more = {"g.pdf": b"no pdf", "h.png": b"?", "i.txt": long, "k.txt": f"{long} and one more"}
    more["l.jsonl"] = json.dumps({"title": "i", "text": long}) + "\n"
    documents.write(tmp_path / "docs", {"c.html": FILES["c.html"]} | more)
    made = pipeline(tmp_path, broken="skip", near_duplicates="drop").documents
    counts = made.card["counts"]
    assert counts["near_duplicates"] == 1 and "k.txt" not in {document.source for document in made}
    named, _, estimate = counts["near_duplicates_named"][0].rpartition(" ")
    assert named == "k.txt, like i.txt" and float(estimate.strip("()")) == pytest.approx(198 / 201, abs=0.04)
    assert counts["copies"] == 1 and counts["other_files"] == {".png": 1}
    assert len(counts["broken"]) == 1 and "g.pdf: cannot be read" in counts["broken"][0]


def asked(tmp_path, *rows, **corpus):
    """The questions of these rows with their oracles' texts, over the documents that are there."""
    lines = [{"split": "train", "answers": ["yes"], **row} for row in rows]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = pipeline(tmp_path, questions=[str(tmp_path / "q.jsonl")], **corpus)
    texts = {chunk.id: chunk.text for chunk in made.chunks}
    return made, {q.text: [texts[i] for i in q.oracle_ids] for q in made.selected}


def test_question_finds_its_document_by_the_folder_s_name_and_a_copy_by_its_own(tmp_path):
    """T12, T25: by the real data pipeline, from files to oracles."""
    documents.write(
        tmp_path / "docs", {"sub/kiln.txt": "The kiln is old.", "z.txt": "The  kiln is old.", "b.txt": "Shop."}
    )
    names = ["docs/sub/kiln.txt", "SUB\\KILN.TXT", "docs/z.txt", "./z"]
    made, found = asked(tmp_path, *({"question": f"Is it {n}?", "documents": [n]} for n in names))
    assert found == {f"Is it {name}?": ["The kiln is old."] for name in names}
    assert made.documents.card["counts"]["copies_named"] == ["z.txt, like sub/kiln.txt"]


def test_question_that_names_no_document_stops_or_is_left_out_and_named(tmp_path):
    """T12"""
    documents.write(tmp_path / "docs", {"kiln.txt": "The kiln is old.", "torn.pdf": b"no pdf"})
    rows = [{"question": "Old?", "documents": ["kilm.txt"]}, {"question": "New?", "documents": ["kiln.txt"]}]
    torn = {"question": "Torn?", "documents": ["torn.pdf"]}
    (tmp_path / "docs" / "torn.pdf").unlink()
    with pytest.raises(DataError, match=r"'Old\?' names document 'kilm\.txt'.*nearest are 'kiln\.txt'"):
        asked(tmp_path, *rows)
    (tmp_path / "docs" / "torn.pdf").write_bytes(b"no pdf")
    made, found = asked(tmp_path, *rows, torn, broken="skip")
    assert list(found) == ["New?"]
    named = made.selected.card["counts"]["broken"]
    assert len(named) == 2 and "kilm.txt" in named[0] and "torn.pdf" in named[1] and "is not used" in named[1]


def test_guesses_and_copies_are_told_in_a_line_each(tmp_path, capsys):
    """T17, T25"""
    files = {"a.txt": "Büro".encode("cp1252"), "b.txt": "Same.", "c.txt": "Same. "}
    documents.write(tmp_path / "docs", files)
    list(pipeline(tmp_path).documents)
    told = capsys.readouterr().err
    assert "1 files (a.txt is read as windows-1252, which it does not say)" in told
    assert "left out as copies: 1 documents (c.txt, like b.txt)" in told
