"""What ATM's sides do to each other on held-out questions, round by round, summed up.

Each version g of the generator meets attacker g, then the newer attacker g + 1 that learned to hurt it; then it learns
itself. The stages of a report are those meetings: `before`, `round 1, new attacker`, `after round 1`, and so on.
`report.py` says what is shown of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ragdist.config import EvaluationConfig
from ragdist.draws import draw
from ragdist.evaluation.intervals import Bounds, Change, compare, interval, together
from ragdist.evaluation.report import METRICS, Attack, Metric
from ragdist.evaluation.summary import accuracy, losses
from ragdist.records import Forgery, Grade, OpenQuestion, Prediction
from ragdist.storage.tables import rows_at
from ragdist.systems.atm.asking import Condition
from ragdist.systems.atm.report import (
    COMPARED,
    CONDITIONS,
    Beside,
    Forged,
    Inflicted,
    Rounds,
    StageAccuracy,
    place,
)

ATTACKS: tuple[Condition, ...] = ("template", "attacker")
RIGHT_OR_WRONG: tuple[Metric, ...] = ("subspan", "em")
ASKED = ("attacked", "clean", "template")
"""Kinds of folders that hold answers."""
EXAMPLES = 3
SHORT = 300
"""Characters of a text beside another."""


class Matchup(NamedTuple):
    """A generator and what it met; attacker -1: nothing, or the template. Example: Matchup(generator=0, attacker=1)."""

    generator: int
    attacker: int

    @property
    def stage(self) -> str:
        """As people count. Example: `round 1, new attacker`."""
        if self.attacker > self.generator:
            return f"round {self.attacker}, new attacker"
        return f"after round {self.generator}" if self.generator else "before"


AnswersById = dict[str, Prediction]
"""By question."""
Compare = Callable[..., Change]
"""`intervals.compare` with its resamples and its seed."""


def summarise(folder: Path, config: EvaluationConfig, seed: int, questions: Iterable[OpenQuestion] = ()) -> Rounds:
    """The report of what a game left in its test folder.

    Args:
        folder: holds `clean-g0/`, `template-g0/`, `attacked-a1-g0/`, `graded-a1-g0/`, `forged-a1/`, with Parquet files.
        config: its `resamples` is read.
        seed: of the intervals and the examples.
        questions: those that were asked, for the examples; may be none.
    """
    asked = [row for kind in ASKED for _, row in read_rows(folder, kind)]
    grades: dict[Matchup, list[Grade]] = {}
    for (attacker, generator), row in read_rows(folder, "graded"):
        grades.setdefault(Matchup(generator, attacker), []).append(row)
    return report(asked, grades, [row for _, row in read_rows(folder, "forged")], config, seed, questions)


def read_rows(folder: Path, kind: str) -> Iterator[tuple[list[int], Any]]:
    """(the versions in the folder's name, row) of all folders of a kind."""
    for path in sorted(folder.glob(f"{kind}-*/*.parquet")):
        versions = [int(number) for number in re.findall(r"-[ag](-?\d+)", path.parent.name)]
        for row in rows_at(path):
            yield versions, row


def report(
    asked: Iterable[Prediction],
    grades: Mapping[Matchup, Sequence[Grade]],
    forgeries: Sequence[Forgery],
    config: EvaluationConfig,
    seed: int,
    questions: Iterable[OpenQuestion] = (),
) -> Rounds:
    """The same from rows in memory; grades by who wrote the forgeries and who read them."""
    groups: dict[tuple[str, Matchup], AnswersById] = {}
    for row in asked:
        groups.setdefault((row.condition, Matchup(row.generator, row.attacker)), {})[row.question_id] = row
    groups = dict(sorted(groups.items(), key=lambda item: (place(item[0][1].stage), CONDITIONS.index(item[0][0]))))
    hurt = {
        meeting: _by_question(grades[meeting]) for meeting in sorted(grades, key=lambda meeting: place(meeting.stage))
    }
    bounds = partial(interval, resamples=config.resamples, seed=seed)
    change = partial(compare, resamples=config.resamples, seed=seed)
    changes, gains = list(_changes(groups, change)), list(_gains(hurt, change))
    compared = together([*changes, *gains])  # they stand in one table
    return Rounds(
        scores=tuple(_score(condition, meeting, group, bounds) for (condition, meeting), group in groups.items()),
        successes=tuple(
            _success(condition, meeting, control, group, metric, bounds)
            for (condition, meeting), group in groups.items()
            if condition in ATTACKS and (control := groups.get(("permuted", Matchup(meeting.generator, -1))))
            for metric in RIGHT_OR_WRONG
        ),
        changes=compared[: len(changes)],
        inflicted=tuple(_inflicted(meeting, logs, grades[meeting], bounds) for meeting, logs in hurt.items() if logs),
        gains=compared[len(changes) :],
        forged=tuple(_forged(forgeries)),
        examples=tuple(_examples(questions, forgeries, seed)),
    )


def _score(condition: str, meeting: Matchup, group: AnswersById, bounds: Bounds) -> StageAccuracy:
    rows = list(group.values())
    repeated = bounds([float(row.states_forgery or 0) for row in rows])
    return StageAccuracy(
        model=meeting.stage,
        condition=condition,
        attacker=meeting.attacker,
        states_forgery=repeated,
        **accuracy(rows, bounds),
    )


def _success(
    condition: str, meeting: Matchup, control: AnswersById, attacked: AnswersById, metric: Metric, bounds: Bounds
) -> Attack:
    lost = losses(control, attacked, metric)
    return Attack(
        model=meeting.stage,
        condition=condition,
        attacker=meeting.attacker,
        metric=metric,
        rows=len(lost),
        success=bounds(lost) if lost else None,
    )


def _changes(groups: Mapping[tuple[str, Matchup], AnswersById], change: Compare) -> Iterator[Change]:
    """Each stage against the first and against the one before it, under the same condition."""
    for condition in COMPARED:
        played = [(meeting.stage, group) for (name, meeting), group in groups.items() if name == condition]
        for number, (after, group) in enumerate(played[1:], 1):
            for before, old in dict([played[0], played[number - 1]]).items():
                shared = [key for key in old if key in group]
                for metric in METRICS if shared else ():
                    one, two = ([getattr(rows[key], metric) for key in shared] for rows in (old, group))
                    names = {"before": before, "after": after, "condition": condition, "metric": metric}
                    yield change(one, two, **names)


def _gains(hurt: Mapping[Matchup, Mapping[str, list[float]]], change: Compare) -> Iterator[Change]:
    """Each stage against the one before it: first the attacker learned, then the generator."""
    played = list(hurt.items())
    for (before, old), (after, new) in pairwise(played):
        shared = [key for key in old if key in new]
        for metric, mean in MEANS.items() if shared else ():
            one, two = ([mean(rows[key]) for key in shared] for rows in (old, new))
            names = {"before": before.stage, "after": after.stage, "condition": "forgery alone", "metric": metric}
            yield change(one, two, **names)


def _by_question(grades: Iterable[Grade]) -> dict[str, list[float]]:
    """Logarithms of the finite perplexities of each question's forgeries."""
    found: dict[str, list[float]] = {}
    for grade in grades:
        if math.isfinite(grade.perplexity):
            found.setdefault(grade.question_id, []).append(math.log(grade.perplexity))
    return found


def _inflicted(meeting: Matchup, logs: Mapping[str, list[float]], grades: Sequence[Grade], bounds: Bounds) -> Inflicted:
    used = sum(map(len, logs.values()))
    means = {name: bounds([mean(rows) for rows in logs.values()]) for name, mean in MEANS.items()}
    return Inflicted(
        model=meeting.stage,
        attacker=meeting.attacker,
        generator=meeting.generator,
        rows=len(logs),
        forgeries=used,
        broken=len(grades) - used,
        **means,
    )


def _forged(forgeries: Iterable[Forgery]) -> Iterator[Forged]:
    groups: dict[int, list[Forgery]] = {}
    for forgery in forgeries:
        groups.setdefault(forgery.attacker, []).append(forgery)
    for attacker, rows in sorted(groups.items()):
        argued = [row.stated for row in rows if row.states]
        yield Forged(
            attacker=attacker,
            rows=len(rows),
            stated=sum(argued) / len(argued) if argued else None,
            truthful=sum(row.truthful for row in rows) / len(rows),
        )


def _examples(questions: Iterable[OpenQuestion], forgeries: Sequence[Forgery], seed: int) -> Iterator[Beside]:
    """Of the newest attacker: the first forgery of each of a few questions, drawn by seed."""
    newest = max((forgery.attacker for forgery in forgeries), default=0)
    first = {row.question_id: row for row in reversed(forgeries) if row.attacker == newest}
    known = [question for question in questions if question.id in first]
    for question in sorted(known, key=lambda question: draw(seed, "beside", question.id))[:EXAMPLES]:
        forgery = first[question.id]
        at = (*question.oracle_positions, 0)[0]
        yield Beside(
            question=question.text,
            right=" or ".join(question.answers),
            wrong=forgery.states,
            truth=_shortened(question.texts[at]) if question.texts else "",
            forgery=_shortened(forgery.text),
            attacker=newest,
        )


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHORT else f"{flat[:SHORT].rstrip()} ..."


def _mean(logs: Sequence[float]) -> float:
    return math.fsum(logs) / len(logs)


MEANS = {"perplexity": lambda logs: _mean([math.exp(log) for log in logs]), "log_perplexity": _mean}
"""A question's number from the logarithms of its forgeries."""
