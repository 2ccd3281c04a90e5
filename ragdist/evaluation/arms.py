"""Arms of a sweep against the first of them, question by question: who is right more often, and under which list.

Each trial left every answer. Arms are compared over the questions that both were asked with the same seed; where a
question was asked with several seeds, its mean counts once, so that an interval stays one over questions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist.config import Settings
from ragdist.evaluation.intervals import Interval, difference, interval, note, p_value, together, verdict
from ragdist.evaluation.report import bounds, grid
from ragdist.parquet import rows_at
from ragdist.store import translate_errors
from ragdist.trials import TRIALS, Point, Trial

ANSWERS = "answers.parquet"
MEASURED = {"em": "right (EM)", "subspan": "right (Subspan EM)", "states_forgery": "repeats the forged answer"}


class Row(NamedTuple):
    """One answer of one arm. Example: Row("clean", 0, "attacker a1", "77...", 1.0, 1.0, 0.0, "'ascii'")."""

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
    """Questions; where it is compared, those that the first arm was asked too."""
    seeds: int
    score: Interval
    change: Interval | None
    """Paired; None for the first arm."""
    p: float
    """Of this comparison alone, by paired sign flips; 1 for the first arm."""
    corrected: float
    """The same for all comparisons of the report (Holm)."""
    verdict: str


def rows_of(job: str, sweep: Path, trials: Iterable[Trial], arms: Mapping[str, Point], seed: int) -> list[Row]:
    """Every answer of the last model of every finished trial.

    Args:
        job: raft or atm.
        sweep: the sweep's folder.
        trials: as they ended.
        arms: as `trials.arms` gives them.
        seed: of trials that sweep none.
    """
    found = []
    for trial in trials:
        name = next((name for name, arm in arms.items() if arm.items() <= trial.values.items()), "")
        if trial.state == "finished" and name:
            folder = sweep / TRIALS / trial.name
            answered = _rounds(folder / "atm" / "test") if job == "atm" else _predictions(folder / "evaluation")
            found += [
                Row(
                    name,
                    int(trial.values.get("seed", seed)),
                    condition,
                    row["question_id"],
                    row["em"],
                    row["subspan"],
                    float(row["states_forgery"] or 0),
                    row["answer"],
                )
                for condition, row in answered
            ]
    return found


def _rounds(test: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the newest generator of a game answered, under each list that it was asked with."""
    asked = [(path, *map(int, found.groups("-1"))) for path in test.iterdir() if (found := _ASKED.fullmatch(path.name))]
    newest = max((generator for _, _, generator in asked), default=-1)
    for folder, attacker, generator in sorted(asked):
        if generator == newest:
            for row in (row for path in sorted(folder.glob("*.parquet")) for row in rows_at(path)):
                yield row.condition if attacker < 0 else f"attacker {attacker}", asdict(row)


_ASKED = re.compile(r"[a-z]+-(?:a(\d+)-)?g(\d+)")


def _predictions(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What RAFT's tuned model answered."""
    for line in (folder / "RAFT.jsonl").read_text().splitlines()[1:]:
        row = json.loads(line)
        yield row["condition"], row


def compare(rows: Sequence[Row], arms: Sequence[str], settings: Settings) -> list[Compared]:
    """Every arm under every condition by every measure, the first arm first."""
    found = []
    for condition in dict.fromkeys(row.condition for row in rows):
        for measure in MEASURED:
            scored = {arm: _by_question(rows, arm, condition, measure) for arm in arms}
            found += [
                _compared(arm, condition, measure, scored[arms[0]] if number else {}, scored[arm], settings)
                for number, arm in enumerate(arms)
                if scored[arm]
            ]
    changes = iter(together([row for row in found if row.change]))
    return [next(changes) if row.change else row for row in found]


Scored = dict[tuple[str, int], float]
"""By question and seed."""


def _by_question(rows: Iterable[Row], arm: str, condition: str, measure: str) -> Scored:
    wanted = (row for row in rows if (row.arm, row.condition) == (arm, condition))
    return {(row.question_id, row.seed): getattr(row, measure) for row in wanted}


def _compared(arm: str, condition: str, measure: str, base: Scored, own: Scored, settings: Settings) -> Compared:
    resamples, seed = settings.evaluation.resamples, settings.seed
    pairs = [key for key in own if key in base]
    means = _means({key: own[key] for key in own})
    change, said, p, count = None, "", 1.0, len(means)
    if pairs:
        old, new = (_means({key: side[key] for key in pairs}) for side in (base, own))
        change = difference(old, new, resamples, seed)
        p, count = p_value(old, new, seed), len(old)
        said = verdict(change, count, p)
    return Compared(
        arm=arm,
        condition=condition,
        measure=measure,
        rows=count,
        seeds=len({seed for _, seed in own}),
        score=interval(means, resamples, seed),
        change=change,
        p=p,
        corrected=p,
        verdict=said,
    )


def _means(scored: Scored) -> list[float]:
    """Of each question over its seeds, in the order of questions."""
    by_question: dict[str, list[float]] = {}
    for (question_id, _), value in sorted(scored.items()):
        by_question.setdefault(question_id, []).append(value)
    return [math.fsum(values) / len(values) for values in by_question.values()]


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Every answer as `answers.parquet`.

    Raises:
        StorageError: the folder cannot be written.
    """
    columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    with translate_errors(folder):
        pq.write_table(pa.table(columns), folder / ANSWERS)
    return folder / ANSWERS


def markdown(found: Sequence[Compared], arms: Mapping[str, Point]) -> str:
    """A table for each measure: an arm a line, a condition a column; then what the arms are."""
    parts = []
    for measure, title in MEASURED.items():
        some = [row for row in found if row.measure == measure]
        conditions = list(dict.fromkeys(row.condition for row in some))
        cells = {(row.arm, row.condition): _cell(row) for row in some}
        body = [[arm, *(cells.get((arm, condition), "") for condition in conditions)] for arm in arms]
        parts += [f"Share {title}:", grid(["", *conditions], body)]
    first = next(iter(arms))
    said = [
        f"- **{arm}**: "
        + (", ".join(f"`{key}={json.dumps(value)}`" for key, value in point.items()) or "as the settings say")
        for arm, point in arms.items()
    ]
    rows = found[0].rows if found else 0
    said_of = f"{rows} questions. In brackets the 95% interval; behind it the paired change from {first} with its own."
    counted = note([row for row in found if row.change])
    return "\n\n".join([*parts, f"{said_of} {counted}".rstrip(), "\n".join(said)])


def _cell(row: Compared) -> str:
    own = f"{row.score.mean:.2f} ({bounds(row.score)})"
    return own if row.change is None else f"{own}; {row.verdict}"
