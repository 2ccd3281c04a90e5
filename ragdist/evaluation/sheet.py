"""One form for all reports: a sheet of tables, notes and pictures, as data. Nothing else lays out, prints or draws.

What is shown is said by each system's `sheet()`; Markdown, the terminal's tables and the PNG are made of it here, and
the web page in `page.py`, also later, from what `keep` left.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter
from rich import box
from rich import table as rich_table
from rich.console import Group
from rich.text import Text

from ragdist.config import html
from ragdist.evaluation.intervals import Interval
from ragdist.records import as_row
from ragdist.storage.atomic import atomic_file, make_folder, translate_errors
from ragdist.tracking.progress import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#9aa5b1", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Grey for the first model, then Okabe and Ito's, which colour-blind people can tell apart."""
DARK = "#333333"
"""Of what is no result: intervals, floors, the diagonal."""
DASHES: Any = (0, (4, 3))
WIDEST = 16.0
"""Inches of panels beside each other; the next begins a row."""
LABEL, HEAD = 16, 12
"""Characters of a line in a table's first column and in its heads, on a terminal."""


class Value(NamedTuple):
    """A mean with its interval, and perhaps other numbers. Example: Value(Interval(0.82, 0.74, 0.89), "of 90")."""

    interval: Interval
    more: str = ""


class Quote(str):
    """A text from a corpus or a model, in which nothing is markup."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Left out where it has no rows, as each column is that holds nothing."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Value]]
    """The first cell of each is its name; those that are missing at the end are empty."""
    long: bool = False
    """In Markdown alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Sentences about what stands above them."""

    lines: Sequence[str]
    long: bool = False
    """In Markdown alone."""


class Mark(NamedTuple):
    """One result in a picture. Example: Mark(1.0, Interval(0.82, 0.74, 0.89))."""

    x: float
    """Of bars and under named ticks: which group, from 0."""
    y: Interval | float
    weight: float = 0.0
    """Share of all that it stands for, drawn as an area."""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one colour. Bars of several series stand beside each other."""

    label: str = ""
    """In the legend; empty: not there."""
    marks: Sequence[Mark]
    form: Literal["bars", "line", "points"] = "line"
    colour: str = DARK
    dashed: bool = False
    marker: str = "o"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One panel of the PNG."""

    title: str = ""
    series: Sequence[Series]
    ticks: Sequence[str] = ()
    """Names of the places 0, 1, ... along x; none: numbers."""
    x: str = ""
    y: str = ""
    share: bool = True
    """What is drawn lies between 0 and 1."""

    @property
    def bars(self) -> list[Series]:
        """Those of the series that are bars."""
        return [series for series in self.series if series.form == "bars"]

    @property
    def width(self) -> float:
        """Inches: numbers over bars stay apart, and so do the names below."""
        if self.bars:
            return max(6.4, max(1.9, 0.5 * len(self.bars)) * len(self.ticks) + 1)
        return max(5.2, 0.9 * len(self.ticks) + 1.5)

    @property
    def legend(self) -> tuple[list[str], int]:
        """Its labels, and in how many columns they stand."""
        labels = [series.label for series in self.series if series.label]
        return labels, max(1, int(self.width / (0.07 * max(map(len, labels), default=0) + 0.55)))

    @property
    def height(self) -> float:
        """Inches: long legends take nothing from what they explain."""
        labels, columns = self.legend
        return 4.2 + 0.2 * math.ceil(len(labels) / columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """A panel of the PNG with shares as colours. Example: Heat(rows=["RAFT"], columns=["ocr"], values=[[0.6]])."""

    title: str = ""
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    """By row and column, between 0 and 1; None is left blank."""
    x: str = ""
    y: str = ""

    @property
    def width(self) -> float:
        """Inches: numbers in cells stay apart, and names beside them have room."""
        return max(5.2, 0.62 * len(self.columns) + 0.08 * max(map(len, self.rows), default=0) + 1.6)

    @property
    def height(self) -> float:
        """Inches; long names below stand upright."""
        return 1.6 + 0.45 * len(self.rows) + 0.07 * max(map(len, self.columns), default=0)

    @property
    def bars(self) -> list[Series]:
        """None: it stands beside curves."""
        return []


Panel = Picture | Heat
Block = Table | Notes | Panel


@dataclass(frozen=True, slots=True)
class Sheet:
    """All that a report shows."""

    blocks: Sequence[Block]
    """In the order in which they are read."""
    numbers: dict[str, Any]
    """For programs: what summary.json and `--json` hold."""
    title: str = ""
    """What was compared."""
    headline: Sequence[str] = ()
    """What came of it in words, a sentence each, the one to be quoted first."""

    @property
    def pictures(self) -> list[Panel]:
        """The panels of the PNG."""
        return [block for block in self.blocks if isinstance(block, Panel)]


def counted(*counts: int) -> str:
    """How many questions, at least and at most. Example: `1 question`, `3 to 5 questions`."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low} to {high} questions" if low != high else f"{low} question{'s' * (low != 1)}"


KEPT = "report.json"


def keep(sheet: Sheet, folder: Path) -> Path:
    """The sheet as report.json, without its numbers, which have a file of their own."""
    path = folder / KEPT
    with translate_errors(folder), atomic_file(path) as half:
        half.write_bytes(_form().dump_json(replace(sheet, numbers={})))
    return path


def kept(folder: Path) -> Sheet | None:
    """What `keep` left; None where there is none, or it is of another form."""
    path = folder / KEPT
    try:
        return _form().validate_json(path.read_bytes()) if path.exists() else None
    except ValueError:
        return None


def _form() -> Any:
    return TypeAdapter(Sheet)


def plain(value: Any) -> Any:
    """A record, and the intervals and records in it, as JSON objects."""
    if is_dataclass(value):
        return {key: plain(field) for key, field in as_row(value).items()}
    return {key: plain(field) for key, field in value._asdict().items()} if hasattr(value, "_asdict") else value


def bounds(value: Interval) -> str:
    """Example: `0.74 to 0.89`."""
    return f"{value.low:.2f} to {value.high:.2f}"


def markdown(sheet: Sheet) -> str:
    """The tables and notes as GitHub's Markdown."""
    parts = ["\n".join(f"**{visible(line)}**" for line in sheet.headline)] if sheet.headline else []
    for block in sheet.blocks:
        if isinstance(block, Notes) and block.lines:
            parts.append("\n".join(f"- {visible(line)}" for line in block.lines))
        elif isinstance(block, Table) and block.rows:
            head, *rows = _filled(block)
            lines = [head, ["---"] * len(head), *([_in_markdown(cell) for cell in row] for row in rows)]
            parts += [f"## {block.title}", "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _filled(table: Table) -> list[list[Any]]:
    """The head and the rows without the columns that hold nothing."""
    rows = [[*row, *[""] * (len(table.columns) - len(row))] for row in table.rows]
    kept = [at for at in range(len(table.columns)) if any(row[at] for row in rows)]
    return [[row[at] for at in kept] for row in (table.columns, *rows)]


def _in_markdown(cell: str | Value) -> str:
    if isinstance(cell, Value):
        return f"**{cell.interval.mean:.2f}** ({bounds(cell.interval)}){', ' * bool(cell.more)}{cell.more}"
    flat = visible(" ".join(cell.split())).replace("|", "\\|")
    return f"`{flat.replace('`', chr(39))}`" if isinstance(cell, Quote) and flat else flat


def terminal(sheet: Sheet) -> Group:
    """What of it a terminal shows, for rich to print."""
    shown: list[Any] = (
        [Text("".join(f"{visible(line)}\n" for line in sheet.headline), "bold")] if sheet.headline else []
    )
    for block in sheet.blocks:
        if isinstance(block, Notes) and not block.long:
            shown.append(Text("".join(f"{visible(line)}\n" for line in block.lines)))
        elif isinstance(block, Table) and block.rows and not block.long:
            shown.append(_on_terminal(block))
    return Group(*shown)


def _on_terminal(table: Table) -> rich_table.Table:
    head, *rows = _filled(table)
    out = rich_table.Table(title=Text(table.title, "bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for at, name in enumerate(head):
        prose = any(isinstance(row[at], Quote) for row in rows)
        out.add_column(
            Text(textwrap.fill(name, HEAD)),
            justify="left" if prose or not at else "right",
            no_wrap=not at and not prose,
        )
    for first, *cells in rows:
        name = Text(visible(first if isinstance(first, Quote) else textwrap.fill(first, LABEL)), "bold")
        out.add_row(name, *(_as_text(cell) for cell in cells))
    return out


def notebook(sheet: Sheet) -> str:
    """Headline and first table as HTML."""
    shown = [f"<p>{escape(visible(line))}</p>" for line in sheet.headline]
    for block in [block for block in sheet.blocks if isinstance(block, Table) and block.rows][:1]:
        head, *rows = _filled(block)
        cells = [[_as_text(cell).plain.replace("\n", ", ") for cell in row] for row in rows]
        shown += [f"<p>{escape(visible(block.title))}</p>", html.table(head, cells)]
    return "".join(shown)


def _as_text(cell: str | Value) -> Text:
    if not isinstance(cell, Value):
        return Text(visible(cell))
    mean, low, high = cell.interval
    return Text.assemble(f"{mean:.2f}", (f"\n{low:.2f}-{high:.2f}", "dim"), (f"\n{cell.more}" * bool(cell.more), "dim"))


def picture(sheet: Sheet, path: Path) -> Path:
    """A PNG with all panels.

    Raises:
        StorageError: `path` cannot be written.
    """
    make_folder(path.parent)
    with translate_errors(path.parent):
        figure(sheet.pictures).savefig(path)
    return path


def figure(pictures: Sequence[Panel]) -> Figure:
    """The panels in rows, each with its own legend below."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows: list[list[Panel]] = [[]]
    for one in map(_drawable, pictures):
        if rows[-1] and (one.bars or rows[-1][0].bars or sum(other.width for other in (one, *rows[-1])) > WIDEST):
            rows.append([])
        rows[-1].append(one)
    width = max(6.4, *(sum(one.width for one in row) for row in rows))
    heights = [max((one.height for one in row), default=4.2) for row in rows]
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    out = Figure(figsize=(width, sum(heights)), dpi=150, layout=layout)
    bands = out.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for band, row in zip(bands, rows, strict=True):
        ratios = [one.width for one in row]
        panels = band.subfigures(1, len(row), squeeze=False, width_ratios=ratios)[0] if row else ()
        for panel, one in zip(panels, row, strict=True):
            inches = one.width * width / sum(ratios)
            _draw_heat(panel, one, inches) if isinstance(one, Heat) else _draw(panel, one, inches)
    return out


def _drawable(picture: Panel) -> Panel:
    """The picture with texts in which nothing is a formula or a control character, as matplotlib and SVG have none."""

    def of(text: str) -> str:
        return visible(text).replace("$", "\\$")

    if isinstance(picture, Heat):
        rows, columns = [*map(of, picture.rows)], [*map(of, picture.columns)]
        return replace(picture, title=of(picture.title), rows=rows, columns=columns, x=of(picture.x), y=of(picture.y))

    series = [
        replace(one, label=of(one.label), marks=[mark._replace(text=of(mark.text)) for mark in one.marks])
        for one in picture.series
    ]
    ticks = [of(tick) for tick in picture.ticks]
    return replace(picture, title=of(picture.title), series=series, ticks=ticks, x=of(picture.x), y=of(picture.y))


def _draw(panel: Any, picture: Picture, width: float) -> None:
    """The picture into a part of the figure that is so many inches wide."""
    axes, bars = panel.subplots(), picture.bars
    handles = []
    for series in picture.series:
        drawn = _bars(axes, series, bars.index(series), len(bars)) if series in bars else _curve(axes, series)
        handles += [drawn] if series.label else []
    labels, columns = picture.legend
    if labels:
        place: Any = {"loc": "outside lower center", "ncols": columns}
        panel.legend(handles, labels, frameon=False, fontsize=9, **place)
    if picture.ticks:
        room = max(8, int(11 * (width - 0.8) / len(picture.ticks)))
        axes.set_xticks(range(len(picture.ticks)), [textwrap.fill(tick, room) for tick in picture.ticks])
        axes.set_xlim(-0.5, len(picture.ticks) - 0.5)
    if picture.share:
        axes.set(ylim=(0, 1.09), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_title(textwrap.fill(picture.title, int(10 * width)), loc="left", fontsize=11)
    axes.set(xlabel=picture.x, ylabel=picture.y, axisbelow=True)
    axes.grid(axis="y" if picture.ticks else "both", color="#e3e6ea")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


def _draw_heat(panel: Any, heat: Heat, width: float) -> None:
    """The cells as squares of colour with their numbers, into a part of the figure that is so many inches wide."""
    axes = panel.subplots()
    values = [[math.nan if value is None else value for value in row] for row in heat.values]
    axes.pcolormesh(values, cmap="cividis", vmin=0, vmax=1, edgecolors="#ffffff", linewidth=1)
    for y, row in enumerate(heat.values):
        for x, value in enumerate(row):
            if value is not None:
                ink = "#fdfdfd" if value < 0.5 else "#111111"  # neither is a colour that a dark page turns round
                axes.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
    upright = 90 if max(map(len, heat.columns), default=0) > 3 else 0
    axes.set_xticks([at + 0.5 for at in range(len(heat.columns))], heat.columns, rotation=upright)
    axes.set_yticks([at + 0.5 for at in range(len(heat.rows))], heat.rows)
    axes.invert_yaxis()
    axes.set_title(textwrap.fill(heat.title, int(10 * width)), loc="left", fontsize=11)
    axes.set(xlabel=heat.x, ylabel=heat.y)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


def _bars(axes: Any, series: Series, number: int, count: int) -> Any:
    """The bars of one of `count` series, with intervals and the means above."""
    width, means = 0.8 / count, _means(series)
    places = [mark.x + width * (number - (count - 1) / 2) for mark in series.marks]
    face, line = ("none", DASHES) if series.dashed else (series.colour, "-")
    edge = series.colour if series.dashed else "none"
    drawn = axes.bar(places, means, width * 0.92, color=face, edgecolor=edge, linestyle=line, zorder=2)
    axes.errorbar(places, means, _spread(series), fmt="none", ecolor=DARK, elinewidth=1, capsize=3, zorder=3)
    for place, mark, mean in zip(places, series.marks, means, strict=True):
        high = mark.y.high if isinstance(mark.y, Interval) else mean
        axes.text(place, high + 0.015, f"{mean:.2f}", ha="center", va="bottom", fontsize=9)
    return drawn


def _curve(axes: Any, series: Series) -> Any:
    """The points with intervals, joined or not."""
    places, means, dashed = [mark.x for mark in series.marks], _means(series), series.dashed
    style: Any = {"color": series.colour, "marker": series.marker, "markersize": 5, "linewidth": 1 if dashed else 1.5}
    style["linestyle"] = "none" if series.form == "points" else DASHES if dashed else "-"
    # What lies on an axis is drawn whole.
    drawn = axes.errorbar(places, means, _spread(series), capsize=3, elinewidth=1, zorder=3, clip_on=False, **style)
    for mark, mean in zip(series.marks, means, strict=True):
        if mark.weight:
            axes.scatter(mark.x, mean, 400 * mark.weight, series.colour, zorder=3)
        if mark.text:
            axes.annotate(mark.text, (mark.x, mean), (4, 4), textcoords="offset points", fontsize=9)
    return drawn


def _means(series: Series) -> list[float]:
    return [mark.y.mean if isinstance(mark.y, Interval) else mark.y for mark in series.marks]


def _spread(series: Series) -> list[list[float]] | None:
    """How far intervals reach down and up; None where there are none."""
    found = [mark.y for mark in series.marks if isinstance(mark.y, Interval)]
    return [[one.mean - one.low for one in found], [one.high - one.mean for one in found]] if found else None
