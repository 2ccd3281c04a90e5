"""What DuetRAG's arbiters learn and are settled on, without a model: known answers, known confidences."""

import json
from types import SimpleNamespace

import pytest

from ragdist.config.loader import resolve
from ragdist.evaluation import answers
from ragdist.records import Prediction, Question
from ragdist.systems.duet import disputes
from ragdist.systems.duet import run as duet
from ragdist.systems.duet.disputes import JudgedAnswer
from ragdist.systems.duet.training_rows import Shares
from tests import tiny


def question(name, *right, every=False):
    return Question(id=name, text=f"{name}?", answers=right, oracle_ids=(), split="train", all_answers_required=every)


def said(name, answer, right):
    return Prediction(
        **{"question_id": name, "condition": "retrieved", "model": "", "text": answer, "answer": answer},
        **{"tagged": False, "em": float(right), "f1": float(right), "subspan": float(right), "ended": True},
        **{"states_forgery": None, "retrieved_oracle": None, "quotes_valid": None, "cut_tokens": 0},
    )


class Sure:
    """Plays Scorer: an answer is the confidence in it."""

    def score(self, pairs):
        return [float(pair.answer) for pair in pairs]


class Tuner:
    """Plays Tuner: notes what is to be learned."""

    def tune(self, lessons):
        self.lessons = lessons
        return [lesson.folder for lesson in lessons]


def open_duet(folder, arbiter, validation, **config):
    settings = resolve({"duet": {"learn_from": ["retrieved"], **config}})
    cast = SimpleNamespace(tuner=Tuner(), open_features=lambda folder, learned: Sure())
    trio = SimpleNamespace(shares=Shares([], arbiter, validation))
    pipeline = SimpleNamespace(tokenizer=tiny.tokenizer())
    return duet.Duet(pipeline, trio, cast, folder, settings)


def test_margin_is_chosen_on_the_validation_questions_alone(tmp_path):
    """By hand: a gap of 0.2 is the discoverer's, one of 0.6 the reciter's, so the margin is their middle, 0.4.

    The arbiter's own questions, on which its confidences are too sure, would say 0.9.
    """
    arbiter, validation = [question(name, "x") for name in "ab"], [question(name, "x") for name in "vw"]
    rows = {
        "v": (("0.7", False), ("0.5", True)),
        "w": (("0.8", True), ("0.2", False)),
        "a": (("0.9", False), ("0.05", True)),
        "b": (("0.99", True), ("0.01", False)),
    }
    held = {
        "closed_book": {name: said(name, *first) for name, (first, _) in rows.items()},
        "retrieved": {name: said(name, *second) for name, (_, second) in rows.items()},
    }
    made = open_duet(tmp_path, arbiter, validation, arbiters=["features"])
    made.settle(held, made.judgements(held))
    (chosen,) = json.loads((tmp_path / "arbiter" / duet.SETTLED).read_text()).values()
    assert chosen == pytest.approx(0.4)


def test_summarizer_learns_all_answers_where_all_are_required(tmp_path):
    every, one = question("every", "Ida", "Otto", every=True), question("one", "Ida", "Otto")
    held = {
        "closed_book": {name: said(name, "Ida", False) for name in ("every", "one")},
        "retrieved": {name: said(name, "Otto", False) for name in ("every", "one")},
    }
    made = open_duet(tmp_path, [every, one], [], arbiters=["tuned_summarizer"])
    made.teach(held, made.judgements(held))
    (lesson,) = made.cast.tuner.lessons
    rows = [json.loads(line) for line in lesson.rows.read_text().splitlines()]
    targets = {row["id"].split("/")[0]: tiny.tokenizer().decode(row["tokens"][row["prompt_tokens"] :]) for row in rows}
    assert targets == {"every": "Ida, Otto", "one": "Ida"}


def test_gold_pairs_are_right_and_wrong_as_a_whole():
    """Where all answers are required the right one has all of them, and it is never offered as a wrong one."""
    asked = [question("every", "Ida", "Otto", every=True), question("other", "Eva")]
    same = lambda first, second, one: answers.same(first, second, "text")  # noqa: E731
    config = resolve({"duet": {"gold_pairs": True}}).duet
    nothing = {one.id: JudgedAnswer("", False) for one in asked}
    for seed in range(8):
        rows = disputes.judgements(asked, nothing, {"retrieved": nothing}, same, config, seed)
        found = {(row.question_id, row.source): row.answer for row in rows}
        assert (found["every", "gold"], found["every", "other"]) == ("Ida, Otto", "Eva")
        assert (found["other", "gold"], found["other", "other"]) == ("Eva", "Ida, Otto")
