"""Python documentation on this machine as a corpus: a chunk a function, questions whose answers stand in signatures."""

from __future__ import annotations

import ast
import heapq
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib import metadata

from ragdist.data.questions import split_of
from ragdist.data.sources.signatures import STDLIB, Default, Function, functions, origin
from ragdist.draws import draw
from ragdist.errors import DataError
from ragdist.records import Chunk, Question, Split, content_id

VERSION = 1
"""Raised by hand whenever the same packages give other chunks or questions."""
LONGEST = 30
"""Characters of the longest default that is asked for."""
NEAR_MISSES, WRONG_ANSWERS = 8, 5
"""At most so many of a question's."""
FEWEST_OTHERS = 4
"""Functions with another default of the same parameter that a question needs, as a context of five has distractors."""
COMMON_CUT = 4
"""How many times fewer questions have the answer that is most frequent over all parameters (`None`)."""
_NAME = re.compile(r"([A-Za-z]\w*\.)*[A-Za-z]\w*")
_SENTINEL = re.compile(r"sentinel|missing|not_?set|unset|undefined|unspecified|no_?value|no_?default", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A parameter whose default can be asked for."""

    function: Function
    chunk_id: str
    parameter: str
    default: Default
    meaning: str
    """Equal for equal defaults, however they are written: 1e-5 and 0.00001."""
    split: Split

    @property
    def id(self) -> str:
        return content_id("apidocs", self.function.path, self.parameter)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """What the chunks and questions depend on: the version of each package, of Python's documentation, of griffe. A
    DataError if a package is not installed."""
    return {name: _version(name) for name in ("griffe", *packages)}


def read(packages: Sequence[str], seed: int, test_fraction: float) -> tuple[list[Chunk], list[Question]]:
    """A chunk for each documented public function, and questions about their parameters' defaults.

    Packages (`stdlib` is the standard library) are read from their files, never imported. A function's questions are
    all in one split. What the parameter's name alone gives away is dropped: questions with fewer than four functions
    that share the name and not the value, and with them names of one value; of each name's values the most frequent
    beyond the number of the second; of `None`, the most frequent over all names, three quarters of what is left, and
    the others again beyond the second. Which ones stay is drawn by `seed`. What a guess from the name still scores is
    in `floor`: 0.74 over all defaults and 0.12 over those that stay, with the default packages; 0.20 if it knows 160
    training questions only. It is not the best guess: as values are even, avoiding the frequent one would score higher.

    Near misses are functions with the same parameter and another default, wrong answers are those defaults: first the
    ones that training questions have for an answer, among these the most frequent in training functions. A DataError if
    a package is not installed or not documented, or no parameter has several values.
    """
    found = functions(packages)
    chunks = [_chunk(function) for function in found]
    by_name: defaultdict[str, list[_Asked]] = defaultdict(list)
    for function, chunk in zip(found, chunks, strict=True):
        split = split_of(function.path, test_fraction, seed)
        for parameter, default in function.defaults.items():
            if _is_telling(parameter, default.value):
                one = _Asked(function, chunk.id, parameter, default, _meaning(default.value), split)
                by_name[parameter].append(one)
    common = _most_frequent(one.meaning for group in by_name.values() for one in group)
    kept = [one for group in by_name.values() for one in _balanced(group, common, seed)]
    if not kept:
        raise DataError(f"packages {list(packages)} have no parameter with several defaults; add to corpus.packages")
    trained = {one.meaning for one in kept if one.split == "train"}
    return chunks, [_question(one, by_name[one.parameter], trained) for one in sorted(kept, key=lambda one: one.id)]


def floor(train: Sequence[Question], test: Sequence[Question]) -> dict[str, str]:
    """What a guess from the topic alone answers to each test question, by its id.

    It is the topic's most frequent training answer, for an unknown topic the most frequent of all; "" without training
    questions.
    """
    by_topic: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        by_topic[question.topic][question.answers[0]] += 1
    overall = _most_frequent(question.answers[0] for question in train)
    guesses = {topic: _most_frequent(answers.elements()) for topic, answers in by_topic.items()}
    return {question.id: guesses.get(question.topic, overall) for question in test}


def _most_frequent(answers: Iterable[str]) -> str:
    """The most frequent one, of equally frequent ones the first by alphabet; "" of none."""
    return min(Counter(answers).items(), key=lambda item: (-item[1], item[0]), default=("", 0))[0]


def _balanced(group: Sequence[_Asked], common: str, seed: int) -> list[_Asked]:
    """One parameter's questions, the frequent defaults cut as `read` says."""
    values = Counter(one.meaning for one in group)
    group = [one for one in group if len(group) - values[one.meaning] >= FEWEST_OTHERS]
    limits = _cut_first(Counter(one.meaning for one in group))
    if common in limits:
        limits = _cut_first({**limits, common: max(1, limits[common] // COMMON_CUT)})
    kept: list[_Asked] = []
    for one in sorted(group, key=lambda one: draw(seed, "apidocs", one.id)):
        if len(limits) > 1 and limits[one.meaning]:
            limits[one.meaning] -= 1
            kept.append(one)
    return kept


def _cut_first(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, none of them above the second largest."""
    limit = sorted(counts.values())[-2:][0] if counts else 0
    return {value: min(count, limit) for value, count in counts.items()}


def _question(one: _Asked, group: Sequence[_Asked], trained: Set[str]) -> Question:
    others = [other for other in group if other.meaning != one.meaning]
    near = heapq.nsmallest(NEAR_MISSES, others, key=lambda other: _distance(one.function.path, other.function.path))
    source = {other.meaning: other.default.value for other in reversed(others)}
    shown = Counter(other.meaning for other in others if other.split == "train")
    wrong = sorted(source, key=lambda meaning: (meaning not in trained, -shown[meaning], meaning))[:WRONG_ANSWERS]
    return Question(
        id=one.id,
        text=f"What is the default of `{one.parameter}` in `{one.function.path}`?",
        answers=(one.default.value,),
        oracle_ids=(one.chunk_id,),
        split=one.split,
        near_miss_ids=tuple(other.chunk_id for other in near),
        wrong_answers=tuple(source[meaning] for meaning in wrong),
        reasoning=f"The signature says ##begin_quote##{one.default.shown}##end_quote##, "
        f"so the default of `{one.parameter}` is {one.default.value}.",
        topic=one.parameter,
        dataset="apidocs",
    )


def _distance(path: str, other: str) -> tuple[bool, int, str]:
    """Orders other functions: those of the same name first, then those that share most of the path."""
    here, there = path.split("."), other.split(".")
    shared = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    return here[-1] != there[-1], -shared, other


def _chunk(function: Function) -> Chunk:
    return Chunk(
        id=content_id(function.path, function.text),
        document_id=content_id("apidocs", function.path.rpartition(".")[0]),
        title=function.path,
        text=function.text,
    )


def _is_telling(parameter: str, value: str) -> bool:
    """Whether a default can be asked for: a short literal or public name, no sentinel, no call, no `...`."""
    if parameter.startswith("_") or len(value) > LONGEST or value == "..." or _SENTINEL.search(value):
        return False
    return _is_literal(value) or _NAME.fullmatch(value) is not None


def _is_literal(value: str) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return False
    return True


def _meaning(value: str) -> str:
    return repr(ast.literal_eval(value)) if _is_literal(value) else value


def _version(package: str) -> str:
    if package == STDLIB:
        return platform.python_version()
    file = origin(package)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        pass
    if distributions := metadata.packages_distributions().get(package):
        return metadata.version(distributions[0])
    files = sorted(file.parent.rglob("*.py")) if file.stem == "__init__" else [file]
    return content_id(*(path.read_text(encoding="utf-8", errors="replace") for path in files))
