"""The text-feature arbiter learns toy relations, saves without pickle, and judges each pair by itself."""

import json
import pickle
import random
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from ragdist.errors import DataError, ModelError
from ragdist.records import Judgement
from ragdist.roles import Pair
from ragdist.systems.duet.features import BUCKETS, CARD, WEIGHTS, FeatureScorer, columns, named, words

ANSWERS = {"encoding": "None", "size": "-1", "mode": "'r'", "strict": "False"}


def judgement(number, name, answer, weight=1.0):
    return Judgement(
        id=f"{number:03}/{answer}",
        question_id=f"{number:03}",
        question=f"What is the default of `{name}` in `m.f{number}`?",
        answer=answer,
        right=answer == ANSWERS[name],
        weight=weight,
        source="reciter",
    )


# Every answer is right for one parameter and wrong for three, so neither the question nor the answer alone tells.
ROWS = [
    judgement(number, name, answer)
    for number, name in enumerate(list(ANSWERS) * 15)
    for answer in (ANSWERS[name], list(ANSWERS.values())[(number + number // 4 % 3 + 1) % 4])
]


@pytest.fixture(scope="module")
def scorer():
    return FeatureScorer.fit(ROWS, seed=0)


def test_learns_what_only_question_and_answer_together_tell(scorer):
    for name in ANSWERS:
        pairs = [Pair(f"What is the default of `{name}` in `other.g`?", answer) for answer in ANSWERS.values()]
        confidences = dict(zip(ANSWERS.values(), scorer.score(pairs), strict=True))
        assert max(confidences, key=confidences.__getitem__) == ANSWERS[name]
        assert confidences[ANSWERS[name]] > 0.5 > sorted(confidences.values())[-2]


def test_tells_minus_one_from_one_and_a_number_from_a_name():
    assert words("-1") != words("1")
    asked = [("How many moons has", True, "2"), ("How many moons has", False, "Paris"), ("Who saw", False, "3")]
    asked.append(("Who saw", True, "Anna"))
    rows = [
        Judgement(
            id=f"{n}-{k}",
            question_id=str(n),
            question=f"{text} planet {n}?",
            answer=answer,
            right=right,
            weight=1.0,
            source="other",
        )
        for n in range(12)
        for k, (text, right, answer) in enumerate(asked)
    ]
    learned = FeatureScorer.fit(rows, seed=0)
    number, name = learned.score([Pair("How many moons has Mars?", "7"), Pair("How many moons has Mars?", "Rome")])
    assert number > 0.5 > name


def test_rows_in_any_order_and_a_trip_to_disk_give_equal_scorers(scorer, tmp_path):
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    for folder, learned in (("a", scorer), ("b", FeatureScorer.fit(shuffled, seed=0))):
        learned.save(tmp_path / folder)
    for name in (WEIGHTS, CARD):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    pairs = [Pair(row.question, row.answer) for row in ROWS]
    assert FeatureScorer.load(tmp_path / "a").score(pairs) == scorer.score(pairs)


def test_files_hold_no_pickle_and_say_what_made_them(scorer, tmp_path):
    scorer.save(tmp_path)
    for name in zipfile.ZipFile(tmp_path / WEIGHTS).namelist():
        with zipfile.ZipFile(tmp_path / WEIGHTS).open(name) as file, pytest.raises(pickle.UnpicklingError):
            pickle.load(file)
    card = json.loads((tmp_path / CARD).read_text())
    assert (card["rows"], card["right"], card["questions"]) == (120, 60, 60)
    assert set(card["libraries"]) == {"scikit-learn", "scipy", "numpy"}
    assert card["cross_entropy"] < np.log(2)  # a coin's


def test_another_version_or_an_empty_folder_is_refused(scorer, tmp_path):
    with pytest.raises(ModelError, match="no text-feature arbiter"):
        FeatureScorer.load(tmp_path)
    scorer.save(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({**scorer.made_by, "version": 0}))
    with pytest.raises(ModelError, match="version 0"):
        FeatureScorer.load(tmp_path)


@pytest.mark.parametrize(("rows", "got"), [("right", "60 that are all right"), ("wrong", "60 that are all wrong")])
def test_one_label_only_is_an_error_that_names_the_knobs(rows, got):
    with pytest.raises(DataError, match=rf"{got}; raise questions.train_rows, .*fraction or set duet.gold_pairs=true"):
        FeatureScorer.fit([row for row in ROWS if row.right == (rows == "right")], seed=0)


def test_no_rows_are_an_error():
    with pytest.raises(DataError, match="got none"):
        FeatureScorer.fit([], seed=0)


def test_two_rows_of_one_question_are_enough_to_learn_from():
    assert FeatureScorer.fit(ROWS[:2], seed=0).made_by["cross_entropy"] is None  # nothing was left to check on


def test_weight_moves_the_confidence():
    """A row of weight 3 is three rows of weight 1."""
    question = [judgement(0, "size", "-1"), judgement(1, "size", "None")]
    heavy = [question[0], judgement(1, "size", "None", weight=3.0)]
    thrice = [question[0], *([question[1]] * 3)]
    pair = [Pair("What is the default of `size` in `m.f`?", "None")]
    light, weighted, repeated = (FeatureScorer.fit(rows, seed=0).score(pair) for rows in (question, heavy, thrice))
    assert weighted == pytest.approx(repeated, abs=1e-4) and weighted[0] < light[0] - 0.05


def test_check_61_a_score_does_not_depend_on_the_slot_or_the_company(scorer):
    pairs = [Pair(row.question, row.answer) for row in ROWS]
    alone = [scorer.score([pair])[0] for pair in pairs]
    assert scorer.score(pairs) == alone and scorer.score(pairs[::-1]) == alone[::-1]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=60), st.text(st.characters(), max_size=60))
def test_check_57_confidence_lies_within_0_and_1_for_any_text(scorer, question, answer):
    assert 0 < scorer.score([Pair(question, answer)])[0] < 1


@pytest.mark.parametrize("answer", ["", "東京", "Київ", "القاهرة", "नई दिल्ली", "👩‍🚀", "\ud800", "\x00", "x" * 10_000])
def test_check_57_answers_in_any_script_have_a_confidence(scorer, answer):
    assert 0 < scorer.score([Pair("首都はどこですか。", answer)])[0] < 1


def test_check_57_the_surest_logit_is_not_certainty():
    low, high = (FeatureScorer(np.full(BUCKETS, sign), 0.0, {}) for sign in (-1e6, 1e6))
    found = [scorer.score([Pair("q", "a b c")])[0] for scorer in (low, high)]
    assert all(0 < c < 1 for c in found)


def test_no_pairs_have_no_confidences(scorer):
    assert scorer.score([]) == []


def test_hashing_is_scikit_learns():
    """The words of an answer fall into the columns that HashingVectorizer gives to the same names."""
    texts = ["utf-8 and ascii", "New York"]
    theirs = HashingVectorizer(
        n_features=BUCKETS, analyzer=lambda text: [f"answer: {word}" for word in words(text)], norm=None
    ).transform(texts)
    for row, text in enumerate(texts):
        own = {name: value for name, value in named(Pair("", text)) if name.startswith("answer: ")}
        assert set(theirs[row].indices) <= set(columns([Pair("", text)]).indices)
        assert sum(value**2 for value in own.values()) == pytest.approx(1)


def test_answers_to_one_question_are_in_one_fold():
    """Labels that only a question's own name tells: answers of one question in two folds would be learned by heart.

    Held apart by question nothing can be told, so that the strongest penalty wins and no fold is better than a coin.
    """
    draws = random.Random(3)
    rows = [
        Judgement(
            id=f"{number}-{at}",
            question_id=str(number),
            question=f"zq{number}x",
            answer="same",
            right=right,
            weight=1.0,
            source="other",
        )
        for number in range(40)
        for right in [draws.random() < 0.5]
        for at in range(4)
    ]
    made_by = FeatureScorer.fit(rows, seed=0).made_by
    assert made_by["strength"] == 0.01
    assert made_by["cross_entropy"] > 0.9 * np.log(2)
