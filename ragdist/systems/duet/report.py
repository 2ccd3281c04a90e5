"""DuetRAG's report: the robustness table with the arbiters' effect below it, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ragdist.evaluation.intervals import note, signed
from ragdist.evaluation.report import NAMES, TITLES, Report, Told, blocks, compared, sentences
from ragdist.evaluation.report import headline as table_headline
from ragdist.evaluation.sheet import (
    COLOURS,
    DARK,
    Block,
    Mark,
    Notes,
    Picture,
    Series,
    Sheet,
    Table,
    Value,
    counted,
    plain,
)
from ragdist.records import as_row
from ragdist.systems.duet.abstention import Selective
from ragdist.systems.duet.calibration import Calibration
from ragdist.systems.duet.summary import EITHER, ArbiterEffect, Outcomes

Row = list[str | Value]


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
        arbiters, first = list(dict.fromkeys(one.arbiter for one in self.worth)), headline(self.worth)
        found = [*blocks(self.report), *arbiter_blocks(self.worth)]
        title = f"DuetRAG: {', '.join(arbiters)} between reciter and discoverer" if arbiters else compared(self.report)
        return Sheet(found, numbers, title, first or table_headline(self.report))


def arbiter_blocks(worths: Sequence[ArbiterEffect]) -> list[Block]:
    """For each condition a row for each arbiter and sentences; accuracies as bars, confidences as curves."""
    groups = _by_condition(worths)
    out: list[Block] = []
    for group in groups:
        heads = ("", NAMES[group[0].metric], *HEAD, f"against {group[0].against_better.before}", *TRUST)
        out += [Table(title=title(group), columns=heads, rows=rows(group)), Notes(lines=notes(group))]
        if sure := abstaining(group):
            out.append(Table(title=f"{TITLES[group[0].condition]}: {ABSTAINING}", columns=SURE, rows=sure))
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
    confident = [group for group in groups if any(one.calibration for one in group)]
    if not worths:
        return [*out, curves]
    drawn = [draw(group, _colours(worths)) for draw in (_reliability, _risk_coverage) for group in confident]
    return [*out, curves, _bars(worths), *drawn]


def headline(worths: Sequence[ArbiterEffect]) -> list[str]:
    """Under each condition the arbiter that is right most often, against the better of the two sides."""
    out = []
    for group in _by_condition(worths):
        best = max(group, key=lambda one: one.accuracy.mean)
        better = max(best.reciter, best.discoverer, key=lambda side: side.mean)
        out.append(Told(TITLES[best.condition], best.against_better, better, best.accuracy))
    return sentences(out)


def as_json(worths: Sequence[ArbiterEffect]) -> list[dict[str, Any]]:
    """All numbers, an object for each arbiter and condition, plain values all the way down."""
    more = ("against_better", "effect")
    return [
        {key: _plain(value) for key, value in (as_row(one) | {name: getattr(one, name) for name in more}).items()}
        for one in worths
    ]


ABSTAINING = "abstaining where unsure, of the answers that differ"
SURE = ("", "answers", "AUROC", "right, all", "right, surest 80%", "right, surest half", "answered", "right of those")
ROOM = 0.05
"""What a perfect arbiter must add to the better of the two, so that arbiters can be told apart."""
HEAD = ("where they differ", "right one taken", "turned right / wrong")
TRUST = ("ECE", "Brier", "moved by order")


def rows(group: Sequence[ArbiterEffect]) -> list[Row]:
    """Reciter, discoverer, the arbiters, the upper bound; all of one condition.

    After the accuracy: the same where the two answers differ; where just one of the two is right, how often this one.
    """
    first = group[0]
    every, open_ = first.outcomes, first.differing
    reciter, discoverer = ({side: True} for side in ("reciter", "discoverer"))
    out: list[Row] = [
        [change.before, Value(own), *_shares(open_.count(**side), every.count(**side) - every.both, first)]
        for change, own, side in (
            (first.against_reciter, first.reciter, reciter),
            (first.against_discoverer, first.discoverer, discoverer),
        )
    ]
    for one in group:
        shares = _shares(one.differing.count(arbiter=True), one.outcomes.one_taken, one)
        out.append([one.arbiter, Value(one.accuracy), *shares, *_effect(one)])
    return [*out, [EITHER, Value(first.either), *_shares(open_.rows - open_.neither, every.one, first)]]


def _shares(right: int, taken: int, one: ArbiterEffect) -> list[str]:
    differing, decided = one.differing.rows, one.outcomes.one
    return [f"{right / differing:.2f}" if differing else "", f"{taken / decided:.0%}" if decided else ""]


def _effect(one: ArbiterEffect) -> list[str]:
    """Answers turned, the difference to the better side, and whether its confidences and it can be trusted."""
    trust, moved = one.calibration, one.order_effect
    said = [f"{trust.ece:.2f}", f"{trust.brier:.2f}"] if trust else ["", ""]
    return [
        f"{one.outcomes.helped} / {one.outcomes.harmed}",
        signed(one.against_better.change),
        *said,
        f"{moved.mean:.0%}" if moved else "",
    ]


def title(group: Sequence[ArbiterEffect]) -> str:
    """What there is to decide. Example: `retrieved: 400 questions, answers differ in 38%, just one is right in 25%`."""
    every, differing = group[0].outcomes, group[0].differing
    shares = [
        f"answers differ in {differing.rows / every.rows:.0%}",
        f"both are right in {every.both / every.rows:.0%}",
        f"just one in {every.one / every.rows:.0%}",
        f"none in {every.neither / every.rows:.0%}",
    ]
    return f"{TITLES[group[0].condition]}: {counted(every.rows)}, {', '.join(shares)}"


def notes(group: Sequence[ArbiterEffect]) -> list[str]:
    """When each arbiter helps and when it harms, in plain words."""
    better, turned = group[0].against_better.before, group[0].against_discoverer.before
    most, least = group[0].either.mean, max(group[0].reciter.mean, group[0].discoverer.mean)
    out = [
        f"Turned answers are the {turned}'s; differences are to the {better}, the better of the two. "
        f"A perfect arbiter would reach {most:.2f}, {most - least:.2f} above it."
    ]
    if most - least < ROOM:
        out.append(
            f"That is less than {ROOM}: there is next to nothing to decide here, so that no gain can be shown. What "
            "follows is no verdict on the arbiters."
        )
    for one in group:
        effect = {"helps": "it helps, ", "harms": "it harms, ", "not shown": ""}[one.effect]
        wrong = _counted(one.outcomes.helped, "wrong answer", "wrong answers")
        right = _counted(one.outcomes.harmed, "right one", "right ones")
        out.append(f"{one.arbiter} turned {wrong} right and {right} wrong: {effect}{one.against_better.verdict}.")
    said = note([change for one in group for change in (one.against_reciter, one.against_discoverer)])
    return [*out, said] if said else out


def abstaining(group: Sequence[ArbiterEffect]) -> list[Row]:
    """Of each arbiter with confidences: how well they rank its answers, and what is right among the surest."""
    out: list[Row] = []
    for one in group:
        if (sure := one.selective) is None:
            continue
        right = {point.coverage: f"{1 - point.risk:.2f}" for point in sure.curve}
        share = f"{sure.answered_right / sure.answered:.2f}" if sure.answered else ""
        auroc = "" if sure.auroc is None else f"{sure.auroc:.2f}"
        said: Row = [one.arbiter, str(sure.answers), auroc, right[1.0], Value(sure.at_80), right[0.5]]
        out.append([*said, f"{sure.answered} at {sure.threshold:g}", share])
    return out


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


def _colours(worths: Sequence[ArbiterEffect]) -> dict[str, str]:
    """By name: reciter and discoverer, then the arbiters."""
    first = worths[0]
    sides = (first.against_reciter.before, first.against_discoverer.before)
    names = dict.fromkeys((*sides, *(one.arbiter for one in worths)))
    return {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)} | {EITHER: DARK}


def _bars(worths: Sequence[ArbiterEffect]) -> Picture:
    """Accuracy of the two sides, the arbiters, and the upper bound under each condition."""
    groups, colours = _by_condition(worths), _colours(worths)
    marks: dict[str, list[Mark]] = {name: [] for name in colours}
    for at, group in enumerate(groups):
        for name, accuracy, *_ in rows(group):
            if isinstance(accuracy, Value):
                marks[str(name)].append(Mark(at, accuracy.interval))
    return Picture(
        title=f"arbiters, {counted(worths[0].outcomes.rows)}, 95% intervals",
        series=[
            Series(label=name, marks=marks[name], form="bars", colour=colour, dashed=name == EITHER)
            for name, colour in colours.items()
        ],
        ticks=[TITLES[group[0].condition] for group in groups],
        y=NAMES[worths[0].metric],
    )


def _reliability(group: Sequence[ArbiterEffect], colours: Mapping[str, str]) -> Picture:
    """How often answers of a confidence are right, as curves of the arbiters that give any."""
    series = [Series(label="perfect", marks=(Mark(0, 0.0), Mark(1, 1.0)), dashed=True, marker="")]
    for one in group:
        if one.calibration:
            total, label = one.calibration.total.answers, f"{one.arbiter}, ECE {one.calibration.ece:.2f}"
            marks = [Mark(said, right, answers / total) for said, right, answers in one.calibration.curve]
            series.append(Series(label=label, marks=marks, colour=colours[one.arbiter]))
    return Picture(title=f"reliability, {TITLES[group[0].condition]}", series=series, x="confidence", y="share right")


def _risk_coverage(group: Sequence[ArbiterEffect], colours: Mapping[str, str]) -> Picture:
    """Share right among the surest answers, at each share that is answered, as curves of the arbiters that give any."""
    series = [
        Series(
            label=one.arbiter if one.selective.auroc is None else f"{one.arbiter}, AUROC {one.selective.auroc:.2f}",
            marks=[Mark(point.coverage, 1 - point.risk) for point in one.selective.curve],
            colour=colours[one.arbiter],
        )
        for one in group
        if one.selective
    ]
    name = f"abstaining, {TITLES[group[0].condition]}"
    return Picture(title=name, series=series, x="share answered, the surest first", y="share right")


def _by_condition(worths: Sequence[ArbiterEffect]) -> list[list[ArbiterEffect]]:
    conditions = dict.fromkeys(one.condition for one in worths)
    return [[one for one in worths if one.condition == condition] for condition in conditions]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _plain(value: Any) -> Any:
    if isinstance(value, Outcomes):
        names = ("rows", "both", "one", "neither", "one_taken", "helped", "harmed")
        right = {f"{side}_right": value.count(**{side: True}) for side in ("reciter", "discoverer", "arbiter")}
        return {name: getattr(value, name) for name in names} | right
    if isinstance(value, Selective):
        return asdict(value) | {"at_80": plain(value.at_80), "curve": [point._asdict() for point in value.curve]}
    if isinstance(value, Calibration):
        curve = [{"confidence": said, "right": right, "answers": answers} for said, right, answers in value.curve]
        return {"answers": value.total.answers, "ece": value.ece, "brier": value.brier, "curve": curve}
    return plain(value)
