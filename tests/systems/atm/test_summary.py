"""Rounds worked by hand: attack success, paired changes, perplexity inflicted, and null results said so."""

import json
import math

import pytest
from matplotlib.image import imread
from rich.console import Console

from ragdist.config import loader
from ragdist.evaluation.sheet import markdown, picture, terminal
from ragdist.records import Forgery, Grade, OpenQuestion, Prediction
from ragdist.storage import tables
from ragdist.systems.atm import report as rounds_report
from ragdist.systems.atm import summary as rounds
from ragdist.systems.atm.summary import Matchup

SETTINGS = loader.resolve({"evaluation": {"resamples": 500}})
COUNT = 120


def answered(number, condition, generator, attacker, right, states=False):
    return Prediction(
        question_id=f"q{number:03}",
        condition=condition,
        generator=generator,
        attacker=attacker,
        text="x",
        answer="x",
        em=float(right),
        f1=float(right),
        subspan=float(right),
        states_forgery=states,
        ended=True,
        cut_tokens=0,
    )


def grade(number, sample, perplexity):
    return Grade(
        forgery_id=f"q{number:03}-{sample}",
        question_id=f"q{number:03}",
        sample=sample,
        perplexity=perplexity,
        tokens=2,
    )


def forgery(number, attacker, sample, stated=True):
    return Forgery(
        id=f"q{number:03}-a{attacker}-s{sample}",
        question_id=f"q{number:03}",
        number=sample,
        title="t",
        text=f"forged by {attacker}, sample {sample} " + "and so on " * 100,
        states="Bonn",
        method="attacker",
        attacker=attacker,
        stated=stated,
    )


def question(number):
    return OpenQuestion(
        id=f"q{number:03}",
        text=f"What is the capital, number {number}?",
        answers=("Berlin",),
        target="Berlin",
        wrong_answers=("Bonn",),
        document_ids=("d", "o"),
        titles=("other", "oracle"),
        texts=("Nothing here.", "The capital is\nBerlin."),
        oracle_positions=(1,),
    )


# Share right under (condition, generator, attacker); the first questions are the right ones.
GAME = {
    ("clean", 0, -1): 0.8,
    ("permuted", 0, -1): 0.75,
    ("template", 0, -1): 0.4,
    ("attacker", 0, 0): 0.6,
    ("attacker", 0, 1): 0.5,
    ("clean", 1, -1): 0.8,
    ("permuted", 1, -1): 0.8,
    ("template", 1, -1): 0.6,
    ("attacker", 1, 1): 0.75,
}
E = math.e
# log perplexity of two forgeries of each question: mean 1, then 2, then 0.5.
HURT = {Matchup(0, 0): (0.0, 2.0), Matchup(0, 1): (2.0, 2.0), Matchup(1, 1): (0.0, 1.0)}


def play(count=COUNT, game=None, hurt=None):
    asked = [
        answered(n, *key, right=n < share * count, states=n % 2 == 0 and n >= share * count)
        for key, share in (GAME if game is None else game).items()
        for n in range(count)
    ]
    grades = {
        meeting: [grade(n, s, E**log) for n in range(count) for s, log in enumerate(logs)]
        for meeting, logs in (HURT if hurt is None else hurt).items()
    }
    forged = [forgery(n, a, s, stated=s == 0 or a == 1) for n in range(count) for a in (0, 1) for s in (0, 1)]
    return rounds.report(asked, grades, forged, SETTINGS.evaluation, SETTINGS.seed, [question(n) for n in range(count)])


@pytest.fixture(scope="module")
def report():
    return play()


def test_stages_are_in_the_order_of_play(report):
    assert report.stages == ["before", "round 1, new attacker", "after round 1"]
    many = play(4, {("clean", g, -1): 1.0 for g in range(11)}, {})
    assert many.stages[-2:] == ["after round 9", "after round 10"]


def test_scores_hold_mean_interval_and_repeats(report):
    score = report.score("after round 1", "attacker")
    assert (score.attacker, score.rows, score.em.mean) == (1, COUNT, pytest.approx(0.75))
    assert score.em.low < 0.75 < score.em.high
    assert score.states_forgery.mean == pytest.approx(15 / 120)
    assert report.score("round 1, new attacker", "clean") is None


def test_attack_success_is_of_those_right_on_the_permuted_list_of_the_same_generator(report):
    """T5: what the permutation alone turns wrong is no success of the attack."""
    found = {(s.model, s.condition): s for s in report.successes if s.metric == "em"}
    # Before: 96 right on the clean list and 90 permuted; the template leaves 48, attacker 0 leaves 72, attacker 1 60.
    assert found["before", "template"].rows == 90
    assert found["before", "template"].success.mean == pytest.approx(42 / 90)
    assert found["before", "attacker"].success.mean == pytest.approx(18 / 90)
    assert found["round 1, new attacker", "attacker"].success.mean == pytest.approx(30 / 90)
    assert found["after round 1", "attacker"].success.mean == pytest.approx(6 / 96)


def test_attack_success_of_an_attack_that_changes_nothing_is_zero():
    """T5: whatever the clean list scores."""
    found = play(COUNT, {("clean", 0, -1): 1.0, ("permuted", 0, -1): 0.4, ("attacker", 0, 0): 0.4}, {})
    assert [(s.rows, s.success.mean) for s in found.successes] == [(48, 0.0)] * 2
    assert found.score("before", "clean").em.mean == 1.0 and not found.changes


def test_attack_success_without_a_right_answer_is_none():
    found = play(4, {("clean", 0, -1): 1.0, ("permuted", 0, -1): 0.0, ("template", 0, -1): 0.0}, {})
    assert found.successes[0].rows == 0 and found.successes[0].success is None
    assert "before" in printed(found)


def test_changes_and_success_pair_by_question_whatever_the_order_and_what_is_missing():
    """A survivor among mutants: pairing by position. Questions 0 to 109 before, 10 to 119 after, in other orders."""
    before = [answered(n, "clean", 0, -1, right=n < 60) for n in range(110)]
    after = [answered(n, "clean", 1, -1, right=n < 60 or n >= 100) for n in reversed(range(10, 120))]
    control = [answered(n, "permuted", 1, -1, right=n < 60) for n in range(100)]
    attacked = [answered(n, "attacker", 1, 1, right=n % 2 == 0) for n in reversed(range(20, 120))]
    found = rounds.report([*before, *after, *control, *attacked], {}, [], SETTINGS.evaluation, SETTINGS.seed)
    change = next(c for c in found.changes if (c.condition, c.metric) == ("clean", "em"))
    # Of 100 questions that both were asked, 100 to 109 got right and none got wrong.
    assert (change.rows, change.change.mean) == (100, pytest.approx(0.1)) and change.shown
    success = next(s for s in found.successes if s.metric == "em")
    assert (success.rows, success.success.mean) == (40, pytest.approx(0.5))  # right: 20 to 59, the odd ones lost


def test_changes_pair_the_same_questions_and_say_what_they_show(report):
    found = {(c.before, c.after, c.condition): c for c in report.changes if c.metric == "em"}
    assert set(found) == {
        ("before", "after round 1", "clean"),
        ("before", "after round 1", "template"),
        ("before", "round 1, new attacker", "attacker"),
        ("before", "after round 1", "attacker"),
        ("round 1, new attacker", "after round 1", "attacker"),
    }
    same = found["before", "after round 1", "clean"]
    assert same.verdict == "no difference shown, +0.00 [+0.00, +0.00]" and not same.shown
    better = found["round 1, new attacker", "after round 1", "attacker"]
    assert better.change.mean == pytest.approx(0.25) and better.shown


def test_gains_compare_the_perplexity_that_forgeries_inflict(report):
    means = {one.model: (one.log_perplexity.mean, one.perplexity.mean) for one in report.inflicted}
    assert means["before"] == pytest.approx((1.0, (1 + E**2) / 2))
    assert means["round 1, new attacker"] == pytest.approx((2.0, E**2))
    found = {(g.after, g.metric): g for g in report.gains}
    assert found["round 1, new attacker", "log_perplexity"].change.mean == pytest.approx(1.0)
    assert found["round 1, new attacker", "perplexity"].change.mean == pytest.approx(E**2 - (1 + E**2) / 2)
    assert found["after round 1", "log_perplexity"].change.mean == pytest.approx(-1.5)
    assert all(gain.shown for gain in report.gains)


def test_broken_grades_are_left_out_and_counted():
    grades = {Matchup(0, 0): [grade(0, 0, E), grade(0, 1, math.inf), grade(1, 0, math.nan), grade(1, 1, E**3)]}
    found = rounds.report([], grades, [], SETTINGS.evaluation, SETTINGS.seed).inflicted[0]
    assert (found.rows, found.forgeries, found.broken) == (2, 2, 2)
    assert found.log_perplexity.mean == pytest.approx(2.0)


def test_few_questions_are_a_null_result_whatever_they_say():
    few = play(20)
    assert not any(change.shown for change in (*few.changes, *few.gains))
    assert rounds_report.conclusion(few) == (
        "A null result: none of 7 changes in Subspan EM and log perplexity is a difference, "
        "each over fewer than 100 questions."
    )
    assert "fewer than 100 questions: not called a difference" in markdown(few.sheet())


def test_null_result_is_printed_as_one():
    same = {("clean", g, -1): 0.5 for g in (0, 1)} | {("attacker", g, a): 0.5 for g, a in ((0, 0), (0, 1), (1, 1))}
    null = play(COUNT, same, dict.fromkeys(HURT, (1.0, 1.0)))
    assert "A null result: none of 6 changes" in " ".join(printed(null).split())
    assert "no difference shown" in markdown(null.sheet())


def printed(report):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(terminal(report.sheet()))
    return capture.get()


def test_table_fits_100_columns_and_names_what_it_shows(report):
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 100
    assert "0.32-0.49" in text  # no cell is broken into two lines
    words = " ".join(text.split())
    assert "before 0.80 0.75 0.40 0.60 0.47 0.20 1.00" in words
    assert "6 of 7 changes in Subspan EM and log perplexity are shown to be differences." in words
    assert "repeat the forged one, own forgeries: before 20%; round 1, new attacker 25%; after round 1 12%." in words
    assert "Forgeries of attacker 0 state the wrong answer in 50%, hold a right answer in 0%." in words


def test_examples_stand_beside_the_truth_shortened(report):
    assert len(report.examples) == 3 and report.examples == play().examples
    one = report.examples[0]
    assert (one.right, one.wrong, one.truth, one.attacker) == ("Berlin", "Bonn", "The capital is Berlin.", 1)
    assert one.forgery.startswith("forged by 1, sample 0") and one.forgery.endswith("...") and len(one.forgery) < 310


def test_json_has_rows_that_ragdist_runs_reads(report):
    data = json.loads(json.dumps(report.sheet().numbers, allow_nan=False))
    assert {f"{s['model']} {s['condition']} {s['em']['mean']:.2f}" for s in data["scores"]} >= {
        "before clean 0.80",
        "after round 1 attacker 0.75",
    }
    assert data["gains"][0]["shown"] is True and data["forgeries"][0]["rows"] == 2 * COUNT
    assert data["examples"][0]["right"] == "Berlin"


def test_markdown_tables_are_rectangular(report):
    for block in markdown(report.sheet()).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_picture_is_a_png_with_something_in_it(report, tmp_path):
    pixels = imread(picture(report.sheet(), tmp_path / "deep" / "report.png"))
    assert pixels.shape[0] > 400 and pixels.shape[1] > 800
    assert 0.5 < pixels[..., :3].mean() < 0.99


def test_nothing_asked_is_said_so_in_every_form(tmp_path):
    empty = rounds.report([], {}, [], SETTINGS.evaluation, SETTINGS.seed)
    assert "0 questions." in printed(empty) and "0 questions." in markdown(empty.sheet())
    assert empty.sheet().numbers["scores"] == []
    assert picture(empty.sheet(), tmp_path / "empty.png").exists()


def test_summarise_reads_what_a_game_left(tmp_path, report):
    def keep(name, rows):
        (tmp_path / name).mkdir(exist_ok=True)
        for part in (rows[::2], rows[1::2]):
            number = len([*(tmp_path / name).iterdir()])
            tables.write(tmp_path / name / f"{number:05}.parquet", tables.to_table(part), {})

    names = {
        "clean": "clean-g{g}",
        "permuted": "clean-g{g}",
        "template": "template-g{g}",
        "attacker": "attacked-a{a}-g{g}",
    }
    for (condition, g, a), share in GAME.items():
        rows = [
            answered(n, condition, g, a, n < share * COUNT, n % 2 == 0 and n >= share * COUNT) for n in range(COUNT)
        ]
        keep(names[condition].format(a=a, g=g), rows)
    for meeting, logs in HURT.items():
        rows = [grade(n, s, E**log) for n in range(COUNT) for s, log in enumerate(logs)]
        keep(f"graded-a{meeting.attacker}-g{meeting.generator}", rows)
    read = rounds.summarise(tmp_path, SETTINGS.evaluation, SETTINGS.seed)
    assert read.changes == report.changes and read.successes == report.successes
    assert [one.model for one in read.inflicted] == [one.model for one in report.inflicted]
    assert read.inflicted == report.inflicted
