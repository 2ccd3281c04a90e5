"""Documents in the formats of offices (U7): what pandoc and openpyxl read, bad and hostile ones named all at once."""

import gzip
import io
import shutil
import sys
import tracemalloc
import zipfile

import openpyxl
import pyarrow as pa
import pypandoc
import pytest
from pptx import Presentation
from pyarrow import parquet

from ragdist.config import CorpusConfig
from ragdist.data.sources import corpus, formats, office, places, unpacking
from ragdist.errors import DataError
from ragdist.local import SerialMapper
from ragdist.storage.stages import CountedRows

PAGE = """<h1>The relay</h1><p>It listens on port <b>8443</b>.</p><script>alert(1)</script>
<h2>Prices</h2><table><tr><th>Cup</th><th>Price</th></tr><tr><td>small &lt;b&gt;</td><td>3</td></tr></table>"""


def at_(path):
    return places.at(str(path))


def read(folder, **config):
    config = CorpusConfig(**{"source": "folder", "folder": str(folder), **config})
    rows = CountedRows(corpus.read(corpus.found(config), config, SerialMapper()))
    return list(rows), rows.counts


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """The same page in every format that pandoc writes too."""
    folder = tmp_path_factory.mktemp("documents")
    for form in office.FORMATS:
        pypandoc.convert_text(PAGE, form, "html", outputfile=str(folder / f"relay.{form}"), extra_args=["-s"])
    return folder


@pytest.mark.parametrize("form", office.FORMATS)
def test_U7_documents_of_offices_are_read_with_their_headings(documents, form):
    found = formats.read(at_(documents / f"relay.{form}"))
    assert not found.problem and "It listens on port 8443." in found.text
    assert "alert" not in found.text and "small <b>" in found.text
    assert form == "rtf" or any("The relay" in heading for heading in found.headings)


def test_U7_slides_are_pages_and_words_stay_whole(tmp_path):
    """Whatever of a word is bold; hidden slides are not shown."""
    talk = Presentation()
    for title, hidden in (("The relay", False), ("Secrets", True), ("", False)):
        slide = talk.slides.add_slide(talk.slide_layouts[5])
        slide.shapes.title.text = title
        slide._element.set("show", "0" if hidden else "1")
        box = slide.shapes.add_textbox(0, 0, 9, 9).text_frame
        box.text = "Ask Tomas Lind"
        box.paragraphs[0].add_run().text = "qvist."
        box.add_paragraph().text = "Port 8443."
        table = slide.shapes.add_table(2, 2, 0, 0, 9, 9).table
        for at, text in enumerate(("Cup", "Price", "small <b>", "3")):
            table.cell(at // 2, at % 2).text = text
    talk.save(tmp_path / "talk.pptx")
    found = formats.read(at_(tmp_path / "talk.pptx"))
    said = "Ask Tomas Lindqvist.\nPort 8443.\n\nCup | Price\nsmall <b> | 3"
    assert found.text == f"The relay\n\n{said}\n\n{said}"
    assert (found.pages, found.headings[0]) == ([1, 3], "The relay")


def test_U7_tables_are_a_line_for_each_row_or_a_document_for_each_text(tmp_path):
    sheet = (book := openpyxl.Workbook()).active
    for cells in (["Product", "Price"], ["cup", 3.0], [None, None], ["bowl", "5 EUR"]):
        sheet.append(cells)
    book.create_sheet("Hours").append(["Day", "Opens"])
    book["Hours"].append(["Monday", 9])
    book.save(tmp_path / "shop.xlsx")
    (tmp_path / "stock.csv").write_text("Clay;Left\nred;12\n")
    (tmp_path / "faq.csv").write_text("title,text\nParking,Parking is free on Sundays and on other days too.\n")
    found = {document.title: document.text for document in read(tmp_path)[0]}
    assert found == {
        "shop/Sheet": "Product: cup | Price: 3\nProduct: bowl | Price: 5 EUR",
        "shop/Hours": "Day: Monday | Opens: 9",
        "stock": "Clay: red | Left: 12",
        "Parking": "Parking is free on Sundays and on other days too.",
    }


def test_U7_the_questions_are_no_document(tmp_path):
    (tmp_path / "a.txt").write_text("The port is 8443.")
    (tmp_path / "questions.csv").write_text("question,answer\nWhich port?,8443\n")
    found, _ = read(tmp_path, questions=(str(tmp_path / "questions.csv"),))
    assert [document.text for document in found] == ["The port is 8443."]


def test_U7_all_broken_files_are_named_at_once(tmp_path):
    (tmp_path / "a.md").write_text("")
    (tmp_path / "b.epub").write_bytes(b"no zip")
    (tmp_path / "c.xlsx").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "d.txt").write_bytes("Das Büro öffnet um neun Uhr, die Küche später.".encode("latin-1"))
    with pytest.raises(DataError, match=r"3 files .*a\.md.*b\.epub.*c\.xlsx.*corpus\.broken=skip"):
        read(tmp_path)
    found, counts = read(tmp_path, broken="skip")
    assert [document.text for document in found] == ["Das Büro öffnet um neun Uhr, die Küche später."]
    assert len(counts["broken"]) == 3 and "windows-1252" in counts["guesses"][0]


def test_without_pandoc_one_line_says_what_to_install_beside_all_broken_files(documents, tmp_path, monkeypatch):
    """The extra `formats` is optional: its module is hidden here, and other files are still looked at."""
    monkeypatch.setitem(sys.modules, "pypandoc", None)
    office.pandoc.cache_clear()
    for path in documents.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "good.md").write_text("# Relay\n\nPort 8443.")
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    said = str(error.value)
    assert said.count("pip install 'ragdist[formats]'") == len(office.FORMATS) and "\n" not in said
    assert all(name in said for name in ("relay.epub", "relay.odt", "relay.rtf", "torn.pdf"))
    assert [document.title for document in read(tmp_path, broken="skip")[0]] == ["good"]


def test_U7_a_zip_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "LARGEST", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("content.xml", b"0" * (2 << 20))
    for suffix in ("odt", "pptx", "epub", "xlsx"):
        (tmp_path / f"bomb.{suffix}").write_bytes(packed.getvalue())
    with pytest.raises(DataError, match=r"4 files .*unpacks to 2 MiB"):
        read(tmp_path)


def test_U7_a_document_that_takes_too_long_costs_itself(tmp_path, documents, monkeypatch):
    monkeypatch.setattr(office, "SECONDS", 0.001)
    assert "not read in 0.001 s" in formats.read(at_(documents / "relay.rtf")).problem


def test_U7_a_folder_without_the_later_kinds_is_the_stage_that_it_was(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert corpus.later(places.files(str(tmp_path))) == []
    (tmp_path / "b.CSV").write_text("x")
    assert corpus.later(places.files(str(tmp_path))) == [".csv"]


def packed(size, suffix):
    """A zip file of a few KB whose part holds so many bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr(f"part.{suffix}", b" " * size)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx", "xlsm", "odt", "epub"])
def test_R8_a_document_that_unpacks_out_of_proportion_is_refused_before_it_is_read(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(unpacking, "FLOOR", 1 << 20)
    (tmp_path / f"bomb.{suffix}").write_bytes(packed(2 << 20, "xml"))
    with pytest.raises(DataError, match=rf"bomb\.{suffix}: .*unpacks to more than 1 MiB, 100 times its size"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["q.jsonl.gz", "q.json.gz", "q.csv.gz", "q.tsv.gz", "q.jsonl.zst", "q.json.zst"])
def test_R8_a_packed_table_is_read_no_further_than_in_proportion(tmp_path, monkeypatch, name):
    monkeypatch.setattr(unpacking, "FLOOR", 1 << 20)
    text = b'{"text": "' + b" " * (32 << 20) + b'"}\n'
    codec = "gzip" if name.endswith("gz") else "zstd"
    (tmp_path / "first.txt").write_text("what is imported on the way is no part of it")
    read(tmp_path)
    (tmp_path / name).write_bytes(pa.Codec(codec).compress(text, asbytes=True))
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{name}.*unpacks to more than"):
        read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_R8_a_parquet_file_that_unpacks_out_of_proportion_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FLOOR", 1 << 20)
    table = pa.table({"text": ["x" * (1 << 20)] * 8})
    parquet.write_table(table, tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="unpacks to more than 1 MiB"):
        read(tmp_path)


def test_R8_a_file_that_packs_well_is_read(tmp_path):
    line = b'{"text": "' + b"all work and no play makes a dull corpus " * 5_000 + b'"}\n'
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(line))
    assert len((tmp_path / "d.jsonl.gz").read_bytes()) * 100 < len(line)
    assert len(read(tmp_path)[0]) == 1
