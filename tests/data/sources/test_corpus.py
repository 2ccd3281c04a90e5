"""Documents of a folder: every kind of file, their order, their ids, and what happens to broken ones."""

import gzip
import json
import os
import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from ragdist.config import CorpusConfig
from ragdist.data.sources import corpus, places
from ragdist.errors import ConfigError, DataError
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.records import content_id
from ragdist.storage.stages import CountedRows
from tests import documents as written

KINDS = {
    "a.pdf": written.pdf(["first page", "second page"]),
    "b/guide.docx": written.word(["# Start", "Install it."]),
    "b/page.html": "<h1>Top</h1><p>Seen.</p><script>not()</script>",
    "c.md": "# Head\n\nbody",
    "d.txt": "plain",
}


def read(folder, mapper=None, **more):
    config = CorpusConfig(source="folder", folder=str(folder), **more)
    rows = CountedRows(corpus.read(places.files(config.folder), config, mapper or SerialMapper()))
    return list(rows), rows.counts["broken"]


def test_folder_with_every_kind_of_file_is_read_in_path_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "b" / "guide.md").write_text("# Guide\n\nInstall it.", encoding="utf-8-sig")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps([{"title": "one", "text": "1"}, {"text": "2"}]))
    (tmp_path / "d.json").write_text(json.dumps({"title": "three", "text": "3"}))
    (tmp_path / "e.jsonl").write_text('{"text": "4"}\n\n{"text": "ü"}\n', encoding="utf-8")
    with gzip.open(tmp_path / "f.jsonl.gz", "wt") as file:
        file.write('{"title": "six", "text": "6"}\n')
    parquet.write_table(pa.table({"text": ["7", "8"], "more": [1, 2]}), tmp_path / "g.parquet")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")

    documents, broken = read(tmp_path)

    assert [(d.title, d.text) for d in documents] == [
        ("a", "first"),
        ("b/guide", "# Guide\n\nInstall it."),
        ("one", "1"),
        ("", "2"),
        ("three", "3"),
        ("", "4"),
        ("", "ü"),
        ("six", "6"),
        ("", "7"),
        ("", "8"),
    ]
    assert documents[1].source == "b/guide.md"
    assert documents[0].id == content_id("a", "first")
    assert broken == []


def test_pdf_docx_html_and_md_are_documents_with_their_pages_and_headings(tmp_path):
    found, _ = read(written.write(tmp_path, KINDS))
    assert [(d.source, d.title, d.text, d.pages, d.headings) for d in found] == [
        ("a.pdf", "a", "first page\n\nsecond page", (1, 2), ("", "")),
        ("b/guide.docx", "b/guide", "Start\n\nInstall it.", (0,), ("Start",)),
        ("b/page.html", "b/page", "Top\n\nSeen.", (0,), ("Top",)),
        ("c.md", "c", "# Head\n\nbody", (0,), ("Head",)),
        ("d.txt", "d", "plain", (), ()),
    ]


def test_file_whose_name_is_no_utf8_is_named_and_skipped(tmp_path):
    written.write(tmp_path, {"a.txt": "fine"})
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    with pytest.raises(DataError, match="half of a character"):
        read(tmp_path)
    found, broken = read(tmp_path, broken="skip")
    assert [document.text for document in found] == ["fine"] and len(broken) == 1


def test_document_comes_before_the_next_file_is_read(tmp_path):
    """Files stream: what is wrong with the second one is not known when the first is there."""
    written.write(tmp_path, {"a.txt": "fine", "b.pdf": "no pdf"})
    config = CorpusConfig(source="folder", folder=str(tmp_path))
    found = corpus.read(places.files(config.folder), config, SerialMapper())
    assert next(found).text == "fine"
    with pytest.raises(DataError, match=r"b\.pdf"):
        next(found)


def test_documents_are_the_same_for_any_mapper(tmp_path):
    """check 71: one process, or several with files that take unequally long."""
    written.write(tmp_path, KINDS | {f"e/{n}.txt": f"text {n}" for n in range(20)} | {"f.jsonl": '{"text": "row"}\n'})
    assert read(tmp_path, ProcessMapper(2, batch=3)) == read(tmp_path)


def test_files_of_no_known_kind_are_counted_and_copies_too(tmp_path):
    written.write(
        tmp_path, {"a.rst": "x", "b.PNG": b"?", "c.png": b"?", "d": b"?", "e.jsonl": '{"title":"a","text":"x"}'}
    )
    config = CorpusConfig(source="folder", folder=str(tmp_path))
    rows = CountedRows(corpus.read(places.files(config.folder), config, SerialMapper()))
    assert len(list(rows)) == 1
    counts = rows.counts
    assert counts["other_files"] == {".png": 2, "": 1} and counts["copies"] == 1


def test_folder_moved_elsewhere_gives_equal_documents_and_a_copy_counts_once(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text('{"text": "same"}\n{"text": "same"}\n{"text": "other"}\n')
    here, there = read(tmp_path / "here")[0], read(tmp_path / "there")[0]
    assert here == there
    assert [d.text for d in here] == ["same", "other"]


BROKEN = {
    "picture.txt": (b"\x89PNG\r\n\x1a\n\0\0", "picture.txt: holds NUL"),
    "latin.jsonl": (
        '{"text": "good"}\n{"text": "Büro"}\n'.encode("latin-1"),
        "latin.jsonl, line 2: .*UTF-8 by its standard",
    ),
    "latin.json": ('{"text": "Büro"}'.encode("latin-1"), "latin.json: .*UTF-8 by its standard"),
    "empty.md": (b" \n", "empty.md"),
    "torn.json": (b'{"text": ', "torn.json"),
    "number.json": (b"[1]", "number.json, item 1"),
    "line.jsonl": (b'{"text": "good"}\n{"text" "bad"}\n', "line.jsonl, line 2"),
    "list.jsonl": (b'{"text": "good"}\n["bad"]\n', "list.jsonl, line 2"),
    "field.jsonl": (b'{"text": "good"}\n{"body": "bad"}\n', "field.jsonl, line 2"),
    "type.jsonl": (b'{"text": 5}\n', "type.jsonl, line 1"),
    "secret.pdf": (written.pdf(["x"], user_password="p", algorithm="RC4-128"), "secret.pdf: is encrypted"),
    "half.jsonl": (b'{"text": "good"}\n{"text": "\\ud83d"}\n', "half.jsonl, line 2"),
    "torn.jsonl.gz": (gzip.compress(b'{"text": "good"}\n' * 999)[:-30], "torn.jsonl.gz"),
    "no.parquet": (b"PAR1 nothing", "no.parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_stops_with_its_name_or_is_skipped_and_named(tmp_path, name):
    content, place = BROKEN[name]
    (tmp_path / "a_good.txt").write_text("fine")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{place}.*corpus\.broken=skip"):
        read(tmp_path)
    documents, broken = read(tmp_path, broken="skip")
    assert documents[0].text == "fine"
    assert {d.text for d in documents} <= {"fine", "good"}
    assert len(broken) == 1 and re.search(place, broken[0])


def test_parquet_without_text_column_names_those_it_has(tmp_path):
    parquet.write_table(pa.table({"body": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet.*body"):
        read(tmp_path)


def test_empty_or_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"has no documents.*txt"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"corpus\.folder"):
        read(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"corpus\.folder"):
        read("")


def copies(folder, **files):
    config = CorpusConfig(source="folder", folder=str(written.write(folder, files)))
    found = CountedRows(corpus.read(places.files(config.folder), config, SerialMapper()))
    return [document.source for document in found], found.counts


HANDBOOK = "The large kiln stands in the cellar. It was built in 1999."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("z/handbook (copy).txt", HANDBOOK),
        ("z.md", f"\r\n{HANDBOOK}  \n"),
        ("z.txt", HANDBOOK.replace(" ", "\n\n").encode("utf-16")),
        ("z.html", f"<h1>The large kiln</h1><p>{HANDBOOK.removeprefix('The large kiln ')}"),
        ("z.docx", written.word([HANDBOOK])),
        ("z.jsonl", json.dumps({"title": "Handbook", "text": HANDBOOK})),
        ("z.json", json.dumps([{"text": f"{HANDBOOK}\n"}])),
    ],
)
def test_copy_of_a_document_under_another_name_is_used_once_and_named(tmp_path, name, content):
    """T25: whatever file it is in and whatever its whitespace; the first in the order of paths stays."""
    sources, counts = copies(tmp_path, **{"a.txt": HANDBOOK, "b.txt": "Another one.", name: content})
    assert sources == ["a.txt", "b.txt"]
    assert counts["copies"] == 1 and counts["copies_named"][0].endswith(", like a.txt")
    assert counts["copied"] == [(name, counts["copied"][0][1], content_id("a", HANDBOOK))]


def test_rows_of_one_text_under_their_own_titles(tmp_path):
    """T25: a text that says little is about its title, and no copy; one that stands for itself is."""
    rows = [
        ("Is parking free?", "Yes."),
        ("Is tea free?", "Yes."),
        ("Is tea free?", "Yes. "),
        ("1", HANDBOOK),
        ("2", HANDBOOK),
    ]
    lines = "".join(json.dumps({"title": title, "text": text}) + "\n" for title, text in rows)
    counts = copies(tmp_path, **{"a.jsonl": lines})[1]
    assert [title for _, title, _ in counts["copied"]] == ["Is tea free?", "2"]


def test_guesses_at_an_encoding_are_listed(tmp_path):
    """T17"""
    counts = copies(tmp_path, **{"a.txt": "Büro".encode("cp1252"), "b.html": '<meta charset="utf-8">Büro'})[1]
    assert counts["guesses"] == ["a.txt is read as windows-1252, which it does not say"]


def test_rows_of_a_jsonl_in_utf_16_are_read(tmp_path):
    """T17"""
    (tmp_path / "a.jsonl").write_text('{"title": 0, "text": "Büro"}\n{"text": "窯"}\n', encoding="utf-16")
    assert [(d.title, d.text) for d in read(tmp_path)[0]] == [("0", "Büro"), ("", "窯")]
