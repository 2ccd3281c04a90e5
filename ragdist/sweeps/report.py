"""A sweep as a terminal table, Markdown, JSON, curves (PNG, and a web page that needs nothing else), and Parquet.

report.md report.html report.png summary.json     trials.parquet     best.yaml, front/*.yaml
"""

from __future__ import annotations

import html
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.table import Table
from rich.text import Text

from ragdist.config import Settings, loader
from ragdist.evaluation.report import COLOURS, NAMES, bounds, grid
from ragdist.storage.atomic import make_folder, translate_errors
from ragdist.sweeps import trials
from ragdist.sweeps.summary import Sweep, Tried

TITLES = {
    "clean": "clean list",
    "permuted": "clean list, permuted",
    "attacked": "template attack",
    "attacker": "own forgeries",
    "closed_book": "no documents",
    "absent": "oracle absent",
    "retrieved": "retrieved",
}
MOST_LINES = 4
"""Combinations of the other settings that get a line each in a panel; more are points without lines."""
NO_METADATA = ("Creator", "Date", "Format", "Type")
"""What matplotlib would write into a drawing."""


def write(sweep: Sweep, settings: Settings, folder: Path) -> dict[str, Any]:
    """Everything that the sweep leaves; returns what summary.json holds.

    Raises:
        StorageError: the folder cannot be written.
    """
    summary = as_json(sweep)
    with translate_errors(make_folder(folder)):
        (folder / "report.md").write_text(markdown(sweep))
        (folder / "report.html").write_text(page(sweep))
        figure(sweep).savefig(folder / "report.png")
        pq.write_table(rows(sweep, settings), folder / "trials.parquet")
        if sweep.best:
            (folder / "best.yaml").write_text(loader.dump(settings_of(sweep.best, settings)))
        for number, tried in enumerate(sweep.front, 1) if len(sweep.objective) > 1 else ():
            (make_folder(folder / "front") / f"{number}.yaml").write_text(loader.dump(settings_of(tried, settings)))
    return summary


def settings_of(tried: Tried, settings: Settings) -> Settings:
    """The point's settings as a job takes them, without the sweep and its name."""
    mapper, run = settings.run.mapper, settings.run
    found = trials.at(settings, tried.point)
    return found.model_copy(update={"run": run.model_copy(update={"name": "", "mapper": mapper})})


def table(sweep: Sweep) -> Table:
    """A row for each point, best first in bold; what failed or was stopped is below."""
    out = Table(
        title=f"{NAMES[sweep.metric]} and its 95% interval {_over(sweep)}",
        title_justify="left",
        title_style="bold",
        caption=Text("\n".join(notes(sweep))),
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        min_width=80,
    )
    for key in sweep.keys:
        out.add_column(key.rpartition(".")[2])
    shown = _shown(sweep)
    for name in shown:
        out.add_column(TITLES.get(name, name), justify="right")
    out.add_column("seeds", justify="right")
    out.add_column("")
    for tried in sweep.points:
        cells = [Text.assemble(_mean(tried, name), "\n", (_bounds(tried, name), "dim")) for name in shown]
        style = "bold" if tried is sweep.best else ""
        out.add_row(*_values(sweep, tried), *cells, str(tried.seeds), _mark(sweep, tried), style=style)
    return out


def markdown(sweep: Sweep) -> str:
    """The table, the notes, and every trial."""
    shown = _shown(sweep)
    head = [*(f"`{key}`" for key in sweep.keys), *(TITLES.get(name, name) for name in shown), "seeds", "minutes", ""]
    body = [
        [
            *_values(sweep, tried),
            *(f"{_mean(tried, name)} ({_bounds(tried, name)})" for name in shown),
            *(str(tried.seeds), f"{tried.seconds / 60:.1f}", _mark(sweep, tried)),
        ]
        for tried in sweep.points
    ]
    parts = [f"{NAMES[sweep.metric]} and its 95% interval {_over(sweep)}.", grid(head, body)]
    parts.append("\n".join(f"- {note}" for note in notes(sweep)))
    return "\n\n".join([*parts, "Trials:", grid(*_trials(sweep))]) + "\n"


def notes(sweep: Sweep) -> list[str]:
    """What the table does not say: how many trials, what failed, what the best is by."""
    states = [trial.state for trial in sweep.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    out = [f"{len(states)} trials: {counted}."]
    if sweep.best:
        by = " and ".join(TITLES[name] for name in sweep.objective)
        several = len(sweep.objective) > 1
        out.append(
            f"Best by {by}{', of which no other point is better in both' if several else ''}; chosen of "
            f"{len(sweep.points)} on the questions that it is reported on, with intervals that are each point's own: "
            "points are not tested against each other, so look at it again on other questions."
        )
    out += [f"{trial.name} failed: {trial.error}" for trial in sweep.trials if trial.state == "failed"]
    return out


def as_json(sweep: Sweep) -> dict[str, Any]:
    """All numbers: `points`, `front` and `best` by their values, `trials`."""

    def plain(tried: Tried) -> dict[str, Any]:
        scores = {name: score._asdict() for name, score in tried.scores.items()}
        return {"values": tried.values, "seeds": tried.seeds, "scores": scores, "seconds": round(tried.seconds, 1)}

    best = sweep.best
    return {
        "job": sweep.job,
        "objective": list(sweep.objective),
        "metric": sweep.metric,
        "best": plain(best) if best else None,
        "front": [tried.values for tried in sweep.front],
        "points": [plain(tried) for tried in sweep.points],
        "trials": [
            {"name": t.name, "values": t.values, "state": t.state, "seconds": t.seconds, "error": t.error}
            for t in sweep.trials
        ],
        "scores": [
            {"model": "best", "condition": name, "em": best.scores[name]._asdict()}
            for name in (sweep.objective if best else ())
            if best
        ],
    }


def rows(sweep: Sweep, settings: Settings) -> pa.Table:
    """A row for each trial: its values, state, scores with bounds, seconds, error, and all its settings as YAML."""
    names = sorted({name for trial in sweep.trials for name in trial.scores})
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.values))
    columns: dict[str, list[Any]] = {"trial": [trial.name for trial in sweep.trials]}
    columns |= {key: _column([trial.values.get(key) for trial in sweep.trials]) for key in keys}
    columns["state"] = [trial.state for trial in sweep.trials]
    for name, (at, suffix) in itertools.product(names, enumerate(("", "_low", "_high"))):
        found = (trial.scores.get(name) for trial in sweep.trials)
        columns[name + suffix] = [scores[sweep.metric][at] if scores else None for scores in found]
    columns["seconds"] = [trial.seconds for trial in sweep.trials]
    columns["error"] = [trial.error for trial in sweep.trials]
    columns["settings"] = [loader.dump(trials.at(settings, trial.values)) for trial in sweep.trials]
    return pa.table(columns)


def _column(values: list[Any]) -> list[Any]:
    """As they are where all are of one plain kind, else as JSON."""
    if {type(value) for value in values if value is not None} <= {int, float}:
        return values if all(isinstance(value, int | None) for value in values) else [*map(_float, values)]
    alike = len({type(value) for value in values}) == 1 and isinstance(values[0], str | bool)
    return values if alike else [json.dumps(value) for value in values]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def figure(sweep: Sweep) -> Any:
    """A panel for each setting with the objectives over it; with two objectives, one against the other with the front.

    Dashed: the untuned model.
    """
    from matplotlib.figure import Figure

    panels = len(sweep.keys) + (len(sweep.objective) > 1)
    out = Figure(figsize=(5.2 * max(1, panels), 4.4), dpi=150, layout="constrained")
    for number, key in enumerate(sweep.keys):
        _curves(out.add_subplot(1, panels, number + 1), sweep, key)
    if len(sweep.objective) > 1:
        _front(out.add_subplot(1, panels, panels), sweep)
    for axes in out.axes:
        axes.grid(color="#e3e6ea", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    return out


def _curves(axes: Any, sweep: Sweep, key: str) -> None:
    """One setting against the objectives, a line for each combination of the others."""
    axes.set_xlabel(key)
    axes.set_ylabel(f"{NAMES[sweep.metric]}, 95% interval {_over(sweep)}")
    values = [tried.values[key] for tried in sweep.points]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    texts = list(dict.fromkeys(map(str, values)))
    lines: dict[str, list[Tried]] = {}
    for tried in sweep.points:
        others = trials.label({name: value for name, value in tried.values.items() if name != key})
        lines.setdefault(others, []).append(tried)
    joined = not sweep.drawn and len(lines) <= MOST_LINES
    for (at, name), (number, (beside, points)) in itertools.product(
        enumerate(sweep.objective), enumerate(lines.items())
    ):
        found = [(t.values[key] if numeric else texts.index(str(t.values[key])), t.scores.get(name)) for t in points]
        shown = sorted((x, score) for x, score in found if score)
        means = [score.mean for _, score in shown]
        spread = [[s.mean - s.low for _, s in shown], [s.high - s.mean for _, s in shown]]
        label = f"{TITLES[name]} {beside}".strip() if joined else TITLES[name] if not number else None
        style: Any = {"color": COLOURS[at + 1], "marker": "osD^"[number % 4], "linestyle": "-" if joined else "none"}
        axes.errorbar([x for x, _ in shown], means, spread, capsize=3, label=label, **style)
    for at, name in enumerate(sweep.objective):
        base = [tried.scores[f"base_{name}"].mean for tried in sweep.points if f"base_{name}" in tried.scores]
        if base:
            axes.axhline(sum(base) / len(base), color=COLOURS[at + 1], linestyle=(0, (4, 3)), linewidth=1)
    if not numeric:
        axes.set_xticks(range(len(texts)), texts)
    axes.set_ylim(-0.02, 1.02)
    if sweep.points:
        axes.legend(frameon=False, fontsize=8)


def _front(axes: Any, sweep: Sweep) -> None:
    """Every point by both objectives; the front is joined."""
    axes.set_xlabel(TITLES[sweep.objective[0]])
    axes.set_ylabel(TITLES[sweep.objective[1]])
    places = [sweep.of(tried) for tried in sweep.points if all(name in tried.scores for name in sweep.objective)]
    axes.scatter([x for x, _ in places], [y for _, y in places], color=COLOURS[0], zorder=2)
    best = sorted(sweep.of(tried) for tried in sweep.front)
    axes.plot([x for x, _ in best], [y for _, y in best], "o-", color=COLOURS[1], label="Pareto front", zorder=3)
    for tried in sweep.front:
        axes.annotate(trials.label(tried.values), sweep.of(tried), (4, 4), textcoords="offset points", fontsize=8)
    axes.legend(frameon=False, fontsize=8)


def page(sweep: Sweep) -> str:
    """One HTML file with the curves as SVG inside, the points, and every trial; it fetches nothing."""
    drawing = io.StringIO()
    figure(sweep).savefig(drawing, format="svg", metadata=dict.fromkeys(NO_METADATA))
    svg = drawing.getvalue()
    head, body = _trials(sweep)
    title = f"Sweep of {sweep.job} over {', '.join(sweep.keys)}"
    notes_ = "".join(f"<li>{html.escape(note)}</li>" for note in notes(sweep))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px/1.5 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}svg{max-width:100%}"
        "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}</style>"
        f"<h1>{html.escape(title)}</h1>{svg[svg.index('<svg') :]}<ul>{notes_}</ul>{_html(head, body)}</html>\n"
    )


def _html(head: list[str], body: list[list[str]]) -> str:
    lines = [[f"<th>{html.escape(cell)}</th>" for cell in head]]
    lines += [[f"<td>{html.escape(cell)}</td>" for cell in row] for row in body]
    return "<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in lines) + "</table>"


def _trials(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Head and rows of all trials."""
    names = _shown(sweep)
    head = ["trial", "state", *(TITLES.get(name, name) for name in names), "minutes", "error"]
    body = []
    for trial in sweep.trials:
        found = [trial.scores.get(name) for name in names]
        cells = [f"{scores[sweep.metric][0]:.3f}" if scores else "" for scores in found]
        body.append([trial.name, trial.state, *cells, f"{trial.seconds / 60:.1f}", trial.error])
    return head, body


def _shown(sweep: Sweep) -> list[str]:
    """The objectives, then what else was asked; the untuned model's are in the picture."""
    asked = dict.fromkeys((*sweep.objective, *(name for tried in sweep.points for name in tried.scores)))
    return [name for name in asked if not name.startswith("base_")]


def _over(sweep: Sweep) -> str:
    return "over seeds" if any(tried.seeds > 1 for tried in sweep.points) else "over questions"


def _values(sweep: Sweep, tried: Tried) -> list[str]:
    return [trials.label({key: tried.values[key]}).partition("=")[2] for key in sweep.keys]


def _mean(tried: Tried, name: str) -> str:
    return f"{tried.scores[name].mean:.2f}" if name in tried.scores else ""


def _bounds(tried: Tried, name: str) -> str:
    return bounds(tried.scores[name]) if name in tried.scores else ""


def _mark(sweep: Sweep, tried: Tried) -> str:
    said = ["best"] * (tried is sweep.best) + ["front"] * (len(sweep.objective) > 1 and tried in sweep.front)
    return ", ".join(said)
