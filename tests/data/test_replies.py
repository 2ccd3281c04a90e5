"""Replies of teachers as they come: numbered, bold, chatty, cut off; quotes that are and are not in the text."""

import pytest

from ragdist.data.replies import fill, names_document, questions_in, read_answer, says_yes
from tests.teacher import reply

TEXT = "The relay listens on port 8443 by default.\nIdle connections are closed after 90 seconds. Its author is Ida."
QUOTE = "##begin_quote## listens on port\n 8443 ##end_quote##"


@pytest.mark.parametrize(
    ("text", "ended", "questions"),
    [
        ("1. What is a relay?\n\n2) Who wrote the relay?\n", True, ["What is a relay?", "Who wrote the relay?"]),
        ("- What is a relay?\n* Who wrote it?\n\u2022 Where is it?", True, ["What is a relay?", "Who wrote it?"]),
        ("Q1: What is a relay?\nA1: A server.\nQuestion 2: Who wrote it?", True, ["What is a relay?", "Who wrote it?"]),
        ("**1. What is a relay?**\n(b) Who wrote it?", True, ["What is a relay?", "Who wrote it?"]),
        ("Here are your questions:\n\n   What is a relay?   ", True, ["What is a relay?"]),
        ("What is a relay? Who wrote it?", True, ["What is a relay?", "Who wrote it?"]),
        ('"What is a relay?"\n"What is a relay?"', True, ["What is a relay?"]),
        ("What is a relay?\nWho wrote it and wh", False, ["What is a relay?"]),
        ("What is a relay?\nWho wrote it?", False, ["What is a relay?", "Who wrote it?"]),
        ("1. Open a relay on a port.\n2. Close the relay whe", False, ["Open a relay on a port."]),
        ("Tasks:\n- Open the relay.\n- Close the relay.", True, ["Open the relay.", "Close the relay."]),
        ("I am ready to help you with that.", True, []),
        ("<think>What is asked he", False, []),
        ("<think>What is asked here?</think>\nWhat is a relay?", True, ["What is a relay?"]),
        ("1. 3.5 volts are needed by which relay?", True, ["3.5 volts are needed by which relay?"]),
        ("1. -1 is returned by which call?", True, ["-1 is returned by which call?"]),
        ("\u7aef\u53e3\u662f\u591a\u5c11\uff1f\n\u8bf4\u660e", True, ["\u7aef\u53e3\u662f\u591a\u5c11\uff1f"]),
        ("The relay listens on port 8443\nby default.", True, []),
        ("Why?", True, []),
        ("", True, []),
        ("\n\n", False, []),
    ],
)
def test_questions_have_no_numbering_no_empty_lines_and_no_unfinished_end(text, ended, questions):
    """check 13, the last question of a cut reply included."""
    assert questions_in(reply(text, ended), 2, TEXT) == questions


def test_no_more_questions_than_asked_for():
    assert len(questions_in(reply("\n".join(f"{n}. What is part {n}?" for n in range(12))), 5, TEXT)) == 5


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What does this document say about ports?", True),
        ("According to the text, which port is it?", True),
        ("What is the main point of the passage?", True),
        ("Who is the author of the relay?", True),
        ("What does the above code print?", True),
        ("Which port is mentioned above?", True),
        ("What does this section describe?", True),
        ("What is the answer to this question?", True),
        ("Which port does the relay listen on?", False),
        ("Who is the text-editor team?", False),
        ("What does the context manager return?", False),
        ("Which documents does a visa applicant need?", False),
        ("How is a text encoded?", False),
    ],
)
def test_questions_that_point_at_their_text_are_known(question, names):
    assert names_document(question) == names


@pytest.mark.parametrize(
    ("text", "answer", "problem"),
    [
        (f"It {QUOTE}.\n<ANSWER>: 8443", "8443", ""),
        (f"##Reason: It {QUOTE}. ##Answer: 8443", "8443", ""),
        (f"It {QUOTE}.\n**<ANSWER>:** 8443.", "8443", ""),
        (f"<think>hm</think>It {QUOTE}\n<ANSWER>:8443</ANSWER>", "8443", ""),
        ("Reasoning without a quote.\n<ANSWER>: port 8443", "port 8443", ""),
        ("Ida", "Ida", ""),
        ("The relay listens on port 8443.", "The relay listens on port 8443", ""),
        (f"It {QUOTE}.\n<ANSWER>: yes", "yes", ""),
        ("It is so.\n<ANSWER>: yes", None, "quotes nothing"),
        ("It is 8444.\n<ANSWER>: 8444", None, "quotes nothing"),
        ("##begin_quote## port 8444 ##end_quote##\n<ANSWER>: 8443", None, "'port 8444' does not stand"),
        (f"{QUOTE} ##begin_quote##\n<ANSWER>: 8443", None, "not in pairs"),
        (f"It {QUOTE}.", None, "does not end with <ANSWER>:"),
        (f"It {QUOTE}.\n<ANSWER>:", None, "does not end with <ANSWER>:"),
        (f"It {QUOTE}.\n<ANSWER>: {'port ' * 31}", None, "more than 30 words"),
        ("Something quite different.", None, "does not end with <ANSWER>:"),
    ],
)
def test_reasoned_answer_holds_by_quotes_and_by_the_answers_own_words(text, answer, problem):
    """checks 12 and 67: quotes stand in the oracle, both tags are read."""
    found = read_answer(reply(text), [TEXT])
    assert problem in found.problem and bool(problem) == bool(found.problem) and not found.declined
    assert problem or found.answer == answer


def test_reasoning_is_what_stands_before_the_answer():
    assert read_answer(reply(f"##Reason: So {QUOTE}.\n##Answer: 8443"), [TEXT]).reasoning == f"So {QUOTE}."
    assert read_answer(reply("Ida"), [TEXT]).reasoning == ""


def test_reply_that_was_cut_off_or_refused_does_not_hold():
    assert "cut off" in read_answer(reply(f"{QUOTE}\n<ANSWER>: 8443", ended=False), [TEXT]).problem
    assert "too long" in read_answer(reply("", failed="too long"), [TEXT]).problem


@pytest.mark.parametrize(
    "said", ["unanswerable", "Not stated.", "The text does not say.", "N/A", "It cannot be determined", "unknown"]
)
def test_teacher_may_decline_unless_the_words_are_the_answer(said):
    assert read_answer(reply(f"Hm.\n<ANSWER>: {said}"), [TEXT]).declined
    assert not read_answer(reply(f"Hm.\n<ANSWER>: {said}"), [f"Its state is: {said}"]).declined


@pytest.mark.parametrize(
    ("answer", "known", "every", "holds"),
    [
        ("8443", ["8443"], False, True),
        ("Port 8443", ["443", "port 8443"], False, True),
        ("8444", ["8443"], False, False),
        ("1", ["-1"], False, False),
        ("-1", ["-1"], False, True),
        ("Ida and Otto", ["Otto", "Ida"], True, True),
        ("Ida", ["Otto", "Ida"], True, False),
    ],
)
def test_known_answer_must_be_the_one_that_is_reasoned_for(answer, known, every, holds):
    found = read_answer(reply(f"{QUOTE}\n<ANSWER>: {answer}"), [TEXT], known, all_known=every)
    assert (not found.problem) == holds


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes.", True),
        ("**Yes**, because", True),
        ("It does: yes", True),
        ("No.", False),
        ("", False),
        ("Yesterday", False),
    ],
)
def test_verdict_is_its_first_or_last_word(text, yes):
    assert says_yes(reply(text)) == yes


def test_prompt_may_hold_other_braces():
    assert fill('{"a": {chunk}, {x}}', chunk="{count}", count="2") == '{"a": {count}, {x}}'
