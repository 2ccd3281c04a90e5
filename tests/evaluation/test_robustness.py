"""Scores under attack against numbers worked by hand."""

import json

import pytest

from ragdist.config.loader import resolve
from ragdist.data.attacks import registry
from ragdist.evaluation import robustness
from ragdist.evaluation.report import Report
from ragdist.evaluation.robustness_sheet import blocks
from ragdist.evaluation.sheet import Heat, Picture, Sheet, figure, keep, kept, markdown, terminal
from ragdist.evaluation.suite import Cell, Plan
from ragdist.records import Prediction
from ragdist.results import show

SETTINGS = resolve({"evaluation": {"resamples": 500}})
CELLS = (
    *(Cell(5, forged, "drawn", True) for forged in (0, 1, 3)),
    Cell(2, 0, "drawn", True),
    Cell(2, 1, "drawn", True),
    Cell(5, 1, "first", True),
    Cell(5, 0, "drawn", False),
    Cell(5, 1, "drawn", False),
)
PLAN = Plan((registry.named("flood"), registry.named("template")), registry.named("template"), CELLS)


def said(model, condition, rights, repeats=None):
    return [
        Prediction(
            question_id=f"q{n}",
            condition=condition,
            model=model,
            text="",
            answer="",
            em=0.0,
            f1=0.0,
            subspan=float(right),
            states_forgery=None if repeats is None else repeats[n] == "1",
            ended=True,
            cut_tokens=0,
        )
        for n, right in enumerate(rights)
        if right != "-"
    ]


def of(rights, plan=PLAN, notes=()):
    """By model, then condition, a digit for each question: 1 right, 0 wrong, - not asked."""
    asked = {
        m: [row for c, r in conditions.items() for row in said(m, c, *r.split())] for m, conditions in rights.items()
    }
    return robustness.of(asked, plan, notes, SETTINGS)


ATTACKED = {"permuted": "11110000", "flood": "01010100 10000000", "template": "1110-000 0000-111"}
GRID = {
    "5 documents, 0 forged": "1111",
    "5 documents, 1 forged": "1100",
    "5 documents, 3 forged": "1000",
    "2 documents, 0 forged": "1110",
    "2 documents, 1 forged": "1110",
    "5 documents, 1 forged (first)": "0000",
    "5 documents, 0 forged, oracle absent": "0100",
    "5 documents, 1 forged, oracle absent": "0000",
}


def test_attack_success_is_over_what_is_right_without_it():
    """Flood: q0, q2 of four right ones turn wrong (0.5); q5 that becomes right counts in accuracy alone (3 of 8)."""
    flood, template = of({"m": ATTACKED}).attacks
    assert (flood.name, flood.held_out, flood.rows, flood.judged) == ("flood", True, 8, 4)
    assert (flood.clean.mean, flood.accuracy.mean, flood.misled.mean, flood.repeats.mean) == (0.5, 0.375, 0.5, 0.125)
    assert (template.held_out, template.rows, template.judged) == (False, 7, 4)
    assert (template.clean.mean, template.accuracy.mean) == (pytest.approx(4 / 7), pytest.approx(3 / 7))
    assert (template.misled.mean, template.repeats.mean) == (0.25, pytest.approx(3 / 7))


def test_nothing_right_without_the_attack_gives_no_success():
    (flood,) = of({"m": {"permuted": "0000", "flood": "0100"}}).attacks
    assert flood.misled is None and flood.judged == 0 and flood.accuracy.mean == 0.25


def test_a_model_that_was_not_asked_both_ways_is_left_out():
    assert of({"m": {"flood": "11"}}).attacks == () and of({"m": {"permuted": "11"}}).gaps == ()


def test_gap_is_clean_less_worst_of_the_same_questions():
    """Flood costs 0.5 - 0.375 = 0.125; the template, over its seven questions, (4 - 3) / 7 = 0.143, which is more."""
    (gap,) = of({"m": ATTACKED}).gaps
    assert (gap.of, gap.worst, gap.rows, gap.value.mean) == ("attacks", "template", 7, pytest.approx(1 / 7))
    assert gap.value.low <= gap.value.mean <= gap.value.high
    gap = next(gap for gap in of({"m": GRID}).gaps if gap.of == "grid")
    assert (gap.worst, gap.value.mean) == ("5 documents, 1 forged (first)", 1.0)
    without = {name: digits for name, digits in GRID.items() if "first" not in name}
    (gap,) = of({"m": without}).gaps
    assert (gap.worst, gap.value.mean) == ("5 documents, 3 forged", 0.75)


def test_lists_whose_control_nobody_could_be_asked_are_left_out():
    """As where there are too few distractors for it."""
    found = of({"m": {"5 documents, 3 forged": "10", "2 documents, 0 forged": "11"}})
    assert [cell for cell, _ in found.cells] == [Cell(2, 0, "drawn", True)] and not found.gaps and not found.areas


def test_area_is_the_mean_over_shares_by_the_trapezoidal_rule():
    """Shares 0, 0.2, 0.6: q0 1, q1 (0.2 + 0.4 / 2) / 0.6 = 2/3, q2 and q3 (0.2 / 2) / 0.6 = 1/6; mean 0.5."""
    (area,) = of({"m": GRID}).areas
    assert (area.rows, area.worst) == (4, "5 documents, 3 forged") and area.value.mean == pytest.approx(0.5)
    one_share = {name: GRID[name] for name in ("2 documents, 0 forged",)}
    assert of({"m": one_share}).areas == ()


def test_recall_mixes_lists_with_the_oracle_and_without():
    """No forged: 1111 with it, 0100 without: at recall 0.5 q0 0.5, q1 1, q2 and q3 0.5. One forged: 1100 and 0000."""
    found = of({"m": GRID}).recalls
    means = {(one.forged, one.recall): one.value.mean for one in found}
    assert means[0, 0.0] == 0.25 and means[0, 1.0] == 1.0 and means[0, 0.5] == 0.625
    assert means[1, 0.0] == 0.0 and means[1, 0.5] == 0.25 and means[1, 1.0] == 0.5
    assert {forged for forged, _ in means} == {0, 1} and {one.rows for one in found} == {4}  # 3 have no list without
    short = {**GRID, "5 documents, 0 forged, oracle absent": "-100"}
    assert {one.rows for one in of({"m": short}).recalls if not one.forged} == {3}
    assert of({"m": ATTACKED}).recalls == ()


def test_cells_of_the_grid_have_their_own_control():
    found = {faced.name: faced for _, faced in of({"m": GRID}).cells}
    assert found["5 documents, 1 forged"].misled.mean == 0.5 and found["2 documents, 1 forged"].misled.mean == 0.0
    assert found["5 documents, 1 forged (first)"].misled.mean == 1.0
    assert (found["5 documents, 1 forged, oracle absent"].judged, found["5 documents, 0 forged"].misled.mean) == (
        1,
        0.0,
    )
    assert len(of({"m": GRID}).faced) == 5


def test_changes_are_paired_with_the_first_model_and_corrected_together():
    found = of({"base": ATTACKED, "RAFT": ATTACKED | {"flood": "11111111 00000000"}}).changes
    assert [(one.after, one.before, one.condition, one.rows) for one in found] == [
        ("RAFT", "base", "flood", 8),
        ("RAFT", "base", "template", 7),
    ]
    assert found[0].change.mean == 0.625 and found[1].change.mean == 0.0 and "fewer than 100" in found[0].verdict


@pytest.fixture
def sheet():
    found = of(
        {"base": ATTACKED | GRID, "$RAFT$": ATTACKED | GRID}, notes=["flood: left out of 9 questions 1 as it raised."]
    )
    return Sheet(blocks(found), robustness.as_json(found), "t")


def test_report_has_matrix_grid_curves_and_what_was_left_out(sheet, tmp_path):
    heats = [block for block in sheet.blocks if isinstance(block, Heat)]
    curves = [block for block in sheet.blocks if isinstance(block, Picture)]
    assert [(heat.rows, heat.columns) for heat in heats] == [
        (["base", "$RAFT$"], ["flood", "template"]),
        *[(["2", "5"], ["0", "1", "2", "3"])] * 2,
    ]
    assert heats[0].values[0] == [0.375, pytest.approx(3 / 7)] and heats[1].values == [
        [0.75] * 2 + [None] * 2,
        [1.0, 0.5, None, 0.25],
    ]
    assert [series.label for series in curves[0].series] == [
        "base",
        "base, oracle absent",
        "$RAFT$",
        "$RAFT$, oracle absent",
    ]
    assert [[mark.x for mark in series.marks] for series in curves[0].series][:2] == [[0.0, 0.2, 0.6], [0.0, 0.2]]
    assert [series.label for series in curves[1].series] == ["drawn", "first"]
    assert [series.label for series in curves[2].series][:2] == ["base", "base, 1 forged"]
    assert [mark.x for mark in curves[2].series[0].marks] == [*robustness.RECALLS]
    text = markdown(sheet)
    assert "| flood | held out | **0.50**" in text and "flood: left out of 9 questions 1 as it raised." in text
    assert "gap over grid" in text and "area over forged share" in text
    show(terminal(sheet))
    json.dumps(sheet.numbers, allow_nan=False)
    keep(sheet, tmp_path)
    again = kept(tmp_path)
    assert markdown(again) == text and len(again.pictures) == 6 and again.pictures[0] == heats[0]


def test_no_suite_no_word_of_it(sheet):
    assert Report(baseline="", attack_name="", cells=(), attacks=(), changes=(), floor=None).robustness is None
    assert blocks(of({"m": {}}))[1].rows == [] and not any(isinstance(one, Heat) for one in blocks(of({"m": {}})))


def test_a_grid_without_the_oracle_alone_is_shown():
    absent = {name: digits for name, digits in GRID.items() if "absent" in name}
    shown = blocks(of({"m": absent}))
    assert not any(isinstance(one, Heat) for one in shown)
    (curves,) = [one for one in shown if isinstance(one, Picture)]
    assert [series.label for series in curves.series] == ["m, oracle absent"]


def test_pictures_are_drawn_with_every_number(sheet, tmp_path):
    figure(sheet.pictures).savefig(tmp_path / "p.svg", metadata={"Date": None})
    figure([sheet.pictures[0]]).savefig(tmp_path / "one.png")
    text = (tmp_path / "p.svg").read_text()
    assert (tmp_path / "one.png").stat().st_size > 5000 and "<image" not in text
