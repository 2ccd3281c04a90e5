"""Replies of teachers as they come: numbered, bold, chatty, cut off; quotes that are and are not in the text."""

import pytest

from ragdist.data.teaching.replies import fill, names_document, questions_in, read_answer, says_yes
from tests.scripted_teacher import reply

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
    assert questions_in(reply(text, ended), 2, TEXT)[0] == questions


def test_no_more_questions_than_asked_for():
    assert len(questions_in(reply("\n".join(f"{n}. What is part {n}?" for n in range(12))), 5, TEXT)[0]) == 5


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


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("どの港を使いますか。\n大きな窯は何個入りますか。", ["どの港を使いますか。", "大きな窯は何個入りますか。"]),
        ("どの港ですか、先生。誰が鍵を持っていますか。", ["どの港ですか、先生。誰が鍵を持っていますか。"]),
        ("「どの港を使いますか。」\n『誰が鍵を持つか』", ["どの港を使いますか。", "誰が鍵を持つか"]),
        ("ありがとうございます。\n・どの港を使いますか？", ["どの港を使いますか？"]),
        ("รีเลย์ใช้พอร์ตอะไร\nเตาใหญ่จุถ้วยได้กี่ใบ", ["รีเลย์ใช้พอร์ตอะไร", "เตาใหญ่จุถ้วยได้กี่ใบ"]),
        (
            "Ποια θύρα χρησιμοποιεί ο κόμβος; Ποιος έχει το κλειδί;",
            ["Ποια θύρα χρησιμοποιεί ο κόμβος;", "Ποιος έχει το κλειδί;"],
        ),
        ("ما المنفذ؟\n١. من يحمل المفتاح؟", ["ما المنفذ؟", "من يحمل المفتاح؟"]),
        ("질문 1: 어느 포트입니까?\n질문 2 - 열쇠는 누가 가졌습니까?", ["어느 포트입니까?", "열쇠는 누가 가졌습니까?"]),
        ("① 어느 포트인가\n② 열쇠는 누가 가졌는가", ["어느 포트인가", "열쇠는 누가 가졌는가"]),
        ("第一题：端口是多少？\n2、谁写的代码？3、在哪里呢？", ["端口是多少？", "谁写的代码？", "在哪里呢？"]),
        ("以下是问题：\n端口号码是什么\n谁写了这个程序", ["端口号码是什么", "谁写了这个程序"]),
        ("(1) What is a relay?\n[2] Who wrote it?", ["What is a relay?", "Who wrote it?"]),
        ("Q1. What is a relay?\n**2.** Who wrote it?", ["What is a relay?", "Who wrote it?"]),
        ("**1.** Open the relay.\n__2)__ Close the relay.", ["Open the relay.", "Close the relay."]),
        ("i. What is a relay?\nii) Who wrote it?", ["What is a relay?", "Who wrote it?"]),
        ("२. कुंजी किसके पास है?\nप्रश्न 3: बंदरगाह कौन सा है।", ["कुंजी किसके पास है?", "बंदरगाह कौन सा है।"]),
        ("Вопрос № 1: Какой порт?\nPregunta 2: ¿Qué puerto usa?", ["Какой порт?", "¿Qué puerto usa?"]),
        ("Որ՞ պորտն է այն օգտագործում։", ["Որ՞ պորտն է այն օգտագործում։"]),
        ('["What is a relay?", "Who wrote it?"]', ["What is a relay?", "Who wrote it?"]),
        ("['What is a relay?', 'Who wrote it?',]", ["What is a relay?", "Who wrote it?"]),
        (
            '```json\n{"questions": [{"question": "What is a relay?", "answer": "Is it Ida?"}]}\n```',
            ["What is a relay?"],
        ),
        ('{"q1": "What is a relay?", "a1": "A box."}\n{"q2": "Who wrote it?"}', ["What is a relay?", "Who wrote it?"]),
        ('Sure:\n["รีเลย์ใช้พอร์ตใด", "ใครเก็บกุญแจ"]\nDone.', ["รีเลย์ใช้พอร์ตใด", "ใครเก็บกุญแจ"]),
        ("```\nWhat is a relay?\n```", ["What is a relay?"]),
        ("<question>What is a relay?</question>", ["What is a relay?"]),
        ("| # | question |\n|---|---|\n| 1 | What is a relay? |", ["What is a relay?"]),
        ("Windows 11: which port is it?", ["Windows 11: which port is it?"]),
        ("「窯」と「釜」はどう違いますか？", ["「窯」と「釜」はどう違いますか？"]),
        ("1\ufe0f\u20e3 What is a relay?\n2\ufe0f\u20e3 Who wrote it?", ["What is a relay?", "Who wrote it?"]),
        ("[Q1] What is a relay?\n[Q2] Who wrote it?", ["What is a relay?", "Who wrote it?"]),
        ("கேள்வி 1: சாவி யாரிடம்?\nகேள்வி 2: சூளை எங்கே?", ["சாவி யாரிடம்?", "சூளை எங்கே?"]),
    ],
)
def test_questions_in_other_scripts_and_forms_come_out_without_marks(text, questions):
    """T21: and nothing else comes out."""
    assert questions_in(reply(text), 9, TEXT)[0] == questions


def test_questions_of_a_list_that_was_cut_off():
    """T21: what is whole counts, in JSON as on lines."""
    assert questions_in(reply('[\n "What is a relay?",\n "Who wrote it?",\n "Wh', ended=False), 9, TEXT)[0] == [
        "What is a relay?",
        "Who wrote it?",
    ]


def test_lines_that_are_no_question_are_counted():
    """T21: talk, what is too short, what stands in the text; empty lines are nothing."""
    said = "Here you are:\n\n1. What is a relay?\n2. What is a relay?\n3. Why?\n4. The relay listens?\nI hope it helps."
    assert questions_in(reply(said), 9, TEXT) == (["What is a relay?"], 4)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("理由です。\n<ANSWER>：山田太郎。", "山田太郎"),
        ("答案：山田太郎", "山田太郎。"),
        ("理由です。\n答え：「山田太郎」。", "山田太郎"),
        ("이유.\n정답: 부산.", "부산"),
        ("Es steht da.\n**Antwort:** 8443", "8443"),
        ("It says so.\n**Final answer:** Port 8443.", "port 8443"),
        ("कारण।\n<ANSWER>: दिल्ली।", "दिल्ली"),
        ("So.\n<ANSWER> 8443", "8443"),
        ("So.\n<answer>8443</answer>", "8443"),
        ("So.\n<ANSWER>: \u22121", "-1"),
        ("So.\n<ANSWER>: Ｐｏｒｔ ８４４３", "port 8443"),
        ("理由です。\n\uff1cANSWER\uff1e：山田太郎", "山田太郎"),
    ],
)
def test_answers_in_other_scripts_are_the_known_ones(text, known):
    """T21: full width, the language's own word for it, its full stop, its quotes."""
    assert read_answer(reply(text), [TEXT], [known]).problem == ""


def test_minus_one_is_not_one_in_any_width():
    assert all(read_answer(reply(f"So.\n<ANSWER>: {minus}1"), [TEXT], ["1"]).problem for minus in "-\u2212\uff0d")


@pytest.mark.parametrize("said", ["回答不能", "ответ: неизвестно", "답할 수 없습니다", "sin respuesta"])
def test_teacher_that_declines_in_its_language_is_heard(said):
    """T21."""
    assert read_answer(reply(f"Hm.\n<ANSWER>: {said}"), [TEXT]).declined is (said[0] != "о")


@pytest.mark.parametrize(
    ("text", "yes"), [("はい。", True), ("是的，因为", True), ("Да, верно.", True), ("いいえ", False)]
)
def test_verdict_in_another_language(text, yes):
    """T21."""
    assert says_yes(reply(text)) is yes
