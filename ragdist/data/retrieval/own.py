"""Documents that a retriever of the user's own finds: chunks of the run where their texts are, else or beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragdist import parts
from ragdist.data.matching import flat
from ragdist.records import HALVES, Chunk, Hit, content_id
from ragdist.storage.calls import KeptCalls
from ragdist.tracking.progress import Bar


class OwnRetriever:
    """Implements Retriever by a function of the user's; what it found is kept, and found again by all runs.

    A document whose text is that of a chunk, blanks aside, is that chunk. Any other becomes a chunk without a
    `document_id`; those that earlier runs found are there from the start.

    Args:
        part: `parts.Retriever`.
        path: keeps what it found; named by the part and by the chunks. None keeps nothing, of questions of anybody's.
        chunks: of the run, by id.

    Attributes:
        chunks: these, and all that was found.
    """

    def __init__(self, part: parts.Retriever, path: Path | None, chunks: Mapping[str, Chunk]) -> None:
        self.part, self.chunks, self.own = part, dict(chunks), list(chunks.values())
        self._calls, self._indexed = path and KeptCalls(path), not hasattr(part, "index")
        self._ids = {flat(chunk.text): chunk.id for chunk in self.own}
        for found in self._calls.read().values() if self._calls else ():
            self._hits(found)

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query at most `count` hits in the order of the user's; the score is 1 / rank.

        Raises:
            PartError: the retriever raised, or gave no documents.
        """
        if not self._calls:
            return [self._hits(self._ask(query, count)) for query in queries]
        with Bar(f"asking {parts.short_name(self.part)}", len(queries), "questions") as bar:

            def ask(place: int) -> list[tuple[str, str]]:
                bar.advance()
                return self._ask(queries[place], count)

            found = self._calls.get([content_id(query, str(count)) for query in queries], ask)
        return [self._hits(documents) for documents in found]

    def _ask(self, query: str, count: int) -> list[tuple[str, str]]:
        if not self._indexed:
            parts.call("retriever", self.part.index, "its index", lambda _: None, self.own)  # type: ignore[attr-defined]
            self._indexed = True
        return parts.call("retriever", self.part, query, lambda given: read(given)[:count], query, count)

    def _hits(self, found: Iterable[Sequence[str]]) -> list[Hit]:
        ids = dict.fromkeys(self._known(title, text) for title, text in found)
        return [Hit(chunk_id=chunk_id, score=1 / rank) for rank, chunk_id in enumerate(ids, start=1)]

    def _known(self, title: str, text: str) -> str:
        """The id of the chunk with this text, which from now on there is."""
        if (place := flat(text)) not in self._ids:
            made = Chunk(id=content_id(title, text), document_id="", title=title, text=text)
            self._ids[place] = made.id
            self.chunks[made.id] = made
        return self._ids[place]


def read(given: Any) -> list[tuple[str, str]]:
    """Title and text of the documents that a retriever gave. Unusable if it gave something else."""
    return list(map(document, several(given)))


def several(given: Any) -> Iterable[Any]:
    """What a part gave, if that is a list."""
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise parts.Unusable(f"a {type(given).__name__}, wanted a list of documents")
    return given


def document(given: Any) -> tuple[str, str]:
    """Title and text of a text, a mapping, or an object of LangChain's or with `text`."""
    values = given if isinstance(given, Mapping) else {"text": given} if isinstance(given, str) else _fields(given)
    title, text = values.get("title") or "", values.get("text")
    if not (isinstance(text, str) and text.strip() and isinstance(title, str)):
        raise parts.Unusable(f"{given!r:.80} as a document, wanted a text or {{'title': ..., 'text': ...}}")
    if half := HALVES.search(title + text):
        raise parts.Unusable(f"the half character U+{ord(half[0]):04X} in a document, wanted text as of UTF-8")
    return title, text


def _fields(given: Any) -> dict[str, Any]:
    text = getattr(given, "page_content", None) or getattr(given, "text", None)
    about = getattr(given, "metadata", None)
    title = getattr(given, "title", "") or (about.get("title", "") if isinstance(about, Mapping) else "")
    return {"title": title, "text": text}
