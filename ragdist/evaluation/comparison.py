"""Finished runs against each other, question by question: `ragdist report RUN RUN...`.

Of each run one model is taken. The first run is what the others are compared with, over the questions that both were
asked under one condition, by one metric; a flip is a question that one has right and the other wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from ragdist.errors import ConfigError
from ragdist.evaluation import intervals, kept_answers
from ragdist.evaluation.intervals import Change, Interval, interval, note, together
from ragdist.evaluation.report import LISTS, NAMES, Told, sentences
from ragdist.evaluation.sheet import (
    COLOURS,
    Block,
    Mark,
    Notes,
    Picture,
    Quote,
    Series,
    Sheet,
    Table,
    Value,
    counted,
    plain,
)

COLUMNS: dict[str, str] = {"subspan": "subspan_em", "em": "exact_match", "f1": "f1"}
Metric = Literal["subspan", "em", "f1"]
RESAMPLES, SEED = 10_000, 0
MOST_FLIPS = 20
"""Of each pair and condition in tables; `--json` and the page have all."""
Key = tuple[str, str]
"""Question and condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A question that one run has right and the other wrong. Example: Flip(question_id="77...", fixed=True, ...)."""

    after: str
    """The run that is compared with the first."""
    condition: str
    question_id: str
    question: str
    answers: tuple[str, ...]
    """The right ones."""
    fixed: bool
    """Right in `after` and wrong in the first run; else the other way round."""
    said_before: str
    said_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A run against the first, under one condition."""

    change: Change
    before: Interval
    after: Interval
    same_documents: int
    """Questions with which both were shown the same documents in the same order."""
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs, corrected together."""

    models: Mapping[str, str]
    """Which model of each run, by the run's name."""
    metric: Metric
    pairs: Sequence[Pair]
    answers: pa.Table
    """Of these models, with the run's name for the model's, where the questions are shared."""

    def sheet(self) -> Sheet:
        """What is shown of it."""
        first, *others = self.models
        title = f"{', '.join(others)} against {first}"
        lines = sentences([Told(_list(pair), pair.change, pair.before, pair.after) for pair in self.pairs])
        tables: list[Block] = [_table(self), Notes(lines=_notes(self)), _flips(self.pairs), _bars(self)]
        return Sheet(tables, as_json(self), title, lines)


def compare(runs: Mapping[str, pa.Table], metric: Metric = "subspan", model: str = "") -> Comparison:
    """The first run against each other.

    Args:
        runs: their answers by name, two or more.
        metric: that answers are compared by.
        model: of which model, where runs have several; empty takes the last that each asked.

    Raises:
        ConfigError: a run has no such model, or two have no question under the same condition in common.
    """
    models = {name: _model(name, answers, model) for name, answers in runs.items()}
    rows = {name: _rows(answers, models[name]) for name, answers in runs.items()}
    first, *others = rows
    pairs: list[Pair] = []
    shared: dict[str, list[Mapping[str, Any]]] = {name: [] for name in rows}
    for name in others:
        keys = [key for key in rows[first] if key in rows[name]]
        if not keys:
            raise ConfigError(
                f"{first} and {name} have no question under the same condition in common: {first} has "
                f"{_conditions(rows[first])}, {name} has {_conditions(rows[name])}; compare runs "
                "of the same test questions"
            )
        shared[first] += [rows[first][key] for key in keys]
        shared[name] = [rows[name][key] for key in keys]
        for condition in dict.fromkeys(condition for _, condition in keys):
            both = [(rows[first][key], rows[name][key]) for key in keys if key[1] == condition]
            pairs.append(_pair((first, name, condition), both, metric))
    changes = together([pair.change for pair in pairs])
    once = {name: {(row["question_id"], row["condition"]): row for row in found} for name, found in shared.items()}
    kept = [{**row, "model": name} for name, found in once.items() for row in found.values()]
    return Comparison(
        models,
        metric,
        [replace(pair, change=change) for pair, change in zip(pairs, changes, strict=True)],
        pa.Table.from_pylist(kept, kept_answers.SCHEMA),
    )


def _model(name: str, answers: pa.Table, wanted: str) -> str:
    models = list(dict.fromkeys(answers["model"].to_pylist()))
    if not models:
        raise ConfigError(f"{name} has no answer: nothing was asked; set evaluation.conditions and run it again")
    if wanted and wanted not in models:
        raise ConfigError(f"{name} has no model {wanted!r}; it has {', '.join(map(repr, models))}: set --model to one")
    return str(wanted or models[-1])


def _rows(answers: pa.Table, model: str) -> dict[Key, dict[str, Any]]:
    """The model's answers; where several seeds asked a question, the first one's with the mean of the scores."""
    groups: dict[Key, list[dict[str, Any]]] = {}
    for row in answers.to_pylist():
        if row["model"] == model:
            groups.setdefault((row["question_id"], row["condition"]), []).append(row)
    return {
        key: found[0] | {name: sum(row[name] for row in found) / len(found) for name in COLUMNS.values()}
        for key, found in groups.items()
    }


def _conditions(rows: Mapping[Key, object]) -> str:
    names = list(dict.fromkeys(condition for _, condition in rows))
    return f"{counted(len({question for question, _ in rows}))} under {', '.join(names)}"


def _pair(names: tuple[str, str, str], both: Sequence[tuple[Mapping[str, Any], ...]], metric: Metric) -> Pair:
    first, name, condition = names
    column = COLUMNS[metric]
    old, new = ([float(rows[at][column]) for rows in both] for at in (0, 1))
    return Pair(
        change=intervals.compare(
            old, new, RESAMPLES, SEED, before=first, after=name, condition=condition, metric=metric
        ),
        before=interval(old, RESAMPLES, SEED),
        after=interval(new, RESAMPLES, SEED),
        same_documents=sum(one["documents"] == other["documents"] for one, other in both),
        flips=tuple(
            Flip(
                after=name,
                condition=condition,
                question_id=one["question_id"],
                question=one["question"],
                answers=tuple(one["answers"]),
                fixed=other[column] >= 1.0,
                said_before=one["answer"],
                said_after=other["answer"],
            )
            for one, other in both
            if (one[column] >= 1.0) != (other[column] >= 1.0)
        ),
    )


def as_json(found: Comparison) -> dict[str, Any]:
    """All numbers and every flip: `runs`, `metric`, `pairs`."""
    pairs = [
        plain(pair.change)
        | {"shown": pair.change.shown, "score_before": pair.before._asdict(), "score_after": pair.after._asdict()}
        | {"same_documents": pair.same_documents, "flips": [plain(flip) for flip in pair.flips]}
        for pair in found.pairs
    ]
    return {"runs": dict(found.models), "metric": found.metric, "pairs": pairs}


def _list(pair: Pair) -> str:
    return LISTS.get(pair.change.condition, pair.change.condition)


def _table(found: Comparison) -> Table:
    first = next(iter(found.models))
    rows: list[list[str | Value]] = []
    for pair in found.pairs:
        fixed = sum(flip.fixed for flip in pair.flips)
        counts = str(pair.change.rows), f"{fixed} / {len(pair.flips) - fixed}"
        rows.append(
            [pair.change.after, _list(pair), Value(pair.before), Value(pair.after), pair.change.verdict, *counts]
        )
    heads = ("run", "condition", first, "run's own", f"change from {first}", "questions", "fixed / broken")
    return Table(title=f"{NAMES[found.metric]}, the same questions paired", columns=heads, rows=rows)


def _notes(found: Comparison) -> list[str]:
    out = ["; ".join(f"{name}: model {model}" for name, model in found.models.items()) + "."]
    for pair in found.pairs:
        if pair.same_documents < pair.change.rows:
            out.append(
                f"{pair.change.after}, {_list(pair)}: {pair.same_documents} of {pair.change.rows} questions came "
                "with the same documents in both runs."
            )
        if len(pair.flips) > MOST_FLIPS:
            out.append(
                f"{pair.change.after}, {_list(pair)}: {MOST_FLIPS} of {len(pair.flips)} flips are listed; --json and "
                "the page (--output) have all."
            )
    said = note([pair.change for pair in found.pairs])
    return [*out, said] if said else out


def _flips(pairs: Sequence[Pair]) -> Table:
    first = pairs[0].change.before
    rows = [
        (
            *(flip.after, _list(pair), "fixed" if flip.fixed else "broken"),
            *map(Quote, (flip.question, " or ".join(flip.answers), flip.said_before, flip.said_after)),
        )
        for pair in pairs
        for flip in pair.flips[:MOST_FLIPS]
    ]
    heads = ("run", "condition", "flip", "question", "right", f"{first} said", "run said")
    return Table(title="Flips", columns=heads, rows=rows)


def _bars(found: Comparison) -> Picture:
    """The first run and each other under each condition, over the questions that the pair shares."""
    first, *others = found.models
    ticks = [f"{_list(pair)}, {pair.change.after}" if len(others) > 1 else _list(pair) for pair in found.pairs]
    sides = {
        first: [Mark(at, pair.before) for at, pair in enumerate(found.pairs)],
        others[0] if len(others) == 1 else "the other": [Mark(at, pair.after) for at, pair in enumerate(found.pairs)],
    }
    series = [
        Series(label=name, marks=marks, form="bars", colour=COLOURS[number])
        for number, (name, marks) in enumerate(sides.items())
    ]
    return Picture(title="95% intervals", series=series, ticks=ticks, y=NAMES[found.metric])
