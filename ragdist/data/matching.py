"""Texts compared as question answering does: the one normaliser, and "this text contains that answer"."""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Literal

Form = Literal["squad", "unicode"]
"""How texts are brought to a normal form before they are compared; `evaluation.normalise`."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Signs that may be written or left out: Hebrew points, Arabic vowel signs, the stroke that stretches an Arabic word.
_OPTIONAL = re.compile(r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]")
_DOTTED = re.compile("i\u0307+")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff])")
# A Chinese or Japanese character is a word of its own, as no spaces say where one ends.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def flat(text: str) -> str:
    """Every run of whitespace as one space, and none at the ends; otherwise letter for letter."""
    return " ".join(text.split())


def normalise(text: str, form: Form = "squad") -> str:
    """The text's normal form.

    squad: lower case, then no ASCII punctuation, then no English articles, then single spaces.
    unicode: letters of compatible form and width as one (NFKC), without case (casefold, the Turkish i with and without
    dot as one), digits of all scripts as ASCII ones, no punctuation of any script, no optional vowel signs and no
    invisible characters; each CJK character is a word. Accents count, and so do articles: what is one in English is a
    word elsewhere.
    """
    if form == "unicode":
        return _unicode_form(text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _unicode_form(text: str) -> str:
    bare = _OPTIONAL.sub("", "".join(map(_plain, unicodedata.normalize("NFKD", text))))
    folded = unicodedata.normalize("NFKD", bare.casefold()).replace("\u0131", "i")
    return " ".join(_CJK.sub(r" \1 ", unicodedata.normalize("NFC", _DOTTED.sub("i", folded))).split())


def _plain(character: str) -> str:
    """The character as it is compared; nothing where it is punctuation or cannot be seen."""
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    hidden = category == "Cf" or category[0] == "P" or character in string.punctuation
    return "" if hidden else character


def words(text: str) -> str:
    """DPR's normal form: the words alone, without case, accents or punctuation, one space between and around them."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return f" {' '.join(_WORDS.findall(text.casefold()))} "


def contains(text: str, answer: str) -> bool:
    """Whether the words of `answer` follow one another in `text`; an answer without words is contained in nothing."""
    return bool(answer_words := words(answer).strip()) and f" {answer_words} " in words(text)
