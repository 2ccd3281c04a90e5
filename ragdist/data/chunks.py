"""Documents cut into chunks, by tokens of the tuned model's own tokenizer, without loss."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import accumulate

from ragdist.config import ChunksConfig
from ragdist.records import Chunk, Document, content_id
from ragdist.roles import Tokenizer

SEARCH = 0.25
"""Share of a chunk that may be given up to end it at a better place."""
_ENDS = tuple(re.compile(end) for end in (r"\n\s*\n$", r"\n$", r"[.!?][\"')\]]*\s$|[。！？]$", r"\s$"))  # noqa: RUF001


def cut(document: Document, tokenizer: Tokenizer, config: ChunksConfig) -> list[Chunk]:
    """Chunks of at most `config.tokens` tokens, in order; joined less their overlaps they are the document's text.

    A chunk ends, in the last quarter of what it may hold, after a paragraph, else a line, else a sentence, else a
    word. It begins `config.overlap` tokens before the end of the one before it, or a little later where a character
    or the limit would not allow that. No character is divided, whatever bytes a token stands for. Page and heading are
    those of its first character that is no blank.
    """
    borders, counts = _borders(document.text, tokenizer)
    spans: list[tuple[int, int]] = []
    begin = end = 0
    while end < len(borders) - 1:
        begin, end = _next(document.text, borders, counts, (begin, end), tokenizer, config)
        spans.append((borders[begin], borders[end]))
    return [_chunk(document, start, document.text[start:stop]) for start, stop in spans]


def _chunk(document: Document, start: int, text: str) -> Chunk:
    visible = start + len(text) - len(text.lstrip())
    section = bisect_right(document.starts, visible) - 1
    return Chunk(
        id=content_id(document.id, str(start), text),
        document_id=document.id,
        title=document.title,
        text=text,
        start=start,
        page=document.pages[section] if section >= 0 else 0,
        heading=document.headings[section] if section >= 0 else "",
    )


def _borders(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Characters where a token begins and no other goes on, with both ends of the text, and the tokens before each."""
    offsets = tokenizer.encode(text).offsets
    reached = accumulate((stop for _, stop in offsets), max, initial=0)
    inner = [
        (start, i) for i, ((start, _), so_far) in enumerate(zip(offsets, reached, strict=False)) if 0 < so_far <= start
    ]
    return [0, *(start for start, _ in inner), len(text)], [0, *(i for _, i in inner), len(offsets)]


def _next(
    text: str,
    borders: list[int],
    counts: list[int],
    last: tuple[int, int],
    tokenizer: Tokenizer,
    config: ChunksConfig,
) -> tuple[int, int]:
    """Begin and end, as indexes into `borders`, of the chunk after the one that `last` says."""
    previous = last[1]
    begin = bisect_left(counts, counts[previous] - config.overlap) if previous else 0
    begin = min(max(begin, last[0] + (previous > 0)), previous)
    limit = config.tokens
    while True:
        end = max(bisect_right(counts, counts[begin] + limit) - 1, previous + 1)
        if end < len(borders) - 1:
            earliest = max(bisect_left(counts, counts[begin] + int(limit * (1 - SEARCH))), previous + 1)
            end = max(range(min(earliest, end), end + 1), key=lambda i: (_worth(text, borders[i]), i))
        # A piece cut out of its surroundings may take more tokens than it did inside them.
        excess = len(tokenizer.encode(text[borders[begin] : borders[end]]).ids) - config.tokens
        if excess <= 0 or (begin, end) == (previous, previous + 1):
            return begin, end
        limit -= excess
        if counts[begin] + limit < counts[previous + 1]:
            begin, limit = min(begin + 1, previous), config.tokens


def _worth(text: str, at: int) -> int:
    """How good a place this is to end: 4 after a paragraph, 3 a line, 2 a sentence, 1 a word, 0 inside a word."""
    before, after = text[max(0, at - 8) : at], text[at : at + 1]
    for rank, end in zip((4, 3, 2, 1), _ENDS, strict=True):
        if end.search(before) or (rank < 3 and after.isspace() and end.search(before + after)):
            return rank
    return 0
