"""A public benchmark's row in the form of question files, and where a benchmark comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragdist.data.matching import contains
from ragdist.data.sources.files import Broken
from ragdist.records import content_id

PASSAGES = 10
"""At most so many of a question's passages are kept where the data set has a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRow:
    """A row in the form of question files.

    Example: PublicRow(id="popqa-7", dataset="popqa", split="", question="...", answers=("...",), documents=({...},))
    """

    id: str
    dataset: str
    split: str
    """train or test; empty where the data set names none, and a draw decides."""
    question: str
    answers: tuple[str, ...]
    documents: tuple[dict[str, str], ...]
    """Each {title, text, kind}; forged ones perhaps with `states`."""
    long_answer: str = ""
    wrong_answers: tuple[str, ...] = ()
    meta: Mapping[str, bool] = field(default_factory=dict)
    """`all_answers_required`, where that is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Where a benchmark comes from, and what its rows mean."""

    repository: str
    """Data set on the hub, or the address of a Git repository where it is not there."""
    files: Mapping[str, str]
    """Split by the pattern of its files in the repository; an empty split leaves it to a draw."""
    read: Callable[[dict[str, Any], str], PublicRow | None]
    """(row, name of its file) -> our row, its split still empty, or None for one that is no use here; KeyError names a
    column that is not there."""
    licence: str
    citation: str
    rows: Callable[[Path, Broken], Iterator[tuple[str, dict[str, Any]]]] | None = None
    """(where, row) of a file; None where each line or row of parquet is one."""
    beside: Callable[[Path], list[Path]] | None = None
    """Files that are read with one. A ConfigError where one is missing."""
    forged: bool = False
    """Whether rows bring documents that mislead, which are shown in the attacked lists."""

    @property
    def on_hub(self) -> bool:
        """Whether the hub has it."""
        return "://" not in self.repository


def document(title: str, text: str, kind: str, **more: str) -> dict[str, str]:
    """A document as question files have it."""
    return {"title": title, "text": text, "kind": kind, **more}


def says(text: str, answers: Iterable[str]) -> bool:
    """Whether a text contains one of these answers."""
    return any(contains(text, answer) for answer in answers)


def row_of(
    dataset: str, name: object, question: str, answers: Iterable[str], documents: Any, why: str = "", **more: Any
) -> PublicRow:
    """The row; documents without text are left out.

    Args:
        dataset: what it is of.
        name: tells it from other rows of the data set; empty takes what it says.
        question: in words.
        answers: right ones.
        documents: of `document`.
        why: the long answer.
        more: other fields.
    """
    answers, question = tuple(answers), question.strip()
    return PublicRow(
        id=f"{dataset}-{name or content_id(question, *answers)}",
        dataset=dataset,
        split="",
        question=question,
        answers=answers,
        documents=tuple(one for one in documents if one["text"].strip()),
        long_answer=why.strip(),
        **more,
    )
