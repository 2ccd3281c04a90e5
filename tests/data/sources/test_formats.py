"""Text, pages and headings of each kind of file, and what is said of one that cannot be read."""

import random
import re
from itertools import pairwise

import pytest

from ragdist.data.sources import formats
from ragdist.data.sources.places import FileAddress
from tests import documents


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return formats.read(FileAddress(str(tmp_path / name), name))


def sections(found):
    """(page, heading, text) of each piece between two starts."""
    ends = [*found.starts[1:], len(found.text)]
    return [
        (page, heading, found.text[start:end].strip())
        for start, end, page, heading in zip(found.starts, ends, found.pages, found.headings, strict=True)
    ]


def test_pdf_keeps_pages_apart_and_numbered(tmp_path):
    """Pages are never glued (gorilla #585): a blank line stands between, a page without text keeps its number."""
    found = read(tmp_path, "a.pdf", documents.pdf(["ends here", "", "begins (anew)\nsecond line"]))
    assert found.text == "ends here\n\nbegins (anew)\nsecond line"
    assert sections(found) == [(1, "", "ends here"), (3, "", "begins (anew)\nsecond line")]


def test_pdf_bookmarks_are_headings_from_where_their_words_stand(tmp_path):
    pages = ["Guide\nintro", "more\nInstalling it\nrun", "What next\nend"]
    marks = [(1, 1, "Guide"), (2, 2, "Installing it"), (3, 1, "Not in the text")]
    found = read(tmp_path, "a.PDF", documents.pdf(pages, marks))
    assert sections(found) == [
        (1, "Guide", "Guide\nintro"),
        (2, "Guide", "more"),
        (2, "Guide > Installing it", "Installing it\nrun"),
        (3, "Not in the text", "What next\nend"),
    ]


def test_docx_gives_paragraphs_lists_and_tables_in_order_under_their_headings(tmp_path):
    table = [["setting", "value"], ["port", "8443"]]
    blocks = ["# Guide", "Hello.", "## Install", "- one", "- two", "Then run.", table, "# End", "Bye."]
    found = read(tmp_path, "a.docx", documents.word(blocks))
    assert sections(found) == [
        (0, "Guide", "Guide\n\nHello."),
        (0, "Guide > Install", "Install\n\none\ntwo\n\nThen run.\n\nsetting | value\nport | 8443"),
        (0, "End", "End\n\nBye."),
    ]


def test_docx_shows_insertions_and_content_controls_and_not_what_was_deleted(tmp_path):
    from io import BytesIO

    import docx
    from docx.oxml import parse_xml

    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    document = docx.Document(BytesIO(documents.word(["first"])))
    changed = f"""<w:p {word}><w:r><w:t>the </w:t></w:r><w:ins w:id="1"><w:r><w:t>new</w:t></w:r></w:ins>
        <w:del w:id="2"><w:r><w:delText>old</w:delText></w:r></w:del><w:r><w:t> port</w:t></w:r></w:p>"""
    control = f"<w:sdt {word}><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    for place, xml in enumerate((changed, control), start=1):
        document.element.body.insert(place, parse_xml(xml))
    document.save(out := BytesIO())
    assert read(tmp_path, "a.docx", out.getvalue()).text == "first\n\nthe new port\n\nin a control"


HTML = """<!doctype html><html><head><title>Site</title><style>p {}</style></head><body>
<nav><a href="/">Menu</a></nav><script>var a = 1</script><!-- hidden -->
<h1>Caf\u00e9<a class="headerlink" href="#x">\u00b6</a></h1>
<p>A <b>bo</b>ld\n  word<br>and a line</p>
<ul>\n<li>one</li>\n<li><p>two</p></li></ul>
<h2><div>Install</div></h2><pre>\n  a = 1\n  b</pre>
<table><tr><td><h2>Layout</h2>cell</td></tr></table>
<table><thead>\n<tr><th>k</th> <th>v</th></tr></thead>\n<tbody><tr><td>port</td><td>8443</td></tr></tbody></table>tail
</body></html>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_html_gives_what_a_reader_sees_in_any_encoding_it_names(tmp_path, encoding):
    declared = HTML.replace("<head>", f'<head><meta charset="{encoding}">')
    found = read(tmp_path, "a.html", declared.encode(encoding))
    assert sections(found) == [
        (0, "Caf\u00e9", "Caf\u00e9\n\nA bold word\nand a line\n\none\n\ntwo"),
        (0, "Caf\u00e9 > Install", "Install\n\n  a = 1\n  b"),
        (0, "Caf\u00e9 > Layout", "Layout\n\ncell\n\nk | v\nport | 8443\n\ntail"),
    ]


def test_markdown_is_kept_letter_for_letter_with_the_headings_of_commonmark(tmp_path):
    front, code = "---\ntitle: no\n---\npre\n\n", "```\n# code\n```\n> # quoted\n\n"
    text = f"{front}# One\n\n{code}### Three `x` ###\n\nTwo\nlines\n---\nend\n"
    found = read(tmp_path, "a.md", text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert found.text == text
    assert sections(found) == [
        (0, "One", "# One\n\n```\n# code\n```\n> # quoted"),
        (0, "One > Three `x`", "### Three `x` ###"),
        (0, "One > Two lines", "Two\nlines\n---\nend"),
    ]


UNREADABLE = {
    "password.pdf": (documents.pdf(["secret"], user_password="x", algorithm="RC4-128"), "encrypted.*qpdf"),
    "scan.pdf": (documents.pdf(["", ""]), "2 pages and no text.*ocrmypdf"),
    "torn.pdf": (documents.pdf(["text"])[:300], "cannot be read"),
    "html.pdf": (b"<html>Not found</html>", "cannot be read"),
    "empty.pdf": (b"", "cannot be read"),
    "old.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "before docx and xlsx, or has a password"),
    "torn.docx": (documents.word(["text"])[:-200], "torn or of another format"),
    "empty.docx": (documents.word([]), "has no text"),
    "empty.html": (b"<html><body><script>x</script></body></html>", "has no text"),
    "empty.txt": (b" \n\xe2\x80\x83", "has no text"),
    "picture.md": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "NUL bytes.*UTF-8"),
    "mislabelled.html": ('<meta charset="utf-8">Groß, Töpfer, weiß'.encode("cp1252"), "names utf-8 and is not in it"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_file_that_cannot_be_used_says_why(tmp_path, name):
    content, why = UNREADABLE[name]
    found = read(tmp_path, name, content)
    assert not found.text
    assert re.search(why, found.problem), found.problem


def test_pdf_that_opens_without_a_password_is_read(tmp_path):
    content = documents.pdf(["open to read"], user_password="", owner_password="x", algorithm="RC4-128")
    assert read(tmp_path, "a.pdf", content).text == "open to read"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdf", documents.pdf(["one page", "another"], [(1, 1, "one")])),
        ("a.docx", documents.word(["# a", "b", [["c"]]])),
        ("a.html", HTML.encode()),
    ],
)
def test_damaged_file_never_raises_and_its_sections_stay_in_order(tmp_path, name, content):
    """Bytes changed at random, by seed: a text, or a problem, and never another error."""
    draw = random.Random(0)
    for _ in range(40):
        broken = bytearray(content)
        for _ in range(draw.choice((1, 5, 50))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        found = read(tmp_path, name, bytes(broken))
        assert bool(found.text.strip()) != bool(found.problem)
        assert all(before < after <= len(found.text) for before, after in pairwise([-1, *found.starts]))


def test_file_of_another_kind_is_not_read(tmp_path):
    assert read(tmp_path, "a.png", b"\x89PNG") is None
    assert read(tmp_path, "a.pdf.gz", b"\x1f\x8b") is None
