"""What arbiters are worth, as terminal tables, Markdown, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ragdist.evaluation.intervals import Interval, note
from ragdist.evaluation.report import COLOURS, NAMES, TITLES, Change, bounds, grid
from ragdist.records import as_row
from ragdist.storage.atomic import make_folder, translate_errors
from ragdist.systems.duet.calibration import Calibration
from ragdist.systems.duet.summary import EITHER, ArbiterEffect, Outcomes

SIDES = ("#c5ccd4", "#9aa5b1")
"""Of reciter and discoverer; arbiters take COLOURS after the first, which is grey."""


class Line(NamedTuple):
    """A row of the table: reciter, discoverer, an arbiter, or the upper bound."""

    name: str
    accuracy: Interval
    differing: float | None
    """Accuracy where the two answers differ."""
    taken: float | None
    """Where just one of the two is right: share in which this answer is right."""
    worth: ArbiterEffect | None = None
    """Of an arbiter."""


def table(worths: Sequence[ArbiterEffect]) -> Group:
    """For each condition a table at most 110 columns wide, a row for each arbiter; sentences below."""
    return Group(*(_table(group) for group in _by_condition(worths)))


def markdown(worths: Sequence[ArbiterEffect]) -> str:
    """For each condition the table and the sentences, as GitHub's Markdown; then the reliability curves' numbers."""
    parts = []
    for group in _by_condition(worths):
        head = ["", NAMES[group[0].metric], *HEAD, _against(group), "ECE", "Brier", "moved by order"]
        body = [[*_values(line), *_trust(line)] for line in lines(group)]
        parts += [f"**{title(group)}**", grid(head, body)]
        parts.append("\n".join(f"- {note}" for note in [*notes(group), *details(group)]))
    curves = [
        [one.arbiter, TITLES[one.condition], str(answers), f"{said:.2f}", f"{right:.2f}"]
        for one in worths
        if one.calibration
        for said, right, answers in one.calibration.curve
    ]
    if curves:
        parts.append("Confidences, ten stretches of equal width:")
        parts.append(grid(["arbiter", "condition", "answers", "mean confidence", "share right"], curves))
    return "\n\n".join(parts) + "\n"


def as_json(worths: Sequence[ArbiterEffect]) -> list[dict[str, Any]]:
    """All numbers, an object for each arbiter and condition, plain values all the way down."""
    return [_plain(worth) for worth in worths]


def picture(worths: Sequence[ArbiterEffect], path: Path) -> Path:
    """A PNG, a row for each condition: reliability curves of arbiters with confidences, and accuracy as bars.

    Raises:
        StorageError: `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    groups = _by_condition(worths)
    heights = [max(3.4, 0.42 * len(lines(group)) + 1.4) for group in groups]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(10.4, sum(heights, 0.3)), dpi=150, layout=layout)
    curves = any(one.calibration for one in worths)
    columns: dict[str, Any] = {"ncols": 2, "width_ratios": (4, 6)} if curves else {}
    panels = figure.subplots(len(groups), **columns, squeeze=False, height_ratios=heights)
    for axes, group in zip(panels, groups, strict=True):
        colours = {one.arbiter: COLOURS[1 + at % (len(COLOURS) - 1)] for at, one in enumerate(group)}
        if curves:
            _reliability(axes[0], group, colours)
        _bars(axes[-1], group, colours)
    make_folder(path.parent)
    with translate_errors(path.parent):
        figure.savefig(path)
    return path


HEAD = ("where they differ", "right one taken", "turned right / wrong")


def lines(group: Sequence[ArbiterEffect]) -> list[Line]:
    """Reciter, discoverer, the arbiters, the upper bound; all of one condition."""
    first = group[0]
    every, differing = first.outcomes, first.differing
    out = [
        Line(
            first.against_reciter.before,
            first.reciter,
            _ratio(differing.count(reciter=True), differing.rows),
            _ratio(every.count(reciter=True) - every.both, every.one),
        ),
        Line(
            first.against_discoverer.before,
            first.discoverer,
            _ratio(differing.count(discoverer=True), differing.rows),
            _ratio(every.count(discoverer=True) - every.both, every.one),
        ),
    ]
    for one in group:
        right = _ratio(one.differing.count(arbiter=True), one.differing.rows)
        taken = _ratio(one.outcomes.one_taken, one.outcomes.one)
        out.append(Line(one.arbiter, one.accuracy, right, taken, one))
    most = _ratio(differing.rows - differing.neither, differing.rows)
    return [*out, Line(EITHER, first.either, most, 1.0 if every.one else None)]


def title(group: Sequence[ArbiterEffect]) -> str:
    """What there is to decide. Example: `retrieved: 400 questions, answers differ in 38%, just one is right in 25%`."""
    every, differing = group[0].outcomes, group[0].differing
    shares = [
        f"answers differ in {differing.rows / every.rows:.0%}",
        f"both are right in {every.both / every.rows:.0%}",
        f"just one in {every.one / every.rows:.0%}",
        f"none in {every.neither / every.rows:.0%}",
    ]
    return f"{TITLES[group[0].condition]}: {every.rows} questions, {', '.join(shares)}"


def notes(group: Sequence[ArbiterEffect]) -> list[str]:
    """When each arbiter helps and when it harms, in plain words."""
    better, turned = group[0].against_better.before, group[0].against_discoverer.before
    most, least = group[0].either.mean, max(group[0].reciter.mean, group[0].discoverer.mean)
    out = [
        f"Turned answers are the {turned}'s; differences are to the {better}, the better of the two. "
        f"A perfect arbiter would reach {most:.2f}, {most - least:.2f} above it."
    ]
    for one in group:
        effect = {"helps": "it helps, ", "harms": "it harms, ", "not shown": ""}[one.effect]
        wrong = _counted(one.outcomes.helped, "wrong answer", "wrong answers")
        right = _counted(one.outcomes.harmed, "right one", "right ones")
        out.append(f"{one.arbiter} turned {wrong} right and {right} wrong: {effect}{one.against_better.verdict}.")
    said = note([change for one in group for change in (one.against_reciter, one.against_discoverer)])
    return [*out, said] if said else out


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


def _table(group: Sequence[ArbiterEffect]) -> Table:
    out = Table(
        title=title(group),
        title_justify="left",
        title_style="bold",
        caption=Text("\n".join(notes(group)) + "\n"),
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        min_width=80,
    )
    out.add_column("", no_wrap=True)
    out.add_column(NAMES[group[0].metric], justify="right", no_wrap=True)
    for name in HEAD:
        out.add_column(name, justify="right", max_width=9)
    out.add_column(_against(group), justify="right", no_wrap=True)
    trust = {"ECE": any(one.calibration for one in group), "order moves": any(one.order_effect for one in group)}
    for name in filter(trust.__getitem__, trust):
        out.add_column(name, justify="right", max_width=5)
    for line in lines(group):
        name, _, *shares, against = _values(line)
        ece, _, moved = _trust(line)
        more = [value for value, shown in zip((ece, moved), trust.values(), strict=True) if shown]
        accuracy = Text.assemble(f"{line.accuracy.mean:.2f} ", (bounds(line.accuracy).replace(" to ", "-"), "dim"))
        effect = {"helps": "green", "harms": "red"}.get(line.worth.effect if line.worth else "", "")
        out.add_row(Text(name, "bold" if line.worth else ""), accuracy, *shares, Text(against, effect), *more)
    return out


def _against(group: Sequence[ArbiterEffect]) -> str:
    return f"against {group[0].against_better.before}"


def _values(line: Line) -> list[str]:
    """What the table says of it, the trust in it aside."""
    shares = [
        "" if line.differing is None else f"{line.differing:.2f}",
        "" if line.taken is None else f"{line.taken:.0%}",
    ]
    turned = against = ""
    if line.worth:
        turned = f"{line.worth.outcomes.helped} / {line.worth.outcomes.harmed}"
        change = line.worth.against_better.change
        against = f"{change.mean:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    return [line.name, f"{line.accuracy.mean:.2f} ({bounds(line.accuracy)})", *shares, turned, against]


def _trust(line: Line) -> list[str]:
    """ECE, Brier score, order effect; empty where there is none."""
    found = line.worth.calibration if line.worth else None
    moved = line.worth.order_effect if line.worth else None
    return [*([f"{found.ece:.2f}", f"{found.brier:.2f}"] if found else ["", ""]), f"{moved.mean:.0%}" if moved else ""]


def _reliability(axes: Any, group: Sequence[ArbiterEffect], colours: dict[str, str]) -> None:
    axes.plot([0, 1], [0, 1], color="#333333", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    for one in group:
        if one.calibration:
            said, right, answers = zip(*one.calibration.curve, strict=True)
            colour = colours[one.arbiter]
            sizes = [12 + 160 * count / sum(answers) for count in answers]
            axes.plot(said, right, color=colour, linewidth=1.5, zorder=2)
            axes.scatter(
                said, right, sizes, color=colour, label=f"{one.arbiter}, ECE {one.calibration.ece:.2f}", zorder=3
            )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share right")
    axes.set_title("reliability (dashed: perfect)", loc="left", fontsize=11)
    axes.legend(loc="upper left", frameon=False, fontsize=8, markerscale=0.7, handletextpad=0.2)
    _plainly(axes, "both")


def _bars(axes: Any, group: Sequence[ArbiterEffect], colours: dict[str, str]) -> None:
    shown = lines(group)[::-1]  # the first on top
    known = dict(zip((line.name for line in lines(group)[:2]), SIDES, strict=False)) | colours
    for at, line in enumerate(shown):
        bound = line.name == EITHER
        face, edge = ("none", "#333333") if bound else (known[line.name], "none")
        axes.barh(at, line.accuracy.mean, 0.72, color=face, edgecolor=edge, linestyle=(0, (4, 3)), zorder=2)
        spread = [[line.accuracy.mean - line.accuracy.low], [line.accuracy.high - line.accuracy.mean]]
        axes.errorbar(
            line.accuracy.mean, at, xerr=spread, fmt="none", ecolor="#333333", elinewidth=1, capsize=3, zorder=3
        )
        axes.text(line.accuracy.high + 0.015, at, f"{line.accuracy.mean:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [line.name for line in shown])
    axes.set_xlim(0, 1.09)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    rows = group[0].outcomes.rows
    name = f"{NAMES[group[0].metric]}, {TITLES[group[0].condition]}, {rows} questions, 95% intervals"
    axes.set_title(name, loc="left", fontsize=11)
    _plainly(axes, "x")


def _plainly(axes: Any, lines_of: str) -> None:
    axes.grid(axis=lines_of, color="#e3e6ea", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


def _by_condition(worths: Sequence[ArbiterEffect]) -> list[list[ArbiterEffect]]:
    conditions = dict.fromkeys(one.condition for one in worths)
    return [[one for one in worths if one.condition == condition] for condition in conditions]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _ratio(count: int, rows: int) -> float | None:
    return count / rows if rows else None


def _plain(value: Any) -> Any:
    if isinstance(value, Outcomes):
        names = ("rows", "both", "one", "neither", "one_taken", "helped", "harmed")
        right = {f"{side}_right": value.count(**{side: True}) for side in ("reciter", "discoverer", "arbiter")}
        return {name: getattr(value, name) for name in names} | right
    if isinstance(value, Calibration):
        curve = [{"confidence": said, "right": right, "answers": answers} for said, right, answers in value.curve]
        return {"answers": value.total.answers, "ece": value.ece, "brier": value.brier, "curve": curve}
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, ArbiterEffect):
        more = {"against_better": value.against_better, "effect": value.effect}
        return {key: _plain(field) for key, field in {**as_row(value), **more}.items()}
    return {key: _plain(field) for key, field in as_row(value).items()} if isinstance(value, Change) else value
