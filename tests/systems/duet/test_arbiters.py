"""Arbiters by the answers they give: rules that are known beforehand, and no model."""

import pytest

from ragdist.config import Settings
from ragdist.evaluation import answers
from ragdist.records import Reply, Written
from ragdist.systems.duet import arbiters, disputes
from ragdist.systems.duet.arbiters import Discoverer, ScorerArbiter, Summarizer
from ragdist.systems.duet.disputes import Dispute
from tests import tiny


def same(dispute):
    return answers.same(dispute.reciter, dispute.discoverer, "text")


class Table:
    """Plays Scorer with known confidences, and keeps what it was asked."""

    def __init__(self, **confidences):
        self.confidences, self.asked = confidences, []

    def score(self, pairs):
        self.asked += pairs
        return [self.confidences[pair.answer] for pair in pairs]


def dispute(reciter, discoverer, number=0):
    return Dispute(f"q{number}", "Which?", reciter, discoverer)


@pytest.mark.parametrize(
    ("reciter", "discoverer", "margin", "chosen"),
    [
        (0.90, 0.50, 0.0, "reciter"),
        (0.50, 0.90, 0.0, "discoverer"),
        (0.70, 0.70, 0.0, "discoverer"),
        (0.72, 0.70, 0.05, "discoverer"),
        (0.72, 0.70, 0.01, "reciter"),
    ],
)
def test_rule_tilts_to_the_discoverer_check_58(reciter, discoverer, margin, chosen):
    """check 57 too: the answer is one of the two, letter by letter."""
    arbiter = ScorerArbiter(Table(left=reciter, right=discoverer), margin, same)
    (verdict,) = arbiter.judge([dispute("left", "right")])
    assert verdict.chosen == chosen
    assert verdict.answer == {"reciter": "left", "discoverer": "right"}[chosen]
    assert (verdict.reciter_confidence, verdict.discoverer_confidence) == (reciter, discoverer)


def test_equal_answers_are_not_scored_check_59():
    scorer = Table(left=0.9, right=0.1)
    verdicts = ScorerArbiter(scorer, 0.0, same).judge([dispute("The Left.", "left", 1), dispute("left", "right", 2)])
    assert [(verdict.chosen, verdict.answer) for verdict in verdicts] == [("both", "left"), ("reciter", "left")]
    assert [pair.answer for pair in scorer.asked] == ["left", "right"]


def test_swapped_slots_choose_the_same_answer_check_61():
    scorer = Table(left=0.9, right=0.1)
    straight = ScorerArbiter(scorer, 0.0, same).judge([dispute("left", "right")])
    swapped = ScorerArbiter(scorer, 0.0, same).judge([dispute("right", "left")])
    assert straight[0].answer == swapped[0].answer == "left"


def test_summarizers_output_is_the_answer_and_says_whose_it_is_check_62():
    said = {"q1": "left", "q2": "Right!", "q3": "middle", "q4": "", "q5": "never asked"}
    shown = []

    def ask(asked):
        shown.extend(asked)
        return [said[one.question_id] for one, _ in asked]

    cases = [dispute("left", "right", number) for number in (1, 2, 3, 4)] + [dispute("left", "left", 5)]
    verdicts = Summarizer(ask, same, seed=0).judge(cases)
    assert [(verdict.answer, verdict.chosen) for verdict in verdicts] == [
        ("left", "reciter"),
        ("Right!", "discoverer"),
        ("middle", "neither"),
        ("right", "discoverer"),  # nothing was written
        ("left", "both"),
    ]
    assert len(shown) == 4
    straight = [flipped for _, flipped in shown]
    Summarizer(ask, same, seed=0, flip=True).judge(cases)
    assert [flipped for _, flipped in shown[4:]] == [not flipped for flipped in straight]


@pytest.mark.parametrize("seed", [0, 1])
def test_either_answer_is_shown_first_half_the_time_by_question_and_seed(seed):
    """A summarizer that always read the same side first would learn the place, not the answer."""
    shown = {}

    def ask(asked):
        for one, flipped in asked:
            text = disputes.summary_text(one, flipped=flipped)
            shown[one.question_id] = text.index("right") < text.index("left")
        return [""] * len(asked)

    Summarizer(ask, same, seed=seed).judge([dispute("left", "right", number) for number in range(400)])
    assert 160 < sum(shown.values()) < 240  # four standard deviations of a fair coin
    assert shown == {f"q{number}": disputes.is_flipped(f"q{number}", seed) for number in range(400)}


def test_without_a_trained_arbiter_the_discoverer_answers():
    verdicts = Discoverer(same).judge([dispute("left", "right", 1), dispute("left", "Left", 2)])
    assert [(verdict.answer, verdict.chosen) for verdict in verdicts] == [("right", "discoverer"), ("Left", "both")]


class Parrot:
    """Plays Writer and repeats the first answer in the prompt; keeps what it was asked."""

    def __init__(self, stop_after=99):
        self.asked, self.stop_after = [], stop_after

    def write(self, prompts, *, max_new_tokens, seed, done=()):
        for prompt in (prompt for prompt in prompts if prompt.id not in done):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt.id)
            text = tiny.tokenizer().decode(prompt.tokens).split(": ")[2].partition("\n")[0]
            yield [Written(prompt_id=prompt.id, sample=0, text=text, tokens=1, ended=True)]


def test_summaries_are_kept_when_a_run_is_stopped(tmp_path):
    shown = [(dispute("left", "right", number), bool(number % 2)) for number in range(4)]
    about = (tiny.tokenizer(), tmp_path, "base", Settings())
    with pytest.raises(KeyboardInterrupt):
        arbiters.by_answerer(Parrot(stop_after=2), *about)(shown)
    again = Parrot()
    assert arbiters.by_answerer(again, *about)(shown) == ["left", "right", "left", "right"]
    assert again.asked == ["q2", "q3"]


def test_teacher_is_asked_once_for_each_order():
    class Echo:
        def __init__(self):
            self.asked = []

        def ask(self, requests, *, what):
            for request in requests:
                self.asked.append(request.id)
                yield Reply(
                    id=request.id, text=request.text.split(": ")[2].partition("\n")[0], ended=True, read=1, written=1
                )

    teacher = Echo()
    shown = [(dispute("left", "right"), False), (dispute("left", "right"), True)]
    assert arbiters.by_teacher(teacher, limit=64, seed=0)(shown) == ["left", "right"]
    assert len(set(teacher.asked)) == 2
