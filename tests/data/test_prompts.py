from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragdist.config import PromptsConfig
from ragdist.data.prompts import (
    PLAIN,
    REASONED,
    Golden,
    Shortened,
    fit,
    prompt,
    quotes,
    quotes_hold,
    renderer,
    target,
    user_text,
)
from ragdist.errors import DataError
from tests import tiny
from tests.data.shown import parse

CONFIG = PromptsConfig()
CODEC = tiny.tokenizer()
ASK = "What is the default of `mode` in `gzip.open`?"
DOCUMENTS = [Shortened(chunk.title, chunk.text) for chunk in tiny.chunks()]
# Everything that could be taken for our own marks, beside ordinary text.
pieces = st.sampled_from(
    ["<DOCUMENT>", "</DOCUMENT>", "<\\/DOCUMENT>", "\\", "<", "\n", "Question: ", PLAIN, "a b", "é漢😀"]
)

texts = st.lists(pieces | st.text(max_size=8), max_size=8).map("".join)
titles = texts.map(lambda text: " ".join(text.splitlines()))


def text_of(tokens):
    return CODEC.decode(tokens)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Shortened, titles, texts), max_size=4), texts, st.sampled_from(["plain", "reasoned"]))
def test_user_text_with_any_documents_parses_back(documents, question, answer):
    """check 14, check 15: our own marks inside a document or a question survive."""
    assert parse(user_text(question, documents, PromptsConfig(answer=answer))) == (documents, question)


def test_user_text_shows_documents_in_order_then_question():
    """check 15: as many openings as documents; ordinary text is not touched by the escape."""
    shown = user_text(ASK, DOCUMENTS[::-1], CONFIG)
    assert shown.count("<DOCUMENT>") == shown.count("</DOCUMENT>") == 5
    places = [shown.index(f"{document.title}\n{document.text}") for document in DOCUMENTS[::-1]]
    assert places == sorted(places) and shown.index(ASK) > places[-1]


def test_prompt_closed_book_holds_no_document_text():
    """check 26: the closed-book system message, the question, and nothing else."""
    closed = text_of(prompt(ASK, [], CODEC, CONFIG, id="q", max_tokens=4096, room=8).tokens)
    assert closed == text_of(CODEC.encode(CODEC.chat(f"Question: {ASK}\n{PLAIN}", CONFIG.system_closed)).ids)
    assert "DOCUMENT" not in closed and "document" not in closed


def test_prompt_open_book_holds_exactly_its_documents():
    """check 26: each document once, whole."""
    shown = prompt(ASK, DOCUMENTS[:3], CODEC, CONFIG, id="q", max_tokens=4096, room=8)
    assert shown.cut_tokens == 0
    assert [document.text in text_of(shown.tokens) for document in DOCUMENTS] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("limit", range(190, 420, 10))
def test_prompt_too_long_cuts_the_longest_documents_only(limit):
    """check 23: the question stays, what is left of the documents is a beginning of each, and no more goes than has to.

    The survivor of a mutation: cutting that leaves no document any text.
    """
    documents = [
        Shortened("short", "one two three"),
        *(Shortened("long", f"{n} " + "word é漢😀 " * 30) for n in (1, 2)),
    ]
    whole = prompt(ASK, documents, CODEC, CONFIG, id="q", max_tokens=4096, room=0)
    cut = prompt(ASK, documents, CODEC, CONFIG, id="q", max_tokens=limit, room=16)
    assert len(cut.tokens) + 16 <= limit and cut.cut_tokens == len(whole.tokens) - len(cut.tokens) > 0
    said = text_of(cut.tokens).split("<|im_start|>user\n")[-1]
    user = said[said.index("<DOCUMENT>") : said.index(PLAIN) + len(PLAIN)]
    shown, question = parse(user)
    assert question == ASK
    assert all(now.text == was.text[: len(now.text)] for now, was in zip(shown, documents, strict=True))
    # Nothing is thrown away for nothing: at most a token of each long document and one of each border.
    assert len(cut.tokens) + 16 > limit - 8
    kept = [len(CODEC.encode(f"{now.title}\n{now.text}").ids) for now in shown]
    assert abs(kept[1] - kept[2]) <= 4 and (shown[0] == documents[0] or abs(kept[0] - kept[1]) <= 4)
    assert shown[1].text and shown[2].text and (limit < 230 or shown[0] == documents[0])


GOLD = ("The keeper of the lamp " + "says little and " * 30, "lives in Oban.", " and sings" * 30)


@pytest.mark.parametrize(
    ("answers", "all_required", "reasoning", "text", "lost"),
    [
        (("Oban",), False, "", "".join(GOLD), True),
        (("Oban",), False, "", GOLD[1] + GOLD[0], False),
        (("lamp", "Oban"), False, "", "".join(GOLD), False),
        (("lamp", "Oban"), True, "", "".join(GOLD), True),
        (("lamp",), False, "##begin_quote##lives in Oban##end_quote##", "".join(GOLD), True),
        (("lamp",), False, "##begin_quote##keeper of the lamp##end_quote##", "".join(GOLD), False),
        (("lamp",), False, "##begin_quote##lives in Rome##end_quote##", "".join(GOLD), False),
        (("yes",), False, "", "yes, " + "".join(GOLD), True),
        (("Glasgow",), False, "", "".join(GOLD), True),
        (("서울",), False, "", "".join(GOLD) + "서울에서 산다.", True),
        (("서울",), False, "", "서울에서 산다." + "".join(GOLD), False),
    ],
)
def test_answer_is_cut_off_when_no_golden_document_shows_it_any_more(answers, all_required, reasoning, text, lost):
    """T6: told from a document that was cut elsewhere; the other document, cut too, shows nothing."""
    documents = [Shortened("other", "Oban, lamp, yes. " * 40), Shortened("golden", text)]
    golden = Golden((1,), answers, all_required, reasoning)
    for limit, expected in ((4096, False), (350, lost)):
        shown = prompt(ASK, documents, CODEC, CONFIG, id="q", max_tokens=limit, room=8, golden=golden)
        assert (shown.cut_answer, bool(shown.cut_tokens)) == (expected, limit < 4096)
    away = prompt(ASK, documents, CODEC, CONFIG, id="q", max_tokens=350, room=8, golden=Golden((), answers))
    assert away.cut_tokens and not away.cut_answer


def test_answer_in_one_golden_document_of_two_is_enough():
    """T6: any one that shows it, where one answer is asked for."""
    documents = [Shortened("long", "".join(GOLD)), Shortened("short", "He lives in Oban.")]
    shown = prompt(ASK, documents, CODEC, CONFIG, id="q", max_tokens=300, room=8, golden=Golden((0, 1), ("Oban",)))
    assert shown.cut_tokens and not shown.cut_answer


def test_fit_cuts_a_document_alike_in_all_prompts_of_a_list():
    """T6: what the longer prompt leaves of a document is what the shorter one shows, though it had room for more."""
    documents = [Shortened(str(n), f"{n} " + f"word{n} é漢😀 " * 40) for n in range(4)]
    render = renderer(ASK, CODEC, CONFIG)
    renders = [lambda shown: render(shown[:2]), lambda shown: render(shown[::-1])]
    few, all_ = fit(documents, renders, CODEC, id="q", max_tokens=500, room=8)
    assert len(few.tokens) < len(all_.tokens) <= 492 and few.cut_tokens > 0 < all_.cut_tokens
    blocks = [text_of(one.tokens).split("<DOCUMENT>")[1:] for one in (few, all_)]
    texts = [[block.split("</DOCUMENT>")[0] for block in found] for found in blocks]
    assert texts[0] == texts[1][::-1][:2] and len(texts[1]) == 4
    assert all(text.startswith(f"{n}\n{n} word{n}") for n, text in enumerate(texts[0]))


def test_prompt_question_too_long_names_the_setting():
    with pytest.raises(DataError, match=r"'q7'.*model.max_tokens=64 .*raise it"):
        prompt("why " * 100, DOCUMENTS, CODEC, CONFIG, id="q7", max_tokens=64, room=4)


def test_prompt_reasoned_asks_for_quotes_only_where_there_is_something_to_quote():
    reasoned = PromptsConfig(answer="reasoned")
    assert user_text(ASK, DOCUMENTS, reasoned).endswith(REASONED)
    assert "quote" not in user_text(ASK, [], reasoned)


def test_target_plain_and_reasoned():
    question = replace(tiny.questions()[0], reasoning="It says ##begin_quote##encoding=None##end_quote##.\n")
    reasoned = PromptsConfig(answer="reasoned")
    assert target(question, CONFIG) == "None"
    assert target(question, reasoned) == "It says ##begin_quote##encoding=None##end_quote##.\n<ANSWER>: None"
    assert target(replace(question, reasoning=""), reasoned) == "<ANSWER>: None"
    both = replace(question, answers=("milk", "football"), all_answers_required=True)
    assert target(both, CONFIG) == "milk, football"


@pytest.mark.parametrize(
    ("text", "spans", "balanced"),
    [
        ("none at all", (), True),
        ("##begin_quote## a b ##end_quote## and ##begin_quote##c##end_quote##", ("a b", "c"), True),
        ("##begin_quote## a", (), False),
        ("a ##end_quote##", (), False),
        ("##begin_quote## a ##begin_quote## b ##end_quote##", ("b",), False),
        ("##begin_quote## a ##end_quote## b ##end_quote##", ("a",), False),
    ],
)
def test_quotes_finds_spans_and_broken_marks(text, spans, balanced):
    """check 12: unbalanced marks are detected."""
    assert quotes(text) == (spans, balanced)


def test_quotes_hold_only_word_for_word():
    """check 12: verbatim after whitespace normalisation, in one source, never in two together."""
    sources = ["The hotel opened\n  in 1965.", "It has 83 rooms."]
    said = "So ##begin_quote##{}##end_quote##."
    assert quotes_hold("no quote", sources)
    assert quotes_hold(said.format("hotel  opened in 1965."), sources)
    assert not quotes_hold(said.format("hotel opened in 1966."), sources)
    assert not quotes_hold(said.format("in 1965. It has 83"), sources)
    assert not quotes_hold(said.format(" "), sources)
    assert not quotes_hold("##begin_quote##It has 83 rooms.", sources)


def test_quotes_hold_whatever_shapes_their_signs_have():
    """T19: quotation marks, a ligature, a word broken at the end of a line, a soft hyphen; other words do not."""
    sources = ["It is the keeper\u2019s \ufb01lter, the old-\nest of all, and soft\u00adly kept."]
    said = "##begin_quote##{}##end_quote##"
    for quote in ("the keeper's filter", "the oldest of all", "the old-est", "softly kept", '"the keeper\'s filter"'):
        assert quotes_hold(said.format(quote), sources), quote
    for quote in ("the keepers filter", "the old est", "the elder of all", '""'):
        assert not quotes_hold(said.format(quote), sources), quote
