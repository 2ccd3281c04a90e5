"""Texts compared as question answering does, in any script: THE rule of what is one text, and what stands in it.

Every text takes the same small steps: `_fold` makes its letters alike, `_APARTS` its words. What comes out can be read
in two ways: punctuation inside a word parts it, as in DPR's script (`New-York` is `New York`), or counts for nothing,
as in SQuAD's (`U.S.` is `US`). An answer stands in a text if it does in either. Scripts without spaces are compared by
character, see docs/decisions/0013-one-text-rule.md.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import regex

VERSION = 2
"""Raised whenever a text could be compared otherwise; what was made by comparing is then made again."""
Form = Literal["squad", "unicode"]
"""How texts are brought to a normal form before they are compared; `evaluation.normalise`."""
Step: TypeAlias = tuple[regex.Pattern[str], str]
"""What is replaced in a text, and by what."""
ARTICLES = frozenset({"a", "an", "the"})
_ARTICLES = regex.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

_HIDDEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]")
# Signs that may be written or left out: Hebrew points, Arabic vowel signs, the stroke that stretches an Arabic word.
_OPTIONAL = regex.compile(r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670\u06d6-\u06ed]")
# Accents, which DPR's script takes off; not the vowel signs of Indic scripts, the dots of Japanese kana and the breve
# of Cyrillic i and u, which make another letter.
_ACCENTS = regex.compile(
    r"[\u0300-\u0305\u0307-\u036f\u0653-\u0655\u1ab0-\u1aff\u1dc0-\u1dff]|(?<![\u0438\u0443])\u0306"
)
_DOTTED = regex.compile("i\u0307+")
_OTHER_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_QUOTES = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02b9\u02bb\u02bc\u2032\u00b4\u0060\u05f3", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u05f4\u301d\u301e\u301f", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
}
"""Quotes, apostrophes and dashes as a keyboard has them."""
_QUOTE_SHAPES = str.maketrans(_QUOTES)
_SHAPES = str.maketrans(
    {
        **_QUOTES,
        **{"\u0153": "oe", "\u0152": "OE", "\u00e6": "ae", "\u00c6": "AE"},
        **{"\u0643": "\u06a9", "\u064a": "\u06cc", "\u0649": "\u06cc"},  # Arabic kaf and yeh as the Persian ones
    }
)
"""One letter in several shapes, where no normal form of Unicode makes them one."""
_WIDTHS = str.maketrans({0xFF01 + at: 0x21 + at for at in range(94)})
_SOFT_END = regex.compile(r"\u00ad(?=[^\S\n]*\n)")
_GROUPING_BLANK = regex.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d))")

ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Bopomofo}\p{Hangul}\p{Yi}\p{Line_Break=Complex_Context}"
"""Letters that are words of their own, as no spaces tell where a word ends: Chinese, Japanese, Thai, Lao, Khmer,
Burmese; and Korean, where particles stick to nouns."""
WIDE = 4
"""Letters from which an answer counts within longer words, as Subspan EM has it; `US` stands in `because`."""
KEPT = 8192
"""Characters of a text from which its words are not kept for the next question about it."""
_DECIMAL = "\u2396"
"""Stands between the digits of 1.5 and of 1,5."""
_GROUP = r"(?<=(?<!\d)\d{1,3}.)(?<!(?<![\d.,])0.)"  # behind up to three digits that are no lone zero
_MARK = rf"[^\p{{L}}\p{{M}}\p{{N}}_\s\x1c-\x1f{_DECIMAL}]"
_BETWEEN = regex.compile(rf"(?V1)(?<=[[{ALONE}]--\p{{Hangul}}]\p{{M}}*)\s+(?=[[{ALONE}]--\p{{Hangul}}])")
"""A blank in a script without spaces, as where a line ends; Korean has spaces."""
_AROUND = regex.compile(
    r"^[\s\u00bf\u00a1\"'\u300a\u300c\u300e]+|[\s\"'\u300b\u300d\u300f.!?;:,\u00b7\u061b\u061f\p{Sentence_Terminal}]+$|[\u055b\u055c\u055e]"
)
"""Marks that begin or end a sentence; Armenian ones stand within its words."""
_LINE_HYPHEN = regex.compile(r"(?<=\p{L}\p{M}*)[-\u2010\u00ad][^\S\n]*\n\s*(?=\p{L})")
_BROKEN = "\u2027"
_LINE_END = (regex.compile(r"(?<=\p{L}\p{M}*)-[^\S\n]*\n\s*(?=\p{L})"), "'")
"""A word that is broken at the end of a line: its hyphen is its own, or the line's."""
_NUMBERS: tuple[Step, ...] = (
    (regex.compile(rf"[,'\u066c]{_GROUP}(?=(?:\d{{2,3}}[,'\u066c])*\d{{3}}(?!\d))"), ""),
    (regex.compile(rf"\.{_GROUP}(?=(?:\d{{3}}\.)*\d{{3}}(?!\d))"), "'"),
    (regex.compile(r"[.,\u066b](?<=\d.)(?=\d)"), _DECIMAL),
)
"""1,000 is 1000; 1.000 may be or not; 1.5 and 1,5 are one."""
_NUMERIC = regex.compile(r"\d[.,'\u066b\u066c]\d")
_EDGES = (regex.compile("^ | $"), "")
_APARTS: tuple[Step, ...] = (
    (regex.compile(rf"{_MARK}+"), "'"),
    (regex.compile(r"'?[\s\x1c-\x1f][\s\x1c-\x1f']*|^'|'$"), " "),
    (regex.compile(rf"([{ALONE}]\p{{M}}*)"), r" \1 "),
    (regex.compile(r"'? [ ']*"), " "),
    _EDGES,
)
_SILENT = [chr(at) for at in range(128) if not (chr(at).isalnum() or chr(at).isspace() or chr(at) == "_")]
_ASCII_MARKS, _RUN = str.maketrans(dict.fromkeys(_SILENT, "'")), regex.compile("''+")
_JOINING: tuple[Step, ...] = (
    (regex.compile("['_]"), ""),
    (regex.compile("(?<![^ ])(?:an?|the)(?![^ ])"), ""),
    (regex.compile(" +"), " "),
    _EDGES,
)

_ENDING = regex.compile(
    "s|es|(?<=....)(?:(?:ss|st|ll|lt|tt)a|lle|ksi|[ie]en|[dt][ae]n?|l[ae]r|n[iu]n|b[ae]n|[bt][oa]l|r[oa]l|n[ae]k)"
)
"""English plurals; after four letters Finnish, Turkish and Hungarian cases and plurals of two letters or more."""
_INITIALS = regex.compile(r"(?:\p{L}{1,3}\.){2,}")
_PREFIX = regex.compile(
    "[\u0648\u0641]?(?:[\u0628\u06a9\u0644\u0633]?(?:\u0627\u0644)?|\u0644\u0644)"  # Arabic wa, fa; bi, ka, li, sa; al
    "|[\u05d5\u05e9\u05d4\u05db\u05dc\u05d1\u05de]{1,3}"  # Hebrew ve, she, ha, ke, le, be, mi
    "|[\u1260\u12a8\u1208\u12e8]"  # Amharic be, ke, le, ye
)
"""What sticks to the front of a word."""
_ARTICLE_AL = regex.compile("^\u0627\u0644(?=\\p{L}{3})")
_WORD, _LATIN_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}_]+"), regex.compile("[A-Za-z]")
_LATIN, _APART = r"[\p{Latin}\p{M}\p{N}_]", r"[^\p{L}\p{M}\p{N}_]+"
_THREES = regex.compile(r"(?<=\b[1-9]\d*)(?=(?:\d{3})+\b)")
_SUFFIX = regex.compile(r"\p{M}*(?:\p{L}\p{M}*){0,4}")
_UNIT = regex.compile(r"[^\d\u2396]{1,5}")


def flat(text: str) -> str:
    """Every run of whitespace as one space, and none at the ends; otherwise letter for letter."""
    return " ".join(text.split())


def normalise(text: str, form: Form = "squad") -> str:
    """The text's normal form.

    squad: lower case, then no ASCII punctuation, then no English articles, then single spaces.
    unicode: letters of compatible form and width as one (NFKC), without case (casefold, the Turkish i with and without
    dot as one), digits of all scripts as ASCII ones, 1,000 as 1000 and 1,5 as 1.5, no punctuation of any script, no
    optional vowel signs and no invisible characters; each character of a script without spaces, and of Korean, is a
    word. Accents count, and so do articles: what is one in English is a word elsewhere.
    """
    if form == "unicode":
        return _unicode_form(text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def key(answer: str) -> str:
    """Equal for answers that are one in SQuAD's form or, where that leaves nothing ("A", "The"), by their words.

    Empty for an answer that says nothing.
    """
    return normalise(answer) or words(answer).strip()


def saying(answers: Iterable[str], form: Form = "squad") -> tuple[str, ...]:
    """The answers that say something, each once. Those of which the normal form leaves nothing, English articles, count
    if they are written as names (`A` of a multiple choice, `An`), or if all are single letters or articles.
    """
    said = tuple(dict.fromkeys(answer for answer in answers if normalise(answer, form) or words(answer).strip()))
    if all(map(is_bare, said)):
        return said
    return tuple(answer for answer in said if normalise(answer, form) or not answer.islower())


def _unicode_form(text: str) -> str:
    bare = _UNSPOKEN.sub("", letters(text))
    bare = _replaced(bare, _NUMBERS).replace("'", "").replace(_DECIMAL, ".")
    return flat(_APARTS[2][0].sub(r" \1 ", unicodedata.normalize("NFC", bare)))


_UNSPOKEN = regex.compile(rf"(?!(?<=\d)[.,\u066b\u066c](?=\d))[\p{{P}}{regex.escape(string.punctuation)}]")
"""Punctuation, but for what stands between digits."""


def letters(text: str) -> str:
    """The text in one case and one shape of letters, digits, quotes and dashes; nothing unseen; accents stay."""
    if text.isascii():
        return text.lower().replace("`", "'")
    bare = unicodedata.normalize("NFKD", text.translate(_SHAPES))
    bare = _OPTIONAL.sub("", _HIDDEN.sub("", bare)).translate(_SHAPES).casefold()
    bare = _DOTTED.sub("i", unicodedata.normalize("NFKD", bare)).replace("\u0131", "i")
    return unicodedata.normalize("NFC", _OTHER_DIGIT.sub(_ascii_digit, bare))


def _ascii_digit(digit: regex.Match[str]) -> str:
    return str(unicodedata.decimal(digit[0], digit[0]))


def _fold(text: str) -> str:
    """As `letters`, and without accents, as DPR's script has it."""
    if text.isascii():
        return text.lower()
    bare = unicodedata.normalize("NFD", letters(text))
    return unicodedata.normalize("NFC", _ACCENTS.sub("", bare))


def marked(text: str) -> str:
    """The text's words with one space between them, and `'` where punctuation stands inside one.

    Example: "U.S. Army, 1,000 men (東京)" is "u's army 1000 men 東 京".
    """
    return _kept_mark(text) if len(text) < KEPT else _mark(text)


def _mark(text: str) -> str:
    if text.isascii() and text.replace(" ", "").isalnum():
        return flat(text.lower())
    found = _fold(text if text.isascii() else _prepared(text))
    found = _replaced(found, _inside(found))
    if not found.isascii():
        return _replaced(found, _APARTS)
    # The same for ASCII, five times as fast.
    pieces = (piece.strip("'") for piece in found.translate(_ASCII_MARKS).split())
    return str(_RUN.sub("'", " ".join(piece for piece in pieces if piece)))


def _replaced(text: str, steps: Iterable[Step]) -> str:
    for pattern, sign in steps:
        text = pattern.sub(sign, text)
    return text


def _prepared(text: str) -> str:
    """With signs in place of two that the normal form would take away, character for character."""
    return str(_SOFT_END.sub("-", _GROUPING_BLANK.sub("\u066c", text)))


_kept_mark = lru_cache(maxsize=256)(_mark)


def _inside(folded: str) -> Iterator[Step]:
    """What is done about hyphens and numbers; steps that cannot change this text are left out."""
    if "\n" in folded:
        yield _LINE_END
    if _NUMERIC.search(folded):
        yield from _NUMBERS


def same_text(text: str) -> str:
    """Equal for texts that differ in case, blanks, marks around the whole, or how the same letters are stored only.

    Accents, articles and punctuation inside count: `-1` is not `1`, nor `C#` `C`.
    """
    return str(_AROUND.sub("", flat(_BETWEEN.sub("", letters(text)))))


def verbatim(text: str) -> str:
    """The text as it is quoted: letter for letter, but for blanks, shapes of quotes, dashes and ligatures, widths, and
    what cannot be seen. Where a word is broken at the end of a line, `quoted_in` looks for it with a hyphen or without.
    """
    bare = _HIDDEN.sub("", _LINE_HYPHEN.sub(_BROKEN, text)).translate(_QUOTE_SHAPES)
    return flat(_BETWEEN.sub("", unicodedata.normalize("NFKC", bare).translate(_QUOTE_SHAPES)))


def quoted_in(quote: str, source: str) -> bool:
    """Whether the quote stands word for word in the source, quotation marks around it aside; both as `verbatim` has
    them."""
    forms = [form for form in (quote, quote.strip("\"' ")) if form]
    if any(form in source for form in forms):
        return True
    if _BROKEN not in source + quote:
        return False
    signs = {"-": f"[-{_BROKEN}]", _BROKEN: f"[-{_BROKEN}]?"}
    spelled = (f"{_BROKEN}?".join(signs.get(sign) or regex.escape(sign) for sign in form) for form in forms)
    return any(regex.search(pattern, source) for pattern in spelled)


def words(text: str) -> str:
    """The words alone, as DPR has them: no case, accents or punctuation, one space between and around them."""
    return f" {parted(marked(text))} "


def parted(marked: str) -> str:
    """DPR's reading: punctuation inside a word parts it."""
    return marked.replace("'", " ").replace(_DECIMAL, " ")


def joined(marked: str) -> str:
    """SQuAD's reading: punctuation inside a word counts for nothing, nor do English articles."""
    return _replaced(marked, _JOINING)


def contains(text: str, answer: str) -> bool:
    """Whether the answer stands in the text: its words follow one another there, in either reading.

    They begin and end where words do, but for what sticks to words: Arabic, Hebrew and Amharic prefixes, an English
    plural, Finnish, Turkish and Hungarian endings, up to four letters after a word of at least three in other scripts,
    a unit after a number. Characters of scripts without spaces, and Korean ones, begin and end anywhere. An answer that
    is one Latin letter or nothing but English articles counts with its case; one without a word stands nowhere.
    """
    return bool(_bare_places(text, answer)) if is_bare(answer) else stands(marked(text), needles(answer))


def shows(text: str, answer: str) -> bool:
    """Whether a reader of the text may be said to have seen the answer: it stands there (see `contains`), or from
    `WIDE` letters on, within a longer word, where Subspan EM would find it."""
    return bool(_bare_places(text, answer)) if is_bare(answer) else holds(marked(text), needles(answer))


def holds(marked: str, wanted: Needles) -> bool:
    """`shows`, of a text as `marked` gives it and an answer that is not bare."""
    wide = _wide(wanted)
    return stands(marked, wanted) or (bool(wide) and any(one in joined(marked) for one in wide))


def _wide(wanted: Needles) -> list[str]:
    return [one for one in wanted.joined if len(one.replace(" ", "")) >= WIDE]


def spans(text: str, answer: str, *, within: bool = False) -> list[tuple[int, int]]:
    """Where the answer stands in the text, by the rule of `contains`: (start, end) in characters, none overlapping.

    What sticks to the answer's words is left outside, so that it stays where the answer is replaced; with `within` also
    where a longer word of at least `WIDE` letters begins with it, as in `Kölner`.
    Example: spans("3 men live in 서울에서", "서울") is [(14, 16)].
    """
    if is_bare(answer):
        return _bare_places(text, answer)
    there, wanted = _traced(text), needles(answer)
    found = [there.span(*at) for one in wanted.parted for at in _places(parted(there.text), one)]
    whole = there
    for step in _JOINING:
        whole = whole.sub(*step)
    found += [whole.span(*at) for one in wanted.joined for at in _places(whole.text, one)]
    if within:
        begun = (rf"(?<![^ ]){regex.escape(one)}" for one in _wide(wanted))
        found += [whole.span(*at.span()) for one in begun for at in regex.finditer(one, whole.text)]
    apart: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
        if not apart or start >= apart[-1][1]:
            # The last point of an abbreviation is its own.
            apart.append((start, end + bool(_INITIALS.fullmatch(text, start, end + 1))))
    return apart


class _Traced(NamedTuple):
    """A text on its way to its normal form, and for each of its characters where in the original it comes from."""

    text: str
    origins: list[tuple[int, int]]

    def sub(self, pattern: regex.Pattern[str], sign: str) -> _Traced:
        pieces, origins, at = list[str](), list[tuple[int, int]](), 0
        for match in pattern.finditer(self.text):
            new, (start, end) = match.expand(sign), match.span()
            pieces += self.text[at:start], new
            origins += self.origins[at:start] + [self.span(start, end)] * len(new)
            at = end
        return _Traced("".join(pieces) + self.text[at:], origins + self.origins[at:])

    def span(self, start: int, end: int) -> tuple[int, int]:
        return self.origins[start][0], self.origins[end - 1][1]


def _traced(text: str) -> _Traced:
    """As `marked`."""
    pieces, origins = list[str](), list[tuple[int, int]]()
    for character in regex.finditer(r"\X", _prepared(text)):
        pieces.append(_fold(character[0]))
        origins += [character.span()] * len(pieces[-1])
    traced = _Traced("".join(pieces), origins)
    for step in (*_inside(traced.text), *_APARTS):
        traced = traced.sub(*step)
    return traced


class Needles(NamedTuple):
    """An answer as it is looked for. Example: Needles(parted=("u s",), joined=("us",))."""

    parted: tuple[str, ...]
    joined: tuple[str, ...]


@lru_cache(maxsize=4096)
def needles(answer: str) -> Needles:
    """The readings of an answer; empty where it has no word."""
    there = marked(answer)
    plain, whole = parted(there), joined(there)
    forms = dict.fromkeys(_without_al(form) for form in (plain, _THREES.sub(" ", plain)))
    return Needles(tuple(filter(None, forms)), (_without_al(whole),) if whole else ())


def _without_al(words: str) -> str:
    return str(_ARTICLE_AL.sub("", words))


def stands(marked: str, wanted: Needles) -> bool:
    """Whether an answer stands in a text, see `contains`; of a text as `marked` gives it."""
    there = parted(marked)
    if any(True for one in wanted.parted for _ in _places(there, one)):
        return True
    there = joined(marked)
    return any(True for one in wanted.joined for _ in _places(there, one))


def _places(text: str, wanted: str) -> Iterator[tuple[int, int]]:
    """Where the words stand among words, with what may stick to them left outside."""
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if _begins(text, at) and _ends(text, end, wanted):
            yield at, end
        at = text.find(wanted, at + 1)


def _begins(text: str, at: int) -> bool:
    start = text.rfind(" ", 0, at) + 1
    return start == at or bool(_PREFIX.fullmatch(text, start, at))


def _ends(text: str, at: int, wanted: str) -> bool:
    end = text.find(" ", at)
    stuck, last = text[at : end if end >= 0 else None], wanted[wanted.rfind(" ") + 1 :]
    if not stuck:
        return True
    if last[-1].isdecimal():
        return bool(_UNIT.fullmatch(stuck))
    if last[-1] < "\u0250":
        return bool(_ENDING.fullmatch(last + stuck, len(last)))
    return len(last) > 2 and bool(_SUFFIX.fullmatch(stuck))


def is_bare(answer: str) -> bool:
    """Whether the answer is one ASCII letter or English articles alone, which stand in any text but for their case."""
    said = _WORD.findall(answer.translate(_WIDTHS))
    return bool(said) and (
        {word.lower() for word in said} <= ARTICLES or (len(said) == 1 and bool(_LATIN_LETTER.fullmatch(said[0])))
    )


def _bare_places(text: str, answer: str) -> list[tuple[int, int]]:
    said = _WORD.findall(answer.translate(_WIDTHS))
    pattern = f"(?<!{_LATIN}){_APART.join(said)}(?!{_LATIN})"
    return [found.span() for found in regex.finditer(pattern, text.translate(_WIDTHS))]
