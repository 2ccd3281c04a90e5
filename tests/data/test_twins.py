# ruff: noqa: RUF001 (other scripts are what is tested)
"""Questions of training that ask a test question in other words: found in any language, numbers and names apart."""

import random
from collections import Counter

import pytest

from ragdist.config import QuestionsConfig
from ragdist.data.questions import LABELS, select
from ragdist.data.twins import pairs
from ragdist.errors import DataError
from ragdist.records import Question

ITEM = "What is the item with number 63 called?"


def question(text, split, answer="Kelp", oracles=("o",), name=None):
    return Question(id=name or f"{split}:{text}", text=text, answers=(answer,), oracle_ids=oracles, split=split)


def twins(train, test, answer="Kelp", other="Kelp"):
    """Whether they are found, whichever of the two is the training question."""
    found = [
        bool(list(pairs([question(one, "train", answer), question(two, "test", other)], LABELS)))
        for one, two in ((train, test), (test, train))
    ]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (ITEM, "Tell me: what is the item with number 63 called?"),
        (ITEM, "Could you please tell me what the item with number 63 is called?"),
        (ITEM, "What's the item with number 63 called, please?"),
        (ITEM, "what is the “item” with number 63 called"),
        ("Tell me: what is the item with number 63 called?", "Please, what is the item with number 63 called?"),
        ("Wie heißt das Teil mit der Nummer 63?", "Können Sie mir sagen, wie heißt das Teil mit der Nummer 63?"),
        ("Quel est le nom de la pièce 63 ?", "Dites-moi, quel est le nom de la pièce 63, s’il vous plaît ?"),
        ("¿Cómo se llama la pieza número 63?", "Por favor, ¿cómo se llama la pieza número 63?"),
        ("Как называется предмет номер 63?", "Скажите, пожалуйста, как называется предмет номер 63?"),
        ("ما اسم العنصر رقم 63؟", "أخبرني: ما اسم العنصر رقم 63؟"),
        ("63号物品叫什么？", "请问63号物品叫什么?"),
        ("63番の品物の名前は何ですか？", "教えてください:63番の品物の名前は何ですか"),
        ("63번 물건의 이름은 무엇입니까?", "말해 줘: 63번 물건의 이름은 무엇입니까?"),
    ],
)
def test_the_same_question_with_words_around_it_is_a_twin(one, two):
    """T8: whatever its answers are, as with equal questions."""
    assert twins(one, two) and twins(one, two, "yes", "yes") and twins(one, two, "Kelp", "Dulse")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (ITEM, "What is the item with number 64 called?"),
        (ITEM, "Tell me: what is the item with number 64 called?"),
        ("Who won the cup in 1998?", "Who won the cup in 1999?"),
        ("Who won the cup with the home team?", "Who won the cup with the home team in 1999?"),
        ("What is the currency of France today?", "What is the currency of Spain today?"),
        ("Which language do people speak in Korea?", "Which language do people speak in North Korea?"),
        ("Which ports are open in the proxy?", "Which ports are not open in the proxy?"),
        ("Welche Tore sind am Abend offen?", "Welche Tore sind am Abend nicht offen?"),
        ("哪些端口是开放的？", "哪些端口是不开放的？"),
        ("63号物品叫什么？", "请问64号物品叫什么？"),
        ("When was the old library built?", "Where was the old library built?"),
        ("What does Anna Berg say?", "What does Anna Berg know?"),
        ("What is the first book of the series?", "What is the second book of the series?"),
        ("What is the default of `mode` in `open`?", "What is the default of `mode` in `gzip.open`?"),
        ("Does Mali border Niger in the east?", "Does Niger border Mali in the east?"),
        ("What is the newest version of C?", "Please, what is the newest version of C#?"),
        ("What is the newest version of C++?", "What is the newest version of C#?"),
        ("What does exit code -1 of the tool mean?", "Tell me: what does exit code 1 of the tool mean?"),
        ("Who won?", "Who won the race on the lake?"),
        ("What does vitamin A do?", "What does the vitamin do?"),
    ],
)
def test_another_number_name_negation_or_word_is_another_question(one, two):
    """T8: not even if the answers are equal."""
    assert not twins(one, two)


def test_more_words_need_an_answer_that_proves_something():
    """T8: in languages whose phrases are not known, too; yes and no agree by chance."""
    one, two = "Is the castle by the lake open?", "Is the castle by the lake usually open?"
    assert twins(one, two, "until nine", "until nine")
    assert not twins(one, two, "until nine", "until ten") and not twins(one, two, "yes", "yes")


def rows():
    return [
        question("Tell me: what is the item with number 63 called?", "train", name="near"),
        question("What is the item with number 64 called?", "train", name="other"),
        question(ITEM, "test", name="asked"),
    ]


@pytest.mark.parametrize(("what", "kept"), [("report", 3), ("drop", 2), ("keep", 3)])
def test_select_counts_names_and_drops_twins(what, kept):
    """T8: the training question goes, never the test question."""
    found, counts = select(rows(), QuestionsConfig(near_duplicates=what), 0)
    assert len(found) == kept and {"other", "asked"} <= {one.id for one in found}
    assert counts.get("near_duplicates") == (None if what == "keep" else 1)
    assert counts.get("near_duplicates_named") == (None if what == "keep" else ["near, like asked"])


def test_dropped_twins_give_room_below_the_cap():
    """T8: dropped before `train_rows` is counted out."""
    found, counts = select(rows(), QuestionsConfig(near_duplicates="drop", train_rows=1, caps="first"), 0)
    assert [one.id for one in found] == ["other", "asked"] and counts["train"] == 1


def test_only_twins_are_too_few_to_train_on():
    """T8: said at once."""
    with pytest.raises(DataError, match="no training question"):
        select([rows()[0], rows()[2]], QuestionsConfig(near_duplicates="drop"), 0)


def test_many_questions_of_one_form_have_exactly_the_planted_twins():
    """T8: 4,000 questions that differ in a number or a thing, 50 of them asked again."""
    draw = random.Random(0)
    things = [f"thing{draw.randrange(10**6)}" for _ in range(200)]
    asked = [f"What is the {things[n % 200]} with number {n} called in the list?" for n in range(4000)]
    questions = [question(text, "train" if n % 2 else "test", name=str(n)) for n, text in enumerate(asked)]
    planted = {str(n): question(f"Please: {asked[n]}", "train", name=f"{n} again") for n in range(0, 100, 2)}
    found = [(one.id, two.id) for one, two in pairs([*questions, *planted.values()], LABELS)]
    assert Counter(found) == Counter((f"{n} again", n) for n in planted)
