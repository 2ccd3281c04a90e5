"""APIBench's own score: is the call in an answer a documented API, and one that does what was asked?

An answer's call matches a documented one (Gorilla, arXiv 2305.15334) when it calls the same function and its syntax
tree holds what names the API:

    Torch Hub       the values of `repo_or_dir` and `model`
    TensorFlow Hub  the handle
    Hugging Face    the values of all arguments

It is right when the API that it matches has the domain of the question's own. A call that matches none is one that the
model made up; an answer without a call is wrong and no more. Where several match (`gpt2` lies within `gpt2-large`),
those that are named at greatest length count; the published scripts take the one that comes first in their file. The
few documented APIs that are no call with arguments (a shell command) match where they are repeated to the letter; the
scripts never match them.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ragdist.data.matching import flat
from ragdist.records import Chunk, Prediction, Question

Hub = Literal["torch", "tensorflow", "huggingface"]
_OPENING = re.compile(r"[A-Za-z_][\w.]*\(")
_KEYWORD = re.compile(r"\s*(\w+)\s*=(?!=)")
_QUOTES = "\"'`"


class Call(NamedTuple):
    """A call in a text. Example: Call(function="hub.load", positional=("https://...",), keywords={}, text="...")."""

    function: str
    positional: tuple[str, ...]
    """Values in source form, strings without their quotes."""
    keywords: dict[str, str]
    text: str
    """The whole call."""


class ApiCalls(NamedTuple):
    """Shares of answers. Example: ApiCalls(rows=100, accuracy=0.61, made_up=0.12)."""

    rows: int
    accuracy: float
    """Whose call is a documented API of the right domain."""
    made_up: float
    """Whose call is no documented API."""


@dataclass(frozen=True, slots=True)
class ApiTally:
    """Counts over answers, so that shards merge by `+` to what the whole would give. Example: ApiTally(100, 61, 12)."""

    rows: int = 0
    right: int = 0
    made_up: int = 0

    def __add__(self, other: ApiTally) -> ApiTally:
        return ApiTally(self.rows + other.rows, self.right + other.right, self.made_up + other.made_up)

    @property
    def shares(self) -> ApiCalls:
        """The counts as shares; zeros where there are no rows."""
        rows = max(self.rows, 1)
        return ApiCalls(self.rows, self.right / rows, self.made_up / rows)


class Database:
    """The documented APIs of one hub, to look calls up in."""

    def __init__(self, hub: Hub, apis: Iterable[tuple[str, str]]) -> None:
        """
        Args:
            hub: whose rule tells what names an API.
            apis: (api_call, domain) of each.
        """
        self._by_function: dict[str, set[tuple[tuple[str, ...], str]]] = {}
        for api_call, domain in apis:
            named = ((call.function, _naming(call, hub)) for call in calls(api_call))
            function, names = next((found for found in named if found[1]), ("", (flat(api_call),)))
            self._by_function.setdefault(function, set()).add((names, domain))

    def domains(self, answer: str) -> set[str] | None:
        """Domains of the API that the answer calls: of the first call that is documented, outer calls first; empty when
        none is, None where nothing is called."""
        made, whole = calls(called(answer)), Call("", (), {}, flat(answer))
        for call in (*made, whole):
            known = self._by_function.get(call.function, ())
            found = [(sum(map(len, names)), domain) for names, domain in known if all(n in call.text for n in names)]
            if found:
                return {domain for length, domain in found if length == max(found)[0]}
        return set() if made else None


class Judge:
    """Judges the answers to APIBench's questions; it knows all documents of the corpus."""

    def __init__(self, questions: Iterable[Question], chunks: Mapping[str, Chunk]) -> None:
        """
        Args:
            questions: those that are judged; those of other datasets are passed over.
            chunks: the corpus, each chunk the JSON of an API with `api_call` and `domain`; others are passed over.
        """
        asked = [question for question in questions if question.dataset.startswith("apibench")]
        found = ((chunk.id, _api(chunk)) for chunk in chunks.values()) if asked else ()
        apis = {chunk_id: api for chunk_id, api in found if api}
        self._wanted: dict[str, tuple[Hub, str]] = {}
        for question in asked:
            for api_call, domain in (apis[i] for i in question.oracle_ids if i in apis):
                self._wanted.setdefault(question.id, (_hub(api_call), domain))
        self._databases = {
            hub: Database(hub, (api for api in apis.values() if _hub(api[0]) == hub)) for hub in get_args(Hub)
        }

    def tally(self, predictions: Iterable[Prediction]) -> ApiTally:
        """Counts over the answers to questions whose API is known. Untagged answers are read whole: code has many
        lines."""
        rows = right = made_up = 0
        for said in predictions:
            if said.question_id in self._wanted:
                hub, wanted = self._wanted[said.question_id]
                domains = self._databases[hub].domains(said.answer if said.tagged else said.text)
                rows, right, made_up = rows + 1, right + (wanted in (domains or ())), made_up + (domains == set())
        return ApiTally(rows, right, made_up)


def called(answer: str) -> str:
    """The part of an answer that holds the call: under `api_call` in APIBench's own form, else all of it."""
    _, found, rest = answer.partition("api_call")
    return rest.partition("api_provider")[0] if found else answer


def calls(code: str) -> list[Call]:
    """The calls in a piece of code, outer ones first; where it is no Python, as prose around it, those that can be made
    out by their brackets."""
    try:
        with warnings.catch_warnings():  # an odd escape in a model's string is nobody's concern
            warnings.simplefilter("ignore")
            tree = ast.parse(code.strip().strip("`"))
            return [_of_node(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [_of_text(code[at.start() :]) for at in _OPENING.finditer(code)]


def _of_node(node: ast.Call) -> Call:
    keywords = {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    return Call(ast.unparse(node.func), tuple(map(_value, node.args)), keywords, ast.unparse(node))


def _value(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _of_text(text: str) -> Call:
    """The call that the text begins with. APIBench itself has some that Python refuses: `f(a='x', 'y')`."""
    function, _, rest = text.partition("(")
    positional, keywords = [], {}
    arguments = list(_split(rest))
    for argument in arguments:
        keyword = _KEYWORD.match(argument)
        value = argument[keyword.end() if keyword else 0 :].strip().strip(_QUOTES)
        if keyword:
            keywords[keyword[1]] = value
        elif value:
            positional.append(value)
    return Call(function, tuple(positional), keywords, f"{function}({','.join(arguments)})")


def _split(text: str) -> Iterator[str]:
    """The arguments up to the bracket that closes the call, or to the end; commas in strings and brackets part none."""
    depth, quote, start = 0, "", 0
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}" and depth:
            depth -= 1
        elif character in ",)" and not depth:
            yield text[start:at]
            start = at + 1
            if character == ")":
                return
    yield text[start:]


def _hub(api_call: str) -> Hub:
    """Where a documented API lives, which its call tells."""
    if "torch.hub.load(" in api_call:
        return "torch"
    return "tensorflow" if re.search(r"\bhub\.\w+\(|tfhub\.dev", api_call) else "huggingface"


def _naming(call: Call, hub: Hub) -> tuple[str, ...]:
    """The values that name the API; none where this call is not the one that does."""
    if hub == "torch":
        given = dict(zip(("repo_or_dir", "model"), call.positional, strict=False)) | call.keywords
        return tuple(given[name] for name in ("repo_or_dir", "model") if given.get(name))
    if hub == "tensorflow":
        handle = call.keywords.get("handle") or next(iter(call.positional), "")
        return () if not handle or "(" in handle else (handle,)
    return tuple(value for value in (*call.positional, *call.keywords.values()) if value)


def _api(chunk: Chunk) -> tuple[str, str] | None:
    """(api_call, domain) of a document; None where it is not of that form."""
    try:
        row = json.loads(chunk.text)
    except ValueError:
        return None
    known = isinstance(row, dict) and isinstance(row.get("api_call"), str) and isinstance(row.get("domain"), str)
    return (row["api_call"], row["domain"]) if known else None
