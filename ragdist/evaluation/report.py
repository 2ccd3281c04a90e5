"""The same report as a terminal table, Markdown, JSON and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich import box
from rich.table import Table
from rich.text import Text

from ragdist.config import Condition
from ragdist.evaluation.answers import Labels
from ragdist.evaluation.apicalls import ApiCalls
from ragdist.evaluation.intervals import Interval, note
from ragdist.records import as_row
from ragdist.storage.atomic import make_folder, translate_errors

Metric = Literal["em", "f1", "subspan"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model under one condition; shares are of its rows, None where the question does not arise.

    Example: Cell(model="RAFT", condition="oracle", rows=100, em=Interval(0.83, 0.75, 0.9), ...)
    """

    model: str
    condition: Condition
    rows: int
    em: Interval
    f1: Interval
    subspan: Interval
    states_forgery: float | None
    """Share of answers that repeat the forged answer; without an attack, the base rate of that error."""
    untagged: float | None
    """Share without an answer tag, where answers are reasoned."""
    quotes_valid: float | None
    """Of the answers that quote, the share whose quotes all stand in the documents shown."""
    retrieved_oracle: float | None
    """Share of questions with a known oracle that retrieval found."""
    unfinished: float
    """Share of answers that the limit of new tokens cut off."""
    cut_prompts: float
    """Share of prompts whose documents were cut to fit."""
    cut_answers: float = 0.0
    """Share of prompts whose oracles, cut to fit, no longer show the answer."""
    perplexity: float | None
    """Mean over questions of the right answer's perplexity per token."""
    three_way: Labels | None
    """yes/no/maybe accuracy and macro-F1, over the datasets whose answers are all of these."""
    two_way: Labels | None
    """The same with the maybe questions left out."""
    api_calls: ApiCalls | None = None
    """APIBench's own score, over its questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """How often forgeries turn a right answer wrong. Example: Attack(model="base", metric="em", rows=71, ...)."""

    model: str
    metric: Metric
    rows: int
    """Questions answered right on the permuted clean list, among those asked both ways."""
    success: Interval | None
    """Share of them answered wrong with the forgeries among the same documents; None when there are no rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A model against the baseline, the same questions paired. Example: Change(..., verdict="+0.42 [+0.33, +0.51]")."""

    before: str
    after: str
    condition: Condition
    metric: Metric
    rows: int
    change: Interval
    p: float
    """Of this comparison alone, by paired sign flips."""
    corrected: float
    """The same for all that the table tests (Holm)."""
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What an answer without reading scores. Example: Floor(name="parameter name alone", rows=100, em=...)."""

    name: str
    rows: int
    em: Interval


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
    unforged: int = 0
    """Questions with a known oracle that have no forgery, as no document could be made false."""

    @property
    def models(self) -> list[str]:
        """Labels, in the order they were asked."""
        return list(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def conditions(self) -> list[Condition]:
        """Those that any model was asked under, in the order of `Condition`."""
        return [name for name in CONDITIONS if any(cell.condition == name for cell in self.cells)]

    def cell(self, model: str, condition: Condition) -> Cell | None:
        """The cell, or None when the model was not asked so."""
        return next((cell for cell in self.cells if (cell.model, cell.condition) == (model, condition)), None)


TITLES: dict[Condition, str] = {
    "closed_book": "no documents",
    "oracle": "oracle present",
    "permuted": "the same, permuted",
    "absent": "oracle absent",
    "retrieved": "retrieved",
    "attacked": "attacked",
}
NAMES = {"em": "EM", "f1": "F1", "subspan": "Subspan EM"}
COLOURS = ("#9aa5b1", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Grey for the first model, then Okabe and Ito's, which colour-blind people can tell apart."""
DETAILS = {
    "states_forgery": "repeats forged answer",
    "retrieved_oracle": "retrieval found oracle",
    "untagged": "no answer tag",
    "quotes_valid": "quotes hold",
    "unfinished": "unfinished",
    "cut_prompts": "documents cut",
    "cut_answers": "answer cut off",
    "perplexity": "perplexity",
    "three_way": "yes/no/maybe accuracy, macro-F1",
    "two_way": "yes/no accuracy, macro-F1",
    "api_calls": "right API, made-up API",
}


def table(report: Report) -> Table:
    """Models by conditions, at most 100 columns wide: EM, its 95% interval, F1 and Subspan EM; notes below."""
    out = Table(
        title="Exact match, its 95% interval, then F1 / Subspan EM",
        title_justify="left",
        title_style="bold",
        caption=Text("\n".join(notes(report))),
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        min_width=80,
    )
    out.add_column("")
    for condition in report.conditions:
        out.add_column(title(report, condition), justify="right")
    for name, cells in rows(report):
        out.add_row(Text(name, style="bold"), *(_lines(cell) for cell in cells))
    if report.floor:
        blanks = [Text("")] * (len(report.conditions) - 1)
        out.add_row(Text(f"floor ({report.floor.name})"), _value(report.floor.em), *blanks)
    return out


def markdown(report: Report) -> str:
    """The table, what changed, and every count, as GitHub's Markdown."""
    head = ["", *(title(report, condition) for condition in report.conditions)]
    body = [[name, *(_em(cell) for cell in cells)] for name, cells in rows(report)]
    if report.floor:
        floor = f"{report.floor.em.mean:.2f} ({bounds(report.floor.em)})"
        body.append([f"floor ({report.floor.name})", floor, *[""] * (len(head) - 2)])
    changes = [
        [change.after, title(report, change.condition), NAMES[change.metric], str(change.rows), change.verdict]
        for change in report.changes
    ]
    parts = ["Exact match with its 95% interval (bootstrap over questions).", grid(head, body)]
    parts.append("\n".join(f"- {note}" for note in notes(report)))
    if changes:
        parts.append(f"Change against {report.baseline}, the same questions paired:")
        parts.append(grid(["model", "condition", "metric", "questions", "change"], changes))
    return "\n\n".join([*parts, "Details:", _details(report)]) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """All numbers: `scores` (a row for each model and condition), `attack_success`, `changes`, `floor`."""
    return {
        "baseline": report.baseline,
        "attack": report.attack_name,
        "scores": [_plain(cell) for cell in report.cells],
        "attack_success": [_plain(attack) for attack in report.attacks],
        "changes": [_plain(change) for change in report.changes],
        "unforged": report.unforged,
        "floor": _plain(report.floor) if report.floor else None,
    }


def picture(report: Report, path: Path) -> Path:
    """A PNG: EM of each model under each condition with its interval, and the floor as a line.

    Raises:
        StorageError: `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    models, conditions = report.models, report.conditions
    inches = max(6.4, max(1.9, 0.5 * len(models)) * len(conditions) + 1)
    figure = Figure(
        figsize=(inches, 4.6),
        dpi=150,
        layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12),
    )
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(models))
    handles: list[Any] = []
    for number, model in enumerate(models):
        found = [(at, cell) for at, name in enumerate(conditions) if (cell := report.cell(model, name))]
        places = [at + width * (number - (len(models) - 1) / 2) for at, _ in found]
        means = [cell.em.mean for _, cell in found]
        spread = [[c.em.mean - c.em.low for _, c in found], [c.em.high - c.em.mean for _, c in found]]
        colour = COLOURS[number % len(COLOURS)]
        handles.append(axes.bar(places, means, width * 0.92, color=colour, label=model, zorder=2))
        axes.errorbar(places, means, spread, fmt="none", ecolor="#333333", elinewidth=1, capsize=3, zorder=3)
        for place, (_, cell) in zip(places, found, strict=True):
            axes.text(place, cell.em.high + 0.015, f"{cell.em.mean:.2f}", ha="center", va="bottom", fontsize=9)
    if report.floor:
        name = f"floor: {report.floor.name} ({report.floor.em.mean:.2f})"
        style: dict[str, Any] = {"color": "#333333", "linestyle": (0, (4, 3)), "linewidth": 1}
        handles.append(axes.axhline(report.floor.em.mean, label=name, zorder=1, **style))
    axes.set_xticks(range(len(conditions)), [title(report, name) for name in conditions])
    axes.set_ylim(0, 1.09)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel("exact match")
    few = len(models) < 4
    named = " and ".join(models) if few else f"{len(models)} models"
    axes.set_title(f"{named}, {_counted(report)}, 95% intervals", loc="left", fontsize=11)
    axes.grid(axis="y", color="#e3e6ea", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    columns = 4 if few else int(inches / 2.6)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    make_folder(path.parent)
    with translate_errors(path.parent):
        figure.savefig(path)
    return path


def title(report: Report, condition: Condition) -> str:
    """The condition as a person reads it."""
    return report.attack_name if condition == "attacked" else TITLES[condition]


def rows(report: Report) -> list[tuple[str, list[Cell | None]]]:
    """(name, cell for each condition): the baseline's closed book and RAG are two rows, as the papers print them."""
    out: list[tuple[str, list[Cell | None]]] = []
    for model in report.models:
        cells = [report.cell(model, condition) for condition in report.conditions]
        if model == report.baseline and (closed := report.cell(model, "closed_book")):
            out.append((f"{model} (closed book)", [cell if cell is closed else None for cell in cells]))
            cells = [None if cell is closed else cell for cell in cells]
            model = f"{model} + RAG"
        if any(cells):
            out.append((model, cells))
    return out


def notes(report: Report) -> list[str]:
    """What the numbers mean, a sentence each: attack success, repeated forgeries, changes, rows."""
    out = [f"{_counted(report)} under each condition."]
    if report.unforged:
        more = "are not asked, as no document could be made false"
        out.append(f"{title(report, 'attacked')}: {report.unforged} questions {more}.")
    for attack in (attack for attack in report.attacks if attack.metric == "em"):
        cell = report.cell(attack.model, "attacked")
        repeated = cell.states_forgery if cell else None
        success = f"{attack.success.mean:.2f} ({bounds(attack.success)})" if attack.success else "undefined"
        more = f"; repeats the forged answer in {repeated:.0%}" if repeated is not None else ""
        out.append(
            f"{attack.model}: attack success {success} over the {attack.rows} right on the same list without it{more}."
        )
    for change in (change for change in report.changes if change.metric == "em"):
        name = title(report, change.condition)
        out.append(f"{change.after} against {change.before}, {name}: {change.verdict}.")
    if said := note(report.changes):
        out.append(said)
    for cell in (cell for cell in report.cells if cell.api_calls):
        out.append(f"{cell.model}, {title(report, cell.condition)}: right / made-up API {_detail(cell.api_calls)}.")
    return out


def _counted(report: Report) -> str:
    counts = sorted({cell.rows for cell in report.cells}) or [0]
    return f"{counts[0]} questions" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} questions"


def _plain(record: Cell | Attack | Change | Floor) -> dict[str, Any]:
    """The record as JSON objects all the way down."""
    row = as_row(record)
    return {k: v._asdict() if isinstance(v, Interval | Labels | ApiCalls) else v for k, v in row.items()}


def bounds(value: Interval) -> str:
    """Example: `0.74 to 0.89`."""
    return f"{value.low:.2f} to {value.high:.2f}"


def _value(value: Interval) -> Text:
    return Text.assemble((f"{value.mean:.2f}", "bold"), "\n", (bounds(value), "dim"))


def _lines(cell: Cell | None) -> Text:
    if not cell:
        return Text("")
    return _value(cell.em).append(f"\n{cell.f1.mean:.2f} / {cell.subspan.mean:.2f}\n", "dim")


def _em(cell: Cell | None) -> str:
    return f"**{cell.em.mean:.2f}** ({bounds(cell.em)})" if cell else ""


def _details(report: Report) -> str:
    shown = {key: name for key, name in DETAILS.items() if any(getattr(cell, key) is not None for cell in report.cells)}
    head = ["model", "condition", "questions", *NAMES.values(), *shown.values()]
    body = []
    for cell in report.cells:
        scores = [f"{getattr(cell, metric).mean:.3f} ({bounds(getattr(cell, metric))})" for metric in NAMES]
        more = [_detail(getattr(cell, key)) for key in shown]
        body.append([cell.model, title(report, cell.condition), str(cell.rows), *scores, *more])
    return grid(head, body)


def _detail(value: float | Labels | ApiCalls | None) -> str:
    if isinstance(value, ApiCalls):
        return f"{value.accuracy:.3f}, {value.made_up:.3f} ({value.rows})"
    if isinstance(value, Labels):
        return f"{value.accuracy:.3f}, {value.macro_f1:.3f} ({value.rows})"
    return "" if value is None else f"{value:.2f}"


def grid(head: list[str], body: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
