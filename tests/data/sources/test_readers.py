"""Documents as their readers see them: what a page or a docx hides stays hidden, and nothing that is shown is lost."""

from io import BytesIO
from pathlib import Path

import docx
import pytest
from docx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml

from ragdist.data.sources import formats
from ragdist.data.sources.markup import html
from tests import documents

CASES = Path(__file__).parents[3] / ".." / "shared" / "cases"
NAMES = " ".join(
    f'xmlns:{prefix}="http://schemas.openxmlformats.org/{name}"'
    for prefix, name in (
        ("w", "wordprocessingml/2006/main"),
        ("m", "officeDocument/2006/math"),
        ("mc", "markup-compatibility/2006"),
    )
)


def page(body):
    return html(f'<meta charset="utf-8">{body}'.encode()).text


SHOWN = {
    "readings in Japanese": (
        "窯は<ruby>東<rp>(</rp><rt>とう</rt><rp>)</rp>京<rt>きょう</rt></ruby>にある。",
        "窯は東京にある。",
    ),
    "readings in Chinese": ("<ruby><rb>北京</rb><rtc><rt>Běijīng</rt></rtc></ruby>", "北京"),
    "hidden": ("<p>Port 8443.<p hidden>Port 9999.</p><div hidden=''><p>Port 7777.</div>", "Port 8443."),
    "found by a search": ('<p hidden="until-found">Port 8443.', "Port 8443."),
    "not displayed": ('<p>a<p style="color: red; DISPLAY : none !important">b<p style="display:none">c', "a"),
    "not displayed inside a word": ('port 84<span style="display:none">99</span>43', "port 8443"),
    "not visible, but a part": (
        '<div style="visibility:hidden">a <b style="visibility:visible">b</b></div>c',
        "b\n\nc",
    ),
    "only for the eye": ('<p aria-hidden="true">seen', "seen"),
    "not for the eye of a script's reader": ("a<template><p>b</template><noscript>c</noscript>", "a"),
    "closed and open": (
        "<details><summary>a</summary>b</details><dialog>c</dialog><dialog open>d</dialog>",
        "a\n\nb\n\nd",
    ),
    "a page without a body": ("<title>T</title><main><article>a</article></main>", "a"),
    "comments": ("a<!-- b --><!--[if IE]><p>c</p><![endif]-->", "a"),
    "stand-ins": ("a<video>b</video><audio>c</audio><canvas>d</canvas><datalist><option>e</datalist>", "a"),
    "soft hyphens": ("Ver&shy;wal&shy;tungs&shy;leiter", "Verwaltungsleiter"),
    "places to break": ("Verwaltungs<wbr>leiter&#8203;in", "Verwaltungsleiterin"),
    "ligatures": ("the o\ufb03ce", "the office"),
    "deleted": ("port <del>9999</del> <ins>8443</ins>", "port 8443"),
    "superscripts": ("10<sup>6</sup> cups on the 1<sup>st</sup>", "10⁶ cups on the 1st"),
    "subscripts": ("H<sub>2</sub>O", "H2O"),
    "quotes": ("<q>yes</q>", "\u201cyes\u201d"),
    "lines of a heading": ("<h1>Big<br>kiln</h1>", "Big kiln"),
    "lines of code": ("<pre>a<br>  b\nc</pre>", "a\n  b\nc"),
    "equations": ("<math><mi>E</mi><mo>=</mo><mi>m</mi><msup><mi>c</mi><mn>2</mn></msup></math>", "E=mc^2"),
    "an equation once": (
        '<span class="katex"><span class="katex-mathml"><math><semantics><mfrac><mi>a</mi><mi>b</mi></mfrac>'
        '<annotation encoding="application/x-tex">\\frac ab</annotation></semantics></math></span>'
        '<span class="katex-html" aria-hidden="true">ab</span></span>',
        "a/b",
    ),
    "a class that is not displayed": ("<style>.old{display:none}</style><p class=old>a<p>b", "b"),
    "a class that is, after all": (
        "<style>#x p{display:block} .tab{display:none} .tab.on{display:block}</style>"
        "<div id=x><p class=tab>a</p></div><p class=tab>b<p class='tab on'>c<p class=tab style='display:block'>d",
        "a\n\nc\n\nd",
    ),
    "sheets for paper": (
        "<style>@media print{p{display:none}} @media screen{b{display:none}}</style><p>a<b>b</b>",
        "a",
    ),
    "layers and features": (
        "<style>@layer u{.old{display:none}} @supports (display:grid){b{display:none}}"
        " @supports not (display:grid){p{display:none}}</style><p class=old>a<p>c<b>b</b>",
        "c",
    ),
    "signs before a class": ("<style>.old::before{display:none} p:hover{visibility:hidden}</style><p class=old>a", "a"),
}


@pytest.mark.parametrize("case", SHOWN)
def test_page_reads_as_it_is_shown(case):
    """T18"""
    body, shown = SHOWN[case]
    assert page(body) == shown


TABLES = {
    "paragraphs": (
        "<table><tr><th><p>Kiln</p></th><th><p>Cups</p></th></tr><tr><td><p>Large</p></td><td><p>340</p></td></tr></table>",
        "Kiln | Cups\nLarge | 340",
    ),
    "paragraphs without headings": (
        "<table><tr><td><p>Ofen</p><td><p>340</p><p>Tassen</p><tr><td><p>Klein</p><td></table>",
        "Ofen | 340 Tassen\nKlein |",
    ),
    "lists": ("<table><tr><th>k<th>v<tr><td>a<td><ul><li>x<li>y</ul></table>", "k | v\na | x; y"),
    "words with marks": ("<table><tr><td>K<sub>2</sub>O<td>b<b>o</b>ld<br>line</table>", "K2O | bold line"),
    "rows spanned": (
        "<table><tr><th>k<th>day<th>v<tr><td rowspan=2>Large<td>Mon<td>9<tr><td>Tue<td>10<tr><td>S<td>-<td>1</table>",
        "k | day | v\nLarge | Mon | 9\nLarge | Tue | 10\nS | - | 1",
    ),
    "three rows spanned": (
        "<table><tr><th rowspan=3>k<th>1<tr><td>2<tr><td>3<tr><td>a<td>4</table>",
        "k | 1\nk | 2\nk | 3\na | 4",
    ),
    "all rows that follow spanned": (
        "<table><tr><th rowspan=0>k<th>1<tr><td>2<tr><td>3</table>",
        "k | 1\nk | 2\nk | 3",
    ),
    "columns spanned": (
        "<table><tr><th>k<th colspan=2>2025<tr><td>Large<td>340<td>twice<tr><td colspan=3>closed</table>",
        "k | 2025 | 2025\nLarge | 340 | twice\nclosed",
    ),
    "a table in a cell": (
        "<table><tr><th>k<th>v<tr><td>Large<td><table><tr><td>Mon<td>9<tr><td>Tue<td>10</table></table>",
        "k | v\nLarge | Mon, 9; Tue, 10",
    ),
    "its caption": ("<table><caption>Hours</caption><tr><th>k<th>v</table>", "Hours\n\nk | v"),
    "code in a cell": ("<table><tr><th>k<th>v<tr><td>a<td><pre>b\n c</pre></table>", "k | v\na | b c"),
    "a layout": (
        "<table><tr><td>menu<td><h1>T</h1><p>text</p><table><tr><th>a<th>b<tr><td>1<td>2</table></table>",
        "menu\n\nT\n\ntext\n\na | b\n1 | 2",
    ),
    "a layout by its role": (
        "<table role=presentation><tr><td><p>a<td><p>b<tr><td><p>c<td><p>d</table>",
        "a\n\nb\n\nc\n\nd",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_table_has_a_line_for_each_row_whatever_its_cells_hold(case):
    """T18"""
    body, shown = TABLES[case]
    assert page(body) == shown


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases beside the repository")
def test_table_of_the_faults_keeps_its_rows():
    """T18"""
    found = html((CASES / "html_table" / "documents" / "kilns.html").read_bytes())
    assert found.text == "Kilns\n\nKiln | Cups | Fired\nLarge | 340 |\nSmall | | twice"


def run(text, properties=""):
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def word(*paragraphs, styles=(), notes=""):
    """A docx with these paragraphs, as XML, and perhaps styles and foot notes."""
    document = docx.Document(BytesIO(documents.word([])))
    for xml in paragraphs:
        document.element.body.insert(len(document.element.body) - 1, parse_xml(xml.replace(">", f" {NAMES}>", 1)))
    for xml in styles:
        document.styles.element.append(parse_xml(xml.replace(">", f" {NAMES}>", 1)))
    if notes:
        xml = f"<w:footnotes {NAMES}>{notes}</w:footnotes>".encode()
        part = Part(PackURI("/word/footnotes.xml"), CONTENT_TYPE.WML_FOOTNOTES, xml, document.part.package)
        document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)
    document.save(out := BytesIO())
    return formats.docx(out.getvalue()).text


def box(text):
    return f"<w:r><w:pict><w:txbxContent><w:p>{run(text)}</w:p></w:txbxContent></w:pict></w:r>"


READING = (
    "<w:r><w:ruby><w:rt><w:r><w:t>{}</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>{}</w:t></w:r></w:rubyBase></w:ruby></w:r>"
)
SOFT = "wal\u00adtung"
NOTE = '<w:rStyle w:val="Note"/>'
RAISED = '<w:vertAlign w:val="superscript"/>'
VANISH, KEPT = "<w:vanish/>", '<w:vanish w:val="0"/>'
WORDS = {
    "readings": (
        f"<w:p>{READING.format('とう', '東')}{READING.format('きょう', '京')}{run('に窯がある。')}</w:p>",
        "東京に窯がある。",
    ),
    "readings beside Arabic": (f"<w:p>{run('الفرن في ')}{READING.format('al-qabw', 'القبو')}</w:p>", "الفرن في القبو"),
    "hidden": (f"<w:p>{run('Port 8443.')}{run(' Port 9999.', VANISH)}{run(' Open.', KEPT)}</w:p>", "Port 8443. Open."),
    "an equation": (
        f"<w:p>{run('It is ')}<m:oMath><m:r><m:t>E=m</m:t></m:r><m:sSup><m:sSupPr/><m:e><m:r><m:t>c</m:t></m:r></m:e>"
        f"<m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup></m:oMath>{run(' in joule.')}</w:p>",
        "It is E=mc^2 in joule.",
    ),
    "superscripts": (f"<w:p>{run('10')}{run('6', RAISED)}</w:p>", "10⁶"),
    "tracked changes": (
        f'<w:p><w:del w:id="1">{run("9999")}</w:del><w:ins w:id="2">{run("8443")}</w:ins></w:p>',
        "8443",
    ),
    "moved text": (
        f'<w:p><w:moveFrom w:id="1">{run("a")}</w:moveFrom>{run("b")}<w:moveTo w:id="2">{run("c")}</w:moveTo></w:p>',
        "bc",
    ),
    "a soft hyphen": (f"<w:p>{run('Ver')}<w:r><w:softHyphen/></w:r>{run(SOFT)}</w:p>", "Verwaltung"),
    "a text box in a sentence": (
        f"<w:p>{run('The kiln ')}{box('Beware.')}{run('is hot.')}</w:p>",
        "The kiln is hot.\n\nBeware.",
    ),
    "what older programs show": (
        f"<w:p><mc:AlternateContent><mc:Choice>{box('new')}</mc:Choice>"
        f"<mc:Fallback>{box('old')}</mc:Fallback></mc:AlternateContent></w:p>",
        "new",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_docx_reads_as_it_is_shown(case):
    """T18"""
    xml, shown = WORDS[case]
    assert word(xml) == shown


def style(kind, name, inside):
    return f'<w:style w:type="{kind}" w:styleId="{name}"><w:name w:val="{name}"/>{inside}</w:style>'


def test_docx_text_is_hidden_by_its_style_and_shown_against_it():
    """T18: of the run, of the paragraph, or of the style that one is based on."""
    note = style("character", "Note", f"<w:rPr>{VANISH}</w:rPr>")
    secret = style("paragraph", "Secret", f"<w:rPr>{VANISH}</w:rPr>")
    based = style("paragraph", "Based", '<w:basedOn w:val="Secret"/>')
    paragraphs = [f"<w:p>{run('a')}{run('b', NOTE)}{run('c', NOTE + KEPT)}</w:p>"]
    for name in ("Secret", "Based"):
        paragraphs.append(f'<w:p><w:pPr><w:pStyle w:val="{name}"/></w:pPr>{run("d")}{run("e", KEPT)}</w:p>')
    assert word(*paragraphs, styles=[note, secret, based]) == "ac\n\ne\n\ne"


def test_docx_paragraph_whose_end_was_deleted_goes_on_in_the_next():
    """T18"""
    begun = f'<w:p><w:pPr><w:rPr><w:del w:id="1"/></w:rPr></w:pPr>{run("The kiln ")}</w:p>'
    assert word(begun, f"<w:p>{run('is hot.')}</w:p>", f"<w:p>{run('End.')}</w:p>") == "The kiln is hot.\n\nEnd."


def test_docx_foot_note_follows_the_paragraph_that_refers_to_it():
    """T18: and stands in no word of it."""
    notes = f'<w:footnote w:id="7"><w:p>{run("Since 1999.")}</w:p></w:footnote>'
    refers = f'<w:p>{run("340")}<w:r><w:footnoteReference w:id="7"/></w:r>{run(" cups.")}</w:p>'
    assert word(refers, f"<w:p>{run('End.')}</w:p>", notes=notes) == "340 cups.\n\nSince 1999.\n\nEnd."


def cell(text, properties=""):
    return f"<w:tc><w:tcPr>{properties}</w:tcPr><w:p>{run(text)}</w:p></w:tc>"


def test_docx_table_has_merged_cells_in_each_of_their_rows_and_no_deleted_row():
    """T18"""
    first, goes_on = cell("Large", '<w:vMerge w:val="restart"/>'), cell("", "<w:vMerge/>")
    rows = [
        cell("Kiln") + cell("2025", '<w:gridSpan w:val="2"/>'),
        first + cell("Mon") + cell("9"),
        goes_on + cell("Tue") + cell("10"),
        cell("closed", '<w:gridSpan w:val="3"/>'),
    ]
    gone = f'<w:tr><w:trPr><w:del w:id="1"/></w:trPr>{cell("old")}</w:tr>'
    table = f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}{gone}</w:tbl>"
    assert word(table) == "Kiln | 2025 | 2025\nLarge | Mon | 9\nLarge | Tue | 10\nclosed"
    inner = "<w:tbl><w:tr>" + cell("a") + cell("b") + "</w:tr><w:tr>" + cell("c") + cell("d") + "</w:tr></w:tbl>"
    outer = f"<w:tbl><w:tr>{cell('x')}<w:tc>{inner}<w:p/></w:tc></w:tr></w:tbl>"
    assert word(outer) == "x | a, b; c, d"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases beside the repository")
def test_docx_of_the_faults_is_read_as_shown(tmp_path, monkeypatch):
    """T18"""
    (tmp_path / "documents").mkdir()
    monkeypatch.chdir(tmp_path)
    exec(compile((CASES / "docx" / "make.py").read_text(), "make.py", "exec"), {})
    found = formats.docx((tmp_path / "documents" / "kiln.docx").read_bytes()).text
    assert found.split("\n\n") == [
        "The heat of the kiln is Q=340m in joule.",
        "The relay listens on port 8443.",
        "東京に窯がある。",
    ]


def test_pdf_joins_a_word_broken_at_a_line_s_end_where_the_document_tells_how():
    """T18: it has the word elsewhere whole, or with its hyphen; nothing tells about the third."""
    text = "The kiln was com-\npletely rebuilt, as is well-\nknown by the pot-\nter."
    found = formats.pdf(documents.pdf([text, "completely well-known"])).text
    assert found == ("The kiln was completely rebuilt, as is well-known by the pot-\nter.\n\ncompletely well-known")
