"""How a model is spoken to: its chat template, tried out once with texts that nothing else holds.

    what goes in comes out      system, user and answer text, each once and in order, with texts as they are or in
                                parts, the system message of its own or before the user's text; else it is an error
    what begins an answer       where `add_generation_prompt` ends elsewhere than an answer begins in the whole
                                conversation (thoughts), the template is changed so that both are one
    what day it is              the template's own `strftime_now` says DAY
    how long it takes           RENDER_S at most; tried first in a process of its own, see `lm.template_trial`

The template as it is settled here is the one that rows are rendered with and that is saved with a tuned model, so what
was trained is what servers and exports render.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from ragdist.errors import ModelError, first_line
from ragdist.lm import template_trial

log = logging.getLogger("ragdist")

DAY = datetime(2024, 7, 26)
"""Today, to every template: the day that Llama's own names where none is known."""
RENDER_S = 10.0
"""Longest rendering of one conversation, in seconds."""
SYSTEM, USER, ANSWER = (
    f"ragdist {name}  \u00e9\u6f22 'a' <b> & \"c\" {{d}}\n\n- {name} 7q3z" for name in ("system", "user", "answer")
)
"""Texts that no template holds, with what one may trip over."""
LONG = f"{USER}{' more of it' * 1000}."
NAMES = {SYSTEM: "system message", USER: "user's message", ANSWER: "answer"}
JOINERS = ("\u2060", " ")
"""What breaks a word of the frame within a text: a word joiner, which nobody sees, or a space where it is taken out."""
SHUT = ("{% set enable_thinking = false %}", "{% set thinking = false %}")
"""How templates of reasoning models are told to leave thoughts empty."""
_NOW = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_MARKUP = re.compile(r"<{1,2}[^<>\s]{1,40}>{1,2}|\[[^\[\]\s]{1,40}\]")
_LABEL = re.compile(r"((?:\#+ ?)?\w{1,20}(?: \w{1,20}){0,3} ?[:\uff1a]|\#+ [^\n]{1,40})\s*\Z")
Message = dict[str, Any]


class _Fails(Exception):
    """What is wrong with a template, as a sentence about it."""


class _TooLong(Exception):
    """A template that does not come to an end."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A template and the manner in which it is spoken to."""

    template: str
    parts: bool
    """Texts are handed over as lists of parts."""
    folded: bool
    """There is no place for a system message: it stands before the user's text."""
    whole: str
    """The three texts rendered."""

    def messages(self, user: str, system: str = "", answer: str = "") -> list[Message]:
        """The conversation as the template takes it."""
        if self.folded and system:
            user, system = f"{system}\n\n{user}", ""
        said = (("system", system), ("user", user), ("assistant", answer))
        return [{"role": role, "content": self._content(text)} for role, text in said if text]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.parts else text

    @property
    def after_answer(self) -> str:
        """What the template puts behind an answer."""
        return self.whole.partition(ANSWER)[2]

    @property
    def frame(self) -> list[str]:
        """The template's own words around the three texts."""
        return re.split("|".join(map(re.escape, (SYSTEM, USER, ANSWER))), self.whole)


def open_chat(tokenizer: PreTrainedTokenizerBase, source: str) -> Chat | None:
    """The manner in which this tokenizer's template lets everything through; None where it has no template.

    Args:
        tokenizer: gets the template as it is settled.
        source: the model's name, for errors.

    Raises:
        ModelError: it drops, repeats or changes what goes in, or fails, or takes too long.
    """
    if not tokenizer.chat_template:
        return None
    problems = []
    try:
        template = _undated(str(tokenizer.get_chat_template()))
    except ValueError as error:
        raise ModelError(_why(source, f"its chat template cannot be read: {first_line(error):.200}")) from None
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if problem := _endless(template, json.dumps(names), RENDER_S):
        raise ModelError(_why(source, f"its chat template {problem}"))
    for folded in (False, True):
        for parts in (False, True):
            found = _tried(tokenizer, Chat(template, parts, folded, ""))
            if isinstance(found, Chat):
                settled = _answering(tokenizer, found)
                tokenizer.chat_template = settled.template
                return settled
            problems.append(found)
    raise ModelError(_why(source, problems[0]))


@cache
def _endless(template: str, names: str, seconds: float) -> str:
    """What this template takes too much of, so that it cannot be rendered here; empty if it comes to an end."""
    both = [Chat(template, parts, False, "").messages(USER, SYSTEM, ANSWER) for parts in (False, True)]
    asked = {"template": template, "names": json.loads(names), "seconds": seconds}
    asked["conversations"] = [messages[start:] for messages in both for start in (0, 1)]
    done = subprocess.run(
        [sys.executable, "-I", template_trial.__file__],
        input=json.dumps(asked).encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return {
        0: "",
        -signal.SIGALRM: f"takes longer than {seconds:g} s",
        template_trial.SIZE: "makes more than a million characters of a short conversation",
    }.get(done.returncode, f"takes more than {template_trial.MOST_BYTES >> 20} MiB of memory, or breaks down")


def render(tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], *, begin: bool = True) -> str:
    """The conversation as text, up to where the answer begins if `begin`.

    Raises:
        ModelError: the template fails on it, or takes longer than RENDER_S.
    """
    try:
        return _rendered(tokenizer, chat, messages, begin)
    except _Fails as problem:
        raise ModelError(_why(tokenizer.name_or_path, str(problem))) from None


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], begin: bool) -> str:
    """As `render`, but raises _Fails where another manner may work."""
    try:
        with _bounded(RENDER_S):
            said = str(
                tokenizer.apply_chat_template(
                    list(messages),
                    chat_template=chat.template,
                    tokenize=False,
                    add_generation_prompt=begin,
                    strftime_now=DAY.strftime,
                )
            )
    except _TooLong:
        problem = f"its chat template takes longer than {RENDER_S:g} s"
        raise ModelError(_why(tokenizer.name_or_path, problem)) from None
    except Exception as error:  # whatever the code of a template makes of a text
        raise _Fails(f"its chat template fails: {type(error).__name__}: {first_line(error):.200}") from None
    if len(said) > template_trial.longest(len(json.dumps(messages))):
        raise ModelError(_why(tokenizer.name_or_path, f"its chat template makes {len(said):,} characters of a text"))
    return said


def own_words(tokenizer: PreTrainedTokenizerBase, chat: Chat | None) -> list[str]:
    """What in a text would be read as the template's own: special tokens, and marks and labels of its frame."""
    added = tokenizer.added_tokens_decoder.values()
    found = {str(token) for token in added if token.special}
    for piece in chat.frame if chat else ():
        found.update(_MARKUP.findall(piece))
        found.update(_LABEL.findall(piece))
        found.update(str(token) for token in added if str(token) in piece and not str(token).isalnum())
    return sorted((word for word in found if len(word.strip()) > 1), key=lambda word: (-len(word), word))


def breaker(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Breaker:
    """Breaks these words within a text, by the first of JOINERS that the tokenizer does not take out again."""
    normalizer: Any = tokenizer.backend_tokenizer.normalizer
    numbers = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}

    def holds(joiner: str) -> bool:
        broken = [_broken(word, joiner) for word in words]
        plain = [normalizer.normalize_str(text) if normalizer else text for text in broken]
        ids = tokenizer(broken, add_special_tokens=False, verbose=False)["input_ids"] if words else []
        return all(
            word not in text and numbers.get(word) not in found
            for word, text, found in zip(words, plain, ids, strict=True)
        )

    return Breaker(tuple(words), next((joiner for joiner in JOINERS if holds(joiner)), JOINERS[-1]))


@dataclass(frozen=True)
class Breaker:
    """Puts a joiner behind the first character of each of these words in a text; pickles."""

    words: tuple[str, ...]
    joiner: str

    def __post_init__(self) -> None:
        pattern = "|".join(map(re.escape, self.words)) or "(?!)"
        object.__setattr__(self, "_found", re.compile(pattern))

    def __call__(self, text: str) -> str:
        found: re.Pattern[str] = self._found  # type: ignore[attr-defined]
        return found.sub(lambda word: _broken(word[0], self.joiner), text)


def _broken(word: str, joiner: str) -> str:
    return f"{word[:1]}{joiner}{word[1:]}"


def _undated(template: str) -> str:
    """The template with DAY for the day of its rendering."""

    def said(call: re.Match[str]) -> str:
        return json.dumps(DAY.strftime(call[2]), ensure_ascii=False)

    fixed = _NOW.sub(said, template)
    if fixed != template:
        log.info("the chat template prints the day of its rendering; it says %s from here on", DAY.date())
    return fixed


def _tried(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Chat | str:
    """The chat with its rendering, or what goes wrong."""
    try:
        whole = _rendered(tokenizer, chat, chat.messages(USER, SYSTEM, ANSWER), False)
        if whole != _rendered(tokenizer, chat, chat.messages(USER, SYSTEM, ANSWER), False):
            return "its chat template gives another text each time"
        for text, wanted in (
            (_rendered(tokenizer, chat, chat.messages(USER, SYSTEM), True), (SYSTEM, USER)),
            (_rendered(tokenizer, chat, chat.messages(USER), True), (USER,)),
            (whole, (SYSTEM, USER, ANSWER)),
        ):
            if missing := _missing(text, wanted):
                return missing
        if LONG not in _rendered(tokenizer, chat, chat.messages(LONG), True):
            return f"its chat template cuts a user's message of {len(LONG)} characters"
    except _Fails as problem:
        return str(problem)
    return Chat(chat.template, chat.parts, chat.folded, whole)


def _missing(text: str, wanted: Sequence[str]) -> str:
    """What of the wanted texts is not in the rendered one, once and in order; empty for nothing."""
    for one in wanted:
        if (times := text.count(one)) != 1:
            how = f"shows the {NAMES[one]} more than once" if times else f"leaves out or changes the {NAMES[one]}"
            return f"its chat template {how}"
    places = [text.index(one) for one in wanted]
    return "" if places == sorted(places) else "its chat template shows the messages in another order"


def _answering(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Chat:
    """The chat with a template whose prompt ends where the whole conversation's answer begins."""
    for template in (chat.template, *(shut + chat.template for shut in SHUT)):
        found = Chat(template, chat.parts, chat.folded, chat.whole)
        if _agrees(tokenizer, found):
            return found
    asked, begun = _begun(tokenizer, chat, SYSTEM)
    common = next((at for at, pair in enumerate(zip(asked, begun, strict=False)) if len({*pair}) > 1), None)
    common = min(len(asked), len(begun)) if common is None else common
    cut, tail = len(asked) - common, json.dumps(begun[common:], ensure_ascii=False)
    ended = f"{{{{ (said[:-{cut}] if add_generation_prompt else said) }}}}" if cut else "{{ said }}"
    body = chat.template.removesuffix("\n")
    template = (
        f"{{% set said %}}{body}{{% endset %}}{ended}{{% if add_generation_prompt %}}{{{{ {tail} }}}}{{% endif %}}"
    )
    found = Chat(template, chat.parts, chat.folded, chat.whole)
    return found if _agrees(tokenizer, found) else chat


def _agrees(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> bool:
    """Whether prompts end where answers begin, white space aside, and conversations are as they were."""
    try:
        whole = _rendered(tokenizer, chat, chat.messages(USER, SYSTEM, ANSWER), False)
        pairs = [_begun(tokenizer, chat, system) for system in (SYSTEM, "")]
    except _Fails:
        return False
    return whole == chat.whole and all(
        begun.startswith(asked) and not begun[len(asked) :].strip() for asked, begun in pairs
    )


def _begun(tokenizer: PreTrainedTokenizerBase, chat: Chat, system: str) -> tuple[str, str]:
    """The prompt, and the whole conversation up to its answer."""
    whole = _rendered(tokenizer, chat, chat.messages(USER, system, ANSWER), False)
    return _rendered(tokenizer, chat, chat.messages(USER, system), True), whole.partition(ANSWER)[0]


def _why(source: str, problem: str) -> str:
    return (
        f"model.source={source!r}: {problem}; correct the template in the model's folder (chat_template.jinja), or set "
        "model.source to another model"
    )


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """For the block, the code of templates is watched, line by line, and ended after so many seconds."""
    until, before = time.monotonic() + seconds, sys.gettrace()

    def watch(frame: Any, *_: Any) -> Any:
        if time.monotonic() > until:
            raise _TooLong
        return watch if frame.f_code.co_filename == "<template>" else None

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
