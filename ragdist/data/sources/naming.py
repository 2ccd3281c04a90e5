"""Documents of a folder by the names that people give them: path, title or file name, however it is written."""

from __future__ import annotations

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from ragdist.data.sources import formats, values
from ragdist.data.sources.files import Broken
from ragdist.errors import DataError
from ragdist.records import Document, Question

NEAREST, TOLD = 3, 5
"""Names that are told in place of an unknown one; unknown ones that an error tells of."""
Parts = tuple[str, ...]


class Named(NamedTuple):
    """What a document is called. Example: Named("9f...", "sub/guide.md", "sub/guide", "Guide")."""

    id: str
    source: str
    title: str = ""
    heading: str = ""
    """Its first one."""


class Names:
    """Which documents a name means.

    Args:
        documents: of a folder; what several are called together, such as rows of one title or file, means all of them.
        folder: the folder's own name, as `documents/guide.md` may be written as well as `guide.md`.
    """

    def __init__(self, documents: Iterable[Named], folder: str) -> None:
        self._folder = _parts(folder)
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        self._paths: defaultdict[Parts, set[str]] = defaultdict(set)
        self._ends: defaultdict[Parts, set[str]] = defaultdict(set)
        for document in documents:
            for name in filter(None, (document.source, document.title)):
                self._ids[name].add(document.id)
                parts = _parts(name)
                self._paths[parts].add(name)
                for start in range(1, len(parts)):
                    self._ends[parts[start:]].add(name)
            if document.heading:
                self._ends[_parts(document.heading)].add(document.source)

    def find(self, name: str) -> set[str]:
        """The ids of the documents that a name means; none if no document has it or several different ones have.

        Tried in turn: the name as it is; without regard to case, normal form, kind of slash, `./`, `../`, percent
        signs and the folder's own name in front; as the end of a path, which a file name is, or as a first heading;
        with another suffix.
        """
        if name in self._ids:
            return self._ids[name]
        found = next(filter(None, self._ways(name)), set())
        return self._ids[next(iter(found))] if len(found) == 1 else set()

    def _ways(self, name: str) -> Iterator[set[str]]:
        plain = unquote(name)
        for written in dict.fromkeys((name, plain, plain.partition("#")[0])):
            parts = _parts(written)
            inner = [parts[at:] for at in range(1, len(parts)) if parts[at - 1 : at] == self._folder]
            yield from (self._paths.get(tried, set()) for tried in (parts, *inner))
            yield self._ends.get(parts, set())
            yield from (self._paths.get(tried, set()) for tried in map(_without_suffix, (parts, *inner)))
            yield self._ends.get(_without_suffix(parts), set())

    def nearest(self, name: str) -> list[str]:
        """The names that documents have and that are most like this one."""
        known = {"/".join(parts): min(names) for parts, names in self._paths.items()}
        return [known[key] for key in difflib.get_close_matches("/".join(_parts(name)), known, NEAREST, cutoff=0.5)]


def of_documents(documents: Iterable[Document], copied: Iterable[Sequence[str]], folder: str) -> Names:
    """The names of a folder's documents, and of those that were left out as copies: each its source, its title and the
    id of what it repeats."""
    found = [Named(one.id, one.source, one.title, "".join(one.headings[:1])) for one in documents]
    used = {one.id for one in found}
    copies = (Named(first, source, title) for source, title, first in copied if first in used)
    return Names([*found, *copies], folder)


def resolved(
    questions: Sequence[Question], names: Names, files: Names, broken: Broken, folder: str
) -> Iterator[Question]:
    """The questions with the ids of their documents in place of the names.

    `names` are those of the documents, `files` of all that lies in the folder; `broken` gets the questions that name a
    document which is not there. If the policy is to stop they are a DataError, several named at once.
    """
    problems: list[str] = []
    for question in questions:
        found = {name: names.find(name) for name in (*question.oracle_ids, *question.near_miss_ids)}
        if unknown := [name for name, ids in found.items() if not ids]:
            problems.append(_problem(question, unknown[0], names, files, folder))
        elif not problems or broken.policy == "skip":
            golden, others = (
                dict.fromkeys(i for name in said for i in sorted(found[name]))
                for said in (question.oracle_ids, question.near_miss_ids)
            )
            near = tuple(i for i in others if i not in golden)
            yield replace(question, oracle_ids=tuple(golden), near_miss_ids=near)
    if problems and broken.policy == "stop":
        more = f" (and {len(problems) - TOLD} more questions)" if len(problems) > TOLD else ""
        raise DataError(
            f"{'; '.join(problems[:TOLD])}{more}; fix these names in the question files, or set corpus.broken=skip to "
            "leave such questions out"
        )
    broken.named += problems


def _problem(question: Question, name: str, names: Names, files: Names, folder: str) -> str:
    said = f"question {question.text!r:.80} names document {name!r}, which"
    if files.find(name):
        return f"{said} lies in corpus.folder={folder!r} and is not used, see the card of the stage `documents`"
    near = names.nearest(name)
    nearest = f", nearest are {', '.join(map(repr, near))}" if near else ""
    return f"{said} corpus.folder={folder!r} has not, or has more than once{nearest}"


def _parts(name: str) -> Parts:
    """A path's parts in the form in which they are compared; without what stands for here and above."""
    folded = unicodedata.normalize("NFC", values.trimmed(name)).casefold()
    path = unicodedata.normalize("NFC", folded).replace("\\", "/")
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))


def _without_suffix(parts: Parts) -> Parts:
    known = bool(parts) and formats.suffix_of(parts[-1]) in formats.PARSERS
    return (*parts[:-1], str(PurePosixPath(parts[-1]).with_suffix(""))) if known else parts
