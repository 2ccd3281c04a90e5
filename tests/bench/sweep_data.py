"""What the data of a sweep over P costs: a teacher's calls, searches and rows put into tokens, counted, not timed.

Six values of P on a folder of documents with a teacher, against one. Questions, answers, candidates are there once for
all; a question has two contexts whatever P is, one with its oracle and one without, so twice the rows is the bound.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.data import examples
from ragdist.data.pipeline import Pipeline
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.local import SerialMapper
from ragdist.storage.stages import Store
from tests import tiny
from tests.scripted_teacher import ScriptedTeacher

FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
HOUSES = 200
THINGS = ("port", "owner", "colour", "height", "weight", "price")


def run() -> dict[str, dict[str, Any]]:
    """Rows tokenized for six values of P / for one; the note has calls and searches."""
    with tempfile.TemporaryDirectory() as folder:
        one = costs(Path(folder) / "one", FRACTIONS[3:4])
        six = costs(Path(folder) / "six", FRACTIONS)
    named = ("teacher calls", "searches")
    same = "; ".join(
        f"{what}: {six[what]:,} for six, {one[what]:,} for one ({six[what] / one[what]:.1f}x)" for what in named
    )
    return {
        "sweep_data": {
            "ratio": round(six["rows"] / one["rows"], 3),
            "ours": six["rows"],
            "theirs": one["rows"],
            "unit": "rows tokenized",
            "note": f"{same}; P of {', '.join(f'{p:g}' for p in FRACTIONS)} against {FRACTIONS[3]:g}",
        }
    }


def costs(folder: Path, fractions: Iterable[float]) -> Counter[str]:
    """Calls, searches and rows for the data of these values of P, in a folder of their own."""
    documents, teacher, counted = folder / "documents", ScriptedTeacher(), Counter[str]()
    documents.mkdir(parents=True)
    for n in range(HOUSES):
        facts = [f"The {thing} of house {n} is {thing}-{n}." for thing in (THINGS[n % 6], THINGS[(n + 1) % 6])]
        (documents / f"house-{n}.md").write_text(f"# House {n}\n\n{' '.join(facts)}\n")
    search = Bm25.search

    def counting(self: Bm25, queries: Any, count: int) -> Any:
        counted["searches"] += len(queries)
        return search(self, queries, count)

    with mock.patch.object(Bm25, "search", counting):  # still searches: the count is beside
        for p in fractions:
            pipeline = Pipeline(
                settings(folder, p), Store(folder / "data"), tiny.tokenizer(), Counting(counted), teacher=teacher
            )
            pipeline.make("examples")
    counted["teacher calls"] = len(teacher.calls)
    return counted


def settings(folder: Path, p: float) -> Settings:
    """Two questions for each document, reasoned answers, five documents shown."""
    return resolve(
        {
            "corpus": {"source": "folder", "folder": str(folder / "documents")},
            "chunks": {"tokens": 128},
            "teacher": {"questions_per_chunk": 2},
            "prompts": {"answer": "reasoned"},
            "contexts": {"oracle_fraction": p},
        }
    )


class Counting(SerialMapper):
    """Counts the rows that it is given to tokenize."""

    def __init__(self, counted: Counter[str]) -> None:
        self.counted = counted

    def map(self, function: Callable[..., Any], items: Iterable[Any], *shared: Any) -> Iterator[Any]:
        """As SerialMapper does."""

        def noted() -> Iterator[Any]:
            for item in items:
                self.counted["rows"] += function is examples.from_row
                yield item

        return super().map(function, noted(), *shared)
