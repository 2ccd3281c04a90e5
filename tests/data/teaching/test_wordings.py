"""Near wordings: a worked example, and the index against comparing with each."""

import random

from ragdist.data.teaching.wordings import NEAR, Wordings, similarity, triples


def test_similarity_of_two_wordings_by_hand():
    """Six triples and seven, six shared: 6 / 7; with another word in the middle, three of nine."""
    short, long = "What is the default port of the relay?", "what is the default port of the relay SERVER"
    assert similarity(triples(short), triples(long)) == 6 / 7
    other = triples("What is the usual port of the relay?")
    assert similarity(triples(short), other) == 3 / 9
    assert Wordings([long]).near(short) and not Wordings(["What is the usual port of the relay?"]).near(short)


def test_short_wordings_are_near_only_to_themselves():
    found = Wordings(["Who wrote?", "Why?"])
    assert found.near("who  WROTE") and found.near("why") and not found.near("Who") and not found.near("Who wrote it?")


def test_other_numerals_make_another_question():
    third, fourth = (f"What is the default timeout of the server in version {n}?" for n in (3, 4))
    assert similarity(triples(third), triples(fourth)) == 8 / 10
    assert not Wordings([third]).near(fourth) and Wordings([third, fourth]).near(fourth)


def test_nothing_is_near_to_an_empty_index():
    assert not Wordings([]).near("Who wrote it?")


def test_index_finds_what_comparing_with_each_finds():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcd", k=rng.randint(1, 14))) for _ in range(400)]
    index, queries = Wordings(texts[:200]), texts[200:]
    near = [max(similarity(triples(text), triples(other)) for other in texts[:200]) >= NEAR for text in queries]
    assert [index.near(text) for text in queries] == near and 10 < sum(near) < 190
