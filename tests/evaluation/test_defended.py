"""Defences: each worked by hand, each prompt asked once, and a stranger's beside ragdist's own."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist import cli, planning
from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.data.defences import Ask, Asked, Defence, Read, Said, own, registry
from ragdist.data.prompts import Shortened
from ragdist.errors import ConfigError, PartError
from ragdist.evaluation.ask import ask_cases
from ragdist.evaluation.cases import as_chats
from ragdist.evaluation.defended import Defences, Model, drawn
from ragdist.records import ChatPrompt, Written
from ragdist.tracking.run import run_folder
from tests import tiny
from tests.evaluation import world
from tests.scripted_teacher import ScriptedTeacher


def paper(number):
    return Shortened(f"Paper {number}", f"Text {number}.")


def asked(documents, honest=(), reply=""):
    def same(one, other):
        return one.casefold() == other.casefold()

    papers = tuple(map(paper, range(documents)))
    return Asked(question="When?", documents=papers, honest=tuple(honest), same=same, reply=reply)


def played(defence, about, *rounds):
    """All that it asks, and the answer, where these come of it."""
    steps, wanted = defence.answer(about), []
    given = next(steps)
    for replies in rounds:
        wanted.append(list(given))
        assert len(given) == len(replies)
        try:
            given = steps.send([Said(one, one) if isinstance(one, str) else one for one in replies])
        except StopIteration as end:
            return wanted, end.value
    raise AssertionError(f"asks {given!r} too")


def test_isolation_asks_each_document_alone_then_the_keywords_of_enough_answers():
    """Six answers, one of which says nothing: min(0.3 * 5, 3) = 1.5, so two answers must share a keyword."""
    said = ["the Eiffel Tower", "Tower of Paris.", "I don't know.", "It is in Paris", "1889", "Berlin"]
    (alone, last), answer = played(own.ISOLATION, asked(6), said, ["Paris"])
    assert [one.documents for one in alone] == [(paper(n),) for n in range(6)]
    assert {one.question for one in alone} == {"When?"} and {one.instruction for one in alone} == {own.ALONE}
    assert last == [Ask("When?", (Shortened(own.HINTS, "Paris, Tower"),))] and answer == Said("Paris", "Paris")


def test_isolation_counts_whole_answers_and_phrases_and_a_word_once_an_answer():
    """Eleven answers: min(0.3 * 11, 3) = 3; the phrase and the whole answer are the longest."""
    said = ["Stade de France"] * 3 + ["no"] * 3 + ["1998 1998 1998"] + ["Lille", "Lyon", "Metz", "Nice"]
    assert own.shared(said) == ["Stade de France", "France", "Stade", "de", "no"]
    assert own.shared(["'ascii'", "ascii", "None"]) == ["'ascii'", "None"]  # min(0.9, 3): all
    assert own.shared(["Paris", "Rome", "Bonn", "Bern"]) == []


def test_isolation_abstains_where_no_document_answers_and_asks_without_where_nothing_is_shared():
    assert played(own.ISOLATION, asked(2), ["I don't know.", " "])[1] == Said(own.UNKNOWN, own.UNKNOWN)
    (_, last), answer = played(own.ISOLATION, asked(4), ["a1", "b2", "c3", "d4"], ["by heart"])
    assert last == [Ask("When?")] and answer.text == "by heart"


def test_perplexity_leaves_out_what_is_stranger_than_95_of_100_honest_documents():
    """Of honest perplexities 1 to 40 the 38th is the threshold."""
    honest = [paper(100 + n) for n in range(40)]
    numbers = [*range(40, 0, -1), 38.0, 38.5, 2.0]
    (read, last), answer = played(own.PERPLEXITY, asked(3, honest), numbers, ["x"])
    assert read == [Read(one) for one in (*honest, paper(0), paper(1), paper(2))]
    assert last == [Ask("When?", (paper(0), paper(2)))] and answer.text == "x"
    (_, closed), _ = played(own.PERPLEXITY, asked(1, honest[:1]), [1.0, 9.0], ["y"])
    assert closed == [Ask("When?")]


def test_paraphrase_takes_the_answer_of_most_wordings_and_the_first_of_equals():
    (forms,), answer = played(own.PARAPHRASE, asked(2), ["1925", "1889", "x", "1889", "y"])
    assert answer.text == "1889" and {one.documents for one in forms} == {(paper(0), paper(1))}
    assert forms[0].question == "When?" and len({one.question for one in forms}) == 5
    assert all("When?" in one.question for one in forms)
    assert played(own.PARAPHRASE, asked(1), ["A", "b", "B", "a", "c"])[1].text == "A"


def test_paraphrase_takes_a_teachers_wordings():
    about = asked(1, reply="1. In which year?\n\n2) **What year?**\n- Which year?\n4. Year?\n5. More?")
    (forms,), _ = played(own.PARAPHRASE, about, ["1889"] * 5)
    assert [one.question for one in forms] == ["When?", "In which year?", "What year?", "Which year?", "Year?"]


QUESTIONS = {question.id: question for question in world.QUESTIONS[:8]}


@pytest.fixture(autouse=True)
def parsed(monkeypatch):
    """Rules are told of the question without what isolation asks of documents alone."""
    parse = world.parse
    monkeypatch.setattr(world, "parse", lambda text: parse(text.replace(f" {own.ALONE}", "")))


class Readable(world.RuleWriter):
    """Finds each token of a forged text e times as surprising as others."""

    def read(self, examples, done=()):
        texts = [(one, tiny.tokenizer().decode(one.tokens)) for one in examples if one.id not in done]
        self.asked += [text for _, text in texts]
        yield [(one.id, [-2.0 if "=-" in text else -1.0] * (len(one.tokens) - 1)) for one, text in texts]


def setting(tmp_path, rule=world.majority, chats=False, **values):
    """(what all models are asked, the model, the writer that plays it)."""
    chosen = world.settings(**values)
    cases = world.cases(chosen, tuple(QUESTIONS.values()))
    if chats:
        cases = as_chats(cases, QUESTIONS.values(), tiny.tokenizer(), chosen)
    writer = Readable(rule)
    plain = ask_cases("m", ["nowhere"], writer, cases, QUESTIONS.values(), tmp_path, chosen)
    writer.asked.clear()
    honest = drawn([world.CHUNKS[name] for name in sorted(world.CHUNKS)[40:80]], chosen.seed)
    about = Defences(QUESTIONS, honest, tiny.tokenizer(), None, tmp_path, chosen)
    return about, Model("m", "nowhere", lambda: writer, cases, plain), writer


def scores(found):
    counts = Counter(one.condition for one in found)
    return {name: sum(one.subspan for one in found if one.condition == name) / counts[name] for name in counts}


def test_the_perplexity_filter_takes_forged_documents_out_and_asks_nothing_anew(tmp_path):
    """What is left of an attacked list is the permuted one, which the model has answered already."""
    about, model, writer = setting(tmp_path)
    assert scores(model.plain)["attacked"] == 0
    found = about.answers(own.PERPLEXITY, model)
    assert scores(found)["attacked"] == scores(found)["permuted"] == 1
    assert {one.model for one in found} == {"m + perplexity"} and "closed_book" not in scores(found)
    assert len(writer.asked) == len(set(writer.asked)) > 0
    assert all("\n" in text for text in writer.asked)  # documents were read, no prompt was asked
    assert {one.states_forgery for one in found if one.condition == "attacked"} == {False}


def test_isolation_is_outvoted_by_three_forged_documents_over_one_honest(tmp_path):
    def alone(question, documents):
        if documents and documents[0].title == own.HINTS:
            return documents[0].text
        answer = world.majority(question, documents)
        return "I don't know." if answer == "unknown" else answer

    about, model, _ = setting(tmp_path, alone)
    found = about.answers(own.ISOLATION, model)
    assert scores(found)["oracle"] == 1 and scores(found)["absent"] == 0
    attacked = [one for one in found if one.condition == "attacked"]
    assert {one.subspan for one in attacked} == {0.0} and {one.states_forgery for one in attacked} == {True}
    assert all(one.text == one.answer for one in found)


def test_each_prompt_is_asked_once_and_a_killed_run_goes_on(tmp_path):
    about, model, writer = setting(tmp_path)
    writer.fail_after = 1
    with pytest.raises(ConnectionError):
        about.answers(own.ISOLATION, model)
    writer.fail_after = -1
    found = about.answers(own.ISOLATION, model)
    assert writer.asked and Counter(writer.asked).most_common(1)[0][1] == 1
    assert not {case.prompt.id for case in model.cases} & {*writer.asked}
    asked = len(writer.asked)

    def nobody():
        raise AssertionError("a model is opened for nothing")

    assert about.answers(own.ISOLATION, model._replace(opened=nobody)) == found and len(writer.asked) == asked


def test_an_endpoint_is_asked_with_messages(tmp_path):
    about, model, writer = setting(tmp_path, chats=True, conditions=["oracle"])
    heard = []
    write = writer.write
    writer.write = lambda given, **how: (heard.extend(given), write(given, **how))[1]
    found = about.answers(own.PARAPHRASE, model)
    assert all(isinstance(one, ChatPrompt) and "Question: " in one.user for one in heard)
    assert len(heard) == 4 * len(found)  # the fifth wording is the question's own


def test_an_unfinished_answer_and_cut_documents_are_told(tmp_path):
    about, model, writer = setting(tmp_path, conditions=["oracle"])
    half = Defence(name="half", source="", about="", answer=_half)
    writer._answer = lambda given, limit: Written(prompt_id=given.id, sample=0, text="1", tokens=1, ended=False)
    (one, *_) = about.answers(half, model)
    assert not one.ended and one.cut_tokens == 0 and one.cites_oracle is None


def _half(one):
    (said,) = yield [one.ask(one.documents[:1])]
    return said


def test_a_teacher_is_asked_where_one_is_set(tmp_path):
    about, model, writer = setting(tmp_path, conditions=["oracle"])
    teacher = ScriptedTeacher(lambda request: "1. " + request.text.rpartition("\n")[2].replace("What is", "Tell me"))
    found = replace(about, teacher=teacher).answers(own.PARAPHRASE, model)
    assert len(teacher.calls) == len(found) == len(writer.asked) == 8 and teacher.closed == 1
    assert "in other words" in teacher.calls[0].text


def _endless(one):
    while True:
        yield []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda one: 1 / 0, "raised ZeroDivisionError"),
        (lambda one: [one.ask(())], "raised AttributeError"),
        (lambda: None, "raised TypeError"),
        (lambda one: (yield "When?"), "gave what it must not"),
        (lambda one: (yield []), "None, wanted lists of Ask and Read, and in the end a Said"),
        (lambda one: (yield [Ask("When?", list(one.documents))]), "gave what it must not"),
        (lambda one: (yield [Ask("When?", ("a text",))]), "wanted lists of Ask and Read"),
        (lambda one: (yield [Read("a text")]), "wanted lists of Ask and Read"),
        (lambda one: (yield [Ask(None)]), "wanted lists of Ask and Read"),
        (lambda one: [(yield []), Said("x", None)][1], "wanted lists of Ask and Read, and in the end a Said"),
        (_endless, "no answer in 50 steps"),
    ],
)
def test_a_broken_defence_is_one_line_that_names_it(tmp_path, answer, why):
    about, model, _ = setting(tmp_path, conditions=["oracle"])
    with pytest.raises(PartError, match=re.escape(why)) as told:
        about.answers(Defence(name="mine", source="", about="", answer=answer), model)
    assert "your defence mine" in str(told.value) and "\n" not in str(told.value)


def test_defences_are_told_nothing_of_what_is_forged_and_draw_the_same_honest_documents():
    chunks = list(world.CHUNKS.values())
    few = drawn(chunks, 0)
    assert few == drawn(chunks[::-1], 0) != drawn(chunks, 1)
    assert {type(one) for one in few} == {Shortened} and len(few) == len(world.CHUNKS)


def test_names_are_checked_and_default_settings_ask_none():
    assert Settings().evaluation.defences == () and registry.chosen(()) == []
    assert registry.chosen(["all", "isolation"]) == list(registry.OWN.values())
    with pytest.raises(ConfigError, match="no defence 'isolat'; there are isolation, perplexity, paraphrase") as told:
        planning.check_data(resolve({"evaluation": {"defences": ["isolat"]}}))
    assert told.value.exit_code == 2
    plain, other = Settings(), resolve({"evaluation": {"defences": ["isolation"]}})
    assert run_folder(plain, "evaluate") == run_folder(plain.unchecked("evaluation.defences", ()), "evaluate")
    assert run_folder(plain, "evaluate") != run_folder(other, "evaluate")


def test_page_names_every_defence():
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
    rows = {row[1].strip(" `"): row for line in page.splitlines() if len(row := line.split("|")) == 5}
    for one in registry.OWN.values():
        assert [cell.strip() for cell in rows[one.name][2:4]] == [one.about, one.source]


def test_command_lists_them(capsys):
    with pytest.raises(SystemExit):
        cli.main(["defences"])
    said = capsys.readouterr().out
    assert all(name in said for name in registry.OWN)
