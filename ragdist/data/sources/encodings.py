"""Bytes as browsers read them: the encoding that a file names by the WHATWG Encoding standard, else the one it is in.

`webencodings` has the standard's labels (`iso-8859-1` means windows-1252), `charset-normalizer` guesses where a file
names none and is no UTF-8, as browsers guess too. Every guess leaves a note.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

import charset_normalizer
import webencodings

from ragdist.errors import DataError

UNKNOWN = "\ufffd"
"""Stands where bytes are no character of the encoding."""
GUESSED = {f"cp{number}": f"windows-{number}" for number in (*range(1250, 1259), 874)} | {
    **{"iso8859_2": "iso-8859-2", "iso8859_5": "iso-8859-5", "iso8859_7": "iso-8859-7"},
    **{"koi8_r": "koi8-r", "koi8_u": "koi8-u", "cp866": "ibm866", "shift_jis": "shift_jis", "euc_jp": "euc-jp"},
    **{"gb18030": "gb18030", "big5": "big5", "euc_kr": "euc-kr"},
}
"""Legacy encodings that are distinguished by content: Python's name and the standard's."""
ESCAPED = "iso-2022-jp"
"""The one encoding that looks like ASCII."""
HEAD = 1 << 16
"""Bytes in which a page's declaration is looked for: a browser reads 1024, and begins again where one comes later."""
_MARKS = (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16")
MARKS = (*_MARKS, (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))
_CONTROLS = re.compile(rb"[\x00-\x07\x0e-\x19\x1c-\x1f]")
"""No text has them, but for a few; in UTF-16 they are halves of characters."""
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([a-z-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.IGNORECASE)
_CHARSET = re.compile(rb"""charset\s*=\s*["']?([^\s"';]+)""", re.IGNORECASE)
_XML = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([^"'>]+)""")


class Decoded(NamedTuple):
    """A file's characters. Example: Decoded("caf\u00e9", "is read as windows-1252, which it does not say")."""

    text: str
    note: str = ""
    """What was guessed or could not be read, as the end of a sentence that begins with the file's name."""


def decoded(data: bytes, declared: str = "") -> Decoded:
    """The characters of a file, line ends as they are; a byte order mark goes before the encoding that it declares, by
    any of the standard's labels. A DataError if it is no text, or not in the encoding that it names."""
    if marked := next((name for mark, name in MARKS if data.startswith(mark)), ""):
        return _lenient(data, marked, marked.removesuffix("-sig"))
    if (encoding := webencodings.lookup(declared)) is None:
        return _undeclared(data)
    if encoding.name == "replacement":
        raise DataError(f"is in {declared}, which browsers do not read; save it as UTF-8")
    found = _lenient(data, "gb18030" if encoding.name == "gbk" else encoding.codec_info.name, encoding.name)
    if encoding.name != "utf-8" and not found.note and _is_utf8(data):
        return found._replace(note=f"names {encoding.name} and is read so, as browsers do, though it could be UTF-8")
    return found


def declared_in_page(data: bytes) -> str:
    """The encoding that an html page names for itself, in a `meta` element or an XML declaration; empty if none."""
    head = data[:HEAD]
    xml = _XML.match(head)
    for meta in _META.finditer(_COMMENT.sub(b"", head)):
        found = {name.lower(): value.strip(b"\"'") for name, value in _ATTRIBUTE.findall(meta[1])}
        label = found.get(b"charset", b"")
        if found.get(b"http-equiv", b"").lower() == b"content-type" and (
            named := _CHARSET.search(found.get(b"content", b""))
        ):
            label = label or named[1]
        if encoding := webencodings.lookup(label.decode("latin-1")):
            # A page whose `meta` could be read is not in UTF-16, whatever it says.
            other = {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}
            return other.get(str(encoding.name), str(encoding.name))
    return xml[1].decode("latin-1") if xml else ""


def _is_utf8(data: bytes) -> bool:
    """Whether it has characters beyond ASCII, all in UTF-8."""
    try:
        return not data.decode().isascii()
    except UnicodeDecodeError:
        return False


def _undeclared(data: bytes) -> Decoded:
    if wide := _without_mark(data) or _of_one_script(data):
        return _lenient(data, wide, wide, ", which it does not say")
    try:
        if b"\x1b$" in data[:HEAD]:
            return Decoded(data.decode(ESCAPED), f"is read as {ESCAPED}, which it does not say")
        text = data.decode()
        if 8 * text.count("\0") > len(text):
            raise DataError("holds NUL bytes, as no text does; save it as UTF-8 text")
        return Decoded(text)
    except UnicodeDecodeError:
        if b"\0" in data:
            raise DataError("holds NUL bytes, as no text does; save it as UTF-8 text") from None
    text = data.decode(errors="replace")
    if _characters(text) >= text.count(UNKNOWN):
        return _lenient(data, "utf-8", "utf-8", ", which it does not say")
    name = _guess(data)
    return _lenient(data, name, GUESSED[name], ", which it does not say")


def _guess(data: bytes) -> str:
    """The legacy encoding whose text is most like a language; windows-1252, a browser's own, where none is more so."""
    found = charset_normalizer.from_bytes(data, cp_isolation=list(GUESSED))
    best = found.best()
    if best is None:
        return "cp1252"
    western = [match for match in found if "cp1252" in (match.encoding, *match.could_be_from_charset)]
    as_good = any((match.chaos, -match.coherence) <= (best.chaos, -best.coherence) for match in western)
    return "cp1252" if as_good else best.encoding


def _without_mark(data: bytes) -> str:
    """UTF-16 by where its zero bytes are: half of the characters of Western text have one, always on the same side."""
    even, odd = data[:HEAD:2].count(0), data[1:HEAD:2].count(0)
    many = len(data[:HEAD]) // 4
    return "utf-16-le" if odd > many and not even else "utf-16-be" if even > many and not odd else ""


def _of_one_script(data: bytes) -> str:
    """UTF-16 of another script, as Russian, by the bytes that are control characters in any other encoding: its
    characters are all assigned, and most of them lie in three blocks of 256."""
    head, found, most = data[:HEAD], dict[str, float](), 0.8 if data.isascii() else 0.5
    if len(data) % 2 or len(_CONTROLS.findall(head)) < max(3, len(head) // 50):
        return ""
    for name, high in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        if all(unicodedata.category(one) not in ("Cc", "Cn", "Co") or one.isspace() for one in set(text)):
            found[name] = sum(count for _, count in Counter(high).most_common(3)) / len(high)
    return max((name for name in found if found[name] > most), key=found.__getitem__, default="")


def _lenient(data: bytes, tokenizer: str, name: str, guessed: str = "") -> Decoded:
    """The text as a browser shows it, with what cannot be read marked; the note says so. A DataError where more of it
    is no character of this encoding than is one."""
    try:
        text, bad = data.decode(tokenizer), 0
    except UnicodeDecodeError:
        text = data.decode(tokenizer, "replace")
        bad = text.count(UNKNOWN)
    if bad > max(2, _characters(text)):
        raise DataError(f"names {name} and is not in it: {bad} places are no characters there; save it as UTF-8")
    notes = [f"is read as {name}{guessed}"] * bool(guessed)
    notes += [f"is not {name} in {bad} {'place' if bad == 1 else 'places'}, shown as {UNKNOWN}"] * bool(bad)
    return Decoded(text, " and ".join(notes))


def _characters(text: str) -> int:
    """How many characters beyond ASCII could be read."""
    return sum(not character.isascii() and character != UNKNOWN for character in text)
