"""What a model is asked, what it answered, and the file that keeps it while the rest is being asked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragdist import parts
from ragdist.config import AnswerStyle, ModelConfig, Settings
from ragdist.config.engines import named
from ragdist.data import prompts
from ragdist.data.matching import Form
from ragdist.evaluation import answers
from ragdist.evaluation.answers import Score
from ragdist.evaluation.cases import Case
from ragdist.records import Prediction, Question, Written, content_id
from ragdist.storage.calls import KeptCalls
from ragdist.tracking.progress import Bar


def score_of(prediction: Prediction) -> Score:
    """Its three scores together."""
    return Score(prediction.em, prediction.f1, prediction.subspan)


def judge(
    label: str, case: Case, question: Question, written: Written, style: AnswerStyle, form: Form = "squad"
) -> Prediction:
    """What the text says and how right it is; quotes are looked at where answers are reasoned."""
    found = prompts.extract(written.text, style)
    score = answers.score(found.answer, question, form)
    spans, balanced = prompts.quotes(written.text)
    quoting = style == "reasoned" and (spans or not balanced)
    valid = prompts.quotes_hold(written.text, [document.text for document in case.documents]) if quoting else None
    found_oracle = bool(case.oracle_ids) if case.condition == "retrieved" and question.oracle_ids else None
    return Prediction(
        question_id=question.id,
        condition=case.condition,
        model=label,
        text=written.text,
        answer=found.answer,
        tagged=found.tagged,
        em=score.em,
        f1=score.f1,
        subspan=score.subspan,
        states_forgery=answers.repeats(found.answer, question, case.wrong, form) if case.wrong else None,
        retrieved_oracle=found_oracle,
        quotes_valid=valid,
        cites_oracle=_cites_oracle(case, written.text) if style == "cited" and case.oracle_ids else None,
        ended=written.ended,
        cut_tokens=case.prompt.cut_tokens,
        cut_answer=case.prompt.cut_answer,
    )


def _cites_oracle(case: Case, text: str) -> bool:
    """Whether all documents that the answer cites are oracles, and it cites one."""
    oracles = {at for at, document in enumerate(case.documents, start=1) if document.id in case.oracle_ids}
    cited = set(prompts.citations(text))
    return bool(cited) and cited <= oracles


def fingerprint(asked: Sequence[Case], questions: Mapping[str, Question], settings: list[object]) -> str:
    """16 hexadecimal digits of all that a prediction depends on: prompts, answers, forgeries, model, scoring."""
    digest = hashlib.sha256(json.dumps([answers.VERSION, *settings]).encode())
    for case in asked:
        question = questions[case.question_id]
        judged_by = [question.answers, question.dataset, question.all_answers_required, question.oracle_ids, case.wrong]
        digest.update(json.dumps([case.id, case.prompt.content, case.answer, judged_by]).encode())
    return digest.hexdigest()[:16]


def made_of(
    label: str, sources: Sequence[str], cases: Sequence[Case], questions: Collection[Question], settings: Settings
) -> str:
    """16 hexadecimal digits of all that the predictions of `ask.ask_cases` depend on."""
    style, limit = settings.prompts.answer, settings.answer_tokens
    # What was asked before there was a choice of forms is not asked again.
    form = [settings.evaluation.normalise] if settings.evaluation.normalise != "squad" else []
    asked_of = {question.id: question for question in questions}
    judged: object = style if style in ("sentence", "cited") else style == "reasoned"
    model = weights(sources, settings.model)
    return fingerprint(cases, asked_of, [label, model, limit, judged, *form, *engine(settings)])


def engine(settings: Settings) -> list[str]:
    """Who writes answers, where that is not transformers, as all earlier answers were written."""
    return [name] if (name := named(settings.evaluation.engine, settings.engines)) else []


def weights(sources: Sequence[str], config: ModelConfig) -> list[object]:
    """What tells a model from others: its sources, how it is held, and for folders when their files were written."""
    files = [file for source in sources if Path(source).is_dir() for file in sorted(Path(source).glob("*.safetensors"))]
    written = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [*sources, config.model_dump(mode="json"), written]


def scored(
    asked: Mapping[str, Iterable[Prediction]], questions: Iterable[Question], metric: parts.Metric, path: Path
) -> dict[str, list[Prediction]]:
    """The predictions by label, each with the metric's number; equal answers to a question are judged once.

    Args:
        asked: by label.
        questions: those of the predictions, perhaps more.
        metric: `parts.Metric`.
        path: keeps the numbers; named by the metric.

    Raises:
        PartError: the metric raised, or gave no finite number.
    """
    asked_of = {question.id: question for question in questions}
    rows = [row for predictions in asked.values() for row in predictions]
    keys = [_key(row, asked_of[row.question_id]) for row in rows]
    with Bar(f"asking {parts.short_name(metric)}", len(set(keys)), "answers") as bar:

        def ask(place: int) -> float:
            bar.advance()
            row = rows[place]
            question = asked_of[row.question_id]
            return parts.call("metric", metric, question.text, _number, row.answer, question)

        numbers = dict(zip(keys, KeptCalls(path).get(keys, ask), strict=True))
    return {
        label: [replace(row, own=numbers[_key(row, asked_of[row.question_id])]) for row in predictions]
        for label, predictions in asked.items()
    }


def _key(row: Prediction, question: Question) -> str:
    return content_id(question.id, question.text, *question.answers, row.answer)


def _number(given: Any) -> float:
    try:
        number = math.nan if isinstance(given, (str, bytes)) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise parts.Unusable(f"{given!r:.80}, wanted a finite number")
    return number
