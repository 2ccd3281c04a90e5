"""The robustness suite: what models are shown under each attack, and over the grid of lists.

An attack's list is that of `permuted` with its forgeries among it. In a list of the grid forged documents take the
places of distractors, so that the number of documents is what it says; its control is the same list with none forged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ragdist.config import GridConfig, Settings
from ragdist.data import contexts
from ragdist.data.attacks import Attack, registry
from ragdist.data.attacks.forging import told
from ragdist.data.contexts import permuted
from ragdist.errors import ConfigError
from ragdist.evaluation import answers
from ragdist.evaluation.cases import Case, by_question, found_again, make_case, named_by
from ragdist.records import Candidates, Chunk, Forgery, Question
from ragdist.roles import Tokenizer
from ragdist.storage.stages import Rows, Stage
from ragdist.storage.tables import digest

if TYPE_CHECKING:
    from ragdist.data.pipeline import Pipeline

VERSION = 1
"""Raised by hand whenever other cases are made of the same questions."""
NEAR = 0.1
"""How far the share of forged documents may lie from the one that was asked for."""
GRID = "grid"
"""Stands for the grid among attacks."""
Listed = Chunk | Forgery


class Cell(NamedTuple):
    """A kind of list in the grid. Example: Cell(documents=5, forged=2, place="first", oracle=True)."""

    documents: int
    forged: int
    place: str
    oracle: bool

    @property
    def name(self) -> str:
        """Of its condition. Example: `5 documents, 2 forged (first)`."""
        where = f" ({self.place})" if self.forged and self.place != "drawn" else ""
        return f"{self.documents} documents, {self.forged} forged{where}{', oracle absent' * (not self.oracle)}"

    @property
    def control(self) -> Cell:
        """The same with none forged."""
        return Cell(self.documents, 0, "drawn", self.oracle)

    @property
    def share(self) -> float:
        """Of forged documents."""
        return self.forged / self.documents


@dataclass(frozen=True, slots=True)
class Plan:
    """What the suite asks. Example: Plan(attacks=(...), grid=None, cells=())."""

    attacks: tuple[Attack, ...]
    grid: Attack | None
    """Who forges in the grid."""
    cells: tuple[Cell, ...]

    def __bool__(self) -> bool:
        return bool(self.attacks or self.cells)

    @property
    def most(self) -> int:
        """Forged documents in a list of the grid."""
        return max((cell.forged for cell in self.cells), default=0)


def plan_of(settings: Settings) -> Plan:
    """What the settings ask. A ConfigError where an attack is not there, or a list is too long."""
    config = settings.evaluation
    grid = registry.named(config.grid.attack) if config.grid.attack else None
    asked = lists(config.grid, settings.contexts.documents) if grid else ()
    return Plan(tuple(registry.chosen(config.attacks)), grid, asked)


def lists(grid: GridConfig, documents: int) -> tuple[Cell, ...]:
    """Every list of the grid, each once: all sizes, then all positions at full size, then without the oracle.

    Args:
        grid: the shares, sizes and positions that are asked for.
        documents: full size, `contexts.documents`.

    Raises:
        ConfigError: a list is to be longer than that.
    """
    sizes = grid.documents or _sizes(documents)
    if max(sizes) > documents:
        raise ConfigError(
            f"evaluation.grid.documents={max(sizes)} needs as many distractors, contexts.documents={documents}; "
            "raise contexts.documents, or leave that size out"
        )
    asked = [(size, share, "drawn", True) for size in sorted({*sizes, documents}) for share in grid.forged]
    asked += [(documents, share, place, True) for place in grid.positions for share in grid.forged]
    asked += [(documents, share, "drawn", False) for share in grid.forged if grid.absent]
    found = [cell for size, share, place, oracle in asked if (cell := _cell(size, share, place, oracle))]
    return tuple(dict.fromkeys(one for cell in found for one in (cell.control, cell)))


def _sizes(most: int) -> list[int]:
    found = [1, 2]
    while found[-1] < most:
        found.append(found[-2] + found[-1])
    return [size for size in found if size < most] + [most]


def _cell(documents: int, share: float, place: str, oracle: bool) -> Cell | None:
    """The list whose share of forged documents is next to this; None where none is near, or an oracle has no room."""
    forged = int(documents * share + 0.5)
    if abs(forged / documents - share) > NEAR + 1e-9 or forged > documents - oracle:
        return None
    return Cell(documents, forged, place if forged else "drawn", oracle)


def make(
    plan: Plan,
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Mapping[str, Sequence[Forgery]]],
    tokenizer: Tokenizer,
    settings: Settings,
) -> Iterator[Case]:
    """Each question under each attack and in each cell that it allows; raises as `cases.make_cases`.

    Args:
        plan: what is asked.
        questions: to be asked; those without a known oracle are left out.
        chunks: by id.
        candidates: distractors, by question id.
        forgeries: by attack or GRID, then by question id.
        tokenizer: of the models.
        settings: as `make_cases` reads them.
    """
    known = [question for question in questions if question.oracle_ids]
    for attack in plan.attacks:
        for question in known:
            if forged := forgeries[attack.name].get(question.id, ())[: settings.evaluation.forgeries]:
                found = contexts.assemble(question, candidates[question.id], True, settings.contexts, settings.seed)
                documents = [chunks[i] for i in found.chunk_ids]
                shown = placed(documents, forged, attack.place, question.id, settings.seed)
                yield make_case(question, attack.name, shown, tuple(forged), tokenizer, settings)
    for cell in plan.cells:
        for question in known:
            forged = forgeries[GRID].get(question.id, ())
            if listed := _listed(question, candidates[question.id].chunk_ids, cell, forged):
                documents = [chunks[i] for i in listed]
                shown = placed(documents, forged[: cell.forged], cell.place, question.id, settings.seed)
                yield make_case(question, cell.name, shown, tuple(forged), tokenizer, settings)


def _listed(question: Question, distractors: Sequence[str], cell: Cell, forged: Sequence[Forgery]) -> list[str]:
    """The honest documents of a cell; empty where the question does not allow it."""
    oracles = question.oracle_ids if cell.oracle else ()
    others = cell.documents - cell.forged - len(oracles)
    if not forged or len(forged) < cell.forged or not 0 <= others <= len(distractors):
        return []
    return [*oracles, *distractors[:others]]


def placed(
    documents: Sequence[Chunk], forged: Sequence[Forgery], place: str, question_id: str, seed: int
) -> tuple[Listed, ...]:
    """The documents in the order of `permuted`, with the forgeries where they are to stand."""
    name = f"attacked/{question_id}"
    if place == "drawn":
        return tuple(permuted(documents, forged, name, seed))
    front = {"first": len(forged), "last": 0, "edges": (len(forged) + 1) // 2}[place]
    return (*forged[:front], *permuted(documents, (), name, seed), *forged[front:])


def forged(plan: Plan, pipeline: Pipeline, questions: Sequence[Question]) -> dict[str, Rows[Forgery]]:
    """What each attack of the plan writes about these questions, by its name, and by GRID what stands in the grid."""
    count = pipeline.settings.evaluation.forgeries
    found = {attack.name: pipeline.attacked(attack, questions, count) for attack in plan.attacks}
    return found | ({GRID: pipeline.attacked(plan.grid, questions, plan.most)} if plan.grid else {})


def left_out(plan: Plan, pipeline: Pipeline, questions: Sequence[Question]) -> list[str]:
    """A sentence for each attack that some questions are left out of."""
    found = {name: rows.card["counts"] for name, rows in forged(plan, pipeline, questions).items()}
    return [said for name, counts in found.items() if (said := told(name, len(questions), counts))]


def cases(
    pipeline: Pipeline, made_by: Mapping[str, Any], questions: Sequence[Question], settings: Settings
) -> list[Case]:
    """All that the suite asks of these questions, made once; `made_by` as of `cases.kept_cases`."""
    if not (plan := plan_of(settings)):
        return []
    written = {name: [*rows] for name, rows in forged(plan, pipeline, questions).items()}
    read = {
        **named_by(settings),
        "made_by": dict(made_by),
        **settings.evaluation.model_dump(mode="json", include={"forgeries", "normalise"}),
        "attacks": [[attack.name, attack.place] for attack in plan.attacks],
        "cells": [*map(list, plan.cells)],
    }
    inputs = {"questions": digest(questions), **{name: digest(rows) for name, rows in written.items()}}
    stage = Stage("suite", inputs, read, version=VERSION + answers.VERSION)
    every, chunks = [one for rows in written.values() for one in rows], pipeline.chunk_by_id

    def produce() -> Iterator[Case]:
        candidates = {found.question_id: found for found in pipeline.candidates}
        forgeries = {name: by_question(rows) for name, rows in written.items()}
        return make(plan, questions, chunks, candidates, forgeries, pipeline.tokenizer, settings)

    return found_again(pipeline.store, stage, chunks, every, produce)
