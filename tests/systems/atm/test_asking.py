"""Attacks on a generator that follows the majority of the documents it is shown: answers known beforehand."""

import json
import os
from dataclasses import replace

import pytest

from ragdist.records import Forgery, OpenQuestion, as_row
from ragdist.systems.atm import asking
from tests import tiny
from tests.evaluation import world
from tests.evaluation.world import RuleWriter, majority, stubborn

SETTINGS = world.settings(forgeries=2, conditions=["oracle", "attacked"])
COUNT = 6


class RuleModel(RuleWriter):
    """Plays Model: writes by a rule on what the prompt says."""

    version = 3

    def __init__(self, rule):
        super().__init__(rule)
        self.tokenizer = tiny.tokenizer()


def question(number):
    shown = (number, number + 1, number + 2)
    return OpenQuestion(
        id=f"q{number:03}",
        text=f"What is the default of `size` in `m.f{number}`?",
        answers=(world.value(number),),
        target=world.value(number),
        wrong_answers=(str(-number - 1),),
        document_ids=tuple(f"c{n:03}" for n in shown),
        titles=tuple(f"m.f{n}" for n in shown),
        texts=tuple(f"f{n}(size={world.value(n)})" for n in shown),
        oracle_positions=(0,),
        topic="size",
        dataset="apidocs",
    )


def forgery(number, copy, method="attacker"):
    return Forgery(
        id=f"{method}-{number}-{copy}",
        question_id=f"q{number:03}",
        number=copy,
        title=f"m.f{number}",
        text=f"f{number}(size={-number - 1}) {'See also.' * copy}".strip(),
        states=str(-number - 1),
        method=method,
        attacker=1 if method == "attacker" else -1,
    )


QUESTIONS = [question(number) for number in range(COUNT)]
FORGED = [forgery(number, copy) for number in range(COUNT) for copy in (1, 0)]


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.jsonl"
    rows = [forgery(number, copy, "template") for number in range(COUNT) for copy in range(5)]
    path.write_text("".join(json.dumps(as_row(row)) + "\n" for row in rows))
    return str(path)


def test_majority_reader_is_right_on_clean_lists_and_lost_under_attack(template):
    model = RuleModel(majority)
    clean, notes = asking.ask_clean(model, QUESTIONS, template, SETTINGS)
    asked = [(condition, q.id) for condition in ("clean", "permuted") for q in QUESTIONS]
    assert [(row.condition, row.question_id) for row in clean] == asked
    assert all((r.em, r.generator, r.attacker, r.states_forgery) == (1, 3, -1, 0) for r in clean)
    assert notes == {
        **dict.fromkeys(("repeats", "unfinished", "cut_prompts", "cut_answers"), 0),
        **dict.fromkeys(("asked", "right", "right_permuted"), 6),
    }
    attacked, notes = asking.ask_template(model, QUESTIONS, clean, template, SETTINGS)
    assert all((r.em, r.condition, r.attacker, r.states_forgery) == (0, "template", -1, True) for r in attacked)
    assert (notes["right_clean"], notes["lost"]) == (6, 6)
    own, notes = asking.ask_attacked(model, QUESTIONS, FORGED, clean, 1, SETTINGS)
    assert all((r.em, r.condition, r.attacker, r.states_forgery) == (0, "attacker", 1, True) for r in own)
    assert notes["lost"] == 6


def test_lists_without_their_oracles_are_asked_where_the_conditions_say_so(template):
    model, settings = RuleModel(majority), world.settings(forgeries=2, conditions=["absent"])
    rows, _ = asking.ask_clean(model, QUESTIONS, template, settings)
    assert [row.question_id for row in rows if row.condition == "absent"] == [q.id for q in QUESTIONS]
    lists = shown(model, lambda: asking.ask_clean(model, QUESTIONS, template, settings))
    for question, documents in zip(QUESTIONS, lists, strict=True):  # the last that each was asked with
        golden = {question.texts[at] for at in question.oracle_positions}
        assert golden and {text for _, text in documents} == set(question.texts) - golden


def test_stubborn_reader_loses_nothing_and_its_misses_are_no_success(template):
    model = RuleModel(stubborn)
    clean, _ = asking.ask_clean(model, QUESTIONS, template, SETTINGS)
    _, notes = asking.ask_attacked(model, QUESTIONS, FORGED, clean, 1, SETTINGS)
    assert (notes["right"], notes["right_clean"], notes["lost"]) == (3, 3, 0)


def shown(model, call):
    """The documents of each prompt, as the model saw them."""
    seen = {}

    def rule(asked, documents):
        seen[asked] = [(document.title, document.text) for document in documents]
        return "1"

    model.rule = rule
    call()
    return [seen[question.text] for question in QUESTIONS]


def test_attacked_list_is_a_permutation_of_list_and_forgeries_letter_by_letter(template):
    model = RuleModel(majority)
    lists = shown(model, lambda: asking.ask_attacked(model, QUESTIONS, FORGED, [], 1, SETTINGS))
    again = shown(model, lambda: asking.ask_attacked(model, QUESTIONS[::-1], FORGED[::-1], [], 2, SETTINGS))
    assert lists == again  # whatever the order of rows; the same places for every attacker
    for number, documents in enumerate(lists):
        whole = [*zip(QUESTIONS[number].titles, QUESTIONS[number].texts, strict=True)]
        whole += [(row.title, row.text) for row in FORGED if row.question_id == QUESTIONS[number].id]
        assert sorted(documents) == sorted(whole)
    orders = {tuple(text.startswith(f"f{n}(size=-") for _, text in row) for n, row in enumerate(lists)}
    assert len(orders) > 1  # not always at the end


def first(asked, documents):
    """Believes the first document, whatever it is on: lost as soon as documents move."""
    return documents[0].text.partition("=")[2].partition(")")[0]


def test_attack_success_of_a_list_without_forgeries_is_zero(template):
    """T5: this reader is right on all clean lists and on few permuted ones, and the attack that shows nothing is no
    attack: what it loses it has lost to the permutation."""
    model = RuleModel(first)
    clean, notes = asking.ask_clean(model, QUESTIONS, template, SETTINGS)
    assert notes["right"] == 6 and 0 < notes["right_permuted"] < 6
    none, notes = asking.ask_attacked(model, QUESTIONS, [], clean, 1, SETTINGS)
    assert notes["lost"] == 0 and notes["right_clean"] == sum(row.em for row in clean if row.condition == "permuted")
    control = [row for row in clean if row.condition == "permuted"]
    assert [row.answer for row in none] == [row.answer for row in control]
    _, notes = asking.ask_attacked(model, QUESTIONS, FORGED, clean, 1, SETTINGS)
    assert 0 < notes["lost"] <= notes["right_clean"]


def test_permuted_list_is_the_attacked_one_without_its_forgeries(template):
    """T5: documents stand in one order under all attacks, and the clean list keeps the recorded one."""
    seen = []

    def rule(asked, documents):
        seen.append([(document.title, document.text) for document in documents])
        return "1"

    model, moved = RuleModel(rule), 0
    for q in QUESTIONS:
        seen.clear()
        asking.ask_clean(model, [q], template, SETTINGS)
        clean, permuted = seen[0], seen[-1]
        assert clean == [*zip(q.titles, q.texts, strict=True)]
        moved += len(seen) == 2  # asked again only where the order is another
        assert (len(seen) == 2) == (clean != permuted)
        asking.ask_attacked(model, [q], FORGED, [], 1, SETTINGS)
        asking.ask_template(model, [q], [], template, SETTINGS)
        for attacked in seen[-2:]:
            assert len(attacked) == 5 and [one for one in attacked if one in clean] == permuted
    assert moved > 0


def test_list_of_one_document_is_asked_once(template):
    """T5: the control costs nothing where nothing can move."""
    one = replace(QUESTIONS[0], document_ids=("c",), titles=("m.f0",), texts=("f0(size=100)",))
    model = RuleModel(majority)
    clean, _ = asking.ask_clean(model, [one], template, SETTINGS)
    assert len(model.asked) == 1
    assert [(row.condition, row.answer) for row in clean] == [("clean", "100"), ("permuted", "100")]


@pytest.mark.parametrize(
    ("answer", "repeats"), [("Bonn", True), ("100", False), ("7", False), ("f1", False), ("", False)]
)
def test_free_forgery_is_repeated_by_a_wrong_answer_that_only_it_has(answer, repeats):
    """An attacker that was told no wrong answer states none: what stands in its text alone is taken for it."""
    free = [replace(row, states="", text=f"{row.text} or Bonn, f1, 100") for row in FORGED]
    rows, _ = asking.ask_attacked(RuleModel(lambda *_: answer), QUESTIONS[:1], free, [], 1, SETTINGS)
    assert rows[0].states_forgery == repeats


def test_template_shows_as_many_forgeries_as_wanted(template):
    model = RuleModel(majority)
    lists = shown(model, lambda: asking.ask_template(model, QUESTIONS, [], template, SETTINGS))
    assert {len(documents) for documents in lists} == {3 + 2}


def test_template_file_that_changed_is_read_again(template):
    model = RuleModel(majority)
    asking.ask_template(model, QUESTIONS, [], template, SETTINGS)
    with open(template, "w") as file:
        file.write("")
    os.utime(template, ns=(1, 1))
    lists = shown(model, lambda: asking.ask_template(model, QUESTIONS, [], template, SETTINGS))
    assert {len(documents) for documents in lists} == {3}


def test_question_without_forgeries_is_an_attack_that_failed(template):
    model = RuleModel(majority)
    clean, _ = asking.ask_clean(model, QUESTIONS, template, SETTINGS)
    rows, notes = asking.ask_attacked(model, QUESTIONS, FORGED[2:], clean, 1, SETTINGS)
    assert (rows[0].em, rows[0].states_forgery, notes["lost"]) == (1.0, False, 5)


def test_cut_documents_are_counted():
    long = replace(QUESTIONS[0], texts=tuple(f"{text} {'words ' * 600}" for text in QUESTIONS[0].texts))
    model = RuleModel(lambda asked, documents: "unknown")
    rows, notes = asking.ask_attacked(model, [long], FORGED[:2], [], 1, SETTINGS)
    assert rows[0].cut_tokens > 0 and notes["cut_prompts"] == 1


@pytest.mark.parametrize("filler", ["before", "after"])
def test_prompts_whose_golden_answer_is_cut_off_are_counted(template, filler):
    """T6: in each condition by itself, and apart from documents that were only cut."""
    question, words = QUESTIONS[0], "words " * 3000
    at = question.oracle_positions[0]
    text = f"{words}{question.texts[at]}" if filler == "before" else f"{question.texts[at]}{words}"
    long = replace(question, texts=tuple(text if place == at else one for place, one in enumerate(question.texts)))
    model = RuleModel(lambda asked, documents: "unknown")
    for rows, notes in (
        asking.ask_clean(model, [long], template, SETTINGS),
        asking.ask_attacked(model, [long], FORGED[:2], [], 1, SETTINGS),
    ):
        assert notes["cut_prompts"] == 1 and rows[0].cut_answer == notes["cut_answers"] == (filler == "before")
