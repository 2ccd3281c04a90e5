"""What a report shows of the robustness suite: models against attacks, the grid, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from ragdist.evaluation.intervals import note
from ragdist.evaluation.robustness import RECALLS, Faced, Robustness, Single, curve
from ragdist.evaluation.sheet import COLOURS, Block, Heat, Mark, Notes, Picture, Series, Table, Value
from ragdist.evaluation.suite import Cell

MISLED = "attack success, its 95% interval, then Subspan EM from without the attack to with it"
MEANS = (
    "Attack success is the share of what is right without the forgeries that is wrong with them, over the same "
    "questions; held out are attacks that no model may learn from.",
    "The gap is Subspan EM without forgeries less that under the worst attack or in the worst list, which is chosen by "
    "these very answers, so it is somewhat too wide; the area is mean Subspan EM over shares of forged documents.",
)


def blocks(found: Robustness) -> list[Block]:
    """Tables, notes and pictures, in the order in which they are read."""
    models = list(dict.fromkeys(one.model for one in (*found.attacks, *(faced for _, faced in found.cells))))
    names = list(dict.fromkeys(one.name for one in found.attacks))
    by_key = {(one.model, one.name): one for one in found.attacks}
    kinds = {one.name: "held out" if one.held_out else "training" for one in found.attacks}
    shown: list[Block] = [
        Table(
            title=f"Attacks: {MISLED}",
            columns=("", "list", *models),
            rows=[[name, kinds[name], *(_faced(by_key.get((model, name))) for model in models)] for name in names],
        ),
        Table(
            title="Robustness in single numbers",
            columns=("", "of", "questions", "value", "worst"),
            rows=[_single(one, "gap over") for one in found.gaps] + [_single(one, "area over") for one in found.areas],
        ),
        Notes(lines=[*MEANS, *found.notes, *filter(None, [note(found.changes)])]),
        Table(
            title="Change under each attack, the same questions paired",
            columns=("model", "against", "attack", "questions", "change"),
            rows=[(one.after, one.before, one.condition, str(one.rows), one.verdict) for one in found.changes],
            long=True,
        ),
        Table(
            title="The grid: Subspan EM, its 95% interval, then attack success",
            columns=("list", *models),
            rows=_grid_rows(found, models),
            long=True,
        ),
        _recall_table(found),
    ]
    if names and models:
        shown.append(_matrix(models, names, by_key))
    return [*shown, *_pictures(found, models)]


def _faced(one: Faced | None) -> Value | str:
    if one is None:
        return ""
    scores = f"{one.clean.mean:.2f} to {one.accuracy.mean:.2f}"
    return Value(one.misled, scores) if one.misled else scores


def _single(one: Single, what: str) -> tuple[str, str, str, Value, str]:
    return one.model, f"{what} {one.of}", str(one.rows), Value(one.value), one.worst


def _grid_rows(found: Robustness, models: Sequence[str]) -> list[list[str | Value]]:
    by_key = {(faced.model, cell): faced for cell, faced in found.cells}

    def said(one: Faced | None) -> Value | str:
        if one is None:
            return ""
        return Value(one.accuracy, f"success {one.misled.mean:.2f}" if one.misled and one.accuracy != one.clean else "")

    cells = dict.fromkeys(cell for cell, _ in found.cells)
    return [[cell.name, *(said(by_key.get((model, cell))) for model in models)] for cell in cells]


def _recall_table(found: Robustness) -> Table:
    lines = {(one.model, one.forged): list[Value]() for one in found.recalls}
    for one in found.recalls:
        lines[one.model, one.forged].append(Value(one.value))
    return Table(
        title="Retrieval recall, the share of questions whose oracle is found: Subspan EM, its 95% interval",
        columns=("model", "forged documents", *(f"{recall:g}" for recall in RECALLS)),
        rows=[[model, str(forged), *values] for (model, forged), values in lines.items()],
        long=True,
    )


def _matrix(models: Sequence[str], names: Sequence[str], by_key: dict[tuple[str, str], Faced]) -> Heat:
    def value(model: str, name: str) -> float | None:
        one = by_key.get((model, name))
        return one.accuracy.mean if one else None

    values = [[value(model, name) for name in names] for model in models]
    return Heat(title="Subspan EM under each attack", rows=models, columns=names, values=values)


def _pictures(found: Robustness, models: Sequence[str]) -> list[Block]:
    """For each model the grid as a heat map; then curves against the share of forged documents."""
    shown, curves = list[Block](), list[Series]()
    for model, colour in zip(models, cycle(COLOURS), strict=False):
        mine = {cell: faced for cell, faced in found.cells if faced.model == model}
        flat = {cell: one for cell, one in mine.items() if cell.oracle and cell.place == "drawn"}
        shown += [_heat(model, flat)] if flat else []
        full = {cell: mine[cell] for cell in curve(mine)}
        absent = {cell: one for cell, one in mine.items() if not cell.oracle}
        curves += [_line(model, full, colour)] if full else []
        curves += [_line(f"{model}, oracle absent", absent, colour, dashed=True)] if absent else []
    by_place = _places(found, models[-1:])
    share, recall = "share of forged documents", "retrieval recall"
    panels = (
        ("Subspan EM against forged documents", curves, share),
        (f"{''.join(models[-1:])}, by position", by_place, share),
        ("Subspan EM against retrieval recall", _recalled(found, models), recall),
    )
    drawn = [Picture(title=title, series=series, x=x, y="Subspan EM") for title, series, x in panels if series]
    return [*shown, *drawn]


def _recalled(found: Robustness, models: Sequence[str]) -> list[Series]:
    """For each model a curve without forged documents, and one with the most."""
    most = max((one.forged for one in found.recalls), default=0)
    drawn = list[Series]()
    for model, colour in zip(models, cycle(COLOURS), strict=False):
        for forged in sorted({0, most}):
            marks = [Mark(one.recall, one.value) for one in found.recalls if (one.model, one.forged) == (model, forged)]
            label = f"{model}, {forged} forged" if forged else model
            drawn += [Series(label=label, marks=marks, colour=colour, dashed=bool(forged))] if marks else []
    return drawn


def _heat(model: str, flat: dict[Cell, Faced]) -> Heat:
    sizes = sorted({cell.documents for cell in flat})
    most = max(cell.forged for cell in flat)
    by_place = {(cell.documents, cell.forged): one.accuracy.mean for cell, one in flat.items()}
    return Heat(
        title=f"{model}: Subspan EM",
        rows=[str(size) for size in sizes],
        columns=[str(forged) for forged in range(most + 1)],
        values=[[by_place.get((size, forged)) for forged in range(most + 1)] for size in sizes],
        x="forged documents",
        y="documents",
    )


def _places(found: Robustness, models: Sequence[str]) -> list[Series]:
    """One curve for each position, of these models; none where there is one position alone."""
    full = max((cell.documents for cell, _ in found.cells), default=0)
    mine = {cell: one for cell, one in found.cells if one.model in models and cell.oracle and cell.documents == full}
    places = list(dict.fromkeys(cell.place for cell in mine if cell.forged))
    clean = {cell: one for cell, one in mine.items() if not cell.forged}
    lines = [clean | {cell: one for cell, one in mine.items() if cell.place == place} for place in places]
    named = zip(places, lines, COLOURS, strict=False)
    return [_line(place, line, colour) for place, line, colour in named] if len(places) > 1 else []


def _line(label: str, found: dict[Cell, Faced], colour: str, dashed: bool = False) -> Series:
    cells = sorted(found, key=lambda cell: cell.share)
    return Series(
        label=label, marks=[Mark(cell.share, found[cell].accuracy) for cell in cells], colour=colour, dashed=dashed
    )
