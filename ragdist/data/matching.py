"""Texts compared as question answering does: the one normaliser, and "this text contains that answer"."""

from __future__ import annotations

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A Chinese or Japanese character is a word of its own, as no spaces say where one ends.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def flat(text: str) -> str:
    """Every run of whitespace as one space, and none at the ends; otherwise letter for letter."""
    return " ".join(text.split())


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, then no ASCII punctuation, then no English articles, then single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def words(text: str) -> str:
    """DPR's normal form: the words alone, without case, accents or punctuation, one space between and around them."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return f" {' '.join(_WORDS.findall(text.casefold()))} "


def contains(text: str, answer: str) -> bool:
    """Whether the words of `answer` follow one another in `text`; an answer without words is contained in nothing."""
    return bool(answer_words := words(answer).strip()) and f" {answer_words} " in words(text)
