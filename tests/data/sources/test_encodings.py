# ruff: noqa: RUF001
"""Bytes as browsers read them: byte order marks, declarations by any label, and what is guessed where there is none."""

import codecs

import pytest

from ragdist.data.sources.encodings import declared_in_page, decoded
from ragdist.errors import DataError

TEXTS = {
    "ru": "Большая печь стоит в подвале. Её открывает Иван Петров, магазин открывается в девять часов утра.",
    "pl": "Duży piec stoi w piwnicy. Otwiera go Łukasz Żółkiewski. Sklep jest otwierany o dziewiątej rano, "
    "a źródło jest w ogrodzie.",
    "ja": "大きな窯は東京の地下室にあります。山田太郎が開けます。店は九時に開きます。",
    "zh": "大窑在北京的地下室。王小明打开它。商店九点开门。",
    "ko": "큰 가마는 서울의 지하실에 있다. 김철수가 연다. 가게는 아홉 시에 연다.",
    "el": "Ο μεγάλος φούρνος βρίσκεται στο υπόγειο. Τον ανοίγει ο Γιώργος Παπαδόπουλος.",
    "tr": "Büyük fırın bodrumda duruyor. Onu Çağrı Yılmaz açıyor, dükkân saat dokuzda açılır, ışık söner.",
    "he": "התנור הגדול עומד במרתף. יוסי כהן פותח אותו. החנות נפתחת בתשע.",
    "ar": "الفرن الكبير في القبو. يفتحه أحمد علي. يفتح المتجر في التاسعة صباحا.",
    "th": "เตาเผาใหญ่อยู่ในห้องใต้ดิน สมชายเป็นคนเปิด ร้านเปิดเก้าโมง",
    "de": "Der große Ofen steht im Keller. Geöffnet wird er von Jürgen Töpfer.",
    "fr": "Le grand four se trouve à la cave. Il est ouvert par François Lefèvre à neuf heures.",
    "sv": "Den stora ugnen står i källaren. Åke Öberg öppnar den.",
    "en": "The keeper’s price is €5 – paid to “Ada”.",
    "short": "Büro",
}
UNDECLARED = [
    *(("ru", "windows-1251"), ("ru", "koi8-r"), ("ru", "iso-8859-5"), ("pl", "windows-1250"), ("pl", "iso-8859-2")),
    *(("ja", "shift_jis"), ("ja", "euc-jp"), ("ja", "iso-2022-jp"), ("zh", "gb18030"), ("ko", "euc-kr")),
    *(("el", "windows-1253"), ("tr", "windows-1254"), ("he", "windows-1255"), ("ar", "windows-1256")),
    *(("th", "windows-874"), ("de", "windows-1252"), ("fr", "windows-1252"), ("sv", "windows-1252")),
    *(("en", "windows-1252"), ("short", "windows-1252")),
]


@pytest.mark.parametrize(("language", "encoding"), UNDECLARED)
def test_text_in_an_encoding_that_it_does_not_name_is_found_and_said(language, encoding):
    """T17: as browsers guess; windows-1252 where nothing speaks for another."""
    written = TEXTS[language].encode(encoding.replace("windows-874", "cp874"))
    assert decoded(written) == (TEXTS[language], f"is read as {encoding}, which it does not say")


@pytest.mark.parametrize("language", TEXTS)
def test_utf_8_needs_no_note_and_one_stray_byte_does_not_spoil_it(language):
    """T17: the text that a browser shows, with a sign where it cannot, and a word about it."""
    text = TEXTS[language]
    assert decoded(text.encode()) == decoded(text.encode("utf-8-sig")) == (text, "")
    if not text.isascii():
        stray, note = decoded(text.encode() + b" caf\xe9.", "utf-8")
        assert (stray, note) == (f"{text} caf\ufffd.", "is not utf-8 in 1 place, shown as \ufffd")
        assert decoded(text.encode() + b" caf\xe9.")[0] == stray


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_characters_are_known_by_their_mark(encoding):
    """T17"""
    mark = {"16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}
    mark = mark[encoding[4:6]][encoding.endswith("be")]
    for text in TEXTS.values():
        assert decoded(mark + text.encode(encoding)) == (text, "")


@pytest.mark.parametrize("text", [TEXTS["de"], "plain words alone"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_characters_without_a_mark_are_known_by_their_zero_bytes(encoding, text):
    """T17"""
    assert decoded(text.encode(encoding)) == (text, f"is read as {encoding}, which it does not say")


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "The keeper’s price is €5"),
        ("US-ASCII", "cp1252", "“yes”"),
        ("latin1", "cp1252", "œuvre"),
        ("iso-8859-9", "cp1254", "ışık €"),
        ("tis-620", "cp874", "เตา…"),
        ("x-sjis", "cp932", "①㈱窯"),
        ("Shift_JIS", "cp932", "髙橋"),
        ("ks_c_5601-1987", "cp949", "똠방각하"),
        ("gb2312", "gb18030", "镕€"),
        (" KOI8-R ", "koi8-r", "Печь"),
        ("unicode-1-1-utf-8", "utf-8", "窯"),
    ],
)
def test_label_means_what_the_encoding_standard_says(label, codec, text):
    """T17: iso-8859-1 is windows-1252, gb2312 is GBK, as in browsers; the answers are the standard's table."""
    assert decoded(text.encode(codec), label) == (text, "")


@pytest.mark.parametrize(
    ("head", "label"),
    [
        ('<meta charset="koi8-r">', "koi8-r"),
        ("<META CHARSET=Shift_JIS />", "shift_jis"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">', "iso-8859-2"),
        ("<meta content='text/html;charset=windows-1251' http-equiv=content-type>", "windows-1251"),
        ('<?xml version="1.0" encoding="EUC-JP"?><html>', "EUC-JP"),
        ('<!-- <meta charset="koi8-r"> --><meta charset="utf-8">', "utf-8"),
        ('<meta name="description" content="set charset=koi8-r">', ""),
        ('<meta charset="no-such"><meta charset="big5">', "big5"),
        ('<meta charset="utf-16le">', "utf-8"),
        ('<meta charset="x-user-defined">', "windows-1252"),
        ("<!--" + "x" * 2000 + '--><meta charset="koi8-r">', "koi8-r"),
        ("<p>charset=koi8-r", ""),
    ],
)
def test_page_names_its_encoding_where_browsers_look(head, label):
    """T17: the standard's prescan: `meta`, not in a comment; UTF-16 cannot be, or it would not have been read."""
    assert declared_in_page(head.encode()) == label


def test_mark_goes_before_what_the_page_says():
    """T17"""
    assert decoded("Büro".encode("utf-8-sig"), "iso-8859-1").text == "Büro"


@pytest.mark.parametrize(
    ("data", "label", "why"),
    [
        ("Groß, Töpfer, weiß, Büro".encode("cp1252"), "utf-8", "names utf-8 and is not in it"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "", "NUL bytes"),
        (b"plain", "iso-2022-kr", "browsers do not read"),
    ],
)
def test_bytes_that_are_no_such_text_are_an_error(data, label, why):
    """T17"""
    with pytest.raises(DataError, match=why):
        decoded(data, label)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "Большая печь стоит в подвале. Ключ хранит Иван Петров.",
        "Привет, мир",
        "الفرن الكبير في القبو. المفتاح عند سامي.",
        "Ο μεγάλος φούρνος βρίσκεται στο υπόγειο.",
        "התנור הגדול במרתף, המפתח אצל דוד.",
        "บ้านอยู่ที่กรุงเทพ",
        "बड़ा भट्ठा जयपुर में बना था और बहुत पुराना है।",
    ],
)
def test_wide_characters_of_other_scripts_are_known_without_a_mark(encoding, text):
    """T17: their bytes are ASCII and control characters, so as UTF-8 they would be read without a word."""
    found = decoded(text.encode(encoding))
    assert found.text == text and encoding in found.note


@pytest.mark.parametrize(
    "data", [b"abc\x1a", b"N\bNA\bAM\bME\bE", b"1\t0\t0\t1\n", b"35=D\x0155=X\x0138=7\x0140=2\x01", b""]
)
def test_text_with_a_few_control_characters_stays(data):
    """T17: what a printer, a table or an old system leaves in a text makes no wide characters of it."""
    assert decoded(data) == (data.decode(), "")


def test_page_that_names_a_legacy_encoding_and_could_be_utf_8_is_said():
    """T17: it is shown as browsers show it, and not silently."""
    found = decoded("Der große Ofen".encode(), "iso-8859-1")
    assert found.text == "Der gro\u00c3\u0178e Ofen" and "could be UTF-8" in found.note
    assert decoded("Der große Ofen".encode("cp1252"), "iso-8859-1") == ("Der große Ofen", "")
