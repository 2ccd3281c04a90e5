"""What a model thought, taken off what it says, before a reply is read for anything else.

    <think> ... </think> answer     also <thinking>, <thought>, <reasoning>, [THINK] ..., with or without the first mark
    <|channel|>analysis<|message|> ... <|channel|>final<|message|>answer
    Here is my thought process: ... Here is my response: answer

A mark within a sentence, a quote or code is part of the answer: a text about XML may say `<think>`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = (
    r"(?:[\w-]{1,12}:)?(?:ds_?|ant_?|inner_?)?"
    r"(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad|monologue)"
)
_OPENS = rf"<{_NAME}>|<\|(?:(?:begin|start)_?(?:of_?)?)?{_NAME}\|>|\[{_NAME}\]|\u25c1{_NAME}\u25b7"
_CLOSES = rf"</{_NAME}\s*>|<\|(?:/|end_?(?:of_?)?){_NAME}\|>|\[/{_NAME}\]|\u25c1/{_NAME}\u25b7"
_OPEN = re.compile(rf"^[ \t]*(?:{_OPENS})", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(_CLOSES, re.IGNORECASE)
_FINAL = re.compile(
    r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|\A\s*analysis.*assistantfinal", re.DOTALL
)
_ANALYSIS = re.compile(r"\A\s*(?:(?:<\|start\|>assistant)?<\|channel\|>|analysis(?=[A-Z]))")
_TURN_ENDS = re.compile(r"<\|(?:end|return|call)\|>.*\Z", re.DOTALL)
_PROCESS = re.compile(
    r"\A\s*here(?:'s| is) my thought process:.*?(?:here(?:'s| is) my response:|\Z)", re.DOTALL | re.IGNORECASE
)
_SOLUTION = re.compile(r"<\|(?:begin|start|end)_(?:of_)?(?:solution|answer|response)\|>", re.IGNORECASE)
_QUOTES = frozenset("`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb\u300c\u300d\u300e\u300f")
_WITHIN = re.compile(
    rf"##begin_quote##(?:(?!##end_quote##).)*\Z|<answer>\s?[:\uff1a]\s*\Z|[^\s\n][^\n]*(?:{_OPENS})[^\n]*\Z",
    re.DOTALL | re.IGNORECASE,
)
_ANSWERS = re.compile(r"<answer>\s?[:\uff1a][^\n]*\Z", re.IGNORECASE)


class Said(NamedTuple):
    """A text without its thoughts. Example: Said("8443", False)."""

    text: str
    cut: bool
    """The thoughts have no end: what should have followed them was never written."""


def without_thoughts(text: str) -> Said:
    """What is said beside the thoughts."""
    if final := list(_FINAL.finditer(text)):
        return Said(_TURN_ENDS.sub("", text[final[-1].end() :]).strip(), False)
    if _ANALYSIS.match(text):
        return Said("", True)
    rest = _PROCESS.sub("", text)
    if rest != text:
        return Said(rest.strip(), not rest.strip())
    opened, closed = _first(_OPEN, rest), _first(_CLOSE, rest)
    if closed and (opened is None or closed.start() < opened.start()):
        rest = rest[closed.end() :]
        opened = _first(_OPEN, rest)
    while opened:
        closed = _first(_CLOSE, rest, opened.end()) or _CLOSE.search(rest, opened.end())
        if closed is None:
            return Said(rest[: opened.start()], True)
        rest = rest[: opened.start()] + rest[closed.end() :]
        opened = _first(_OPEN, rest, opened.start())
    return Said(text if rest == text else _SOLUTION.sub("", rest).lstrip(), False)


def _first(kind: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """The first mark that is no part of a quote, of code or of an answer's own line."""
    for mark in kind.finditer(text, start):
        beside = {text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]}
        before = text[start : mark.start()]
        answers = not text[mark.end() :].strip() and _ANSWERS.search(before)
        if not (beside & _QUOTES or before.count("```") % 2 or _WITHIN.search(before) or answers):
            return mark
    return None
