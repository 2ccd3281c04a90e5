"""A sheet says the same in Markdown, on a terminal and in a picture whose panels do not touch."""

import itertools
import json
from dataclasses import dataclass

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.sheet import (
    Heat,
    Mark,
    Notes,
    Picture,
    Quote,
    Series,
    Sheet,
    Table,
    Value,
    figure,
    markdown,
    plain,
    terminal,
)

SCORE = Interval(0.5, 0.41, 0.58)


def printed(*blocks, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(terminal(Sheet(blocks, {})))
    return capture.get()


def table(*rows, columns=("", "clean"), **more):
    return Table(title="Scores", columns=columns, rows=rows, **more)


def test_a_value_is_the_same_numbers_in_both_forms():
    shown = table(("base", Value(SCORE, "of 90")))
    assert "| base | **0.50** (0.41 to 0.58), of 90 |" in markdown(Sheet([shown], {}))
    assert " ".join(printed(shown).split()).endswith("base 0.50 0.41-0.58 of 90")


def test_what_is_long_stands_in_markdown_alone():
    blocks = [table(("base", "1"), long=True), Notes(lines=["far more"], long=True), Notes(lines=["in short"])]
    assert printed(*blocks).split() == ["in", "short"]
    assert markdown(Sheet(blocks, {})).endswith("| base | 1 |\n\n- far more\n\n- in short\n")


def test_columns_that_hold_nothing_and_tables_without_rows_are_left_out():
    empty = [Table(title="None", columns=("", "clean"), rows=()), Notes(lines=())]
    assert markdown(Sheet(empty, {})).strip() == "" == printed(*empty).strip()
    shown = table(("base", "1", ""), ("RAFT", "", ""), columns=("", "clean", "ECE"))
    assert "ECE" not in markdown(Sheet([shown], {})) and "ECE" not in printed(shown)
    assert "| RAFT |  |" in markdown(Sheet([shown], {}))


def test_no_text_of_a_model_or_a_corpus_is_markup():
    shown = table((Quote("a | *b*\n# c `d`"), Quote("")), ("e | f", Quote("[bold]g[/bold]")))
    assert "| `a \\| *b* # c 'd'` |  |\n| e \\| f | `[bold]g[/bold]` |" in markdown(Sheet([shown], {}))
    assert "[bold]g[/bold]" in printed(shown) and "[x]" in printed(Notes(lines=["[x] stays"]))


def test_plain_is_json_all_the_way_down():
    @dataclass
    class Scored:
        name: str
        em: Interval
        value: Value

    made = json.loads(json.dumps(plain(Scored("base", SCORE, Value(SCORE)))))
    score = {"mean": 0.5, "low": 0.41, "high": 0.58}
    assert made == {"name": "base", "em": score, "value": {"interval": score, "more": ""}}


def bars(models, conditions):
    points = [Mark(at, SCORE) for at in range(len(conditions))]
    series = [Series(label=f"a model with a long name, {n}", marks=points, form="bars") for n in range(models)]
    return Picture(title="exact match of models " * 3, series=series, ticks=conditions, y="exact match")


def curves(count):
    points = [Mark(at / 3, SCORE, text=str(at)) for at in range(4)]
    series = [Series(label=f"own forgeries, weight={n}", marks=points) for n in range(count)]
    return Picture(title="log perplexity of the right answer after a forgery", series=series, x="weight", y="EM")


def heat(columns, name):
    values = [[None, *[0.5] * (columns - 1)]] * 4
    return Heat(title="A title", rows=["RAFT + ATM"] * 4, columns=[name] * columns, values=values, x="x", y="y")


CONDITIONS = ("no documents", "oracle present", "the same, permuted", "oracle absent", "retrieved", "template attack")


@pytest.mark.parametrize(
    "pictures",
    [
        [],
        [Picture(series=())],
        [bars(2, CONDITIONS)],
        [bars(9, CONDITIONS[:2]), bars(3, CONDITIONS[:3]), *[curves(3)] * 3],
        [curves(8)] * 5,
        [heat(17, "injection-completion"), *[heat(5, "4")] * 3, curves(6), curves(3)],
    ],
    ids=["none", "empty", "two models", "a trio", "a sweep", "a matrix"],
)
def test_nothing_of_a_picture_overlaps_or_is_cut_off(pictures):
    made = figure(pictures)
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    axes = made.axes
    assert len(axes) == len(pictures)
    boxes = [one.get_tightbbox(canvas.get_renderer()) for one in axes]
    panels = [panel for band in made.subfigs for panel in band.subfigs]
    boxes += [legend.get_window_extent() for panel in panels for legend in panel.legends]
    for one in boxes:
        assert one.x0 >= 0 and one.y0 >= 0 and one.x1 <= made.bbox.x1 and one.y1 <= made.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for shown in axes:
        ticks = [label.get_window_extent() for label in shown.get_xticklabels() if label.get_text()]
        assert not any(left.overlaps(right) for left, right in itertools.pairwise(ticks))
