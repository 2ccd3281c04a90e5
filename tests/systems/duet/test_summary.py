"""An arbiter's worth in a world of ten questions worked by hand, and the bounds that no selector leaves."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from ragdist.config import loader
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.evaluation.predictions import score_of
from ragdist.evaluation.sheet import Sheet, markdown, picture, terminal
from ragdist.evaluation.summary import summarise
from ragdist.records import Prediction, Verdict
from ragdist.systems.duet import report as reporting
from ragdist.systems.duet import summary as arbitration
from ragdist.systems.duet.calibration import Calibration
from ragdist.systems.duet.summary import EITHER, Outcomes
from tests.evaluation import world

SETTINGS = world.settings()
QUESTIONS = world.QUESTIONS[:10]


def prediction(number, condition, model, answer):
    score = answers.score(answer, world.QUESTIONS[number])
    return Prediction(
        question_id=world.QUESTIONS[number].id,
        condition=condition,
        model=model,
        text=f"I say {answer}",
        answer=answer,
        tagged=True,
        em=score.em,
        f1=score.f1,
        subspan=score.subspan,
        states_forgery=answer == "5",
        retrieved_oracle=None if condition == "closed_book" else number % 2 == 0,
        quotes_valid=None,
        ended=True,
        cut_tokens=0 if condition == "closed_book" else 40,
        perplexity=1.5,
    )


def world_of(rows):
    """Reciter's and discoverer's predictions and verdicts; `rows` holds (reciter says, discoverer says, chosen)."""
    said = [[world.value(n) if text == "right" else text for text in row[:2]] for n, row in enumerate(rows)]
    reciter = [prediction(n, "closed_book", "reciter", texts[0]) for n, texts in enumerate(said)]
    discoverer = [prediction(n, "retrieved", "discoverer", texts[1]) for n, texts in enumerate(said)]
    verdicts = [
        Verdict(
            question_id=world.QUESTIONS[n].id,
            answer=said[n][row[2] != "reciter"],
            chosen=row[2],
            reciter_confidence=row[3] if len(row) > 3 else None,
            discoverer_confidence=row[4] if len(row) > 3 else None,
        )
        for n, row in enumerate(rows)
    ]
    return reciter, discoverer, verdicts


TEN = [
    ("right", "right", "both"),
    ("right", "right", "both"),
    ("right", "right", "both"),
    ("right", "5", "reciter", 0.90, 0.20),  # helped
    ("right", "6", "discoverer", 0.55, 0.65),
    ("7", "right", "discoverer", 0.25, 0.75),
    ("7", "right", "discoverer", 0.15, 0.95),
    ("7", "right", "reciter", 0.85, 0.35),  # harmed
    ("7", "8", "discoverer", 0.35, 0.45),
    ("9", "9", "both"),
]
RECITER, DISCOVERER, VERDICTS = world_of(TEN)


def worth(verdicts=VERDICTS, chosen=SETTINGS, reciter=RECITER, discoverer=DISCOVERER, questions=QUESTIONS, **more):
    return arbitration.worth(verdicts, reciter, discoverer, questions, "alignment", chosen, **more)


def test_ten_questions_worked_by_hand():
    found = worth()
    every, differing = found.outcomes, found.differing
    assert (every.rows, every.both, every.one, every.neither) == (10, 3, 5, 2)
    assert (every.helped, every.harmed, every.one_taken) == (1, 1, 3)
    assert [found.reciter.mean, found.discoverer.mean, found.accuracy.mean, found.either.mean] == [0.5, 0.6, 0.6, 0.8]
    assert differing.rows == 6
    sides = [differing.count(reciter=True), differing.count(discoverer=True), differing.count(arbiter=True)]
    assert sides == [2, 3, 3]
    assert found.against_reciter.change.mean == pytest.approx(0.1)
    assert found.against_discoverer.change.mean == 0
    assert found.against_better is found.against_discoverer
    assert (found.effect, found.condition, found.against_reciter.condition) == ("not shown", "retrieved", "retrieved")
    assert "fewer than 100 questions" in found.against_better.verdict


def test_calibration_worked_by_hand():
    """Bins of the twelve confidences: .15 | .20 .25 | .35 .35* | .45 | .55* | .65 | .75* | .85 | .90* .95*, * is right.

    sum |confidence - right| = .15 + .45 + .30 + .45 + .45 + .65 + .25 + .85 + .15 = 3.70
    """
    found = worth().calibration
    assert found.total.answers == 12
    assert found.ece == pytest.approx(3.70 / 12)
    assert found.brier == pytest.approx(2.295 / 12)
    assert found.curve[1] == pytest.approx((0.225, 0, 2)) and found.curve[-1] == pytest.approx((0.925, 1, 2))


def test_abstaining_worked_by_hand():
    """Taken, the surest first: .95*, .90*, .85, .75*, .65, .45, * is right. Of 9 pairs 8 have the right one above."""
    sure = worth().selective
    assert (sure.answers, sure.auroc) == (6, pytest.approx(8 / 9))
    assert sure.at_80.mean == pytest.approx(3 / 5)
    risks = {point.coverage: (point.answers, round(point.risk, 3)) for point in sure.curve}
    assert risks[0.1] == (1, 0.0) and risks[0.5] == (3, 0.333) and risks[0.8] == (5, 0.4) and risks[1.0] == (6, 0.5)
    assert (sure.answered, sure.answered_right) == (6, 3)


def test_an_arbiter_that_abstains_is_scored_by_what_it_answers():
    chosen = loader.resolve({"duet": {"abstain_below": 0.7}, "evaluation": {"resamples": 500}})
    sure = worth(chosen=chosen).selective
    assert (sure.threshold, sure.answered, sure.answered_right) == (0.7, 4, 3)
    text = markdown(Sheet(reporting.arbiter_blocks([worth(chosen=chosen)]), {}))
    assert "| alignment | 6 | 0.89 | 0.50 | **0.60** (" in text and "| 0.67 | 4 at 0.7 | 0.75 |" in text


def test_answers_that_are_all_wrong_cannot_be_ranked():
    reciter, discoverer, verdicts = world_of([("7", "8", "discoverer", 0.2, 0.6), ("7", "9", "reciter", 0.5, 0.1)])
    found = worth(verdicts, reciter=reciter, discoverer=discoverer)
    assert found.selective.auroc is None and found.selective.curve[-1].risk == 1.0


def test_where_there_is_no_room_a_null_is_no_verdict():
    """Just one of 25 is known by the reciter alone: a perfect arbiter adds 0.04."""
    rows = [("right" if n == 0 else "7", "5" if n == 0 else "right", "discoverer") for n in range(25)]
    reciter, discoverer, verdicts = world_of(rows)
    found = worth(verdicts, reciter=reciter, discoverer=discoverer, questions=world.QUESTIONS[:25])
    said = "That is less than 0.05: there is next to nothing to decide here"
    assert said in markdown(Sheet(reporting.arbiter_blocks([found]), {}))
    assert said not in markdown(Sheet(reporting.arbiter_blocks([worth()]), {}))


def test_calibration_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    said = rng.random(500)
    right = rng.random(500) < said**2
    found = Calibration.of(zip(said.tolist(), right.tolist(), strict=True))
    shares, means = calibration_curve(right, said, n_bins=10)
    assert [row[0] for row in found.curve] == pytest.approx(means.tolist())
    assert [row[1] for row in found.curve] == pytest.approx(shares.tolist())
    assert found.brier == pytest.approx(brier_score_loss(right, said))


@pytest.mark.parametrize(
    ("points", "ece", "brier"),
    [([(0.5, True), (0.5, False)], 0.0, 0.25), ([(0.75, True)] * 3 + [(0.75, False)], 0.0, 0.1875), ([], 0.0, 0.0)],
)
def test_calibration_of_honest_confidences_is_zero(points, ece, brier):
    found = Calibration.of(points)
    assert (found.ece, found.brier) == (ece, brier)


def test_check_69_shards_merge_to_the_whole():
    shards = [worth(VERDICTS[at::3]) for at in range(3)]
    whole = worth()
    assert sum((one.outcomes for one in shards), Outcomes(type(whole.outcomes.counts)())) == whole.outcomes
    merged = shards[0].calibration + shards[1].calibration + shards[2].calibration
    assert merged.ece == pytest.approx(whole.calibration.ece, abs=1e-12)
    assert merged.brier == pytest.approx(whole.calibration.brier, abs=1e-12)


def test_check_57_a_selected_answer_goes_on_word_for_word():
    made = arbitration.predictions(VERDICTS, RECITER, DISCOVERER, QUESTIONS, "DuetRAG", SETTINGS.evaluation.normalise)
    assert [row.question_id for row in made] == [question.id for question in QUESTIONS]
    for row, verdict, closed, shown in zip(made, VERDICTS, RECITER, DISCOVERER, strict=True):
        said = closed if verdict.chosen == "reciter" else shown
        kept = {"condition": "retrieved", "retrieved_oracle": shown.retrieved_oracle, "cut_tokens": 40}
        assert row == replace(said, model="DuetRAG", perplexity=None, **kept)


def test_a_third_answer_is_scored_anew():
    written = replace(VERDICTS[8], chosen="neither", answer=world.value(8))
    repeats = replace(VERDICTS[3], chosen="neither", answer="`5 `")
    wrong = {world.QUESTIONS[3].id: ["5"]}
    both = arbitration.predictions(
        [written, repeats], RECITER, DISCOVERER, QUESTIONS, "s", SETTINGS.evaluation.normalise, wrong
    )
    assert [(row.answer, score_of(row), row.states_forgery) for row in both] == [
        (world.value(8), (1.0, 1.0, 1.0), None),
        ("`5 `", (0.0, 0.0, 0.0), True),
    ]
    found = worth([written, repeats])
    assert (found.outcomes.helped, found.outcomes.harmed, found.outcomes.neither) == (1, 0, 1)


@pytest.mark.parametrize(
    ("one", "other", "dataset", "same"),
    [
        ("-1", "1", "apidocs", False),  # normalisation alone would make them one
        ('"r"', "'r'", "apidocs", True),
        ("'r'", "r", "apidocs", False),
        ("The Beatles", "beatles.", "hotpotqa", True),
        ("Paul", "John", "hotpotqa", False),
        ("", "", "hotpotqa", True),
    ],
)
def test_check_59_equal_answers_are_no_disagreement(one, other, dataset, same):
    question = replace(QUESTIONS[0], dataset=dataset, answers=("x",))
    sides = [replace(RECITER[0], answer=one)], [replace(DISCOVERER[0], answer=other)]
    verdict = replace(VERDICTS[0], chosen="both", answer=other)
    found = arbitration.worth([verdict], *sides, [question], "a", SETTINGS)
    assert found.differing.rows == (0 if same else 1)


def test_check_59_where_all_answers_agree_there_is_nothing_to_decide():
    reciter, discoverer, verdicts = world_of([("right", "right", "both"), ("7", "7", "both")])
    found = worth(verdicts, reciter=reciter, discoverer=discoverer)
    assert (found.outcomes.one, found.differing.rows, found.calibration, found.order_effect) == (0, 0, None, None)
    assert found.accuracy == found.either == found.discoverer
    assert "answers differ in 0%" in markdown(Sheet(reporting.arbiter_blocks([found]), {}))


def test_check_61_order_effect_is_the_share_of_differing_answers_that_move():
    def turned(number):
        other = RECITER[number].answer if number in (4, 8) else VERDICTS[number].answer
        return replace(VERDICTS[number], answer=other)

    assert worth(swapped=VERDICTS).order_effect.mean == 0
    assert worth(swapped=[turned(number) for number in range(10)]).order_effect.mean == pytest.approx(2 / 6)


SIDE = st.sampled_from(["right", "5", "7"])
ROW = st.tuples(SIDE, SIDE, st.sampled_from(["reciter", "discoverer"]))


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_check_63_a_selector_lies_between_both_right_and_either_right(rows):
    reciter, discoverer, verdicts = world_of(rows)
    questions = world.QUESTIONS[: len(rows)]
    found = worth(verdicts, reciter=reciter, discoverer=discoverer, questions=questions)
    assert found.outcomes.both / len(rows) <= found.accuracy.mean <= found.either.mean
    bound = arbitration.either(reciter, discoverer)
    made = arbitration.predictions(verdicts, reciter, discoverer, questions, "a", SETTINGS.evaluation.normalise)
    assert np.mean([row.em for row in bound]) == pytest.approx(found.either.mean)
    pairs = [(score_of(ours), score_of(most)) for ours, most in zip(made, bound, strict=True)]
    assert all(max(ours, most) == most for ours, most in pairs)
    gain = found.outcomes.helped - found.outcomes.harmed
    assert found.against_discoverer.change.mean == pytest.approx(gain / len(rows))


def test_the_upper_bound_is_the_better_side_by_every_score():
    closed = replace(RECITER[0], em=0.0, f1=0.5, subspan=0.0)
    shown = replace(DISCOVERER[0], em=0.0, f1=0.2, subspan=1.0)
    (best,) = arbitration.either([closed], [shown, DISCOVERER[1]])
    assert (best.model, best.condition, score_of(best), best.text) == (
        EITHER,
        "retrieved",
        (0.0, 0.5, 1.0),
        closed.text,
    )


def test_reports_go_by_subspan_and_confidences_by_what_the_arbiter_was_taught():
    reciter, discoverer, verdicts = world_of([("it is 100", "7", "reciter"), ("7", "right", "discoverer")])
    sure = [replace(one, reciter_confidence=0.75, discoverer_confidence=0.25) for one in verdicts]
    by_subspan = loader.resolve({"duet": {"right_by": "subspan"}, "evaluation": {"resamples": 500}})
    sides = {"reciter": reciter, "discoverer": discoverer}
    found = worth(sure, **sides)
    assert (found.accuracy.mean, found.metric, found.against_better.metric) == (1.0, "subspan", "subspan")
    assert [total.calibration.total.right for total in (found, worth(sure, by_subspan, **sides))] == [1, 2]


def test_a_judged_question_that_a_side_did_not_answer_is_an_error():
    with pytest.raises(DataError, match=r"'q009', which the discoverer did not answer"):
        worth(discoverer=DISCOVERER[:9])


def test_other_questions_are_left_out_and_none_at_all_is_an_error():
    assert worth(questions=QUESTIONS[:4]).outcomes.rows == 4
    with pytest.raises(DataError, match=r"none of 10 verdicts of alignment is on one of 10 questions"):
        worth(questions=world.QUESTIONS[20:30])


@pytest.fixture(scope="module")
def worths():
    """120 questions: the discoverer is right on 72, the reciter on 60; one arbiter is good, one bad, one writes."""
    rng = random.Random(0)
    rows = [
        ("right" if n % 2 else "5", "right" if n % 5 < 3 else "7", n % 2 and n % 5 >= 3) for n in range(world.COUNT)
    ]
    found = []
    for label, skilled, sure in (("alignment", True, True), ("features", False, True), ("summarizer", True, False)):
        judged = []
        for closed, shown, better in rows:
            if closed == shown:
                judged.append((closed, shown, "both"))
            else:
                chosen = "reciter" if bool(better) == skilled else "discoverer"
                judged.append((closed, shown, chosen, *((rng.random(), rng.random()) if sure else ())))
        sides = world_of(judged)
        swapped = () if sure else sides[2]
        found.append(arbitration.worth(sides[2], *sides[:2], world.QUESTIONS, label, SETTINGS, swapped))
    return found


@pytest.fixture(scope="module")
def sheet(worths):
    return Sheet(reporting.arbiter_blocks(worths), {})


def printed(sheet):
    console = Console(width=110)
    with console.capture() as capture:
        console.print(terminal(sheet))
    return capture.get()


def test_check_63_the_report_names_both_sides_the_arbiters_and_the_bound(sheet):
    text = printed(sheet)
    assert max(map(len, text.splitlines())) <= 110
    for name in ("reciter", "discoverer", "alignment", "features", "summarizer", "either (upper"):
        assert f"\n  {name}  " in text


def test_sentences_say_who_helps_and_who_harms(sheet):
    words = " ".join(printed(sheet).split())
    assert "differences are to the discoverer, the better of the two. A perfect arbiter would reach 0.80, 0.20" in words
    assert "alignment turned 24 wrong answers right and 0 right ones wrong: it helps, +0.20 [+0.1" in words
    assert "features turned 0 wrong answers right and 36 right ones wrong: it harms, -0.30 [-0.3" in words
    text = markdown(sheet)
    assert (
        "features is right in 0 of 24 where only the reciter is, and in 0 of 36 where only the discoverer is." in text
    )
    assert "summarizer answers otherwise in 0% (0% to " in text


def test_markdown_tables_are_rectangular_and_agree_with_the_rest(sheet):
    text = markdown(sheet)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| alignment | **0.80** (0." in text and "| 24 / 0 | +0.20 [" in text


def test_json_holds_every_number_and_survives_a_trip(worths):
    data = json.loads(json.dumps(reporting.as_json(worths)))
    assert [row["arbiter"] for row in data] == ["alignment", "features", "summarizer"]
    first, last = data[0], data[2]
    assert first["outcomes"]["helped"] == 24 and first["effect"] == "helps"
    assert (first["differing"]["rows"], first["outcomes"]["one"]) == (84, 60)
    assert sum(row["answers"] for row in first["calibration"]["curve"]) == 168 == first["calibration"]["answers"]
    assert first["against_better"]["change"]["mean"] == pytest.approx(0.2)
    assert [point["coverage"] for point in first["selective"]["curve"]] == pytest.approx([n / 10 for n in range(1, 11)])
    assert first["selective"]["at_80"].keys() == {"mean", "low", "high"} and last["selective"] is None
    assert last["calibration"] is None and last["order_effect"]["mean"] == 0


def test_picture_is_a_png_with_something_in_it(sheet, tmp_path):
    pixels = imread(picture(sheet, tmp_path / "deep" / "arbiters.png"))
    assert pixels.shape[0] > 1200 and pixels.shape[1] > 900
    assert 0.5 < pixels[..., :3].mean() < 0.99


def test_the_robustness_report_takes_duetrag_as_one_more_model():
    made = arbitration.predictions(VERDICTS, RECITER, DISCOVERER, QUESTIONS, "DuetRAG", SETTINGS.evaluation.normalise)
    asked = {"discoverer": DISCOVERER, "DuetRAG": made, EITHER: arbitration.either(RECITER, DISCOVERER)}
    report = summarise(asked, QUESTIONS, SETTINGS, {})
    means = {model: report.cell(model, "retrieved").em.mean for model in report.models}
    assert means == pytest.approx({"discoverer": 0.6, "DuetRAG": 0.6, EITHER: 0.8})
