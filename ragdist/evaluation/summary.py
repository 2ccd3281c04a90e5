"""What the answers to a test set say: scores with intervals, paired changes, attacks, and the floor without reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ragdist.config import EvaluationConfig, Settings
from ragdist.data.matching import Form, normalise
from ragdist.data.sources import hub
from ragdist.evaluation import answers, intervals
from ragdist.evaluation.answers import LABELS
from ragdist.evaluation.apicalls import Judge
from ragdist.evaluation.intervals import Bounds, Change, interval, together
from ragdist.evaluation.report import CONDITIONS, METRICS, MIXED, Attack, Cell, Floor, Metric, Report, Utilization
from ragdist.records import Prediction, Question

RIGHT_OR_WRONG: tuple[Metric, ...] = ("subspan", "em")
OWN = ("own",)
WITH_DOCUMENTS = ("oracle", "retrieved")
"""Honest lists, whose use by the model is looked at."""
PredictionsById = dict[str, Prediction]
"""Predictions of one model under one condition, by question id."""


def summarise(
    asked: Mapping[str, Iterable[Prediction]],
    questions: Iterable[Question],
    settings: Settings,
    floor: Mapping[str, str],
    floor_name: str = "parameter name alone",
    api_judge: Judge | None = None,
) -> Report:
    """Scores of every model and condition, and the change from the first model to each other.

    Predictions of other questions are left out, so that one dataset of several can be a report of its own.

    Args:
        asked: predictions by label, the untuned model first.
        questions: those to report on.
        settings: `evaluation.resamples`, `prompts.answer`, `corpus.source` and the seed are read.
        floor: what someone would answer who did not read, by question id; may be empty.
        floor_name: what that someone knows.
        api_judge: who judges the API calls of APIBench's questions; None leaves that score out.
    """
    config, seed, reasoned = settings.evaluation, settings.seed, settings.prompts.answer == "reasoned"
    bounds = partial(interval, resamples=config.resamples, seed=seed)
    by_id = {question.id: question for question in questions}
    groups: dict[tuple[str, str], PredictionsById] = {}
    for prediction in (prediction for predictions in asked.values() for prediction in predictions):
        if prediction.question_id in by_id:
            groups.setdefault((prediction.model, prediction.condition), {})[prediction.question_id] = prediction
    if (share := config.oracle_share) is not None:
        for model in asked:
            if (model, "oracle") in groups and (model, "absent") in groups:
                groups[model, MIXED] = mixed(groups[model, "oracle"], groups[model, "absent"], share)
    baseline = next(iter(asked)) if len(asked) > 1 else ""
    keys = [(model, condition) for model in asked for condition in CONDITIONS if (model, condition) in groups]
    compared = [
        (model, condition)
        for model, condition in keys
        if condition != "permuted"  # the control of an attack, and no result of its own
        if model != baseline and groups.get((baseline, condition), {}).keys() & groups[model, condition].keys()
    ]
    guessed = [by_id[i] for i in dict.fromkeys(i for key in keys for i in groups[key]) if i in floor]
    labels = _labels(by_id.values())
    return Report(
        baseline=baseline,
        attack_name=_attack_name(settings),
        cells=tuple(_cell(groups[key], labels, reasoned, bounds, api_judge) for key in keys),
        attacks=tuple(
            _attack(groups[model, "permuted"], groups[model, "attacked"], metric, bounds)
            for model in asked
            for metric in RIGHT_OR_WRONG
            if (model, "permuted") in groups and (model, "attacked") in groups
        ),
        changes=tuple(
            change
            for metrics in (METRICS, OWN * bool(settings.parts.metric))  # own ones sharpen no verdict of the others
            for change in together(
                [
                    compare(groups[baseline, condition], groups[model, condition], metric, config, seed)
                    for model, condition in compared
                    for metric in metrics
                ]
            )
        ),
        metric=part_name(settings.parts.metric),
        floor=_floor(guessed, floor, floor_name, config.normalise, bounds) if guessed else None,
        utilizations=tuple(
            utilization(groups[model, "closed_book"], groups[model, condition], metric, bounds)
            for model in asked
            for condition in WITH_DOCUMENTS
            for metric in RIGHT_OR_WRONG
            if (model, "closed_book") in groups and (model, condition) in groups
        ),
        oracle_share=share,
        unforged=max((_unforged(groups, model) for model in asked), default=0),
    )


def part_name(noted: str) -> str:
    """The name of a part as settings note it, without its fingerprint."""
    return noted.rpartition("-")[0]


def _attack_name(settings: Settings) -> str:
    given = "attacked" if hub.brings_forged(settings.corpus) else "template attack"
    return part_name(settings.parts.attack) or given


def mixed(present: PredictionsById, absent: PredictionsById, share: float) -> PredictionsById:
    """What each question scores on average if its oracle is among the documents in this share of cases.

    Example: right with the oracle and wrong without is 0.8 right for a share of 0.8.

    Args:
        present: answers with the oracle, by question id.
        absent: answers to the same questions without.
        share: from 0 to 1.
    """

    def score(metric: str, question_id: str) -> float:
        with_oracle, without = (float(getattr(side[question_id], metric)) for side in (present, absent))
        return share * with_oracle + (1 - share) * without

    return {
        key: replace(
            row,
            condition=MIXED,
            em=score("em", key),
            f1=score("f1", key),
            subspan=score("subspan", key),
            own=None if row.own is None else score("own", key),
            states_forgery=None,
            quotes_valid=None,
            cites_oracle=None,
            perplexity=None,
            ended=row.ended and absent[key].ended,
        )
        for key, row in present.items()
        if key in absent
    }


def utilization(closed: PredictionsById, shown: PredictionsById, metric: Metric, bounds: Bounds) -> Utilization:
    """How many questions that are not known without documents are answered right with them, and how many known ones
    are answered wrong; over the questions of both."""
    shared = [key for key in closed if key in shown]
    known = [key for key in shared if getattr(closed[key], metric) == 1.0]
    unknown = [key for key in shared if getattr(closed[key], metric) != 1.0]
    used = [float(getattr(shown[key], metric)) for key in unknown]
    destroyed = [1.0 - getattr(shown[key], metric) for key in known]
    first = next(iter(shown.values()))
    return Utilization(
        model=first.model,
        condition=first.condition,
        metric=metric,
        unknown=len(unknown),
        used=bounds(used) if used else None,
        known=len(known),
        destroyed=bounds(destroyed) if destroyed else None,
    )


def _unforged(groups: Mapping[tuple[str, str], PredictionsById], model: str) -> int:
    """Questions with a known oracle that this model was not attacked on."""
    if (model, "attacked") not in groups:
        return 0
    return len(groups.get((model, "oracle"), {}).keys() - groups[model, "attacked"].keys())


def _labels(questions: Iterable[Question]) -> dict[str, str]:
    """The right label by question id, for the datasets whose answers are all yes, no or maybe."""
    asked = list(questions)
    free = {question.dataset for question in asked if normalise(question.answers[0]) not in LABELS}
    return {q.id: answers.pubmed_label(q.answers[0]) for q in asked if q.dataset not in free}


def _cell(
    group: PredictionsById, labels: Mapping[str, str], reasoned: bool, bounds: Bounds, api_judge: Judge | None
) -> Cell:
    rows = list(group.values())
    if rows[0].condition == MIXED:  # of half answers nothing else can be counted
        labels, api_judge = {}, None
    truth = {key: labels[key] for key in group if key in labels}
    said = {key: answers.pubmed_label(group[key].answer) for key in truth}
    binary = set(truth.values()) - {"maybe"}
    calls = api_judge.tally(rows).shares if api_judge else None
    return Cell(
        model=rows[0].model,
        condition=rows[0].condition,
        **accuracy(rows, bounds),
        states_forgery=_mean(row.states_forgery for row in rows),
        untagged=_mean(not row.tagged for row in rows) if reasoned else None,
        quotes_valid=_mean(row.quotes_valid for row in rows),
        cites_oracle=_mean(row.cites_oracle for row in rows),
        retrieved_oracle=_mean(row.retrieved_oracle for row in rows),
        perplexity=_mean(row.perplexity for row in rows),
        three_way=answers.pubmed_accuracy(truth, said) if truth else None,
        two_way=answers.pubmed_accuracy(truth, said, ("yes", "no")) if binary else None,
        api_calls=calls if calls and calls.rows else None,
    )


def accuracy(rows: Sequence[Prediction], bounds: Bounds) -> dict[str, Any]:
    """What Accuracy holds of these answers beside model and condition."""
    return {
        "rows": len(rows),
        **{metric: bounds([getattr(row, metric) for row in rows]) for metric in METRICS},
        "own": None if rows[0].own is None else bounds([row.own for row in rows if row.own is not None]),
        "unfinished": sum(not row.ended for row in rows) / len(rows),
        "cut_prompts": sum(row.cut_tokens > 0 for row in rows) / len(rows),
        "cut_answers": sum(row.cut_answer for row in rows) / len(rows),
    }


def _attack(control: PredictionsById, attacked: PredictionsById, metric: Metric, bounds: Bounds) -> Attack:
    lost = losses(control, attacked, metric)
    success = bounds(lost) if lost else None
    return Attack(model=next(iter(control.values())).model, metric=metric, rows=len(lost), success=success)


def losses(control: Mapping[str, Any], attacked: Mapping[str, Any], metric: str) -> list[float]:
    """For each question that the control has right: 1 where the attack turned it wrong. Their mean is its success."""
    right = [key for key in control if key in attacked and getattr(control[key], metric) == 1.0]
    return [1.0 - getattr(attacked[key], metric) for key in right]


def compare(
    before: PredictionsById, after: PredictionsById, metric: str, config: EvaluationConfig, seed: int
) -> Change:
    """The paired change from one group to another, over the questions of both; the condition is that of `after`."""
    shared = [key for key in before if key in after]
    old, new = ([getattr(group[key], metric) for key in shared] for group in (before, after))
    first, last = before[shared[0]], after[shared[0]]
    names = {"before": first.model, "after": last.model, "condition": last.condition, "metric": metric}
    return intervals.compare(old, new, config.resamples, seed, **names)


def _floor(questions: Sequence[Question], said: Mapping[str, str], name: str, form: Form, bounds: Bounds) -> Floor:
    scores = [answers.score(said[question.id], question, form) for question in questions]
    em, subspan = (bounds([getattr(score, metric) for score in scores]) for metric in ("em", "subspan"))
    return Floor(name=name, rows=len(scores), em=em, subspan=subspan)


def _mean(values: Iterable[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
