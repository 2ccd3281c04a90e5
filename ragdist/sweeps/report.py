"""What is shown of a sweep: points, trials and curves; also as a web page that needs nothing else, and as Parquet.

report.md report.html report.png summary.json     trials.parquet     best.yaml, front/*.yaml
"""

from __future__ import annotations

import html
import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist.config import Settings, loader
from ragdist.evaluation.report import NAMES
from ragdist.evaluation.sheet import COLOURS, Block, Mark, Notes, Picture, Series, Sheet, Table, Value, figure, markdown
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


def write(sweep: Sweep, settings: Settings, folder: Path, more: Sequence[Block] = ()) -> dict[str, Any]:
    """Everything that the sweep leaves, `more` below it in report.md; returns what summary.json holds.

    Raises:
        StorageError: the folder cannot be written.
    """
    made = sheet(sweep)
    with translate_errors(make_folder(folder)):
        (folder / "report.md").write_text(markdown(Sheet([*made.blocks, *more], made.numbers)))
        (folder / "report.html").write_text(page(sweep))
        figure(made.pictures).savefig(folder / "report.png")
        pq.write_table(rows(sweep, settings), folder / "trials.parquet")
        if sweep.best:
            (folder / "best.yaml").write_text(loader.dump(settings_of(sweep.best, settings)))
        for number, tried in enumerate(sweep.front, 1) if len(sweep.objective) > 1 else ():
            (make_folder(folder / "front") / f"{number}.yaml").write_text(loader.dump(settings_of(tried, settings)))
    return made.numbers


def settings_of(tried: Tried, settings: Settings) -> Settings:
    """The point's settings as a job takes them, without the sweep and its name."""
    mapper, run = settings.run.mapper, settings.run
    found = trials.at(settings, tried.point)
    return found.model_copy(update={"run": run.model_copy(update={"name": "", "mapper": mapper})})


def sheet(sweep: Sweep) -> Sheet:
    """A row for each point, what failed or was stopped, every trial, and the curves."""
    shown = _shown(sweep)
    points = Table(
        title=f"{NAMES[sweep.metric]} and its 95% interval {_over(sweep)}",
        columns=(*sweep.keys, *(TITLES.get(name, name) for name in shown), "seeds", "minutes", "choice"),
        rows=[
            (
                *_values(sweep, tried),
                *(Value(tried.scores[name]) if name in tried.scores else "" for name in shown),
                *(str(tried.seeds), f"{tried.seconds / 60:.1f}", _choice(sweep, tried)),
            )
            for tried in sweep.points
        ],
    )
    return Sheet([points, Notes(lines=notes(sweep)), _trials(sweep), *pictures(sweep)], as_json(sweep))


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


def pictures(sweep: Sweep) -> list[Picture]:
    """A panel for each setting with the objectives over it; with two objectives, one against the other with the front.

    Dashed: the untuned model.
    """
    return [*(_curves(sweep, key) for key in sweep.keys), *([_front(sweep)] if len(sweep.objective) > 1 else [])]


def _curves(sweep: Sweep, key: str) -> Picture:
    """One setting against the objectives, a line for each combination of the others."""
    values = [tried.values[key] for tried in sweep.points]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    texts = list(dict.fromkeys(map(str, values)))
    places = [value if numeric else texts.index(str(value)) for value in values]
    lines: dict[str, list[tuple[float, Tried]]] = {}
    for place, tried in zip(places, sweep.points, strict=True):
        others = trials.label({name: value for name, value in tried.values.items() if name != key})
        lines.setdefault(others, []).append((place, tried))
    joined = not sweep.drawn and len(lines) <= MOST_LINES
    series = []
    for at, name in enumerate(sweep.objective):
        colour = COLOURS[at + 1]
        for number, (beside, found) in enumerate(lines.items()):
            shown = sorted((place, tried.scores[name]) for place, tried in found if name in tried.scores)
            points = [Mark(*one) for one in shown]
            label = f"{TITLES[name]} {beside}".strip() if joined else TITLES[name] * (not number)
            form: Any = "line" if joined else "points"
            series.append(Series(label=label, marks=points, form=form, colour=colour, marker="osD^"[number % 4]))
        base = [tried.scores[f"base_{name}"].mean for tried in sweep.points if f"base_{name}" in tried.scores]
        if base:
            ends = [Mark(place, sum(base) / len(base)) for place in (min(places), max(places))]
            series.append(Series(label=f"{TITLES[name]}, untuned", marks=ends, colour=colour, dashed=True, marker=""))
    y = f"{NAMES[sweep.metric]}, 95% interval {_over(sweep)}"
    return Picture(series=series, ticks=() if numeric else texts, x=key, y=y)


def _front(sweep: Sweep) -> Picture:
    """Every point by both objectives; the front is joined and numbered as `front/` is."""
    numbered = [(sweep.of(tried), number) for number, tried in enumerate(sweep.front, 1)]
    front = [Mark(x, y, text=str(number)) for (x, y), number in sorted(numbered)]
    places = [sweep.of(tried) for tried in sweep.points if all(name in tried.scores for name in sweep.objective)]
    return Picture(
        series=[
            Series(marks=[Mark(x, y) for x, y in places], form="points", colour=COLOURS[0]),
            Series(label="Pareto front", marks=front, colour=COLOURS[1]),
        ],
        x=TITLES[sweep.objective[0]],
        y=TITLES[sweep.objective[1]],
        share=False,
    )


def page(sweep: Sweep) -> str:
    """One HTML file with the curves as SVG inside, the points, and every trial; it fetches nothing."""
    drawing = io.StringIO()
    figure(pictures(sweep)).savefig(drawing, format="svg", metadata=dict.fromkeys(NO_METADATA))
    svg = drawing.getvalue()
    table = _trials(sweep)
    title = f"Sweep of {sweep.job} over {', '.join(sweep.keys)}"
    notes_ = "".join(f"<li>{html.escape(note)}</li>" for note in notes(sweep))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px/1.5 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}svg{max-width:100%}"
        "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}</style>"
        f"<h1>{html.escape(title)}</h1>{svg[svg.index('<svg') :]}<ul>{notes_}</ul>{_html(table)}</html>\n"
    )


def _html(table: Table) -> str:
    lines = [[f"<th>{html.escape(cell)}</th>" for cell in table.columns]]
    lines += [[f"<td>{html.escape(str(cell))}</td>" for cell in row] for row in table.rows]
    return "<table>" + "".join(f"<tr>{''.join(line)}</tr>" for line in lines) + "</table>"


def _trials(sweep: Sweep) -> Table:
    """A row for each trial, whatever became of it."""
    names = _shown(sweep)
    rows = []
    for trial in sweep.trials:
        found = [trial.scores.get(name) for name in names]
        cells = [f"{scores[sweep.metric][0]:.3f}" if scores else "" for scores in found]
        rows.append((trial.name, trial.state, *cells, f"{trial.seconds / 60:.1f}", trial.error))
    head = ("trial", "state", *(TITLES.get(name, name) for name in names), "minutes", "error")
    return Table(title="Trials", columns=head, rows=rows, long=True)


def _shown(sweep: Sweep) -> list[str]:
    """The objectives, then what else was asked; the untuned model's are in the picture."""
    asked = dict.fromkeys((*sweep.objective, *(name for tried in sweep.points for name in tried.scores)))
    return [name for name in asked if not name.startswith("base_")]


def _over(sweep: Sweep) -> str:
    return "over seeds" if any(tried.seeds > 1 for tried in sweep.points) else "over questions"


def _values(sweep: Sweep, tried: Tried) -> list[str]:
    return [trials.label({key: tried.values[key]}).partition("=")[2] for key in sweep.keys]


def _choice(sweep: Sweep, tried: Tried) -> str:
    front = sweep.front if len(sweep.objective) > 1 else ()
    numbers = [f"front {number}" for number, one in enumerate(front, 1) if one is tried]
    return ", ".join(["best"] * (tried is sweep.best) + numbers)
