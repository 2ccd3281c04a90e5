"""Votes of documents by hand, and what each document is asked."""

import pytest

from ragdist.config import Settings
from ragdist.evaluation import answers
from ragdist.records import Chunk, Written
from ragdist.systems.duet import agreement
from ragdist.systems.duet.agreement import AgreementArbiter
from ragdist.systems.duet.disputes import Dispute
from tests import tiny

ONE = "The tower was built in a year that the town still remembers, by masons from the valley and their sons."
OTHER = "Records of the council name the masons, the price of the stone and the day on which the bell was hung."


def same(one):
    return answers.same(one.reciter, one.discoverer, "text")


def dispute(*texts, reciter="1880", discoverer="1990", name="q"):
    shown = tuple(Chunk(id=f"c{at}", document_id="d", title="tower", text=text) for at, text in enumerate(texts))
    return Dispute(name, "When was the tower built?", reciter, discoverer, shown)


@pytest.mark.parametrize(
    ("texts", "said", "chosen"),
    [
        ((ONE, OTHER), ["1880", "1880"], "reciter"),
        ((ONE, OTHER), ["1880", "1990"], "discoverer"),  # as many: the discoverer's
        ((ONE, OTHER), ["in March", "nobody knows"], "discoverer"),
        ((ONE, OTHER, OTHER + " Truly."), ["1880", "1990", "1990"], "discoverer"),  # two copies: one vote each
        ((ONE, OTHER, OTHER + " Truly.", "A third."), ["1880", "1990", "1990", "The 1880."], "reciter"),
    ],
)
def test_votes_worked_by_hand(texts, said, chosen):
    (verdict,) = AgreementArbiter(lambda disputes: [said] * len(disputes), same).judge([dispute(*texts)])
    assert verdict.chosen == chosen and verdict.answer == {"reciter": "1880", "discoverer": "1990"}[chosen]


def test_equal_answers_ask_no_document():
    asked = []
    arbiter = AgreementArbiter(lambda disputes: asked.extend(disputes) or [["1880"]] * len(disputes), same)
    agreed, open_ = dispute(ONE, discoverer="the 1880", name="a"), dispute(ONE, name="b")
    assert [one.chosen for one in arbiter.judge([agreed, open_])] == ["both", "reciter"]
    assert asked == [open_]


class Copier:
    """Plays Answerer: writes the last word of the first document."""

    def __init__(self):
        self.asked = []

    def write(self, prompts, *, max_new_tokens, seed, done=()):
        for prompt in (prompt for prompt in prompts if prompt.id not in done):
            text = tiny.tokenizer().decode(prompt.tokens)
            self.asked.append(text)
            said = text.partition("</DOCUMENT>")[0].split()[-1]
            yield [Written(prompt_id=prompt.id, sample=0, text=said, tokens=1, ended=True)]


def test_each_document_is_asked_alone_and_once(tmp_path):
    answerer = Copier()
    about = (tiny.tokenizer(), tmp_path, "base", Settings())
    asked = [dispute("built 1", "built 2"), dispute("built 2", "built 3", name="r"), dispute(name="s")]
    assert agreement.by_answerer(answerer, *about)(asked) == [["1", "2"], ["2", "3"], []]
    assert [text.count("<DOCUMENT>") for text in answerer.asked] == [1, 1, 1]
    again = Copier()
    assert agreement.by_answerer(again, *about)(asked) == [["1", "2"], ["2", "3"], []] and not again.asked
