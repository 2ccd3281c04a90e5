"""report.html: a report and every answer behind it in one file, which needs no network and runs nothing but its own.

Made of the same Sheet as report.md, and of what lies in the run's folder. Each document's text is held once; questions
travel compressed and are drawn a page at a time (`web/page.js`). All texts go in as text: the template escapes them,
the script sets `textContent` alone, and a content security policy lets no other script run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ragdist.evaluation import kept_answers
from ragdist.evaluation.report import LISTS
from ragdist.evaluation.sheet import (
    COLOURS,
    KEPT,
    Mark,
    Notes,
    Picture,
    Series,
    Sheet,
    Table,
    Value,
    figure,
    kept,
)
from ragdist.storage.append import whole_lines
from ragdist.storage.atomic import named_file, read_json, translate_broken
from ragdist.tracking.progress import visible
from ragdist.tracking.timeline import TABLE

PAGE = "report.html"
WEB = Path(__file__).parent / "web"
MOST_BYTES = 14_000_000
"""Of the compressed answers; a page of 20 MB still opens. What is beyond is left out, and said so."""
PAUSE_S = 120
"""Longer than this nothing is between two stages of one run."""
MOST_POINTS, MOST_CURVES, MOST_BARS = 300, 6, 400
NO_CURVE = {"time", "phase", "step", "steps", "epoch", "seconds", "workers", "rows", "learning_rate"}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""What matplotlib would write into a drawing."""
BROAD_PT = 700
"""Pictures that are wider keep their width, and are scrolled where there is no room."""
KINDS = ("oracle", "distractor", "retrieved", "forged")
INK, PAPER = {"#333333", "#000000", "#262626"}, {"#ffffff"}


class Bar(NamedTuple):
    """Work on a time axis; seconds since the first began. Example: Bar("attacker 0", "round-0/forged", 12.0, 14.5)."""

    row: str
    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a run's folder holds beside its report; empty what it does not have."""

    name: str = ""
    about: str = ""
    curves: Sequence[Picture] = ()
    bars: Sequence[Bar] = ()
    minutes: Sequence[tuple[str, float]] = ()
    files: Sequence[tuple[str, str]] = ()
    """(name, text): settings, versions."""


def write(folder: Path) -> Path:
    """report.html of what lies in a run's folder.

    Raises:
        ConfigError: the folder holds no finished run, or none with answers.
        StorageError: it cannot be written.
    """
    sheet = kept(folder)
    if sheet is None:
        raise kept_answers.nothing(folder, KEPT)
    return save(folder / PAGE, render(sheet, kept_answers.read(folder), beside(folder)))


def save(path: Path, page: str) -> Path:
    """Puts the page there, replacing what is there in one step."""
    with named_file(path, "name another place") as half:
        half.write_text(page, encoding="utf-8")
    return path


def render(sheet: Sheet, answers: pa.Table, more: Beside) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(autoescape=True, loader=FileSystemLoader(WEB), undefined=StrictUndefined, trim_blocks=True)
    found.filters |= {"visible": visible, "isvalue": lambda cell: isinstance(cell, Value), "svg": _Drawing().svg}
    found.globals |= {"Table": Table, "Notes": Notes, "is_a": isinstance}
    css, script = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data, left_out = packed(answers)
    blocks = [block for block in sheet.blocks if not isinstance(block, Table) or block.rows]
    return found.get_template("page.html").render(
        sheet=sheet,
        blocks=blocks,
        more=more,
        axis=axis(more.bars),
        data=data,
        left_out=left_out,
        css=_code(css),
        script=_code(script),
        policy=f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'",
    )


def _code(text: str) -> Any:
    """Our own code, which is not escaped."""
    from markupsafe import Markup

    return Markup(text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def packed(answers: pa.Table, most: int = MOST_BYTES) -> tuple[str, int]:
    """(gzip in base64 of what the script shows, questions left out so that it is at most `most` bytes)."""
    ids = list(dict.fromkeys(answers["question_id"].to_pylist()))
    shown = len(ids)
    while True:
        part = answers
        if shown < len(ids):
            part = answers.filter(pa.compute.is_in(answers["question_id"], pa.array(ids[:shown], pa.string())))
        told = json.dumps(columns(part), ensure_ascii=False, separators=(",", ":")).encode()
        text = base64.b64encode(gzip.compress(told, 6, mtime=0)).decode()
        if len(text) <= most or shown <= 1:
            return text, len(ids) - shown
        shown = max(1, int(shown * 0.9 * most / len(text)))


def columns(answers: pa.Table) -> dict[str, Any]:
    """The answers with every text held once: rows refer to questions, lists, documents and words by number."""
    index: dict[str, dict[Any, int]] = {name: {} for name in ("questions", "documents", "lists", "words")}

    def at(name: str, value: Any) -> int:
        return index[name].setdefault(value, len(index[name]))

    rows = []
    for row in answers.to_pylist():
        listed = tuple((at("documents", (d["title"], d["text"])), KINDS.index(d["kind"])) for d in row["documents"])
        flags = row["states_forgery"] or 0, row["abstained"], not row["ended"], row["cut_tokens"] > 0
        rows.append(
            [
                at("questions", (row["question_id"], row["question"], tuple(row["answers"]))),
                at("words", LISTS.get(row["condition"], row["condition"])),
                at("words", row["model"]),
                row["seed"],
                at("lists", listed),
                at("words", row["forged_answer"]),
                at("words", row["answer"]),
                at("words", row["text"]),
                *(round(row[name], 3) for name in ("subspan_em", "exact_match", "f1")),
                sum(bool(flag) << place for place, flag in enumerate(flags)),
            ]
        )
    return {name: list(values) for name, values in index.items()} | {"rows": rows, "kinds": KINDS}


class _Drawing:
    """Pictures as SVG inside the page: of its colours, and without what its policy forbids."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def svg(self, picture: Picture) -> Any:
        """One picture."""
        import matplotlib

        drawn, name = io.BytesIO(), f"p{next(self._numbers)}"
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
            figure([picture]).savefig(drawn, format="svg", metadata=NO_METADATA)
        return _code(themed(drawn.getvalue(), name))


def themed(drawn: bytes, name: str) -> str:
    """matplotlib's SVG with attributes for styles, ids of its own, ink that follows the page, and no paper."""
    from lxml import etree

    root = etree.fromstring(drawn)
    link = "{http://www.w3.org/1999/xlink}href"
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', drawn.decode()))
    for node in list(root.iter("{*}style", "{*}metadata")):
        node.getparent().remove(node)
    for node in root.iter("*"):
        style = dict(part.split(": ", 1) for part in node.attrib.pop("style", "").split("; ") if ": " in part)
        style.pop("font-family", None)
        for key, value in style.items():
            node.set(key, "currentColor" if value in INK else "none" if value in PAPER else value.rstrip(";"))
        if node.tag.endswith("}text") and "fill" not in style:
            node.set("fill", "currentColor")
        if (own := node.attrib.pop("id", None)) in used:
            node.set("id", f"{name}-{own}")
        if link in node.attrib:
            node.set(link, f"#{name}-{node.get(link)[1:]}")
        if "clip-path" in node.attrib:
            node.set("clip-path", node.get("clip-path").replace("#", f"#{name}-"))
    root.attrib.pop("height", None)
    if float(root.get("width", "0").removesuffix("pt")) > BROAD_PT:
        root.set("class", "broad")
    root.set("aria-hidden", "true")
    return str(etree.tostring(root, encoding="unicode"))


def beside(folder: Path) -> Beside:
    """What a run's folder has to show beside its report. A StorageError if a file there is broken."""
    places = [folder, *(path.parent for path in sorted(folder.glob("*/metrics.jsonl")))]
    texts = [folder / name for name in ("settings.yaml", "best.yaml", "versions.json", "audit.json")]
    with translate_broken(folder):
        state, summary = _json(folder / "state.json"), _json(folder / "summary.json")
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.get("time", 0)))
        lines = [(place, row) for place in places for row in map(json.loads, whole_lines(place / "metrics.jsonl"))]
        return Beside(
            name=folder.resolve().name,
            about=f"{state.get('job', '')}, {when}" if state else "",
            curves=curves((place.name if place != folder else "", row) for place, row in lines),
            bars=bars(folder, [row for place, row in lines if place == folder]),
            minutes=sorted(summary.get("minutes", {}).items(), key=lambda item: -item[1]),
            files=[(path.name, visible(path.read_text("utf-8", "replace"))) for path in texts if path.is_file()],
        )


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def curves(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Picture]:
    """What was measured at each step, a panel for each name, a line for each phase; loss first."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for part, row in rows:
        label = " ".join(filter(None, (part, row.get("phase", ""))))
        for name, value in row.items() if isinstance(row.get("step"), int) else ():
            if name not in NO_CURVE and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, {}).setdefault(label, {})[row["step"]] = float(value)
    order = sorted(found, key=lambda name: (name != "loss", "loss" not in name))  # stable: then as they came
    lines = {name: {key: line for key, line in found[name].items() if len(line) > 1} for name in order}
    return [_curve(name, line) for name, line in lines.items() if line][:MOST_CURVES]


def _curve(name: str, lines: dict[str, dict[int, float]]) -> Picture:
    series = []
    for number, (label, line) in enumerate(lines.items()):
        thin = -(-len(line) // MOST_POINTS)
        marks = [Mark(step, value) for step, value in sorted(line.items())[::thin]]
        colour = COLOURS[(number + 1) % len(COLOURS)]
        series.append(Series(label=label, marks=marks, colour=colour, marker="o" if len(marks) < 20 else ""))
    return Picture(title=name.replace("_", " "), series=series, x="step", share=False)


def bars(folder: Path, metrics: Sequence[dict[str, Any]]) -> list[Bar]:
    """When what was worked on: stages of the run, then phases of each rank where the run kept a timeline."""
    spans = [row for row in metrics if row.get("phase") == "span"]
    found = [Bar("run", row["name"], row["time"] - row["seconds"], row["time"]) for row in spans]
    if (folder / TABLE).is_file():
        merged: dict[tuple[str, str, int], Bar] = {}
        for row in pq.read_table(folder / TABLE, partitioning=None).to_pylist():
            key = (f"{row['group']} {row['rank']}", row["phase"], row["session"])
            old = merged.get(key, Bar(*key[:2], row["start"], row["end"]))
            merged[key] = Bar(*key[:2], min(old.start, row["start"]), max(old.end, row["end"]))
        found += merged.values()
    found = sorted(found, key=lambda bar: bar.start - bar.end)[:MOST_BARS]
    return sorted(_without_pauses(found), key=lambda bar: (bar.row != "run", bar.row, bar.start))


def _without_pauses(found: Iterable[Bar]) -> list[Bar]:
    """The bars on a clock that begins with the first, and stands still while a stopped run waits to be resumed."""
    end = still = 0.0
    out: list[Bar] = []
    for bar in sorted(found, key=lambda bar: bar.start):
        if not out or bar.start - end > PAUSE_S:
            still += bar.start - end
        end = max(end, bar.end)
        out.append(bar._replace(start=bar.start - still, end=bar.end - still))
    return out


class Placed(NamedTuple):
    """A bar in a drawing 1000 wide: its line, left end and width, its colour and what it says."""

    line: int
    x: float
    width: float
    colour: str
    text: str


def axis(found: Sequence[Bar]) -> dict[str, Any]:
    """The bars in lines of their rows; those of a row that overlap are put below each other."""
    longest = max((bar.end for bar in found), default=1.0) or 1.0
    ends: dict[str, list[float]] = {}
    where: list[tuple[Bar, int]] = []
    for bar in found:
        lines = ends.setdefault(bar.row, [])
        line = next((at for at, end in enumerate(lines) if end <= bar.start), len(lines))
        lines[line : line + 1] = [bar.end]
        where.append((bar, line))
    first, rows = 0, []
    for row, lines in ends.items():
        rows.append((row, first))
        first += len(lines)
    start = dict(rows)
    colours = {text: COLOURS[at % len(COLOURS)] for at, text in enumerate(dict.fromkeys(bar.text for bar in found))}
    placed = [
        Placed(
            start[bar.row] + line,
            round(1000 * bar.start / longest, 2),
            max(1.0, round(1000 * (bar.end - bar.start) / longest, 2)),
            colours[bar.text],
            f"{bar.text}: {_span(bar.end - bar.start)}, from {_span(bar.start)} on",
        )
        for bar, line in where
    ]
    ticks = [(250 * at, _span(longest * at / 4)) for at in range(5)]
    return {"placed": placed, "rows": rows, "lines": first, "ticks": ticks, "colours": colours}


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
