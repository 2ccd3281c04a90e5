"""How far models go wrong when retrieval is wrong: each attack, each list of the grid, and single numbers for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from ragdist.config import Settings
from ragdist.evaluation import intervals
from ragdist.evaluation.intervals import Bounds, Change, Interval, together
from ragdist.evaluation.sheet import plain
from ragdist.evaluation.suite import Cell, Plan
from ragdist.records import Prediction

METRIC = "subspan"
RECALLS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of questions whose oracle retrieval finds."""
Answers = dict[str, Prediction]
"""Of one model under one condition, by question id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faced:
    """How one model fares in a list with forgeries, beside the same list without; the same questions.

    Example: Faced(model="RAFT", name="flood", rows=100, accuracy=Interval(0.61, ...), misled=Interval(0.24, ...), ...)
    """

    model: str
    name: str
    """The attack's, or that of the grid's cell."""
    held_out: bool
    """Whether no model may learn from the attack."""
    rows: int
    judged: int
    """Of these, how many are right without the forgeries."""
    clean: Interval
    """Subspan EM without the forgeries."""
    accuracy: Interval
    """The same with them."""
    misled: Interval | None
    """Attack success: of what is right without them, the share that is wrong with them; None where nothing is."""
    repeats: Interval | None
    """Share of answers that repeat what the forgeries state; None where they state nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One number for one model. Example: Single(model="RAFT", of="attacks", worst="flood", rows=100, value=...)."""

    model: str
    of: str
    worst: str
    """Under which it is worst."""
    rows: int
    value: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """How right one model is where retrieval finds the oracle for a share of questions.

    Example: Recalled(model="RAFT", forged=2, recall=0.5, rows=100, value=Interval(0.41, ...))
    """

    model: str
    forged: int
    """Documents of the list that are."""
    recall: float
    rows: int
    value: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """All that the suite found."""

    attacks: tuple[Faced, ...]
    cells: tuple[tuple[Cell, Faced], ...]
    """Those of the grid, also those without forgeries, which are their own control."""
    gaps: tuple[Single, ...]
    """Accuracy without forgeries less that under the worst attack, or in the worst list of the grid."""
    areas: tuple[Single, ...]
    """Mean accuracy over the shares of forged documents: the area below the curve, over its width."""
    recalls: tuple[Recalled, ...]
    """Accuracy over retrieval recall: each question counts with its oracle and without, by their shares; nothing is
    asked for it."""
    changes: tuple[Change, ...]
    """Each model against the first, under each attack."""
    notes: tuple[str, ...]
    """Which questions are left out of which attack, and why."""

    @property
    def faced(self) -> list[Faced]:
        """Every list with forgeries."""
        return [*self.attacks, *(faced for cell, faced in self.cells if cell.forged)]


def as_json(found: Robustness) -> dict[str, Any]:
    """All numbers."""
    cells = [plain(faced) | {"cell": cell._asdict()} for cell, faced in found.cells]
    singles = ("attacks", "gaps", "areas", "recalls", "changes")
    named = {name: [*map(plain, getattr(found, name))] for name in singles}
    return {**named, "cells": cells, "notes": [*found.notes]}


def of(asked: Mapping[str, Iterable[Prediction]], plan: Plan, notes: Sequence[str], settings: Settings) -> Robustness:
    """What these answers say; predictions of other conditions are left out.

    Args:
        asked: by label, the untuned model first.
        plan: what the suite asked.
        notes: on what was left out.
        settings: `evaluation.resamples` and the seed are read.
    """
    bounds = partial(intervals.interval, resamples=settings.evaluation.resamples, seed=settings.seed)
    groups: dict[tuple[str, str], Answers] = {}
    for prediction in (one for predictions in asked.values() for one in predictions):
        groups.setdefault((prediction.model, prediction.condition), {})[prediction.question_id] = prediction
    judging = bool(plan.grid and plan.grid.purpose == "judging")
    attacks, cells = list[Faced](), list[tuple[Cell, Faced]]()
    gaps, areas, recalls = list[Single](), list[Single](), list[Recalled]()
    for model in asked:
        mine = {condition: group for (name, condition), group in groups.items() if name == model}
        clean = mine.get("permuted") or mine.get("retrieved", {})  # a service is shown no list
        under = [
            Pair(one.name, one.purpose == "judging", clean, mine.get(one.name, {})).shared() for one in plan.attacks
        ]
        listed = {
            cell: Pair(cell.name, judging, mine.get(cell.control.name, {}), mine.get(cell.name, {})).shared()
            for cell in plan.cells
        }
        listed = {cell: pair for cell, pair in listed.items() if pair.forged}
        attacks += [_faced(model, pair, bounds) for pair in under if pair.forged]
        cells += [(cell, _faced(model, pair, bounds)) for cell, pair in listed.items()]
        gaps += _gap(model, "attacks", under, settings)
        gaps += _gap(model, "grid", [pair for cell, pair in listed.items() if cell.forged], settings)
        recalls += _recalls(model, {cell: pair.forged for cell, pair in listed.items()}, bounds)
        areas += _area(model, {cell: listed[cell].forged for cell in curve(listed)}, bounds)
    return Robustness(
        attacks=tuple(attacks),
        cells=tuple(cells),
        gaps=tuple(gaps),
        areas=tuple(areas),
        recalls=tuple(recalls),
        changes=_changes(asked, plan, groups, settings),
        notes=tuple(notes),
    )


def curve(found: Iterable[Cell]) -> list[Cell]:
    """The cells of the longest lists with the oracle and forgeries anywhere, by their number."""
    those = [cell for cell in found if cell.oracle and cell.place == "drawn"]
    most = max((cell.documents for cell in those), default=0)
    return sorted(cell for cell in those if cell.documents == most)


class Pair(NamedTuple):
    """Answers to the same questions without forgeries and with them."""

    name: str
    held_out: bool
    clean: Answers
    forged: Answers

    def shared(self) -> Pair:
        """Those questions alone that were asked both ways."""
        both = [key for key in self.forged if key in self.clean]
        return self._replace(clean={key: self.clean[key] for key in both}, forged={k: self.forged[k] for k in both})


def _faced(model: str, pair: Pair, bounds: Bounds) -> Faced:
    before, after = _right(pair.clean), _right(pair.forged)
    turned = [1.0 - new for old, new in zip(before, after, strict=True) if old == 1.0]
    repeated = [float(one.states_forgery) for one in pair.forged.values() if one.states_forgery is not None]
    return Faced(
        model=model,
        name=pair.name,
        held_out=pair.held_out,
        rows=len(before),
        judged=len(turned),
        clean=bounds(before),
        accuracy=bounds(after),
        misled=bounds(turned) if turned else None,
        repeats=bounds(repeated) if repeated else None,
    )


def _right(group: Answers, keys: Iterable[str] | None = None) -> list[float]:
    return [float(getattr(group[key], METRIC)) for key in (group if keys is None else keys)]


def _gap(model: str, of: str, pairs: Iterable[Pair], settings: Settings) -> list[Single]:
    """Clean less worst, paired over the questions of both; the worst is the one whose gap is widest."""
    gaps, resamples = [], settings.evaluation.resamples
    for pair in pairs:
        if pair.forged:
            value = intervals.difference(_right(pair.forged), _right(pair.clean), resamples, settings.seed)
            gaps.append(Single(model=model, of=of, worst=pair.name, rows=len(pair.forged), value=value))
    return [max(gaps, key=lambda gap: gap.value.mean)] if gaps else []


def _area(model: str, found: Mapping[Cell, Answers], bounds: Bounds) -> list[Single]:
    """By the trapezoidal rule for each question that is in all cells, over the width of the shares."""
    cells = sorted(found, key=lambda cell: cell.share)
    shared = [key for key in found[cells[0]] if all(key in found[cell] for cell in cells)] if len(cells) > 1 else []
    if not shared:
        return []
    width, right = cells[-1].share - cells[0].share, {cell: _right(found[cell], shared) for cell in cells}
    values = [0.0] * len(shared)
    for low, high in pairwise(cells):
        step = (high.share - low.share) / width / 2
        values = [value + step * (a + b) for value, a, b in zip(values, right[low], right[high], strict=True)]
    worst = min(cells, key=lambda cell: sum(right[cell])).name
    return [Single(model=model, of="forged share", worst=worst, rows=len(shared), value=bounds(values))]


def _recalls(model: str, found: Mapping[Cell, Answers], bounds: Bounds) -> list[Recalled]:
    """Over the longest lists, whose oracle is there or absent, with as many forged documents."""
    shown = list[Recalled]()
    for cell in curve(found):
        present, absent = found[cell], found.get(cell._replace(oracle=False), {})
        both = [key for key in present if key in absent]
        pairs = list(zip(_right(present, both), _right(absent, both), strict=True))
        for recall in RECALLS if both else ():
            value = bounds([recall * there + (1 - recall) * gone for there, gone in pairs])
            shown.append(Recalled(model=model, forged=cell.forged, recall=recall, rows=len(both), value=value))
    return shown


def _changes(
    asked: Iterable[str], plan: Plan, groups: Mapping[tuple[str, str], Answers], settings: Settings
) -> tuple[Change, ...]:
    first, *others = asked
    found = []
    for model in others:
        for attack in plan.attacks:
            old, new = (groups.get((name, attack.name), {}) for name in (first, model))
            if shared := [key for key in old if key in new]:
                names = {"before": first, "after": model, "condition": attack.name, "metric": METRIC}
                before, after = _right(old, shared), _right(new, shared)
                resamples, seed = settings.evaluation.resamples, settings.seed
                found.append(intervals.compare(before, after, resamples, seed, **names))
    return together(found)
