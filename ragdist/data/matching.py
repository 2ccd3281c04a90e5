"""When two texts count as the same, and when a text holds an answer."""

from __future__ import annotations

import re


def flat(text: str) -> str:
    """The text with every run of whitespace as one blank, as texts and quotes are compared."""
    return " ".join(text.split())


def folded(text: str) -> str:
    """`flat`, and without a difference between capital and small letters, as answers are looked for."""
    return flat(text).casefold()


def holds(folded_text: str, answer: str) -> bool:
    """Whether the answer stands in a text (already `folded`) between word borders.

    Example: `holds("written in rome.", "Rome")`, but not `holds("a romeo", "Rome")`.
    """
    wanted = folded(answer)
    # The plain search is a hundred times quicker than the pattern, and nearly always says no.
    return wanted in folded_text and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", folded_text) is not None
