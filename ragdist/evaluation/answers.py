"""Is this answer right? It is compared as prose, as code, or as a label.

Prose is compared after SQuAD's normalisation, or Unicode's where `evaluation.normalise` says so. Code answers (`None`,
`-1`, `'utf-8'`) are compared as Python expressions, because that normalisation deletes punctuation and would make `-1`
equal to `1`.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ragdist.data.matching import Form, contains, is_bare, normalise, saying, words
from ragdist.errors import DataError
from ragdist.records import Question

VERSION = 2
"""Raised by hand whenever the same text could score otherwise; stored predictions are then asked again."""

Metric = Literal["text", "hotpot", "code"]
LABELS = ("yes", "no", "maybe")
_CODE_TOKEN = re.compile(
    r"""(?<!\w)[rbuRBU]{0,2}(?:'[^'\n]*'|"[^"\n]*")|(?<![\w.)\]])-?\d(?:[\w.]*\w)?(?:(?<=[eE])[-+]\d+)?|\w+|[^\w\s]"""
)


class Score(NamedTuple):
    """How right one answer is, each number in [0, 1]. Example: Score(em=0.0, f1=0.5, subspan=1.0)."""

    em: float
    f1: float
    subspan: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over rows, so that shards merge by `+` to what the whole would give. Example: Tally(2, 1.0, 1.5, 1.0)."""

    rows: int = 0
    em: float = 0.0
    f1: float = 0.0
    subspan: float = 0.0

    @staticmethod
    def of(scores: Iterable[Score]) -> Tally:
        """The sums over these scores."""
        rows = list(scores)
        return Tally(len(rows), *(math.fsum(column) for column in zip(*rows, strict=True)))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.rows + other.rows, self.em + other.em, self.f1 + other.f1, self.subspan + other.subspan)

    @property
    def mean(self) -> Score:
        """The mean score; zeros where there are no rows."""
        rows = max(self.rows, 1)
        return Score(self.em / rows, self.f1 / rows, self.subspan / rows)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Answers of yes, no and maybe counted by (right label, given label), so that shards merge by `+`."""

    pairs: Counter[tuple[str, str]]

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.pairs + other.pairs)

    def labels(self, labels: Sequence[str] = LABELS) -> Labels:
        """Accuracy and macro-F1 over the labels that occur; rows whose truth is not among them are left out."""
        pairs = Counter({pair: count for pair, count in self.pairs.items() if pair[0] in labels})
        rows = sum(pairs.values())
        right = sum(count for (wanted, said), count in pairs.items() if wanted == said)
        scores = []
        for label in labels:
            involved = sum(count * pair.count(label) for pair, count in pairs.items())
            if involved:
                scores.append(2 * pairs[label, label] / involved)
        return Labels(rows, right / max(rows, 1), sum(scores) / max(len(scores), 1))


class Labels(NamedTuple):
    """Accuracy on yes/no/maybe. Example: Labels(rows=4, accuracy=0.75, macro_f1=0.6)."""

    rows: int
    accuracy: float
    macro_f1: float


def exact_match(prediction: str, golds: Iterable[str], form: Form = "squad") -> float:
    """1.0 when the prediction equals any gold after normalisation."""
    said = normalise(prediction, form)
    return float(any(said == normalise(gold, form) for gold in golds))


def subspan_match(prediction: str, golds: Iterable[str], form: Form = "squad") -> float:
    """1.0 when the normalised prediction contains any normalised gold, character by character; never the reverse."""
    said = normalise(prediction, form)
    return float(any(normalise(gold, form) in said for gold in golds))


def f1(prediction: str, golds: Iterable[str], form: Form = "squad") -> float:
    """Best bag-of-words F1 over the golds, after normalisation; 0.0 without overlap."""
    said = normalise(prediction, form).split()
    return max((_overlap(said, normalise(gold, form).split()) for gold in golds), default=0.0)


def hotpot_f1(prediction: str, golds: Iterable[str], form: Form = "squad") -> float:
    """As `f1`, but 0.0 when one side is yes, no or noanswer and the other is not the same."""
    closed, said = {"yes", "no", "noanswer"}, normalise(prediction, form)
    plain = {gold: normalise(gold, form) for gold in golds}
    return f1(prediction, [g for g, name in plain.items() if name == said or not closed & {said, name}], form)


def code_match(prediction: str, golds: Iterable[str]) -> float:
    """1.0 when the prediction is the same Python expression as any gold.

    `"a"` is `'a'`, `1e-05` is `0.00001`, `(1,2)` is `(1, 2)`; `-1` is not `1`, `True` is not `1`, `'a'` is not `a`.
    Text that is no expression must be equal up to white space. Backticks around it are markup and ignored.
    """
    said = _expression(prediction)
    return float(any(said == _expression(gold) for gold in golds))


def metric_of(dataset: str) -> Metric:
    """How answers of a dataset are compared: API documentation and APIBench as code, HotpotQA with its own F1."""
    if dataset.startswith(("apidocs", "apibench")):
        return "code"
    return "hotpot" if dataset == "hotpotqa" else "text"


def usable(question: Question, form: Form = "squad") -> tuple[str, ...]:
    """The answers that can be scored, see `matching.saying`: nothing would be contained in everything.

    Raises:
        DataError: none is left.
    """
    code = metric_of(question.dataset) == "code"
    golds = tuple(filter(_expression, question.answers)) if code else saying(question.answers, form)
    if not golds:
        raise DataError(
            f"question {question.id!r} has no answer that can be scored, got {list(question.answers)}; "
            "a test question needs one with a letter or a digit in it"
        )
    return golds


def score(answer: str, question: Question, form: Form = "squad") -> Score:
    """Scores of an extracted answer, by the metric of the question's dataset; `form` is for prose alone.

    Where all answers are required: Subspan wants every one contained, EM wants the same words as all of them together
    in any order (commas and `and` aside), F1 compares with all of them together.

    Raises:
        DataError: see `usable`.
    """
    golds, metric = usable(question, form), metric_of(question.dataset)
    if metric == "code":
        code_f1 = max(_overlap(_code_tokens(answer), _code_tokens(gold)) for gold in golds)
        return Score(code_match(answer, golds), code_f1, float(any(states(answer, g, "code") for g in golds)))
    if question.all_answers_required:
        said, wanted = _listed(answer, golds, form), _listed(", ".join(golds), golds, form)
        contained = all(_score_one(answer, gold, form, metric).subspan for gold in golds)
        return Score(float(sorted(said) == sorted(wanted)), _overlap(said, wanted), float(contained))
    return Score(*map(max, zip(*(_score_one(answer, gold, form, metric) for gold in golds), strict=True)))


def _score_one(answer: str, gold: str, form: Form, metric: Metric) -> Score:
    """Against one gold. Where the normal form leaves nothing of it, as of "A", words are compared, articles and all,
    and it is contained where it stands with its own case; so are single letters in Unicode's form.
    """
    if not normalise(gold, form):
        said, wanted = words(answer).split(), words(gold).split()
        return Score(float(said == wanted), _overlap(said, wanted), float(said == wanted or contains(answer, gold)))
    em, by_words = exact_match(answer, [gold], form), hotpot_f1 if metric == "hotpot" else f1
    alone = form == "unicode" and is_bare(gold)
    subspan = float(em or contains(answer, gold)) if alone else subspan_match(answer, [gold], form)
    return Score(em, by_words(answer, [gold], form), subspan)


def states(answer: str, value: str, metric: Metric) -> bool:
    """Whether the answer contains the value: by `matching.contains` (prose, any script), or as whole tokens (code)."""
    if metric != "code":
        return contains(answer, value)
    said, wanted = _code_tokens(answer), _code_tokens(value)
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def same(answer: str, other: str, metric: Metric, form: Form = "squad") -> bool:
    """Whether two answers are one: the same code expression, or prose that is equal after normalisation."""
    return bool(code_match(answer, [other]) if metric == "code" else _score_one(answer, other, form, "text").em)


def repeats(answer: str, question: Question, wrong: Iterable[str], form: Form = "squad") -> bool:
    """Whether the answer gives one of the wrong values: equals it, or names it and no right answer."""
    metric, golds = metric_of(question.dataset), usable(question, form)
    named_right = any(states(answer, gold, metric) for gold in golds)

    def given(value: str) -> bool:
        return same(answer, value, metric, form) or (states(answer, value, metric) and not named_right)

    return any(map(given, wrong))


def pubmed_label(answer: str) -> str:
    """yes, no or maybe when it is the first word of the answer, else the empty label, which is never right."""
    first = (normalise(answer).split() or [""])[0]
    return first if first in LABELS else ""


def pubmed_accuracy(truth: Mapping[str, str], predicted: Mapping[str, str], labels: Sequence[str] = LABELS) -> Labels:
    """Accuracy and macro-F1 (over the labels that occur), rows whose truth is not among `labels` left out.

    Args:
        truth: right label by question id.
        predicted: label by question id, `pubmed_label` of the answer.
        labels: all three, or ("yes", "no") for the 2-way reading.

    Raises:
        DataError: the two do not hold the same ids.
    """
    if truth.keys() != predicted.keys():
        raise DataError(
            f"labels of {len(truth)} questions and predictions for {len(predicted)} differ in "
            f"{len(truth.keys() ^ predicted.keys())} ids; every question needs exactly one prediction"
        )
    return Confusion(Counter((right, predicted[key]) for key, right in truth.items())).labels(labels)


def _overlap(said: Sequence[str], wanted: Sequence[str]) -> float:
    same = sum((Counter(said) & Counter(wanted)).values())
    return 2 * same / (len(said) + len(wanted)) if same else 0.0


def _listed(text: str, golds: Sequence[str], form: Form) -> list[str]:
    """The words of a list; those of `words`, articles and all, where a gold is an article."""
    if not all(normalise(gold, form) for gold in golds):
        return [word for word in words(text).split() if word != "and"]
    commas = "[,;]" if form == "squad" else "[,;\uff0c\uff1b\u3001\u060c\u061b]"
    return [word for word in normalise(re.sub(commas, " ", text), form).split() if word != "and"]


def _expression(text: str) -> str:
    bare = " ".join(text.strip().strip("`").split())
    try:
        with warnings.catch_warnings():  # the text is a model's: an odd escape in it is nobody's concern
            warnings.simplefilter("ignore")
            return ast.unparse(ast.parse(bare, mode="eval"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return bare


def _code_tokens(text: str) -> list[str]:
    return [_expression(token) for token in _CODE_TOKEN.findall(text)]
