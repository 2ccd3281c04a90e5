"""What is shown of a sweep: points, trials and curves; also as Parquet. `evaluation.page` makes the web page of it.

report.md report.json report.png summary.json     trials.parquet     best.yaml, front/*.yaml
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist.config import Settings, loader
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import NAMES
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
    figure,
    keep,
    markdown,
)
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
    "mixed": "oracle now and then",
    "retrieved": "retrieved",
}
MOST_LINES = 4
"""Combinations of the other settings that get a line each in a panel; more are points without lines."""


def write(sweep: Sweep, settings: Settings, folder: Path, more: Sequence[Block] = ()) -> dict[str, Any]:
    """Everything that the sweep leaves, `more` below it in report.md; returns what summary.json holds.

    Raises:
        StorageError: the folder cannot be written.
    """
    made = sheet(sweep)
    made = replace(made, blocks=[*made.blocks, *more])
    with translate_errors(make_folder(folder)):
        (folder / "report.md").write_text(markdown(made))
        keep(made, folder)
        figure(made.pictures).savefig(folder / "report.png")
        pq.write_table(rows(sweep, settings), folder / "trials.parquet")
        if sweep.best:
            (folder / "best.yaml").write_text(loader.dump(settings_of(sweep.best, settings)))
        for number, tried in enumerate(sweep.front, 1) if len(sweep.objective) > 1 else ():
            (make_folder(folder / "front") / f"{number}.yaml").write_text(loader.dump(settings_of(tried, settings)))
    return made.numbers


def settings_of(tried: Tried, settings: Settings) -> Settings:
    """The point's settings as a job takes them, without the sweep and its name."""
    return trials.at(settings, tried.point).unchecked("run", settings.run.replaced("name", ""))


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
    found: list[Block] = [points, Notes(lines=notes(sweep)), _trials(sweep), *pictures(sweep)]
    title = f"Sweep of {sweep.job} over {', '.join(sweep.keys) or 'seeds'}"
    return Sheet(found, as_json(sweep), title, headline(sweep))


def headline(sweep: Sweep) -> list[str]:
    """Which point is best, or which tie; then how far from the untuned model it is."""
    if not sweep.best:
        return ["No trial came to its end."]
    by = " and ".join(TITLES[name] for name in sweep.objective)
    names = [trials.label(tried.values) or "the one point" for tried in sweep.tied]
    scores = [f"{TITLES[name]} {_said(sweep.best.scores[name])}" for name in sweep.objective]
    of = f"of {len(sweep.points)}, {NAMES[sweep.metric]}"
    means = f"mean of {by}" if len(sweep.objective) > 1 else by
    if len(names) > 1:
        return [f"A tie by {means} ({of}): {', '.join(names)}, each {'; '.join(scores)}; best.yaml holds the first."]
    untuned = [
        f"{TITLES[name]} {_said(sweep.best.scores[base])}"
        for name in sweep.objective
        if (base := f"base_{name}") in sweep.best.scores
    ]
    out = [f"Highest {means} ({of}): {names[0]}, {'; '.join(scores)}."]
    return [*out, f"The untuned model: {'; '.join(untuned)}."] if untuned else out


def _said(score: Interval) -> str:
    return f"{score.mean:.2f} ({bounds(score)})"


def notes(sweep: Sweep) -> list[str]:
    """What the table does not say: how many trials, what failed, what the best is by."""
    states = [trial.state for trial in sweep.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    out = [f"{len(states)} trials: {counted}."]
    if sweep.best:
        by = " and ".join(TITLES[name] for name in sweep.objective)
        several = len(sweep.objective) > 1
        out.append(
            f"Chosen by {by}{', of which no other point is better in both' if several else ''}, of "
            f"{len(sweep.points)}, on the questions that it is reported on, with intervals that are each point's own: "
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
            {"model": "best", "condition": name, sweep.metric: best.scores[name]._asdict()}
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
    first = "best" if len(sweep.tied) == 1 else f"tie of {len(sweep.tied)}"
    return ", ".join([first] * any(tried is one for one in sweep.tied) + numbers)
