"""What a prompt shows, read back."""

from __future__ import annotations

import re

from ragdist.data.prompts import PLAIN, REASONED, REASONED_CLOSED, Shortened

_BLOCK = re.compile(r"<DOCUMENT>([^\n]*)\n(.*?)</DOCUMENT>\n", re.DOTALL)


def parse(user_text: str) -> tuple[list[Shortened], str]:
    """The documents and the question that `user_text` was made of.

    Raises:
        ValueError: no prompt of ours has this text.
    """
    documents, at = [], 0
    while block := _BLOCK.match(user_text, at):
        documents.append(Shortened(_unescape(block[1]), _unescape(block[2])))
        at = block.end()
    rest = user_text[at + bool(documents) :]
    for how in (PLAIN, REASONED, REASONED_CLOSED):
        if rest.startswith("Question: ") and rest.endswith(f"\n{how}"):
            return documents, rest.removeprefix("Question: ").removesuffix(f"\n{how}")
    raise ValueError(f"not a prompt of ragdist: {user_text[:80]!r}")


def _unescape(text: str) -> str:
    return re.sub(r"<\\(\\*/?DOCUMENT>)", r"<\1", text)
