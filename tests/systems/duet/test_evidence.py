"""The numbers of a dispute by hand, the untrained rules, and what is read to get them."""

import math
from contextlib import contextmanager

import pytest

from ragdist.config import Settings
from ragdist.records import Chunk
from ragdist.systems.duet import evidence, readings
from ragdist.systems.duet.disputes import Dispute
from ragdist.systems.duet.readings import Log, Readings
from tests import tiny

GOLD = "open(file, mode='r') opens a file and returns a stream; the file must be there, else an error is raised."
FORGED = GOLD.replace("'r'", "'w'")


def chunk(number, text):
    return Chunk(id=f"c{number}", document_id="d", title=f"f{number}", text=text)


def dispute(*documents, reciter="'r'", discoverer="'w'"):
    shown = tuple(chunk(number, text) for number, text in enumerate(documents))
    return Dispute("q", "What is the default of `mode`?", reciter, discoverer, shown, "apidocs")


READ = Readings(
    direct=Log((-1.0, -3.0), (-4.0,)),
    closed=Log((-2.0, -2.0), (-3.0,)),
    evidence=Log((-2.0, -4.0), (-0.5,)),
    passages=Log((-5.0, -5.0), (-1.5,)),
    alone=(Log((-1.0, -1.0), (-6.0,)), Log((-3.0, -5.0), (-0.2,))),
)


def test_trust_margin_worked_by_hand():
    """direct: -4 - -2 = -2; evidence: -0.5 - -3 = 2.5; passages: -1.5 - -5 = 3.5; M = -2 + (2.5 - 3.5) / 2 = -2.5."""
    assert evidence.trust_margin(READ) == pytest.approx(-2.5)


@pytest.mark.parametrize(("margin", "reciter"), [(-2.5, True), (-1.5, True), (-1.4, False), (3.0, False)])
def test_trust_margin_takes_the_documents_answer_above_its_threshold(margin, reciter):
    assert evidence.by_trust_margin({"trust_margin": margin}) == (reciter, None)


def test_sequence_confidence_is_the_geometric_mean_of_own_probabilities_and_ties_go_to_the_discoverer():
    sure = evidence.by_sequence_confidence({"direct_reciter": math.log(0.6), "evidence_discoverer": math.log(0.3)})
    assert sure.reciter and sure.confidences == pytest.approx((0.6, 0.3))
    assert not evidence.by_sequence_confidence({"direct_reciter": -1.0, "evidence_discoverer": -1.0}).reciter


def test_values_worked_by_hand():
    found = evidence.values(dispute(GOLD, FORGED, FORGED + " See also.", "nothing of it"), READ)
    assert (found["direct_reciter"], found["evidence_discoverer"], found["closed_reciter"]) == (-2.0, -0.5, -2.0)
    assert (found["least_direct_reciter"], found["least_evidence_reciter"]) == (-3.0, -4.0)
    assert (found["support_max_reciter"], found["support_mean_reciter"]) == (-1.0, -2.5)
    assert (found["support_max_discoverer"], found["support_mean_discoverer"]) == (-0.2, pytest.approx(-3.1))
    assert (found["held_reciter"], found["copies_reciter"], found["held_any_reciter"]) == (1.0, 0.0, 1.0)
    assert (found["held_discoverer"], found["copies_discoverer"]) == (1.0, 1.0)  # two copies are one witness


def test_without_documents_an_answers_support_is_the_closed_book():
    found = evidence.values(dispute(), READ._replace(alone=()))
    assert found["support_max_reciter"] == found["closed_reciter"] and found["held_any_reciter"] == 0.0
    assert found.keys() == evidence.values(dispute(GOLD), READ).keys()


def test_what_is_read_shows_what_each_number_is_about():
    asked = readings.prompts_of(dispute("alpha", "beta"), tiny.tokenizer(), Settings())
    rows = [row for group in asked for row in group]
    texts = [tiny.tokenizer().decode(row.tokens[: row.prompt_tokens]) for row in rows]
    shown = [("alpha" in text, "beta" in text, "`mode`" in text) for text in texts]
    listed = [(True, True, True), (True, True, False), (True, False, True), (False, True, True)]
    assert shown == [one for one in ((False, False, True), *listed) for _ in range(2)]
    assert [len(group) for group in asked] == [2, 4, 2, 2]
    said = [tiny.tokenizer().decode(row.tokens[row.prompt_tokens :]) for row in rows]
    assert said == ["'r'", "'w'"] * 5


def test_an_empty_answer_is_its_end_token():
    (one, _), *_ = readings.prompts_of(dispute(reciter=""), tiny.tokenizer(), Settings())
    assert one.tokens[one.prompt_tokens :] == (tiny.tokenizer().end,)


def test_gather_asks_each_model_once_and_deals_what_it_reads_back():
    calls = []

    def read(side, asked):
        calls.append((side, [len(group) for group in asked]))
        return [[(-float(at), -float(row)) for row in range(len(group))] for at, group in enumerate(asked)]

    first, second = readings.gather([dispute("x"), dispute("x", "y")], read, tiny.tokenizer(), Settings())
    assert calls == [("reciter", [2, 2]), ("discoverer", [2, 4, 2, 2, 4, 2, 2])]
    assert (first.direct, second.direct) == (((-0.0, -0.0), (-0.0, -1.0)), ((-1.0, -0.0), (-1.0, -1.0)))
    assert (first.closed.reciter[0], [one.reciter[0] for one in first.alone]) == (0, [-2])
    assert second.evidence == ((-4.0, -0.0), (-4.0, -1.0)) and second.passages == ((-4.0, -2.0), (-4.0, -3.0))
    assert [one.reciter[0] for one in second.alone] == [-5, -6]


class Counting:
    """Plays Answerers with one model: a token's log-probability is minus its id; stops after some prompts."""

    def __init__(self, stop_after=99):
        self.opened, self.prompts, self.stop_after = 0, 0, stop_after

    @contextmanager
    def open(self, source):
        self.opened += 1
        yield self

    def read(self, rows, *, done=()):
        if self.prompts == self.stop_after:
            raise KeyboardInterrupt
        self.prompts += 1
        yield [(row.id, [-float(token) for token in row.tokens[row.prompt_tokens :]]) for row in reversed(rows)]


def test_what_was_read_is_kept_when_a_run_is_stopped_and_no_model_is_opened_where_all_is_there(tmp_path):
    asked = [dispute("alpha", "beta"), dispute("alpha")]

    def numbers(answerers):
        return evidence.DisputeReader(tmp_path, answerers, tiny.tokenizer(), Settings(), tmp_path).numbers(asked)

    with pytest.raises(KeyboardInterrupt):
        numbers(Counting(stop_after=4))
    rest, none = Counting(), Counting()
    found = numbers(rest)
    # The closed book and alpha alone are both disputes': one for the reciter, 5 for the discoverer, 4 of all are read.
    assert rest.prompts == 1 + 5 - 4 and numbers(none) == found and none.opened == 0
    ids = tiny.tokenizer().encode("'r'").ids
    assert found[0]["direct_reciter"] == pytest.approx(-sum(ids) / len(ids))
