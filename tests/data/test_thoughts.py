"""Replies of reasoning models: what they thought comes off, and what they say stays."""

import pytest

from ragdist.data.prompts import extract
from ragdist.data.teaching.replies import questions_in, read_answer, says_yes, spoken
from ragdist.data.thoughts import without_thoughts
from ragdist.records import Request
from ragdist.systems.duet import arbiters
from ragdist.systems.duet.disputes import Dispute
from ragdist.teacher.completions import parse
from tests.scripted_teacher import ScriptedTeacher, reply

TEXT = "The relay listens on port 8443. A text is marked by <think> and </think>."
THOUGHT = "The user wants a question. Should it be about the port?\nIs the port 8444?\n<ANSWER>: 8444"
WRAPPED = (
    "<think>{}</think>\n\n",
    "<think>\n{}\n</think>",
    "{}\n</think>\n\n",
    "{}</think>",
    "<thinking>{}</thinking>\n",
    "<Thinking>{}</Thinking>\n",
    "<thought>\n{}\n</thought>\n",
    "{}\n</thinking>\n",
    "<reasoning>\n{}\n</reasoning>\n",
    "[THINK]{}[/THINK]",
    "{}[/THINK]\n",
    "\u25c1think\u25b7{}\u25c1/think\u25b7",
    "<seed:think>{}</seed:think>",
    "<|START_THINKING|>{}<|END_THINKING|>",
    "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>",
    "<think>{}</think >\n",
    "<|begin_of_thought|>{}<|end_of_thought|>\n",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysis{}assistantfinal",
    "Here is my thought process: {}\n\nHere is my response: ",
    "<think>I must not write `</think>` here. {}\n</think>\n",
)


@pytest.mark.parametrize("form", WRAPPED)
def test_thoughts_come_off_before_anything_is_read(form):
    """T20: in every form that models write, with the first mark and without."""
    before = form.format(THOUGHT)
    assert without_thoughts(before + "Said.").text.strip() == "Said."
    assert questions_in(reply(before + "Which port is it?"), 5, TEXT)[0] == ["Which port is it?"]
    said = read_answer(reply(before + "It is ##begin_quote##port 8443##end_quote##.\n<ANSWER>: 8443"), [TEXT])
    assert (said.answer, said.problem) == ("8443", "")
    assert said.reasoning == "It is ##begin_quote##port 8443##end_quote##."
    assert says_yes(reply(form.format("Yes? No? Yes") + "No.")) is False
    assert extract(before + "8443") == ("8443", False)


@pytest.mark.parametrize(
    "text", [f"<think>{THOUGHT}", f"[THINK]{THOUGHT}", f"<|channel|>analysis<|message|>{THOUGHT}", f"analysis{THOUGHT}"]
)
@pytest.mark.parametrize("ended", [True, False])
def test_thoughts_without_an_end_are_a_refusal(text, ended):
    """T20: cut off by the limit of tokens, they are no question and no answer."""
    cut = reply(text, ended)
    assert not questions_in(cut, 5, TEXT)[0]
    assert "teacher.max_new_tokens" in spoken(cut).failed
    assert "teacher.max_new_tokens" in read_answer(cut, [TEXT]).problem and not read_answer(cut, [TEXT]).answer
    assert not says_yes(cut) and extract(text).answer == ""


def test_what_was_said_before_thoughts_were_cut_off_stays():
    """T20."""
    assert questions_in(reply("Which port is it?\n<think>And", ended=False), 5, TEXT)[0] == ["Which port is it?"]


@pytest.mark.parametrize(
    "text",
    [
        "It is ##begin_quote##marked by <think> and </think>##end_quote##.\n<ANSWER>: </think>",
        "The mark is `<think>`, and `</think>` ends it.\n<ANSWER>: <think>",
        "The element <think>x</think> holds a thought.",
        "```\n<think>\nx\n</think>\n```",
        "\u300c<think>\u300d\u3067\u3059\u3002",
        "I think that [thinking] is fine.",
    ],
)
def test_marks_within_an_answer_stay(text):
    """T20: a text about XML may say them; taken off once, they are not looked for again."""
    assert without_thoughts(text) == (text, False)
    assert without_thoughts(f"<think>hm</think>{text}").text == text


REQUEST = Request(id="r", text="Why?", max_new_tokens=8)


@pytest.mark.parametrize(
    ("message", "text", "failed"),
    [
        ({"content": "8443", "reasoning_content": "Is it 8444?"}, "8443", False),
        ({"content": None, "reasoning_content": "Is it 8444?"}, "", True),
        ({"content": " ", "reasoning": "Is it 8444?"}, "", True),
        ({"content": [{"type": "thinking", "thinking": "8444?"}, {"type": "text", "text": "8443"}]}, "8443", False),
        ({"content": [{"type": "text", "text": "84"}, {"type": "text", "text": "43"}]}, "8443", False),
        ({"content": [{"type": "thinking", "thinking": "8444?"}]}, "", False),
    ],
)
def test_thoughts_of_an_endpoint_are_no_reply(message, text, failed):
    """T20: beside the answer or as parts of it; without an answer they are a refusal that names the knob."""
    found = parse(REQUEST, {"choices": [{"message": message, "finish_reason": "stop"}]})
    assert found.text == text and ("teacher.max_new_tokens" in found.failed) is failed


def test_summaries_are_without_thoughts():
    """T20: what a teacher decides between two answers."""
    teacher = ScriptedTeacher(lambda request: "Left or right?</think>\n\nleft")
    assert arbiters.by_teacher(teacher, 64, 0)([(Dispute("q", "Which?", "left", "right"), False)]) == ["left"]
