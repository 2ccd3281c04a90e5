"""DuetRAG's report: the robustness table with the arbiters' effect below it, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ragdist.evaluation.intervals import Interval, note
from ragdist.evaluation.report import NAMES, TITLES, Report, blocks
from ragdist.evaluation.sheet import (
    COLOURS,
    DARK,
    Block,
    DataPoint,
    Notes,
    Picture,
    Series,
    Sheet,
    Table,
    Value,
    plain,
)
from ragdist.records import as_row
from ragdist.systems.duet.calibration import Calibration
from ragdist.systems.duet.summary import EITHER, ArbiterEffect, Outcomes

SIDES = ("#c5ccd4", "#9aa5b1")
"""Of reciter and discoverer; arbiters take COLOURS after the first, which is grey."""


@dataclass(frozen=True, slots=True)
class DuetReport:
    """What came of DuetRAG."""

    report: Report
    """The paper's table."""
    worth: Sequence[ArbiterEffect]
    """What each arbiter is good for, under each condition."""

    def sheet(self) -> Sheet:
        """What is shown of both."""
        numbers = {**self.report.sheet().numbers, "arbiters": as_json(self.worth)}
        return Sheet([*blocks(self.report), *arbiter_blocks(self.worth)], numbers)


class Line(NamedTuple):
    """A row of the table: reciter, discoverer, an arbiter, or the upper bound."""

    name: str
    accuracy: Interval
    differing: float | None
    """Accuracy where the two answers differ."""
    taken: float | None
    """Where just one of the two is right: share in which this answer is right."""
    worth: ArbiterEffect | None = None
    """Of an arbiter."""


def arbiter_blocks(worths: Sequence[ArbiterEffect]) -> list[Block]:
    """For each condition a row for each arbiter and sentences; accuracies as bars, confidences as curves."""
    groups = _by_condition(worths)
    out: list[Block] = []
    for group in groups:
        heads = ("", NAMES[group[0].metric], *HEAD, f"against {group[0].against_better.before}", *TRUST)
        rows: list[list[str | Value]] = [
            [line.name, Value(line.accuracy), *_shares(line), *_trust(line)] for line in lines(group)
        ]
        out += [Table(title=title(group), columns=heads, rows=rows), Notes(lines=notes(group))]
        out.append(Notes(lines=details(group), long=True))
    curves = Table(
        title="Confidences, ten stretches of equal width",
        columns=("arbiter", "condition", "answers", "mean confidence", "share right"),
        rows=[
            (one.arbiter, TITLES[one.condition], str(answers), f"{said:.2f}", f"{right:.2f}")
            for one in worths
            if one.calibration
            for said, right, answers in one.calibration.curve
        ],
        long=True,
    )
    confident = (group for group in groups if any(one.calibration for one in group))
    return [*out, curves, *([_bars(groups)] if groups else []), *map(_reliability, confident)]


def as_json(worths: Sequence[ArbiterEffect]) -> list[dict[str, Any]]:
    """All numbers, an object for each arbiter and condition, plain values all the way down."""
    more = ("against_better", "effect")
    return [
        {key: _plain(value) for key, value in (as_row(one) | {name: getattr(one, name) for name in more}).items()}
        for one in worths
    ]


HEAD = ("where they differ", "right one taken", "turned right / wrong")
TRUST = ("ECE", "Brier", "moved by order")


def lines(group: Sequence[ArbiterEffect]) -> list[Line]:
    """Reciter, discoverer, the arbiters, the upper bound; all of one condition."""
    first = group[0]
    every, differing = first.outcomes, first.differing
    out = [
        Line(
            first.against_reciter.before,
            first.reciter,
            _ratio(differing.count(reciter=True), differing.rows),
            _ratio(every.count(reciter=True) - every.both, every.one),
        ),
        Line(
            first.against_discoverer.before,
            first.discoverer,
            _ratio(differing.count(discoverer=True), differing.rows),
            _ratio(every.count(discoverer=True) - every.both, every.one),
        ),
    ]
    for one in group:
        right = _ratio(one.differing.count(arbiter=True), one.differing.rows)
        taken = _ratio(one.outcomes.one_taken, one.outcomes.one)
        out.append(Line(one.arbiter, one.accuracy, right, taken, one))
    most = _ratio(differing.rows - differing.neither, differing.rows)
    return [*out, Line(EITHER, first.either, most, 1.0 if every.one else None)]


def title(group: Sequence[ArbiterEffect]) -> str:
    """What there is to decide. Example: `retrieved: 400 questions, answers differ in 38%, just one is right in 25%`."""
    every, differing = group[0].outcomes, group[0].differing
    shares = [
        f"answers differ in {differing.rows / every.rows:.0%}",
        f"both are right in {every.both / every.rows:.0%}",
        f"just one in {every.one / every.rows:.0%}",
        f"none in {every.neither / every.rows:.0%}",
    ]
    return f"{TITLES[group[0].condition]}: {every.rows} questions, {', '.join(shares)}"


def notes(group: Sequence[ArbiterEffect]) -> list[str]:
    """When each arbiter helps and when it harms, in plain words."""
    better, turned = group[0].against_better.before, group[0].against_discoverer.before
    most, least = group[0].either.mean, max(group[0].reciter.mean, group[0].discoverer.mean)
    out = [
        f"Turned answers are the {turned}'s; differences are to the {better}, the better of the two. "
        f"A perfect arbiter would reach {most:.2f}, {most - least:.2f} above it."
    ]
    for one in group:
        effect = {"helps": "it helps, ", "harms": "it harms, ", "not shown": ""}[one.effect]
        wrong = _counted(one.outcomes.helped, "wrong answer", "wrong answers")
        right = _counted(one.outcomes.harmed, "right one", "right ones")
        out.append(f"{one.arbiter} turned {wrong} right and {right} wrong: {effect}{one.against_better.verdict}.")
    said = note([change for one in group for change in (one.against_reciter, one.against_discoverer)])
    return [*out, said] if said else out


def details(group: Sequence[ArbiterEffect]) -> list[str]:
    """Where each arbiter is right, how sure it is, and whether the order of the answers moves it."""
    out = []
    for one in group:
        sides = []
        for name, right in ((one.against_reciter.before, True), (one.against_discoverer.before, False)):
            only = one.outcomes.count(reciter=right, discoverer=not right)
            kept = one.outcomes.count(reciter=right, discoverer=not right, arbiter=True)
            sides.append(f"in {kept} of {only} where only the {name} is")
        out.append(f"{one.arbiter} is right {', and '.join(sides)}.")
        if one.calibration:
            total = one.calibration.total
            out.append(
                f"{one.arbiter} says {total.confidence / total.answers:.2f} on average of {total.answers} answers of "
                f"which {total.right / total.answers:.2f} are right."
            )
        if one.order_effect:
            share = f"{one.order_effect.mean:.0%} ({one.order_effect.low:.0%} to {one.order_effect.high:.0%})"
            out.append(f"{one.arbiter} answers otherwise in {share} of the differing when the two change places.")
    return out


def _shares(line: Line) -> list[str]:
    """What the table says of it beside its accuracy and the trust in it."""
    shares = [
        "" if line.differing is None else f"{line.differing:.2f}",
        "" if line.taken is None else f"{line.taken:.0%}",
    ]
    turned = against = ""
    if line.worth:
        turned = f"{line.worth.outcomes.helped} / {line.worth.outcomes.harmed}"
        change = line.worth.against_better.change
        against = f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    return [*shares, turned, against]


def _trust(line: Line) -> list[str]:
    """ECE, Brier score, order effect; empty where there is none."""
    found = line.worth.calibration if line.worth else None
    moved = line.worth.order_effect if line.worth else None
    return [*([f"{found.ece:.2f}", f"{found.brier:.2f}"] if found else ["", ""]), f"{moved.mean:.0%}" if moved else ""]


def _colours(names: Sequence[str]) -> dict[str, str]:
    """By name; reciter and discoverer come first."""
    return {name: [*SIDES, *COLOURS[1:]][at % (len(SIDES) + len(COLOURS) - 1)] for at, name in enumerate(names)}


def _bars(groups: Sequence[Sequence[ArbiterEffect]]) -> Picture:
    """Accuracy of the two sides, the arbiters, and the upper bound under each condition."""
    points: dict[str, list[DataPoint]] = {}
    for at, group in enumerate(groups):
        for line in lines(group):
            points.setdefault(line.name, []).append(DataPoint(at, line.accuracy))
    bound = points.pop(EITHER)
    colours = _colours(list(points))
    series = [Series(label=name, points=own, form="bars", colour=colours[name]) for name, own in points.items()]
    first = groups[0][0]
    return Picture(
        title=f"arbiters, {first.outcomes.rows} questions, 95% intervals",
        series=[*series, Series(label=EITHER, points=bound, form="bars", colour=DARK, dashed=True)],
        ticks=[TITLES[group[0].condition] for group in groups],
        y=NAMES[first.metric],
    )


def _reliability(group: Sequence[ArbiterEffect]) -> Picture:
    """How often answers of a confidence are right, as curves of the arbiters that give any."""
    colours = _colours([line.name for line in lines(group)])
    curves = [Series(label="perfect", points=(DataPoint(0, 0.0), DataPoint(1, 1.0)), dashed=True, marker="")]
    for one in group:
        if one.calibration:
            total = one.calibration.total.answers
            points = [DataPoint(said, right, answers / total) for said, right, answers in one.calibration.curve]
            label = f"{one.arbiter}, ECE {one.calibration.ece:.2f}"
            curves.append(Series(label=label, points=points, colour=colours[one.arbiter]))
    return Picture(title=f"reliability, {TITLES[group[0].condition]}", series=curves, x="confidence", y="share right")


def _by_condition(worths: Sequence[ArbiterEffect]) -> list[list[ArbiterEffect]]:
    conditions = dict.fromkeys(one.condition for one in worths)
    return [[one for one in worths if one.condition == condition] for condition in conditions]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _ratio(count: int, rows: int) -> float | None:
    return count / rows if rows else None


def _plain(value: Any) -> Any:
    if isinstance(value, Outcomes):
        names = ("rows", "both", "one", "neither", "one_taken", "helped", "harmed")
        right = {f"{side}_right": value.count(**{side: True}) for side in ("reciter", "discoverer", "arbiter")}
        return {name: getattr(value, name) for name in names} | right
    if isinstance(value, Calibration):
        curve = [{"confidence": said, "right": right, "answers": answers} for said, right, answers in value.curve]
        return {"answers": value.total.answers, "ece": value.ece, "brier": value.brier, "curve": curve}
    return plain(value)
