"""Selection: no leakage between splits, one row a question, caps that are prefixes; linking to a folder's chunks."""

import pytest

from ragdist.config import QuestionsConfig
from ragdist.data.questions import link, select, split_of
from ragdist.errors import DataError
from ragdist.records import Chunk, Hit, Question


def question(text, split="train", oracles=("o",), answers=("yes",), dataset="d", name=None, **more):
    name = name or f"{text}-{split}-{oracles}-{answers}"
    return Question(id=name, text=text, answers=answers, oracle_ids=oracles, split=split, dataset=dataset, **more)


def chosen(questions, seed=0, **config):
    return select(questions, QuestionsConfig(**config), seed)


def test_training_question_that_is_tested_is_dropped():
    """check 19: also in other case, spacing and final punctuation, and with another oracle."""
    rows = [
        question("Who wrote  Faust?"),
        question("who wrote faust", "test", ("p",)),
        question("Who wrote Emma?"),
    ]
    kept, counts = chosen(rows)
    assert [q.text for q in kept] == ["Who wrote Emma?", "who wrote faust"]
    assert counts["train_in_test"] == 1 and counts["duplicates"] == 0


def test_repeated_question_is_kept_once_the_one_with_an_oracle_first():
    rows = [
        question("Q?", oracles=(), name="1"),
        question("Q?", name="2"),
        question("q", name="3"),
        question("R?", name="4"),
    ]
    kept, counts = chosen(rows)
    assert sorted(q.id for q in kept) == ["2", "4"]
    assert counts["duplicates"] == 2


def test_repeated_question_about_another_story_is_another_question():
    """bAbI: the words repeat, the story gives the answer; only a repeated pair of both is a repetition (check 19)."""
    rows = [
        question("Where is John?", "train", ("a",), ("garden",)),
        question("Where is John?", "train", ("b",), ("office",)),
        question("Where is John?", "train", ("c",), ("kitchen",)),
        question("Where is John?", "test", ("c",), ("kitchen",)),
        question("Where is John?", "test", ("e",), ("garden",)),
        question("Where is John?", "test", ("e",), ("garden",), name="again"),
    ]
    kept, counts = chosen(rows)
    assert {(q.split, q.oracle_ids[0]) for q in kept} == {("train", "a"), ("train", "b"), ("test", "c"), ("test", "e")}
    assert counts["train_in_test"] == 1 and counts["duplicates"] == 1


def test_one_disputed_answer_does_not_make_a_data_set_of_stories():
    rows = [question(f"Q{i}?") for i in range(20)]
    rows += [question("R?", "train", ("a",), ("1",)), question("R?", "test", ("b",), ("2",))]
    kept, counts = chosen(rows)
    assert counts["train_in_test"] == 1 and counts["train"] == 20
    assert [q.text for q in kept if q.split == "test"] == ["R?"]


def test_question_without_oracle_is_tested_only_dropped_or_an_error():
    rows = [question("A?"), question("B?", oracles=()), question("C?", "test", ()), question("D?", "test")]
    kept, counts = chosen(rows)
    assert [q.text for q in kept if q.split == "train"] == ["A?"]
    assert sorted(q.text for q in kept if q.split == "test") == ["C?", "D?"]
    assert (counts["without_oracle_dropped"], counts["without_oracle_kept"]) == (1, 1)
    assert sorted(q.text for q in chosen(rows, missing_oracle="drop")[0]) == ["A?", "D?"]
    with pytest.raises(DataError, match=r"no oracle.*questions\.missing_oracle"):
        chosen(rows, missing_oracle="error")


def test_cap_is_a_prefix_of_the_whole_whatever_the_order_of_the_input():
    rows = [question(f"Q{i}?") for i in range(50)] + [question(f"T{i}?", "test") for i in range(20)]
    whole, _ = chosen(rows)
    few, counts = chosen(rows[::-1], train_rows=10, test_rows=5)
    assert few == whole[:10] + whole[50:55]
    assert (counts["train"], counts["test"], counts["train_over_cap"], counts["test_over_cap"]) == (10, 5, 40, 15)
    other, _ = chosen(rows, seed=1)
    assert other != whole and set(other) == set(whole)


def test_no_training_question_left_names_the_settings():
    with pytest.raises(DataError, match=r"no training question with an oracle.*corpus\.questions"):
        chosen([question("A?", oracles=()), question("B?", "test")])


def test_split_follows_the_fraction_and_the_seed():
    drawn = [split_of(f"question {i}", 0.2, 0) for i in range(5000)]
    assert abs(drawn.count("test") - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert drawn == [split_of(f"question {i}", 0.2, 0) for i in range(5000)]
    assert drawn != [split_of(f"question {i}", 0.2, 1) for i in range(5000)]


CHUNKS = {
    name: Chunk(id=name, document_id=document, title="t", text=text)
    for name, document, text in [
        ("1", "cities", "Rome has romeos."),
        ("2", "cities", "Goethe lived in Weimar."),
        ("3", "faust", "Faust was written by GOETHE, in Weimar."),
        ("4", "faust", "The devil makes a bet."),
    ]
}
HITS = [Hit(chunk_id=name, score=score) for name, score in (("1", 3.0), ("2", 2.0), ("3", 1.0))]


@pytest.mark.parametrize(
    ("answers", "names", "oracles"),
    [
        (("Goethe",), (), ("2",)),
        (("Göthe", "weimar"), (), ("2",)),
        (("Romeo",), (), ("1",)),
        (("Rom",), (), ()),
        (("yes",), (), ()),
        (("Goethe",), ("faust",), ("3",)),
        (("devil",), ("faust",), ("4",)),
        (("yes",), ("faust",), ("3",)),
        (("Goethe",), ("cities", "faust"), ("2",)),
    ],
)
def test_link_takes_the_best_chunk_that_holds_the_answer(answers, names, oracles):
    assert link(question("Q?", oracles=names, answers=answers), CHUNKS, HITS).oracle_ids == oracles


def test_link_wants_all_answers_where_all_are_required():
    both = question("Q?", oracles=(), answers=("Goethe", "Faust"), all_answers_required=True)
    assert link(both, CHUNKS, HITS).oracle_ids == ("3",)


def test_link_gives_named_distractors_by_their_chunks():
    """T12"""
    near = question("Q?", oracles=("faust",), answers=("devil",), near_miss_ids=("cities",))
    assert link(near, CHUNKS, HITS).near_miss_ids == ("1", "2")
