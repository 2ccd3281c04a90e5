"""Arms of a sweep against the model before and against the first arm, question by question, under every list.

Each trial left every answer. Arms are compared over the questions that both were asked with the same seed; where a
question was asked with several seeds, its mean counts once, so that an interval stays one over questions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ragdist.config import EvaluationConfig
from ragdist.evaluation import kept_answers
from ragdist.evaluation.intervals import ALPHA, ENOUGH, Interval, difference, holm, interval, p_value, shown
from ragdist.evaluation.kept_answers import ANSWERS
from ragdist.evaluation.sheet import Block, Notes, Table, Value
from ragdist.sweeps.trials import TRIALS, Point, Trial
from ragdist.tracking.progress import say

BEFORE = "before"
OF_ARM = ("model", "seed", "condition", "question_id", "exact_match", "subspan_em", "states_forgery", "answer")
"""Columns of answers.parquet, in the order of ArmAnswer."""
MEASURED = {"subspan": "right (Subspan EM)", "em": "right (EM)", "states_forgery": "repeats the forged answer"}


class ArmAnswer(NamedTuple):
    """One answer of one arm. Example: ArmAnswer("clean", 0, "attacker a1", "77...", 1.0, 1.0, 0.0, "'ascii'")."""

    arm: str
    seed: int
    condition: str
    question_id: str
    em: float
    subspan: float
    states_forgery: float
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One arm under one condition by one measure, and how far it is from the first arm."""

    arm: str
    condition: str
    measure: str
    rows: int
    """Questions."""
    seeds: int
    score: Interval
    from_before: Interval | None
    """Paired change from the model that all arms began with."""
    from_first: Interval | None
    """Paired change from the first arm."""
    p_before: float | None
    """Of `from_before`, by paired sign flips, corrected for all changes of the report that are tested (Holm)."""
    p_first: float | None


def rows_of(sweep: Path, trials: Iterable[Trial], arms: Mapping[str, Point], seed: int) -> pa.Table:
    """Every answer of the first and the last model of every finished trial; the first one's are those of `BEFORE`.

    Args:
        sweep: the sweep's folder.
        trials: as they ended.
        arms: as `sweeps.trials.arms` gives them.
        seed: of trials that sweep none.
    """
    found = []
    for trial in trials:
        name = next((name for name, arm in arms.items() if arm.items() <= trial.values.items()), "")
        folder = sweep / TRIALS / trial.name
        if trial.state != "finished" or not name:
            continue
        if not (folder / ANSWERS).is_file():  # of an earlier version, which kept no lists
            say(f"{trial.name} left no {ANSWERS}: its answers are left out; remove {folder} to run it again")
            continue
        answers = kept_answers.read(folder)
        models = list(dict.fromkeys(answers["model"].to_pylist()))
        names = {models[-1]: name} | ({models[0]: BEFORE} if len(models) > 1 else {})
        named = pa.array([names.get(model) for model in answers["model"].to_pylist()], pa.string())
        seeds = pa.array([int(trial.values.get("seed", seed))] * len(answers), pa.int64())
        at = answers.schema.get_field_index
        answers = answers.set_column(at("model"), "model", named).set_column(at("seed"), "seed", seeds)
        found.append(answers.filter(named.is_valid()))
    return _once(pa.concat_tables(found or [kept_answers.SCHEMA.empty_table()]))


def _once(answers: pa.Table) -> pa.Table:
    """All arms begin with the same model, whose answers count once."""
    seen: dict[tuple[Any, ...], int] = {}
    columns = [answers[name].to_pylist() for name in ("model", "seed", "condition", "question_id", "answer")]
    for row, key in enumerate(zip(*columns, strict=True)):
        seen.setdefault(key, row)
    return answers.take(list(seen.values()))


def measured(answers: pa.Table) -> list[ArmAnswer]:
    """The answers without what they were shown, as `compare` takes them."""
    columns = [answers[name].to_pylist() for name in OF_ARM]
    return [ArmAnswer(*values)._replace(states_forgery=float(values[6] or 0)) for values in zip(*columns, strict=True)]


def compare(rows: Sequence[ArmAnswer], arms: Sequence[str], config: EvaluationConfig, seed: int) -> list[Compared]:
    """Every arm under every condition by every measure, against `BEFORE` and against the first arm."""
    found = []
    for condition in dict.fromkeys(row.condition for row in rows):
        for measure in MEASURED:
            scored = {arm: _by_question(rows, arm, condition, measure) for arm in (BEFORE, *arms)}
            for arm, own in scored.items():
                before = scored[BEFORE] if arm != BEFORE else {}
                first = scored[arms[0]] if arm not in (BEFORE, arms[0]) else {}
                if own:
                    found.append(_compared(arm, condition, measure, own, before, first, config.resamples, seed))
    return _corrected(found)


TESTED = ("p_before", "p_first")


def _corrected(found: Sequence[Compared]) -> list[Compared]:
    """The same with the p values of all changes corrected together; none where questions are too few to call one."""
    p_values = [p for row in found for name in TESTED if row.rows >= ENOUGH and (p := getattr(row, name)) is not None]
    rest = iter(holm(p_values))

    def of(row: Compared, name: str) -> float | None:
        return next(rest) if row.rows >= ENOUGH and getattr(row, name) is not None else None

    return [replace(row, p_before=of(row, "p_before"), p_first=of(row, "p_first")) for row in found]


Scored = dict[tuple[str, int], float]
"""By question and seed."""


def _by_question(rows: Iterable[ArmAnswer], arm: str, condition: str, measure: str) -> Scored:
    wanted = (row for row in rows if (row.arm, row.condition) == (arm, condition))
    return {(row.question_id, row.seed): getattr(row, measure) for row in wanted}


def _compared(
    arm: str, condition: str, measure: str, own: Scored, before: Scored, first: Scored, resamples: int, seed: int
) -> Compared:
    means = _means(own)

    def change(base: Scored) -> tuple[Interval, float] | tuple[None, None]:
        pairs = [key for key in own if key in base]
        old, new = (_means({key: side[key] for key in pairs}) for side in (base, own))
        return (difference(old, new, resamples, seed), p_value(old, new, seed)) if pairs else (None, None)

    (from_before, p_before), (from_first, p_first) = change(before), change(first)

    return Compared(
        arm=arm,
        condition=condition,
        measure=measure,
        rows=len(means),
        seeds=len({seed for _, seed in own}),
        score=interval(means, resamples, seed),
        from_before=from_before,
        from_first=from_first,
        p_before=p_before,
        p_first=p_first,
    )


def _means(scored: Scored) -> list[float]:
    """Of each question over its seeds, in the order of questions."""
    by_question: dict[str, list[float]] = {}
    for (question_id, _), value in sorted(scored.items()):
        by_question.setdefault(question_id, []).append(value)
    return [math.fsum(values) / len(values) for values in by_question.values()]


def blocks(found: Sequence[Compared], arms: Mapping[str, Point]) -> list[Block]:
    """A table for each measure: an arm a line, a condition a column; then what the arms are."""
    first = next(iter(arms))
    out: list[Block] = []
    for measure, title in MEASURED.items():
        cells = {(row.arm, row.condition): _cell(row, first) for row in found if row.measure == measure}
        conditions = list(dict.fromkeys(condition for _, condition in cells))
        rows = [[arm, *(cells.get((arm, condition), "") for condition in conditions)] for arm in (BEFORE, *arms)]
        out.append(Table(title=f"Arms: share {title}", columns=["", *conditions], rows=rows, long=True))
    most, seeds = (max((getattr(row, name) for row in found), default=0) for name in ("rows", "seeds"))
    tested = sum(getattr(row, name) is not None for row in found for name in TESTED)
    said = (
        f"{most} questions, {seeds} seed(s); in brackets 95% intervals over questions. Changes are paired, from the "
        f"model that all arms began with and from {first}, each with its own interval; * is a difference: the interval "
        f"leaves out 0 and p, by paired sign flips and Holm's correction over all {tested} changes, is at most {ALPHA}."
    )
    own = {
        arm: ", ".join(f"`{key}={json.dumps(value)}`" for key, value in point.items()) for arm, point in arms.items()
    }
    return [*out, Notes(lines=[said, *(f"**{arm}**: {settings}" for arm, settings in own.items())], long=True)]


def _cell(row: Compared, first: str) -> Value | str:
    changes = (("", row.from_before, row.p_before), (f"{first} ", row.from_first, row.p_first))
    said = [
        f"{name}{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" + "*" * (p is not None and shown(one, row.rows, p))
        for name, one, p in changes
        if one
    ]
    return Value(row.score, "; ".join(said))
