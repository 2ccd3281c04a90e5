"""Comparisons pair the same questions, whatever their order and whoever is missing, and a table's are corrected."""

from dataclasses import replace

import pytest
from scipy import stats

from ragdist.evaluation import report
from ragdist.evaluation.intervals import holm
from ragdist.evaluation.sheet import Sheet, markdown
from ragdist.evaluation.summary import compare, summarise
from ragdist.sweeps import arms
from ragdist.sweeps.arms import ArmAnswer
from ragdist.systems.atm import report as rounds_report
from ragdist.systems.atm import summary as rounds
from ragdist.systems.atm.summary import Matchup
from ragdist.systems.duet import report as arbitration_report
from ragdist.systems.duet import summary as arbitration
from tests.evaluation import world
from tests.systems.atm import test_summary as test_rounds
from tests.systems.duet import test_summary as test_arbitration

SETTINGS = world.settings()


def group(model, right, order):
    """Predictions on these questions in this order, right where `right` says so."""
    rows = [
        test_arbitration.prediction(number, "oracle", model, world.value(number) if right(number) else "no")
        for number in order
    ]
    return {row.question_id: row for row in rows}


def test_models_are_compared_question_by_question():
    """Of 120 questions the first lacks 100 to 119, the second 0 to 19 and stands backwards: 80 are shared, 20 to 99.

    The first is right on those below 60, the second on those from 50: 30 fall, 20 to 49, and 40 rise, 60 to 99.
    """
    before = group("base", lambda number: number < 60, range(100))
    after = group("tuned", lambda number: number >= 50, range(119, 19, -1))
    found = compare(before, after, "em", SETTINGS.evaluation, SETTINGS.seed)
    assert found.rows == 80 and found.change.mean == pytest.approx((40 - 30) / 80)
    assert found.p == pytest.approx(stats.binomtest(40, 70).pvalue)
    spread = 1.96 * ((70 / 80 - (10 / 80) ** 2) / 80) ** 0.5
    assert found.change.high - found.change.low == pytest.approx(2 * spread, rel=0.1)


def test_the_same_answers_in_another_order_are_no_change():
    before = group("base", lambda number: number % 3 == 0, range(120))
    after = group("tuned", lambda number: number % 3 == 0, range(119, -1, -1))
    found = compare(before, after, "em", SETTINGS.evaluation, SETTINGS.seed)
    assert (found.change, found.p) == ((0.0, 0.0, 0.0), 1.0)


def test_stages_of_a_game_are_compared_question_by_question():
    """The same 80 shared questions as of two models, 30 falling and 40 rising."""
    asked = [test_rounds.answered(n, "clean", 0, -1, n < 60) for n in range(100)]
    asked += [test_rounds.answered(n, "clean", 1, -1, n >= 50) for n in range(119, 19, -1)]
    (found,) = (
        change
        for change in rounds.report(asked, {}, [], SETTINGS.evaluation, SETTINGS.seed).changes
        if change.metric == "em"
    )
    assert found.rows == 80 and found.change.mean == pytest.approx((40 - 30) / 80)
    assert found.p == pytest.approx(stats.binomtest(40, 70).pvalue)


def test_perplexities_of_a_game_are_compared_question_by_question():
    """Each question's log perplexity is its number, and one more after the attacker learned, told backwards."""
    grades = {
        Matchup(0, 0): [test_rounds.grade(n, 0, 2.718281828459045**n) for n in range(100)],
        Matchup(0, 1): [test_rounds.grade(n, 0, 2.718281828459045 ** (n + 1)) for n in range(119, 19, -1)],
    }
    gains = rounds.report([], grades, [], SETTINGS.evaluation, SETTINGS.seed).gains
    (found,) = (gain for gain in gains if gain.metric == "log_perplexity")
    assert found.rows == 80 and found.change == pytest.approx((1.0, 1.0, 1.0))


def test_changes_of_the_robustness_table_are_one_family():
    """Ten comparisons with p near 0.02 would be ten differences, were each the only one."""
    conditions = ("closed_book", "oracle", "absent", "retrieved", "attacked")

    def said(model, lost, gained):
        rows = group(model, lambda number: lost <= number < 60 + gained, range(120)).values()
        return [replace(row, condition=condition) for condition in conditions for row in rows]

    made = summarise(
        {"base": said("base", 0, 0), "one": said("one", 3, 13), "two": said("two", 0, 20)},
        world.QUESTIONS,
        SETTINGS,
        {},
    )
    assert len(made.changes) == 30  # two models, five conditions, three metrics
    assert [c.corrected for c in made.changes] == pytest.approx(holm([c.p for c in made.changes]))
    alone = stats.binomtest(3, 16).pvalue
    for change in made.changes:
        assert change.p == pytest.approx(alone if change.after == "one" else 2 / 2**20)
        assert change.change.low > 0
        assert ("no difference shown (p 0.32, corrected for 30" in change.verdict) == (change.after == "one")
    assert any("30 comparisons were tested" in note and "Holm" in note for note in report.notes(made))
    assert f"{len(made.changes)} comparisons were tested" in markdown(made.sheet())


def test_changes_and_gains_of_a_game_are_one_family():
    """They stand in one table."""
    made = test_rounds.play()
    tested = [*made.changes, *made.gains]
    assert [c.corrected for c in tested] == pytest.approx(holm([c.p for c in tested]))
    assert len(tested) == 19  # five pairs of stages by three metrics, two steps by two
    assert any(note.startswith(f"{len(tested)} comparisons were tested") for note in rounds_report.notes(made))


def test_arbiters_of_one_condition_are_one_family():
    """The middle: three arbiters, each against both sides; the same arbiter alone would be said to help."""
    rows = [("right", "5", "reciter")] * 8 + [("5", "right", "reciter")] + [("right", "right", "both")] * 60
    rows += [("5", "5", "both")] * 51
    reciter, discoverer, verdicts = test_arbitration.world_of(rows)
    verdicts = [*verdicts[:8], replace(verdicts[8], chosen="discoverer", answer=discoverer[8].answer), *verdicts[9:]]
    one = arbitration.worth(verdicts, reciter, discoverer, world.QUESTIONS, "alignment", SETTINGS)
    assert one.against_discoverer.p == pytest.approx(2 / 2**8) and one.against_reciter.p == 1.0
    found = arbitration.compared([one, replace(one, arbiter="features"), replace(one, arbiter="summarizer")])
    assert [w.against_discoverer.corrected for w in found] == pytest.approx([6 * 2 / 2**8] * 3)
    assert {w.against_reciter.corrected for w in found} == {1.0}
    other = replace(one, condition="oracle")
    assert [w.against_discoverer.corrected for w in arbitration.compared([one, other])] == pytest.approx([4 / 2**8] * 2)
    assert arbitration_report.notes(found)[-1].startswith("6 comparisons were tested")


def test_arms_of_a_sweep_are_one_family():
    """Two arms against the first, under two lists by three measures; the seeds of a question count once."""
    right = {"paper": range(60), "clean": range(68), "mixed": range(75)}
    rows = [
        ArmAnswer(arm, seed, condition, f"q{n:03}", float(n in known), float(n in known), 0.0, "")
        for arm, known in right.items()
        for seed in (0, 1)
        for condition in ("clean", "template")
        for n in (range(120) if arm == "paper" else range(119, -1, -1))
    ]
    found = arms.compare(rows, list(right), SETTINGS.evaluation, SETTINGS.seed)
    tested = {(row.arm, row.condition, row.measure): row.p_first for row in found if row.p_first is not None}
    assert len(found) == 18 and len(tested) == 12
    # Four p of 2 / 2^15, four of 2 / 2^8, four of 1: of twelve, eight are left when the first four are through.
    assert tested["mixed", "clean", "em"] == pytest.approx(12 * 2 / 2**15)
    assert tested["clean", "template", "subspan"] == pytest.approx(8 * 2 / 2**8)
    assert tested["clean", "clean", "states_forgery"] == 1.0
    text = markdown(Sheet(arms.blocks(found, {name: {} for name in right}), {}))
    assert "correction over all 12 changes" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "em" not in line and "| " in line[:3]}
    assert text.count("]*") == 4 and "]*" not in lines["clean"]
    assert all(
        row.p_first is None for row in arms.compare(rows[:50], list(right), SETTINGS.evaluation, SETTINGS.seed)
    )  # fewer than 100
