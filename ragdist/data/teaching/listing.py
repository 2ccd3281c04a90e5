"""How models list questions: numbered in any script, with bullets, quoted, as JSON, with the question marks of others.

1. What ...?     **2)** What ...?     Q3: ...     (4) ...     - ...     "..."     ["...", "..."]
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import dropwhile
from typing import Any

from ragdist.data.teaching.tongues import QUESTION, UNMARKED

_WORDS = "|".join(QUESTION)
_CJK_NUMBER = "[一二三四五六七八九十百零〇]{1,4}"
_NUMBER = rf"(?:\d{{1,3}}|{_CJK_NUMBER})"
_ENCLOSED = r"[\u2460-\u24ff\u2776-\u2793\u3220-\u3229\u3251-\u325f\u3280-\u3289\u32b1-\u32bf\U0001f100-\U0001f10c]"
NUMBERING = re.compile(
    rf"""^(?:
        [-*+\u2022\u2013\u2014\u2023\u25aa\u25ab\u25cb\u25cf\u25e6\u25a0\u25a1\u25b6\u25ba\u27a4\u2192\u2605\u2606\u203b]\s+
      | [\u2022\u30fb\uff65\u00b7\u25cf\u25cb\u25a0\u25a1\u25c6\u25c7\u203b]\s*          # ・What
      | \[[ xX]\]\s+                                                                    # [ ] What
      | \d{{1,2}}\ufe0f?\u20e3\s*                                                         # 1 on a key
      | \[(?:{_WORDS})\s*\d{{1,3}}\]\s*                                                    # [Q1]
      | {_ENCLOSED}[.)\]:\u3001\uff0e\uff1a]?\s*                                         # 1 in a circle
      | [(\uff08\[\u3010<]?\d{{1,3}}\\?[.)\]>:\u3001\u3002\u3011\uff0e\uff1a\uff09](?!\d)\s*    # 1. What, (1) What
      | \d{{1,3}}\s+[-\u2013\u2014]\s+                                                   # 1 - What
      | [(\uff08]?{_CJK_NUMBER}[.):\u3001\uff0e\uff1a\uff09]\s*                             # \u4e00\u3001
      | \(?[^\W\d_]\)\s*                                                                # a) What
      | [\u0e01-\u0e2e\uac00-\ud7a3\u05d0-\u05ea\u0621-\u064a][.)]\s+                      # a letter of theirs
      | \(?[ivx]{{1,5}}[.)]\s+                                                           # ii. What
      | (?:{_WORDS})\s*(?:n[\u00b0\u00bao.]*\s*|№\s*|\#\s*)?                            # question so many:
        (?:{_NUMBER}|{_ENCLOSED})?\s*[.:)\uff1a\uff0e\u3001\uff09-]\s*
      | \u7b2c{_NUMBER}\s*[\u984c\u9898\u95ee\u554f](?:\s*[.:\u3001\uff1a\uff0e)]\s*|\s+)       # the same in Chinese
      | \#+\s+                                                                          # ## What
    )+""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands before an item of a list."""
EMPHASIS = re.compile(r"\*\*(.+?)\*\*|(?<!\w)__(.+?)__(?!\w)")
ASKS = "?\uff1f\u061f\u037e\u1367\u2047\u2048\u2049\u203d\u2e2e\ufe56\ufe16\ua60f\ua6f7\u1945\u2753\u2754"
"""Question marks at the end: Latin, full width, Arabic, Greek, Ethiopic and rarer ones."""
CLOSING = " \t\"'`*_)]},!\uff01\uff09\u3011\u201d\u2019\u00bb\u203a\u300d\u300f\u300b\u200f\u200e"
_WITHIN = "\u055e"
"""Armenian has its mark on the vowel that the voice rises on."""
_GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff].*;$")
_NO_MARKS = re.compile(
    r"[\u0900-\u09ff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"
)
_LEADS_IN = (":", "\uff1a")
_AFTER_QUESTION = re.compile(
    rf"(?<=[{ASKS}])\s+|(?<=[\uff1f\u061f])(?=[^\s\W])|(?<=\u304b[\u3002\uff0e])(?=[^\s\W])|(?<=[\u0370-\u03ff];)\s+"
)
_FENCE = re.compile(r"^\s*(?:```|~~~)[\w-]*\s*$")
_KEYS = re.compile(rf"(?:{_WORDS})[\s_-]*(?:text|문)?s?\d*", re.IGNORECASE)
_ANSWER_KEYS = re.compile(r"(?:a|answers?|reasoning|id|type|quote|explanation)\d*", re.IGNORECASE)
_HALF_JSON = re.compile(r"""[\[{]\s*["\[{]""")
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"(?!\s*:)')
_PAIRS = dict(
    zip(
        "\"'`\u201c\u201e\u2018\u00ab\u00bb\u300c\u300e\u2039\u300a",
        "\"'`\u201d\u201c\u2019\u00bb\u00ab\u300d\u300f\u203a\u300b",
        strict=True,
    )
)
_TAGGED = re.compile(r"<(\w{1,20})>\s*(.*?)\s*</\1>")


def pieces(text: str, *, whole: bool) -> tuple[list[str], bool]:
    """What may be a question each, and whether they stand in a list that says so (JSON). Of a reply that is not whole,
    what is last counts only if it is finished."""
    lines = [line for line in text.splitlines() if not _FENCE.match(line)]
    if body := "\n".join(dropwhile(lambda line: line.lstrip()[:1] not in ("[", "{"), lines)).strip():
        if found := list(_strings(_parsed(body))):
            return found, True
        if _HALF_JSON.match(body) and (found := _STRING.findall(body)):
            return [_unescaped(one) for one in found], True
    found = [piece for line in lines for piece in _AFTER_QUESTION.split(_cells(line.strip()))]
    if found and not whole and not text.endswith("\n") and not asks(found[-1]):
        del found[-1]
    return found, False


def asks(line: str) -> bool:
    """Whether a line is a question, by its mark, or where a script writes none by its words."""
    bare = line.rstrip(CLOSING)
    if bare.endswith(tuple(ASKS)) or _WITHIN in bare or _GREEK.search(bare):
        return True
    return bool(_NO_MARKS.search(bare)) and not bare.endswith(_LEADS_IN) and bool(UNMARKED.search(bare))


def is_item(line: str) -> bool:
    """Whether a line is numbered, or has a bullet."""
    return bool(NUMBERING.match(emphasised(line.strip())))


def bare(line: str) -> str:
    """A line without what stands before an item, around it, and behind it in a list of strings."""
    text = NUMBERING.sub("", emphasised(line.strip())).strip().rstrip(",").strip()
    close = _PAIRS.get(text[:1])
    if close and len(text) > 1 and text.endswith(close) and close not in text[1:-1]:
        text = NUMBERING.sub("", text[1:-1].strip()).strip()
    return text


def emphasised(text: str) -> str:
    """The text without marks of bold letters."""
    return EMPHASIS.sub(lambda found: found[1] or found[2], text)


def _cells(line: str) -> str:
    """Of a table's row the cell that asks, of a tagged line what is inside; other lines as they are."""
    line = _TAGGED.sub(r"\2", line)
    if len(line) > 2 and line[0] == line[-1] == "|":
        return next((cell.strip() for cell in line.strip("|").split("|") if asks(cell)), "")
    return line


def _parsed(body: str) -> Any:
    """JSON, JSON lines or a list as Python writes it; None for anything else."""
    for read in (json.loads, _json_lines, ast.literal_eval):
        try:
            return read(body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    try:
        return json.JSONDecoder().raw_decode(body)[0]  # talk follows
    except (ValueError, RecursionError):
        return None


def _json_lines(body: str) -> list[Any]:
    return [json.loads(line.rstrip().rstrip(",")) for line in body.splitlines() if line.strip()]


def _strings(found: Any) -> Iterator[str]:
    """The questions in what was parsed: under keys that say so, else every string that no other key claims."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _strings(one)
    elif isinstance(found, dict):
        named = [value for key, value in found.items() if _KEYS.fullmatch(str(key).strip())]
        others = (value for key, value in found.items() if not _ANSWER_KEYS.fullmatch(str(key).strip()))
        for value in named or others:
            yield from _strings(value)


def _unescaped(said: str) -> str:
    try:
        return str(json.loads(f'"{said}"'))
    except ValueError:
        return said
