"""What DuetRAG's arbiter learns from and how it is asked."""

from dataclasses import replace

from ragdist.config import DuetConfig, PromptsConfig
from ragdist.data import prompts
from ragdist.evaluation import answers
from ragdist.roles import Pair
from ragdist.systems.duet import disputes
from ragdist.systems.duet.disputes import Dispute, JudgedAnswer
from tests import tiny

CODEC, CONFIG = tiny.tokenizer(), PromptsConfig()
QUESTIONS = [replace(question, wrong_answers=()) for question in tiny.questions()]
DISPUTE = Dispute("q", "What is the default of `mode` in `gzip.open`?", "'r'", "'rb'")


def same(first, second, question):
    return answers.same(first, second, answers.metric_of(question.dataset))


def judged(reciter, discoverer, **config):
    """Judgements of the first two questions, by (question number, source)."""
    asked = QUESTIONS[:2]
    first, second = (
        {question.id: JudgedAnswer(*side) for question, side in zip(asked, said, strict=True)}
        for said in (reciter, discoverer)
    )
    rows = disputes.judgements(asked, first, {"retrieved": second}, same, DuetConfig(**config), seed=0)
    numbers = {question.id: number for number, question in enumerate(asked)}
    return {(numbers[row.question_id], row.source): row for row in rows}


def test_judgements_label_each_answer_and_weigh_disagreements():
    """check 60: 1 where the answer is right, 0 where it is not."""
    rows = judged(
        [("None", True), ("'ascii'", False)],
        [("'utf-8'", False), ("1", False)],
        gold_pairs=False,
        disagreement_weight=3.0,
    )
    assert {key: (row.answer, row.right, row.weight) for key, row in rows.items()} == {
        (0, "reciter"): ("None", True, 3.0),
        (0, "discoverer"): ("'utf-8'", False, 3.0),
        (1, "reciter"): ("'ascii'", False, 1.0),
        (1, "discoverer"): ("1", False, 1.0),
    }


def test_judgements_take_one_answer_where_both_say_the_same():
    rows = judged([("none", True), ("x", False)], [("None", True), ("y", False)], gold_pairs=False)
    assert set(rows) == {(0, "discoverer"), (1, "reciter"), (1, "discoverer")}


def test_a_discoverer_that_says_another_thing_under_attack_is_judged_for_both():
    """Said again it is no new row, and where it says what the reciter says under one, that is the row."""
    asked = QUESTIONS[:2]
    key, other = (question.id for question in asked)
    reciter = {key: JudgedAnswer("1", False), other: JudgedAnswer("x", True)}
    shown = {
        "retrieved": {key: JudgedAnswer("None", True), other: JudgedAnswer("y", False)},
        "attacked": {key: JudgedAnswer("1", False)},  # a question without a forgery is not asked
    }
    config = DuetConfig(gold_pairs=False, disagreement_weight=3.0)
    rows = list(disputes.judgements(asked, reciter, shown, same, config, seed=0))
    assert [(row.id, row.answer, row.right, row.weight) for row in rows] == [
        (f"{key}/discoverer/retrieved", "None", True, 3.0),
        (f"{key}/discoverer/attacked", "1", False, 1.0),
        (f"{other}/reciter", "x", True, 3.0),
        (f"{other}/discoverer/retrieved", "y", False, 3.0),
    ]


def test_gold_pairs_are_the_right_answer_and_another_questions():
    rows = judged([("a", False), ("b", False)], [("c", False), ("d", False)])
    assert rows[0, "gold"].right and rows[0, "gold"].answer == "None"
    assert not rows[0, "other"].right and rows[0, "other"].answer == "'utf-8'"
    assert rows[1, "other"].answer == "None"


def test_where_all_answers_are_wanted_the_gold_row_holds_them_all():
    """One of two wanted answers is wrong by the scorer, and was taught as right."""
    question = replace(QUESTIONS[0], answers=("Paris", "Rome"), all_answers_required=True)
    side = {question.id: JudgedAnswer("a", False)}
    (gold,) = (
        row
        for row in disputes.judgements([question], side, {"retrieved": side}, same, DuetConfig(), seed=0)
        if row.source == "gold"
    )
    assert gold.answer == "Paris, Rome" and gold.right
    assert answers.score(gold.answer, question).em == 1.0 > answers.score("Paris", question).em
    assert prompts.target(question, CONFIG) == gold.answer


def test_one_label_names_what_all_answers_are():
    rows = judged([("a", False), ("b", False)], [("c", False), ("d", False)], gold_pairs=False)
    assert disputes.one_label(list(rows.values())) == "wrong"
    assert disputes.one_label([replace(row, right=True) for row in rows.values()]) == "right"
    assert disputes.one_label(list(judged([("a", False)] * 2, [("c", False)] * 2).values())) == ""


def test_pair_is_the_recited_question_and_the_answer():
    asked = CODEC.chat(prompts.user_text(DISPUTE.question, (), CONFIG), CONFIG.system_closed)
    tokens = disputes.pair_tokens(Pair(DISPUTE.question, "'rb'"), CODEC, CONFIG)
    assert list(tokens) == CODEC.encode(asked + "'rb'").ids


def test_summary_prompt_holds_question_both_answers_and_instruction_in_both_orders():
    """check 62."""
    for flipped in (False, True):
        text = CODEC.decode(disputes.summary_prompt(DISPUTE, CODEC, CONFIG, flipped=flipped).tokens)
        places = [
            text.index(part) for part in (DISPUTE.question, "memory: 'r'\n", "documents: 'rb'\n", prompts.SUMMARY)
        ]
        assert (places[1] > places[2]) == flipped
        assert places[0] < min(places[1:3]) < max(places[1:3]) < places[3]


def test_summary_example_ends_with_the_right_answer():
    row = disputes.summary_example(DISPUTE, "'rb'", CODEC, CONFIG, "retrieved", flipped=False)
    assert row.tokens[: row.prompt_tokens] == disputes.summary_prompt(DISPUTE, CODEC, CONFIG, flipped=False).tokens
    assert row.tokens[row.prompt_tokens :] == (*CODEC.encode("'rb'").ids, CODEC.end)


def test_order_of_answers_belongs_to_seed_and_question():
    flips = [disputes.is_flipped(f"q{number}", seed=0) for number in range(400)]
    assert flips == [disputes.is_flipped(f"q{number}", seed=0) for number in range(400)]
    assert 150 < sum(flips) < 250
    assert flips != [disputes.is_flipped(f"q{number}", seed=1) for number in range(400)]
