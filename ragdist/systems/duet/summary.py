"""What DuetRAG's arbiter is worth: how often it helps and harms, and whether its confidences can be believed.

A selector is an arbiter that answers with one of the two answers given to it; a summarizer may write a third.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from ragdist.config import Settings
from ragdist.data.matching import Form
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.evaluation.intervals import Bounds, Change, Interval, interval, together
from ragdist.evaluation.predictions import score_of
from ragdist.evaluation.summary import PredictionsById, compare
from ragdist.records import Prediction, Question, Verdict
from ragdist.systems.duet.abstention import Selective, Sure, selective
from ragdist.systems.duet.calibration import Calibration

EITHER = "either (upper bound)"
REPORTED: Literal["em", "subspan"] = "subspan"
"""The metric of all reports; what an arbiter is taught by is `duet.right_by`."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Questions counted by whether (reciter, discoverer, arbiter) is right, so that shards merge by `+`."""

    counts: Counter[tuple[bool, bool, bool]]

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.counts + other.counts)

    def count(self, *, reciter: bool | None = None, discoverer: bool | None = None, arbiter: bool | None = None) -> int:
        """Questions with these outcomes; None is either. Example: count(discoverer=False, arbiter=True) were helped."""
        wanted = (reciter, discoverer, arbiter)
        return sum(
            count
            for outcome, count in self.counts.items()
            if all(want in (None, found) for want, found in zip(wanted, outcome, strict=True))
        )

    @property
    def rows(self) -> int:
        return self.counts.total()

    @property
    def both(self) -> int:
        """Questions that reciter and discoverer answer right: no selector scores less."""
        return self.count(reciter=True, discoverer=True)

    @property
    def neither(self) -> int:
        """Questions that neither of the two answers right: no selector can help."""
        return self.count(reciter=False, discoverer=False)

    @property
    def one(self) -> int:
        """Questions that just one of the two answers right: where an arbiter decides."""
        return self.rows - self.both - self.neither

    @property
    def one_taken(self) -> int:
        """Those of `one` that the arbiter answers right."""
        return sum(self.count(reciter=right, discoverer=not right, arbiter=True) for right in (True, False))

    @property
    def helped(self) -> int:
        """Questions that the discoverer answers wrong and the arbiter right."""
        return self.count(discoverer=False, arbiter=True)

    @property
    def harmed(self) -> int:
        """Questions that the discoverer answers right and the arbiter wrong."""
        return self.count(discoverer=True, arbiter=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArbiterEffect:
    """One arbiter under one condition.

    Example: ArbiterEffect(arbiter="alignment", condition="retrieved", metric="subspan", outcomes=Outcomes(...), ...)
    """

    arbiter: str
    condition: str
    """What the discoverer was shown."""
    metric: Literal["em", "subspan"]
    """That says whether an answer is right."""
    outcomes: Outcomes
    """Over all questions."""
    differing: Outcomes
    """Over those whose two answers differ (after normalisation, or as code); elsewhere there is nothing to decide."""
    reciter: Interval
    discoverer: Interval
    accuracy: Interval
    """The arbiter's, over all questions, as the two before."""
    either: Interval
    """Share of questions that one of the two answers right: what a perfect selector would reach."""
    against_reciter: Change
    against_discoverer: Change
    calibration: Calibration | None
    """Of the confidences in both sides' answers; None where the arbiter gives none."""
    selective: Selective | None
    """Of the confidences in the answers taken where they differ; None likewise."""
    order_effect: Interval | None
    """Share of `differing` whose final answer changes when the two answers change places; None where not tried."""

    @property
    def against_better(self) -> Change:
        """The change from the side that is right more often over all questions; the discoverer where both are."""
        return self.against_reciter if self.reciter.mean > self.discoverer.mean else self.against_discoverer

    @property
    def effect(self) -> Literal["helps", "harms", "not shown"]:
        """Whether the difference to the better of the two may be called one, and which way it goes."""
        better = self.against_better
        if not better.shown:
            return "not shown"
        return "helps" if better.change.mean > 0 else "harms"


def predictions(
    verdicts: Iterable[Verdict],
    reciter: Iterable[Prediction],
    discoverer: Iterable[Prediction],
    questions: Iterable[Question],
    label: str,
    form: Form,
    wrong: Mapping[str, Sequence[str]] | None = None,
) -> list[Prediction]:
    """DuetRAG's answers as those of one more model under the discoverer's condition, in the order of the verdicts.

    The prediction of the side whose answer it is word for word goes on under the new name; a third answer is scored.
    Verdicts on other questions are left out.

    Args:
        verdicts: at most one for each question.
        reciter: its predictions without documents.
        discoverer: its predictions under one condition.
        questions: those to report on.
        label: the new model's name.
        form: how answers are compared, `evaluation.normalise`.
        wrong: what each question's forgeries state (`Case.wrong`), so that a third answer can be seen to repeat them.

    Raises:
        DataError: a verdict is on a question that one of the two did not answer.
    """
    asked = {question.id: question for question in questions}
    recited, found = _by_question(reciter), _by_question(discoverer)
    out = []
    for verdict in verdicts:
        question = asked.get(verdict.question_id)
        if question is None:
            continue
        for name, group in (("reciter", recited), ("discoverer", found)):
            if question.id not in group:
                raise DataError(
                    f"the arbiter of {label} judged question {question.id!r}, which the {name} did not answer; "
                    "both need to be asked all that is judged, closed_book and the condition at hand"
                )
        sides = [found[question.id], recited[question.id]]
        if verdict.chosen == "reciter":
            sides.reverse()
        said = next((side for side in sides if side.answer == verdict.answer), None)
        stated = (wrong or {}).get(question.id, ())
        said = said or _third(verdict.answer, question, sides[0], stated, form)
        out.append(_renamed(said, label, found[question.id]))
    return out


def either(reciter: Iterable[Prediction], discoverer: Iterable[Prediction], label: str = EITHER) -> list[Prediction]:
    """The upper bound of every selector: for each question the better of the two, by EM, then F1, then Subspan EM.

    Each score is the better one of the two, so that the bound holds by every metric.
    """
    recited = _by_question(reciter)
    out = []
    for shown in discoverer:
        if other := recited.get(shown.question_id):
            best = max(shown, other, key=score_of)
            em, f1, subspan = map(max, score_of(shown), score_of(other))
            out.append(replace(_renamed(best, label, shown), em=em, f1=f1, subspan=subspan))
    return out


def worth(
    verdicts: Sequence[Verdict],
    reciter: Iterable[Prediction],
    discoverer: Iterable[Prediction],
    questions: Iterable[Question],
    label: str,
    settings: Settings,
    swapped: Sequence[Verdict] = (),
) -> ArbiterEffect:
    """What these verdicts are worth beside the two answers that they are on.

    Args:
        verdicts: of one arbiter under one condition.
        reciter: its predictions without documents.
        discoverer: its predictions under the condition.
        questions: those to report on; verdicts on others are left out.
        label: the arbiter's name.
        settings: `duet.right_by` (for confidences), `duet.abstain_below`, `evaluation.normalise`, `.resamples` and the
            seed are read.
        swapped: the same arbiter's verdicts with the two answers in each other's place.

    Raises:
        DataError: no verdict is on any of the questions, or one is on a question that one of the two did not answer.
    """
    asked = {question.id: question for question in questions}
    recited, found = _by_question(reciter), _by_question(discoverer)
    config, form = settings.evaluation, settings.evaluation.normalise
    bounds = partial(interval, resamples=config.resamples, seed=settings.seed)
    made = _by_question(predictions(verdicts, recited.values(), found.values(), asked.values(), label, form))
    if not made:
        raise DataError(
            f"none of {len(verdicts)} verdicts of {label} is on one of {len(asked)} questions; raise "
            "questions.test_rows, or add a condition to evaluation.conditions that allows them"
        )
    metric = REPORTED
    outcomes: dict[str, tuple[bool, bool, bool]] = {
        key: (_right(recited[key], metric), _right(found[key], metric), _right(made[key], metric)) for key in made
    }
    differing = {key: asked[key] for key in made if not same(recited[key].answer, found[key].answer, asked[key], form)}
    total = Outcomes(Counter(outcomes.values()))
    return ArbiterEffect(
        arbiter=label,
        condition=next(iter(made.values())).condition,
        metric=metric,
        outcomes=total,
        differing=Outcomes(Counter(outcomes[key] for key in differing)),
        reciter=_share(total.count(reciter=True), total.rows, bounds),
        discoverer=_share(total.count(discoverer=True), total.rows, bounds),
        accuracy=_share(total.count(arbiter=True), total.rows, bounds),
        either=_share(total.both + total.one, total.rows, bounds),
        against_reciter=compare({key: recited[key] for key in made}, made, metric, config, settings.seed),
        against_discoverer=compare({key: found[key] for key in made}, made, metric, config, settings.seed),
        calibration=_calibration(verdicts, recited, found, settings.duet.right_by),
        selective=_selective(verdicts, recited, found, settings),
        order_effect=_order_effect(verdicts, swapped, differing, form, bounds),
    )


def compared(worths: Sequence[ArbiterEffect]) -> list[ArbiterEffect]:
    """These arbiters as one table for each condition, whose comparisons with both sides are corrected together."""
    found = list(worths)
    for condition in dict.fromkeys(one.condition for one in found):
        at = [number for number, one in enumerate(found) if one.condition == condition]
        changes = together(
            [c for number in at for c in (found[number].against_reciter, found[number].against_discoverer)]
        )
        for number, reciter, discoverer in zip(at, changes[::2], changes[1::2], strict=True):
            found[number] = replace(found[number], against_reciter=reciter, against_discoverer=discoverer)
    return found


def _right(prediction: Prediction, metric: Literal["em", "subspan"]) -> bool:
    return bool(getattr(prediction, metric) == 1.0)


def same(one: str, other: str, question: Question, form: Form) -> bool:
    """Whether two answers to a question are one and the same."""
    return answers.same(one, other, answers.metric_of(question.dataset), form)


def _share(count: int, rows: int, bounds: Bounds) -> Interval:
    return bounds([1.0] * count + [0.0] * (rows - count))


def _order_effect(
    verdicts: Iterable[Verdict],
    swapped: Iterable[Verdict],
    differing: Mapping[str, Question],
    form: Form,
    bounds: Bounds,
) -> Interval | None:
    turned = {verdict.question_id: verdict.answer for verdict in swapped}
    moved = [
        not same(verdict.answer, turned[verdict.question_id], differing[verdict.question_id], form)
        for verdict in verdicts
        if verdict.question_id in differing and verdict.question_id in turned
    ]
    return _share(sum(moved), len(moved), bounds) if moved else None


def _calibration(
    verdicts: Iterable[Verdict],
    reciter: Mapping[str, Prediction],
    discoverer: Mapping[str, Prediction],
    metric: Literal["em", "subspan"],
) -> Calibration | None:
    """Of the confidences against what is right by the metric that the arbiter was taught by."""
    points = []
    for verdict in verdicts:
        key = verdict.question_id
        if key in reciter and key in discoverer:
            points.append((verdict.reciter_confidence, _right(reciter[key], metric)))
            points.append((verdict.discoverer_confidence, _right(discoverer[key], metric)))
    known = [(confidence, right) for confidence, right in points if confidence is not None]
    return Calibration.of(known) if known else None


def _selective(
    verdicts: Iterable[Verdict],
    reciter: Mapping[str, Prediction],
    discoverer: Mapping[str, Prediction],
    settings: Settings,
) -> Selective | None:
    """Of the answers taken with a confidence, right by the metric that the arbiter was taught by."""
    taken = []
    for verdict in verdicts:
        side = reciter if verdict.chosen == "reciter" else discoverer
        if verdict.confidence is not None and verdict.question_id in side:
            right = _right(side[verdict.question_id], settings.duet.right_by)
            taken.append(Sure(verdict.question_id, verdict.confidence, right))
    return selective(taken, settings.duet.abstain_below, settings.evaluation.resamples, settings.seed)


def _third(answer: str, question: Question, like: Prediction, wrong: Sequence[str], form: Form) -> Prediction:
    """An answer that neither side gave, scored again."""
    em, f1, subspan = answers.score(answer, question, form)
    return replace(
        like,
        text=answer,
        answer=answer,
        tagged=True,
        em=em,
        f1=f1,
        subspan=subspan,
        states_forgery=answers.repeats(answer, question, wrong, form) if wrong else None,
        quotes_valid=None,
        ended=True,
    )


def _renamed(said: Prediction, label: str, shown: Prediction) -> Prediction:
    """The answer as another model's; what was retrieved and cut is the condition's, whoever answered."""
    return replace(
        said,
        model=label,
        condition=shown.condition,
        retrieved_oracle=shown.retrieved_oracle,
        cut_tokens=shown.cut_tokens,
        perplexity=None,
    )


def _by_question(predictions: Iterable[Prediction]) -> PredictionsById:
    return {prediction.question_id: prediction for prediction in predictions}
