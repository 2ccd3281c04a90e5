"""The report on ATM's rounds: its records, and what is shown of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from ragdist.evaluation.intervals import ENOUGH, Change, Interval, note
from ragdist.evaluation.report import HEADLINE, NAMES, SCORES, SCORES_MEAN, Accuracy, Attack, Told, sentences, value
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
from ragdist.systems.atm.asking import Condition

CONDITIONS: tuple[Condition, ...] = get_args(Condition)
COMPARED: tuple[Condition, ...] = ("clean", "template", "attacker")
"""Those that stages are compared under; the permuted list is the control that attack success is measured against."""
SHOWN: tuple[Condition, ...] = ("clean", "permuted", "template", "attacker")
"""Those with a column; answers without oracles are in the summary and in tables of arms."""
TITLES = {
    "clean": "clean list",
    "permuted": "clean list, permuted",
    "absent": "oracle absent",
    "template": "template attack",
    "attacker": "own forgeries",
    "forgery alone": "one forgery alone",
}
METRIC_NAMES = {**NAMES, "perplexity": "perplexity", "log_perplexity": "log perplexity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAccuracy(Accuracy):
    """One stage under one condition. Example: StageAccuracy(model="after round 1", attacker=1, ...)."""

    attacker: int
    states_forgery: Interval
    """Share of answers that repeat the forged answer; on the clean list, the base rate of the template's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflicted:
    """The right answer's perplexity after one forgery alone: its mean over a question's forgeries, then questions."""

    model: str
    """The stage."""
    attacker: int
    generator: int
    rows: int
    forgeries: int
    broken: int
    """Forgeries without a finite number, left out."""
    perplexity: Interval
    log_perplexity: Interval
    """The mean of its logarithm, which outliers do not rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forged:
    """What a version of the attacker wrote. Example: Forged(attacker=1, rows=300, stated=0.63, truthful=0.04)."""

    attacker: int
    rows: int
    stated: float | None
    """Share that states the wrong answer that it was asked to argue for; None where it was told none."""
    truthful: float
    """Share that holds a right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A forgery beside the truth, both shortened."""

    question: str
    right: str
    wrong: str
    """What the forgery was asked to argue for; empty where it was told nothing."""
    truth: str
    """A document that holds the answer, or the first shown where none does."""
    forgery: str
    attacker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """All that a report on rounds shows."""

    scores: tuple[StageAccuracy, ...]
    successes: tuple[Attack, ...]
    changes: tuple[Change, ...]
    inflicted: tuple[Inflicted, ...]
    gains: tuple[Change, ...]
    """Changes of the perplexity that a forgery inflicts, from each stage to the next."""
    forged: tuple[Forged, ...]
    examples: tuple[Beside, ...]
    idle_share: Mapping[str, float] = field(default_factory=dict)
    """Of each group's time, the share in which it waited."""

    @property
    def stages(self) -> list[str]:
        """In the order they were played."""
        return sorted({s.model for s in self.scores} | {s.model for s in self.inflicted}, key=place)

    def score(self, stage: str, condition: str) -> StageAccuracy | None:
        """The score, or None where it was not asked."""
        return next((s for s in self.scores if (s.model, s.condition) == (stage, condition)), None)

    def sheet(self) -> Sheet:
        """What is shown of it."""
        return Sheet(blocks(self), as_json(self), f"ATM, {len(self.stages)} stages", headline(self))


def place(stage: str) -> float:
    """Where the stage stands in the order of play."""
    number = re.search(r"\d+", stage)
    return int(number[0]) - 0.5 * stage.endswith("attacker") if number else 0.0


def blocks(report: Rounds) -> list[Block]:
    """A row for each stage with its notes, every change, forgeries beside the truth; accuracy and harm as curves."""
    heads = (*(TITLES[name] for name in SHOWN), "template success", "own success", "log perplexity")
    return [
        Table(
            title=f"{SCORES}; attack success; perplexity inflicted",
            columns=("", *heads),
            rows=[(stage, *_row(report, stage)) for stage in report.stages],
        ),
        Notes(lines=notes(report)),
        Table(
            title="Changes, the same questions paired",
            columns=("stage", "against", "condition", "metric", "questions", "change"),
            rows=[
                (c.after, c.before, TITLES[c.condition], METRIC_NAMES[c.metric], str(c.rows), c.verdict)
                for c in (*report.changes, *report.gains)
            ],
            long=True,
        ),
        Table(
            title="Forgeries beside the truth",
            columns=("question", "right", "argued for", "true document", "forgery", "attacker"),
            rows=[
                (*map(Quote, (one.question, one.right, one.wrong, one.truth, one.forgery)), str(one.attacker))
                for one in report.examples
            ],
        ),
        *_curves(report),
    ]


def notes(report: Rounds) -> list[str]:
    """What the numbers mean, a sentence each; first whether anything is shown at all."""
    right = [change for change in report.changes if change.metric == HEADLINE]
    logs = [gain for gain in report.gains if gain.metric == "log_perplexity"]
    out = [f"{counted(*(score.rows for score in report.scores))}."]
    out += [conclusion(report), SCORES_MEAN]
    if report.successes:
        out.append("Attack success: right on the permuted clean list, wrong with forgeries strewn into that very list.")
    last = report.stages[-1] if report.stages else ""
    for change in right:
        if change.after == last and change.before == report.stages[0]:
            out.append(f"{change.after} against {change.before}, {TITLES[change.condition]}: {change.verdict}.")
    for change in right:
        if change.condition == "attacker" and change.before.endswith("attacker"):
            out.append(f"{change.after} against {change.before}, the same forgeries: {change.verdict}.")
    for gain in logs:
        what = "log perplexity of the right answer after one forgery"
        out.append(f"{gain.after} against {gain.before}, {what}: {gain.verdict}.")
    out += filter(None, [note([*report.changes, *report.gains])])
    for condition in CONDITIONS:
        shares = [f"{s.model} {s.states_forgery.mean:.0%}" for s in report.scores if s.condition == condition]
        if shares:
            out.append(f"Answers that repeat the forged one, {TITLES[condition]}: {'; '.join(shares)}.")
    for forged in report.forged:
        told = (
            "were told no wrong answer" if forged.stated is None else f"state the wrong answer in {forged.stated:.0%}"
        )
        out.append(f"Forgeries of attacker {forged.attacker} {told}, hold a right answer in {forged.truthful:.0%}.")
    return out


def headline(report: Rounds) -> list[str]:
    """The last generator against the first under each list, then what an attack turned wrong, then how sure that is."""
    first, last = (report.stages[0], report.stages[-1]) if report.stages else ("", "")
    out = []
    for change in report.changes:
        old, new = (report.score(stage, condition) for stage in (first, last) for condition in [_of(change)])
        if (change.metric, change.before, change.after) == (HEADLINE, first, last) and old and new:
            out.append(Told(TITLES[change.condition], change, old.subspan, new.subspan))
    return [*sentences(out), conclusion(report)]


def _of(change: Change) -> Condition:
    return next(name for name in CONDITIONS if name == change.condition)


def conclusion(report: Rounds) -> str:
    """Whether any change may be called a difference; where none may, that this is a null result."""
    found = [change for change in (*report.changes, *report.gains) if change.metric in (HEADLINE, "log_perplexity")]
    differing = sum(change.shown for change in found)
    if not found:
        return "Nothing was compared."
    if differing:
        return f"{differing} of {len(found)} changes in Subspan EM and log perplexity are shown to be differences."
    few = f", each over fewer than {ENOUGH} questions" if all(change.rows < ENOUGH for change in found) else ""
    return f"A null result: none of {len(found)} changes in Subspan EM and log perplexity is a difference{few}."


def as_json(report: Rounds) -> dict[str, Any]:
    """All numbers; `scores` has a row for each stage (`model`) and condition."""
    return {
        "baseline": report.stages[0] if report.stages else "",
        "attack": "attacker",
        "scores": [plain(row) for row in report.scores],
        "attack_success": [plain(row) for row in report.successes],
        "changes": [plain(row) | {"shown": row.shown} for row in report.changes],
        "perplexity": [plain(row) for row in report.inflicted],
        "gains": [plain(row) | {"shown": row.shown} for row in report.gains],
        "forgeries": [plain(row) for row in report.forged],
        "conclusion": conclusion(report),
        "examples": [plain(row) for row in report.examples],
        "idle_share": dict(report.idle_share),
    }


def _row(report: Rounds, stage: str) -> list[Value | str]:
    """What stands in each column for the stage; empty where it was not asked."""
    out: list[Value | str] = []
    for condition in SHOWN:
        score = report.score(stage, condition)
        out.append(value(score))
    for condition in ("template", "attacker"):
        key = (stage, condition, HEADLINE)
        found = next((s for s in report.successes if (s.model, s.condition, s.metric) == key), None)
        of = f"of {found.rows}" if found else ""
        out.append(Value(found.success, of) if found and found.success else of)
    hurt = next((Value(one.log_perplexity) for one in report.inflicted if one.model == stage), "")
    return [*out, hurt]


def _curves(report: Rounds) -> list[Picture]:
    """Subspan EM under each condition, and the log perplexity that a forgery inflicts, over the stages."""
    stages, scores = report.stages, []
    for number, condition in enumerate(COMPARED):
        found = [(at, score.subspan) for at, stage in enumerate(stages) if (score := report.score(stage, condition))]
        # Side by side, so that no interval hides another.
        points = [Mark(at + 0.08 * (number - 1), right) for at, right in found]
        scores.append(Series(label=TITLES[condition], marks=points, colour=COLOURS[number]))
    hurt = [Mark(stages.index(one.model), one.log_perplexity) for one in report.inflicted]
    harm = Series(label=TITLES["attacker"], marks=hurt, colour=COLOURS[COMPARED.index("attacker")])
    title = "log perplexity of the right answer after a forgery"
    return [
        Picture(title=f"{NAMES[HEADLINE]}, 95% intervals", series=[one for one in scores if one.marks], ticks=stages),
        Picture(title=title, series=[harm] if hurt else (), ticks=stages, share=False),
    ]
