"""The report on ATM's rounds: what it holds, and the same as a terminal table, Markdown, JSON and a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich import box
from rich.table import Table
from rich.text import Text

from ragdist.evaluation.intervals import ENOUGH, Interval, note, shown
from ragdist.evaluation.report import COLOURS, NAMES, bounds, grid
from ragdist.records import as_row
from ragdist.storage.atomic import make_folder, translate_errors
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
class RoundScore:
    """One stage under one condition. Example: RoundScore(model="after round 1", attacker=1, ...)."""

    model: str
    """The stage."""
    condition: Condition
    attacker: int
    rows: int
    em: Interval
    f1: Interval
    subspan: Interval
    states_forgery: Interval
    """Share of answers that repeat the forged answer; on the clean list, the base rate of the template's."""
    unfinished: float
    cut_prompts: float
    """Share of prompts whose documents were cut to fit."""
    cut_answers: float = 0.0
    """Share of prompts whose golden documents, cut to fit, no longer show the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """How often an attack turned a right answer wrong. Example: Success(model="before", rows=71, ...)."""

    model: str
    condition: Condition
    attacker: int
    metric: str
    rows: int
    """Questions answered right on the permuted clean list by the same generator."""
    success: Interval | None
    """Share of them answered wrong under attack; None when there are no rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundChange:
    """One stage against an earlier one, questions paired. Example: RoundChange(verdict="no difference", ...)."""

    before: str
    after: str
    condition: Literal["clean", "template", "attacker", "forgery alone"]
    metric: str
    """em, f1, subspan; for a forgery alone perplexity and log_perplexity of the right answer."""
    rows: int
    change: Interval
    p: float
    """Of this comparison alone, by paired sign flips."""
    corrected: float
    """The same for all that the table tests (Holm)."""
    verdict: str

    @property
    def shown(self) -> bool:
        """Whether it may be called a difference."""
        return shown(self.change, self.rows, self.corrected)


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

    scores: tuple[RoundScore, ...]
    successes: tuple[Success, ...]
    changes: tuple[RoundChange, ...]
    inflicted: tuple[Inflicted, ...]
    gains: tuple[RoundChange, ...]
    """Changes of the perplexity that a forgery inflicts, from each stage to the next."""
    forged: tuple[Forged, ...]
    examples: tuple[Beside, ...]

    @property
    def stages(self) -> list[str]:
        """In the order they were played."""
        return sorted({s.model for s in self.scores} | {s.model for s in self.inflicted}, key=place)

    def score(self, stage: str, condition: Condition) -> RoundScore | None:
        """The score, or None where it was not asked."""
        return next((s for s in self.scores if (s.model, s.condition) == (stage, condition)), None)


def place(stage: str) -> float:
    """Where the stage stands in the order of play."""
    number = re.search(r"\d+", stage)
    return int(number[0]) - 0.5 * stage.endswith("attacker") if number else 0.0


def table(report: Rounds) -> Table:
    """A row for each stage, at most 100 columns wide: accuracy, attack success, log perplexity; notes below."""
    out = Table(
        title="Exact match, its 95% interval, then F1 / Subspan EM; attack success; perplexity inflicted",
        title_justify="left",
        title_style="bold",
        caption=Text("\n".join(notes(report))),
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        min_width=80,
    )
    for number, name in enumerate(("", *HEAD)):
        out.add_column(name, justify="right" if number else "left", no_wrap=not number)
    for stage in report.stages:
        out.add_row(Text(stage.replace(", ", ",\n"), style="bold"), *(_cell(values) for values in _row(report, stage)))
    return out


def beside(report: Rounds) -> Table:
    """A few forgeries beside the truth, at most 100 columns wide."""
    out = Table(title="Forgeries beside the truth", title_justify="left", box=box.SIMPLE_HEAD, width=100)
    for name in ("question, answer", "true document", "forgery"):
        out.add_column(name, overflow="fold", ratio=1)
    for one in report.examples:
        asked = Text.assemble(one.question, ("\n" + one.right, "bold"), (f"\nforged: {one.wrong}\n", "dim"))
        out.add_row(asked, Text(one.truth), Text(one.forgery))
    return out


def notes(report: Rounds) -> list[str]:
    """What the numbers mean, a sentence each; first whether anything is shown at all."""
    em = [change for change in report.changes if change.metric == "em"]
    logs = [gain for gain in report.gains if gain.metric == "log_perplexity"]
    counts = sorted({score.rows for score in report.scores}) or [0]
    out = [f"{counts[0]} questions." if len(counts) == 1 else f"{counts[0]} to {counts[-1]} questions."]
    out.append(conclusion(report))
    if report.successes:
        out.append("Attack success: right on the permuted clean list, wrong with forgeries strewn into that very list.")
    last = report.stages[-1] if report.stages else ""
    for change in em:
        if change.after == last and change.before == report.stages[0]:
            out.append(f"{change.after} against {change.before}, {TITLES[change.condition]}: {change.verdict}.")
    for change in em:
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


def conclusion(report: Rounds) -> str:
    """Whether any change may be called a difference; where none may, that this is a null result."""
    found = [change for change in (*report.changes, *report.gains) if change.metric in ("em", "log_perplexity")]
    differing = sum(change.shown for change in found)
    if not found:
        return "Nothing was compared."
    if differing:
        return f"{differing} of {len(found)} changes in exact match and log perplexity are shown to be differences."
    few = f", each over fewer than {ENOUGH} questions" if all(change.rows < ENOUGH for change in found) else ""
    return f"A null result: none of {len(found)} changes in exact match and log perplexity is a difference{few}."


def markdown(report: Rounds) -> str:
    """The table, every change, and a few forgeries beside the truth, as GitHub's Markdown."""
    body = [[stage, *(" ".join(filter(None, values[:2])) for values in _row(report, stage))] for stage in report.stages]
    parts = ["Exact match with its 95% interval (bootstrap over questions).", grid(["", *HEAD], body)]
    parts.append("\n".join(f"- {note}" for note in notes(report)))
    changes = [*report.changes, *report.gains]
    if changes:
        head = ["stage", "against", "condition", "metric", "questions", "change"]
        rows = [
            [c.after, c.before, TITLES[c.condition], METRIC_NAMES[c.metric], str(c.rows), c.verdict] for c in changes
        ]
        parts += ["Changes, the same questions paired:", grid(head, rows)]
    if report.examples:
        parts.append("A few forgeries beside the truth:")
    for one in report.examples:
        said = [("right", one.right), ("argued for", one.wrong), ("true document", one.truth)]
        lines = [f"- {name}: {_inline(text)}" for name, text in [*said, (f"attacker {one.attacker}", one.forgery)]]
        parts.append("\n".join([f"**{_inline(one.question)}**", "", *lines]))
    return "\n\n".join(parts) + "\n"


def as_json(report: Rounds) -> dict[str, Any]:
    """All numbers; `scores` has a row for each stage (`model`) and condition."""
    return {
        "baseline": report.stages[0] if report.stages else "",
        "attack": "attacker",
        "scores": [_plain(row) for row in report.scores],
        "attack_success": [_plain(row) for row in report.successes],
        "changes": [_plain(row) | {"shown": row.shown} for row in report.changes],
        "perplexity": [_plain(row) for row in report.inflicted],
        "gains": [_plain(row) | {"shown": row.shown} for row in report.gains],
        "forgeries": [_plain(row) for row in report.forged],
        "conclusion": conclusion(report),
        "examples": [_plain(row) for row in report.examples],
    }


def picture(report: Rounds, path: Path) -> Path:
    """A PNG over the stages: exact match under each condition, and the log perplexity that a forgery inflicts.

    Raises:
        StorageError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    stages = report.stages
    figure = Figure(figsize=(max(9.0, 1.6 * len(stages) + 5), 4.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, condition in enumerate(COMPARED):
        found = [(at, score.em) for at, stage in enumerate(stages) if (score := report.score(stage, condition))]
        # Side by side, so that no interval hides another.
        _line(left, [(at + 0.08 * (number - 1), em) for at, em in found], COLOURS[number], TITLES[condition])
    hurt = [(stages.index(one.model), one.log_perplexity) for one in report.inflicted]
    _line(right, [(float(at), value) for at, value in hurt], COLOURS[COMPARED.index("attacker")], TITLES["attacker"])
    left.set_ylim(-0.02, 1.05)
    left.set_title("exact match, 95% intervals", loc="left", fontsize=11)
    right.set_title("mean log perplexity of the right answer after one forgery", loc="left", fontsize=11)
    for axes in (left, right):
        axes.set_xticks(range(len(stages)), [stage.replace(", ", ",\n") for stage in stages])
        axes.set_xlim(-0.5, max(1, len(stages)) - 0.5)
        axes.grid(axis="y", color="#e3e6ea", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    if report.scores:
        figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower center", ncols=3, frameon=False)
    make_folder(path.parent)
    with translate_errors(path.parent):
        figure.savefig(path)
    return path


HEAD = (
    *(TITLES[name] for name in SHOWN),
    "template success",
    "own success",
    "log perplexity",
)


def _row(report: Rounds, stage: str) -> list[tuple[str, ...]]:
    """(value, interval, more) for each column of HEAD; empty where it was not asked."""
    out: list[tuple[str, ...]] = []
    for condition in SHOWN:
        score = report.score(stage, condition)
        more = f"{score.f1.mean:.2f} / {score.subspan.mean:.2f}" if score else ""
        out.append((*_value(score.em if score else None), more))
    for condition in ("template", "attacker"):
        found = [s for s in report.successes if (s.model, s.condition, s.metric) == (stage, condition, "em")]
        more = f"of {found[0].rows}" if found else ""
        out.append((*_value(found[0].success if found else None), more))
    hurt = next((one.log_perplexity for one in report.inflicted if one.model == stage), None)
    return [*out, _value(hurt)]


def _value(value: Interval | None) -> tuple[str, str]:
    return (f"{value.mean:.2f}", f"({bounds(value)})") if value else ("", "")


def _cell(values: tuple[str, ...]) -> Text:
    text = Text(values[0], style="")
    for value in values[1:]:
        text.append(f"\n{value.strip('()').replace(' to ', '-')}" if value else "", "dim")
    return text


def _line(axes: Any, points: list[tuple[float, Interval]], colour: str, label: str) -> None:
    if points:
        places, values = [at for at, _ in points], [value for _, value in points]
        spread = [[value.mean - value.low for value in values], [value.high - value.mean for value in values]]
        style: dict[str, Any] = {"color": colour, "marker": "o", "linewidth": 1.5, "capsize": 3, "elinewidth": 1}
        axes.errorbar(places, [value.mean for value in values], spread, label=label, **style)


def _inline(text: str) -> str:
    """The text on one line, so that none of it is taken as markup of the report: within backticks."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _plain(record: object) -> dict[str, Any]:
    row = as_row(record)
    return {key: value._asdict() if isinstance(value, Interval) else value for key, value in row.items()}
