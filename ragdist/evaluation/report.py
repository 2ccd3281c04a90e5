"""What models score under each condition: the report's records, and what is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from ragdist.config import Condition
from ragdist.evaluation import robustness, robustness_sheet
from ragdist.evaluation.answers import Labels
from ragdist.evaluation.apicalls import ApiCalls
from ragdist.evaluation.intervals import ENOUGH, Change, Interval, note, signed
from ragdist.evaluation.robustness import Robustness
from ragdist.evaluation.sheet import (
    COLOURS,
    Block,
    Mark,
    Notes,
    Picture,
    Series,
    Sheet,
    Table,
    Value,
    bounds,
    counted,
    plain,
)

Metric = Literal["subspan", "em", "f1"]
METRICS: tuple[Metric, ...] = get_args(Metric)
HEADLINE: Metric = METRICS[0]
"""What tables, pictures and sentences lead with: fair to models that say more than the bare answer, as untuned do."""
MIXED = "mixed"
"""Made of answers with and without the oracle (`evaluation.oracle_share`); nobody is shown such a list."""
CONDITIONS: tuple[str, ...] = (*get_args(Condition), MIXED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How right one model is under one condition; shares are of its rows.

    Example: Accuracy(model="RAFT", condition="oracle", rows=100, em=Interval(0.83, 0.75, 0.9), ...)
    """

    model: str
    """In ATM the stage."""
    condition: str
    rows: int
    em: Interval
    f1: Interval
    subspan: Interval
    unfinished: float
    """Share of answers that the limit of new tokens cut off."""
    cut_prompts: float
    """Share of prompts whose documents were cut to fit."""
    cut_answers: float = 0.0
    """Share of prompts whose oracles, cut to fit, no longer show the answer."""
    own: Interval | None = None
    """By the user's own metric; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Accuracy):
    """The same with what else is counted; None where the question does not arise."""

    states_forgery: float | None
    """Share of answers that repeat the forged answer; without an attack, the base rate of that error."""
    untagged: float | None
    """Share without an answer tag, where answers are reasoned."""
    quotes_valid: float | None
    """Of the answers that quote, the share whose quotes all stand in the documents shown."""
    retrieved_oracle: float | None
    """Share of questions with a known oracle that retrieval found."""
    perplexity: float | None
    """Mean over questions of the right answer's perplexity per token."""
    three_way: Labels | None
    """yes/no/maybe accuracy and macro-F1, over the datasets whose answers are all of these."""
    two_way: Labels | None
    """The same with the maybe questions left out."""
    cites_oracle: float | None = None
    """Where answers are cited, of those that were shown an oracle the share that cite oracles and nothing else."""
    api_calls: ApiCalls | None = None
    """APIBench's own score, over its questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """How often forgeries turn a right answer wrong. Example: Attack(model="base", metric="em", rows=71, ...)."""

    model: str
    """In ATM the stage."""
    condition: str = "attacked"
    attacker: int = -1
    """ATM's version of the attacker; -1: the template's, or the data's own forgeries."""
    metric: Metric
    rows: int
    """Questions answered right on the permuted clean list, among those asked both ways."""
    success: Interval | None
    """Share of them answered wrong with the forgeries among the same documents; None when there are no rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """What documents add to what a model knows and what they take from it (arXiv 2603.11513): a question is known if
    the same model answers it right without documents.

    Example: Utilization(model="RAFT", condition="oracle", metric="subspan", unknown=86, used=Interval(0.52, ...), ...)
    """

    model: str
    condition: str
    """The list with documents."""
    metric: Metric
    unknown: int
    """Questions answered wrong without documents."""
    used: Interval | None
    """Share of them answered right with documents; None where there are none."""
    known: int
    destroyed: Interval | None
    """Share of the known answered wrong with documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What an answer without reading scores. Example: Floor(name="parameter name alone", rows=100, em=...)."""

    name: str
    rows: int
    em: Interval
    subspan: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a report shows."""

    baseline: str
    """The untuned model's label; empty when it was not asked."""
    attack_name: str
    cells: tuple[Cell, ...]
    attacks: tuple[Attack, ...]
    changes: tuple[Change, ...]
    floor: Floor | None
    utilizations: tuple[Utilization, ...] = ()
    oracle_share: float | None = None
    """Of `MIXED`."""
    unforged: int = 0
    """Questions with a known oracle that have no forgery, as no document could be made false."""
    metric: str = ""
    """Name of the user's own metric; empty without one."""
    robustness: Robustness | None = None
    """What the robustness suite found, where it was asked."""
    defences: tuple[str, ...] = ()
    """What the defences do that models were asked under, a sentence each."""

    @property
    def models(self) -> list[str]:
        """Labels, in the order they were asked."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def conditions(self) -> list[str]:
        """Those that any model was asked under, in the order of `CONDITIONS`."""
        return [name for name in CONDITIONS if any(cell.condition == name for cell in self.cells)]

    def cell(self, model: str, condition: str) -> Cell | None:
        """The cell, or None when the model was not asked so."""
        return next((cell for cell in self.cells if (cell.model, cell.condition) == (model, condition)), None)

    def sheet(self) -> Sheet:
        """What is shown of it."""
        return Sheet(blocks(self), as_json(self), compared(self), headline(self))


TITLES: dict[str, str] = {
    "closed_book": "no documents",
    "oracle": "oracle present",
    "permuted": "the same, permuted",
    "absent": "oracle absent",
    "retrieved": "retrieved",
    "attacked": "attacked",
}
LISTS = {**TITLES, "attacked": "template attack", "clean": "clean list", "template": "template attack"}
"""Conditions of all systems, as a page that shows any of them calls them."""
NAMES: dict[str, str] = {"subspan": "Subspan EM", "em": "EM", "f1": "F1"}
TOO_FEW = f"Over fewer than {ENOUGH} questions nothing is called a difference."
SCORES = "Subspan EM, its 95% interval, then EM / F1"
"""What stands in a cell that `value` makes."""
SCORES_MEAN = (
    "Subspan EM is the share of questions with a right answer anywhere in what the model said; EM, of answers that "
    "are a right one and nothing else; F1, the words that answer and right answer have in common. Intervals are 95%."
)
LISTS_MEAN = (
    "Oracle: the document that answers the question; permuted: the same documents in another order; absent: without "
    "the oracle; retrieved: what the search finds; attacked: forgeries among them, which argue for a wrong answer."
)
DETAILS = {
    "states_forgery": "repeats forged answer",
    "retrieved_oracle": "retrieval found oracle",
    "untagged": "no answer tag",
    "quotes_valid": "quotes hold",
    "cites_oracle": "cites oracle",
    "unfinished": "unfinished",
    "cut_prompts": "documents cut",
    "cut_answers": "answer cut off",
    "perplexity": "perplexity",
    "three_way": "yes/no/maybe accuracy, macro-F1",
    "two_way": "yes/no accuracy, macro-F1",
    "api_calls": "right API, made-up API",
}


def as_json(report: Report) -> dict[str, Any]:
    """All numbers: `scores` (a row for each model and condition), `attack_success`, `changes`, `floor`."""
    return {
        "baseline": report.baseline,
        "attack": report.attack_name,
        "own_metric": report.metric,
        "scores": [plain(cell) for cell in report.cells],
        "attack_success": [plain(attack) for attack in report.attacks],
        "changes": [plain(change) for change in report.changes],
        "utilization": [plain(one) for one in report.utilizations],
        "oracle_share": report.oracle_share,
        "unforged": report.unforged,
        "floor": plain(report.floor) if report.floor else None,
        **({"robustness": robustness.as_json(report.robustness)} if report.robustness else {}),
        **({"defences": [*report.defences]} if report.defences else {}),
    }


def blocks(report: Report) -> list[Block]:
    """The table with its notes, every change and count, and each model under each condition as bars."""
    floor = [(f"floor ({report.floor.name})", Value(report.floor.subspan))] if report.floor else []

    def named(metric: str) -> str:
        return NAMES.get(metric, report.metric)

    return [
        Table(
            title=SCORES,
            columns=["", *(title(report, condition) for condition in report.conditions)],
            rows=[
                *([model, *(value(report.cell(model, name)) for name in report.conditions)] for model in report.models),
                *floor,
            ],
        ),
        Notes(lines=notes(report)),
        *own_metric(report),
        Table(
            title=f"Change against {report.baseline}, the same questions paired",
            columns=("model", "condition", "metric", "questions", "change"),
            rows=[
                (change.after, title(report, change.condition), named(change.metric), str(change.rows), change.verdict)
                for change in report.changes
            ],
            long=True,
        ),
        *utilization(report.utilizations),
        *(robustness_sheet.blocks(report.robustness) if report.robustness else ()),
        _details(report),
        _bars(report),
    ]


def own_metric(report: Report) -> list[Block]:
    """What every system's report says of the user's own metric; nothing without one."""
    rows = [
        [model, *(_share(cell.own) if (cell := report.cell(model, name)) else "" for name in report.conditions)]
        for model in report.models
    ]
    columns = ["", *(title(report, condition) for condition in report.conditions)]
    return [Table(title=f"{report.metric} (your metric), its 95% interval", columns=columns, rows=rows)] * bool(
        report.metric
    )


def utilization(found: Sequence[Utilization]) -> list[Block]:
    """What every system's report says of it."""
    return [
        Table(
            title="Utilization: questions by whether the model knows the answer without documents",
            columns=("", "documents", "not known", "of these right with them", "known", "of these wrong with them"),
            rows=[
                (
                    one.model,
                    LISTS[one.condition],
                    str(one.unknown),
                    _share(one.used),
                    str(one.known),
                    _share(one.destroyed),
                )
                for one in found
                if one.metric == HEADLINE
            ],
        )
    ]


class Scores(Protocol):
    """What a model scores under one condition, by each metric."""

    @property
    def em(self) -> Interval:
        """Exact match."""
        ...

    @property
    def f1(self) -> Interval:
        """Of words."""
        ...

    @property
    def subspan(self) -> Interval:
        """Whether the answer holds a right one."""
        ...


def value(scores: Scores | None) -> Value | str:
    """The scores as every system's table shows them."""
    return Value(scores.subspan, f"{scores.em.mean:.2f} / {scores.f1.mean:.2f}") if scores else ""


def compared(report: Report) -> str:
    """What was compared with what. Example: `RAFT against base`."""
    others = [model for model in report.models if model != report.baseline]
    named = ", ".join(others) if len(others) < 5 else f"{len(others)} models"
    return f"{named} against {report.baseline}" if report.baseline else named


def headline(report: Report) -> list[str]:
    """How much better each model is than the baseline, with the oracle and under attack first."""
    first = ("oracle", "attacked", "retrieved", "absent", "closed_book")
    changes = sorted(
        (change for change in report.changes if change.metric == HEADLINE),
        key=lambda change: first.index(change.condition) if change.condition in first else len(first),
    )
    return sentences(
        [
            Told(title(report, change.condition), change, old.subspan, new.subspan)
            for change in changes
            if (old := report.cell(change.before, change.condition))
            and (new := report.cell(change.after, change.condition))
        ]
    )


def _share(value: Interval | None) -> Value | str:
    return Value(value) if value else ""


class Told(NamedTuple):
    """A change with what it is a change of. Example: Told("oracle present", change, Interval(...), Interval(...))."""

    where: str
    change: Change
    old: Interval
    new: Interval


def sentences(found: Sequence[Told]) -> list[str]:
    """Changes in words; those over too few questions together, in one sentence for each two models.

    Example: `Oracle present: RAFT is right in 56% of 100 questions, base in 29% (+0.27 [+0.14, +0.40]).`
    """
    out, few = list[str](), dict[tuple[str, str], list[str]]()
    for where, change, old, new in found:
        if change.rows < ENOUGH:
            shares = f"{where} {new.mean:.0%} against {old.mean:.0%} of {change.rows}"
            few.setdefault((change.after, change.before), []).append(shares)
        else:
            out.append(
                f"{where[0].upper()}{where[1:]}: {change.after} is right in {new.mean:.0%} of {change.rows} questions, "
                f"{change.before} in {old.mean:.0%} ({change.verdict})."
            )
    for (after, before), said in few.items():
        told = "; ".join(said)
        out.append(f"{after} against {before}, right answers: {told}. {TOO_FEW}")
    return out


def _details(report: Report) -> Table:
    return Table(
        title="Details",
        columns=("model", "condition", "questions", *NAMES.values(), *DETAILS.values()),
        rows=[
            (
                *(cell.model, title(report, cell.condition), str(cell.rows)),
                *(f"{score.mean:.3f} ({bounds(score)})" for score in (getattr(cell, metric) for metric in METRICS)),
                *(_detail(getattr(cell, key)) for key in DETAILS),
            )
            for cell in report.cells
        ],
        long=True,
    )


def _bars(report: Report) -> Picture:
    models, last = report.models, len(report.conditions) - 1
    series = [
        Series(
            label=model,
            marks=[
                Mark(at, cell.subspan)
                for at, name in enumerate(report.conditions)
                if (cell := report.cell(model, name))
            ],
            form="bars",
            colour=COLOURS[number % len(COLOURS)],
        )
        for number, model in enumerate(models)
    ]
    if report.floor:
        floor = report.floor.subspan.mean
        label = f"floor: {report.floor.name} ({floor:.2f})"
        series.append(Series(label=label, marks=(Mark(-0.5, floor), Mark(last + 0.5, floor)), dashed=True, marker=""))
    named = " and ".join(models) if len(models) < 4 else f"{len(models)} models"
    return Picture(
        title=f"{named}, {_counted(report)}, 95% intervals",
        series=series,
        ticks=[title(report, name) for name in report.conditions],
        y=NAMES[HEADLINE],
    )


def title(report: Report, condition: str) -> str:
    """The condition as a person reads it."""
    if condition == MIXED:
        return f"oracle in {report.oracle_share:.0%}"
    return report.attack_name if condition == "attacked" else TITLES[condition]


def notes(report: Report) -> list[str]:
    """What the numbers mean, a sentence each: attack success, repeated forgeries, changes, rows."""
    out = [f"{_counted(report)} under each condition.", SCORES_MEAN, LISTS_MEAN, *report.defences]
    if report.unforged:
        more = "are not asked, as no document could be made false"
        out.append(f"{title(report, 'attacked')}: {report.unforged} questions {more}.")
    for attack in (attack for attack in report.attacks if attack.metric == HEADLINE):
        cell = report.cell(attack.model, "attacked")
        repeated = cell.states_forgery if cell else None
        success = f"{attack.success.mean:.2f} ({bounds(attack.success)})" if attack.success else "undefined"
        more = f"; repeats the forged answer in {repeated:.0%}" if repeated is not None else ""
        out.append(
            f"{attack.model}: attack success {success} over the {attack.rows} right on the same list without it{more}."
        )
    out += _verdicts(report)
    if said := note(report.changes):
        out.append(said)
    for cell in (cell for cell in report.cells if cell.api_calls):
        out.append(f"{cell.model}, {title(report, cell.condition)}: right / made-up API {_detail(cell.api_calls)}.")
    return out


def _verdicts(report: Report) -> list[str]:
    """Each change by the headline's metric; those over too few questions in one line for each two models."""
    out, few = list[str](), dict[str, list[str]]()
    for change in (change for change in report.changes if change.metric == HEADLINE):
        name, models = title(report, change.condition), f"{change.after} against {change.before}"
        if change.rows < ENOUGH:
            few.setdefault(models, []).append(f"{name} {signed(change.change)}")
        else:
            out.append(f"{models}, {name}: {change.verdict}.")
    return [*out, *(f"{models}: {'; '.join(told)}. {TOO_FEW}" for models, told in few.items())]


def _counted(report: Report) -> str:
    return counted(*(cell.rows for cell in report.cells))


def _detail(value: float | Labels | ApiCalls | None) -> str:
    if isinstance(value, ApiCalls):
        return f"{value.accuracy:.3f}, {value.made_up:.3f} ({value.rows})"
    if isinstance(value, Labels):
        return f"{value.accuracy:.3f}, {value.macro_f1:.3f} ({value.rows})"
    return "" if value is None else f"{value:.2f}"
