"""The same questions under friendly and hostile retrieval: what each model is shown, and what it answers.

closed_book  no documents
oracle       the oracles and distractors, `contexts.documents` in all
absent       distractors only, as many
retrieved    the best `retrieval.count` by `retrieval.kind`, in their order
permuted     the list of `oracle` in another order: the control of the next, as moving documents changes answers too
attacked     the list of `permuted` with forgeries strewn in; nothing of it is removed, altered or moved
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragdist.config import Condition, Settings
from ragdist.data import contexts, prompts
from ragdist.data.matching import normalise
from ragdist.errors import DataError
from ragdist.evaluation import answers
from ragdist.evaluation.answers import LABELS, Tally
from ragdist.evaluation.apicalls import Judge
from ragdist.evaluation.intervals import Interval, difference, interval, p_value, together, verdict
from ragdist.evaluation.predictions import Case, Journal, Prediction, judge, kept_rows, made_of
from ragdist.evaluation.report import CONDITIONS, METRICS, Attack, Cell, Change, Floor, Metric, Report
from ragdist.records import Candidates, Chunk, Example, Forgery, Hit, Question, as_row, from_row
from ragdist.roles import Codec, Reader, Retriever, Writer
from ragdist.systems.atm import training_rows
from ragdist.tracking import run as track

RIGHT_OR_WRONG: tuple[Metric, ...] = ("em", "subspan")
PERPLEXITY = ".perplexity.jsonl"
Group = dict[str, Prediction]
"""Predictions of one model under one condition, by question id."""


def by_question(forgeries: Iterable[Forgery]) -> dict[str, list[Forgery]]:
    """Forgeries by the question that they mislead about, in their order."""
    found: dict[str, list[Forgery]] = {}
    for forgery in forgeries:
        found.setdefault(forgery.question_id, []).append(forgery)
    return found


def cases(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Sequence[Forgery]],
    retriever: Retriever,
    codec: Codec,
    settings: Settings,
) -> Iterator[Case]:
    """Every question under every condition of `evaluation.conditions` that it allows, condition by condition.

    `oracle`, `permuted` and `attacked` take questions whose oracle is known, the last two only those with forgeries.
    What a question is shown depends on the seed, the question and the condition, and on no other question.

    Raises:
        DataError: a question has no answer that can be scored, or does not fit into `model.max_tokens`; no question
            allows any of the conditions.
    """
    for question in questions:
        answers.usable(question, settings.evaluation.normalise)
    conditions, count = settings.evaluation.conditions, settings.retrieval.count
    found = retriever.search([q.text for q in questions], count) if "retrieved" in conditions else [()] * len(questions)
    allowed = False
    for condition in conditions:
        for question, hits in zip(questions, found, strict=True):
            forged = tuple(forgeries.get(question.id, ()))[: settings.evaluation.forgeries]
            if not _allowed(condition, question, forged):
                continue
            allowed = True
            ids = _shown_ids(question, condition, hits, candidates, settings)
            shown: list[Chunk | Forgery] = [chunks[chunk_id] for chunk_id in ids]
            if condition in ("permuted", "attacked"):
                strewn = forged if condition == "attacked" else ()
                shown = training_rows.permuted(shown, strewn, f"attacked/{question.id}", settings.seed)
            yield _case(question, condition, tuple(shown), forged, codec, settings)
    if conditions and not allowed:
        raise DataError(
            f"none of {len(questions)} test questions can be asked under {', '.join(conditions)}; raise "
            "questions.test_fraction or questions.test_rows, or add closed_book to evaluation.conditions"
        )


def evaluate(
    label: str,
    sources: Sequence[str],
    writer: Writer,
    reader: Reader | None,
    cases: Sequence[Case],
    questions: Collection[Question],
    folder: Path,
    settings: Settings,
) -> list[Prediction]:
    """One prediction for each case, in their order, greedy; kept in `folder/<label>.jsonl` microbatch by microbatch.

    Cases of one prompt are asked once (a list whose permutation moves nothing).

    The same call after a kill asks only what is missing; other prompts, answers or weights start anew.

    Args:
        label: the model's name in reports.
        sources: where its weights come from; a folder that was written again counts as other weights.
        writer: the model, which may finish its microbatches in any order.
        reader: the same model; reads the right answers' perplexity if `evaluation.perplexity`, else may be None.
        cases: what it is asked.
        questions: those of the cases, perhaps more.
        folder: where predictions are kept.
        settings: `evaluation`, `model`, `prompts.answer` and the seed are read.

    Raises:
        StorageError: `folder` cannot be written, or its disk is full.
    """
    asked_of = {question.id: question for question in questions}
    reasoned, limit = settings.prompts.answer == "reasoned", settings.answer_tokens
    form = settings.evaluation.normalise
    made_by = made_of(label, sources, cases, questions, settings)
    path = _path(folder, label)
    with Journal(path, made_by) as journal, track.Bar(f"asking {label}", len(cases), "prompts") as bar:
        done = {f"{row['condition']}/{row['question_id']}": from_row(Prediction, row) for row in journal.rows}
        tally = Tally.of(row.score for row in done.values())
        bar.advance(len(done))
        missing = _by_prompt(case for case in cases if case.id not in done)
        prompts_of = [group[0].prompt for group in missing.values()]
        for written in writer.write(prompts_of, max_new_tokens=limit, seed=settings.seed) if missing else ():
            pairs = [(case, text) for text in written for case in missing[text.prompt_id]]
            new = {c.id: judge(label, c, asked_of[c.question_id], text, reasoned, form) for c, text in pairs}
            journal.add([as_row(prediction) for prediction in new.values()])
            done |= new
            tally += Tally.of(row.score for row in new.values())
            bar.advance(len(new), f"EM {tally.mean.em:.2f}, Subspan EM {tally.mean.subspan:.2f}")
    if reader is None or not settings.evaluation.perplexity:
        return [done[case.id] for case in cases]
    read = _perplexities(label, reader, cases, path.with_suffix(PERPLEXITY), made_by)
    return [replace(done[case.id], perplexity=read[case.id]) for case in cases]


def _by_prompt(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases by the first of those with the same prompt; what is asked without documents has a model of its own."""
    groups: dict[tuple[bool, tuple[int, ...]], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.condition == "closed_book", case.prompt.tokens), []).append(case)
    return {group[0].id: group for group in groups.values()}


def kept(
    label: str,
    sources: Sequence[str],
    cases: Sequence[Case],
    questions: Collection[Question],
    folder: Path,
    settings: Settings,
) -> list[Prediction] | None:
    """What an earlier `evaluate` left, if nothing is missing; then no model needs to be loaded."""
    made_by, path = made_of(label, sources, cases, questions, settings), _path(folder, label)
    done = {f"{row['condition']}/{row['question_id']}": from_row(Prediction, row) for row in kept_rows(path, made_by)}
    read: dict[str, float | None] = {case.id: None for case in cases}
    if settings.evaluation.perplexity:
        read = {row["case"]: row["perplexity"] for row in kept_rows(path.with_suffix(PERPLEXITY), made_by)}
    if any(case.id not in done or case.id not in read for case in cases):
        return None
    return [replace(done[case.id], perplexity=read[case.id]) for case in cases]


def _path(folder: Path, label: str) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', label)}.jsonl"


def _allowed(condition: Condition, question: Question, forged: Sequence[Forgery]) -> bool:
    if condition in ("permuted", "attacked"):
        return bool(question.oracle_ids and forged)
    return condition != "oracle" or bool(question.oracle_ids)


def _shown_ids(
    question: Question,
    condition: Condition,
    hits: Sequence[Hit],
    candidates: Mapping[str, Candidates],
    settings: Settings,
) -> Sequence[str]:
    if condition == "closed_book":
        return ()
    if condition == "retrieved":
        return [hit.chunk_id for hit in hits]
    keep = condition != "absent"
    return contexts.assemble(question, candidates[question.id], keep, settings.contexts, settings.seed).chunk_ids


def _case(
    question: Question,
    condition: Condition,
    shown: tuple[Chunk | Forgery, ...],
    forged: tuple[Forgery, ...],
    codec: Codec,
    settings: Settings,
) -> Case:
    answer = (*codec.encode(prompts.target(replace(question, reasoning=""), settings.prompts)).ids, codec.end)
    name = f"{condition}/{question.id}"
    prompt = prompts.prompt(
        question.text,
        shown,
        codec,
        settings.prompts,
        id=name,
        max_tokens=settings.model.max_tokens,
        room=max(settings.answer_tokens, len(answer)),
        golden=prompts.golden_of(
            replace(question, reasoning=""),
            (at for at, document in enumerate(shown) if document.id in question.oracle_ids),
        ),
    )
    return Case(
        id=name,
        condition=condition,
        question_id=question.id,
        documents=shown,
        oracle_ids=tuple(document.id for document in shown if document.id in question.oracle_ids),
        wrong=tuple(dict.fromkeys(forgery.states for forgery in forged)),
        prompt=prompt,
        answer=answer,
    )


def _perplexities(label: str, reader: Reader, asked: Sequence[Case], path: Path, made_by: str) -> dict[str, float]:
    """exp of the mean negative log-probability of the right answer's tokens, the end token included, by case id."""
    read: dict[str, float] = {}
    with Journal(path, made_by) as journal, track.Bar(f"reading with {label}", len(asked), "answers") as bar:
        read.update((row["case"], row["perplexity"]) for row in journal.rows)
        bar.advance(len(read))
        rows = [
            Example(id=case.id, tokens=case.prompt.tokens + case.answer, prompt_tokens=len(case.prompt.tokens))
            for case in asked
            if case.id not in read
        ]
        for batch in reader.read(rows) if rows else ():
            new = {case_id: math.exp(-sum(logs) / len(logs)) for case_id, logs in batch}
            journal.add([{"case": case_id, "perplexity": value} for case_id, value in new.items()])
            read |= new
            bar.advance(len(new))
    return read


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
    by_id = {question.id: question for question in questions}
    groups: dict[tuple[str, Condition], Group] = {}
    for prediction in (prediction for predictions in asked.values() for prediction in predictions):
        if prediction.question_id in by_id:
            groups.setdefault((prediction.model, prediction.condition), {})[prediction.question_id] = prediction
    baseline = next(iter(asked)) if len(asked) > 1 else ""
    keys = [(model, condition) for model in asked for condition in CONDITIONS if (model, condition) in groups]
    guessed = [by_id[i] for i in dict.fromkeys(i for key in keys for i in groups[key]) if i in floor]
    labels = _labels(by_id.values())
    return Report(
        baseline=baseline,
        attack_name="attacked" if settings.corpus.source == "records" else "template attack",
        cells=tuple(_cell(groups[key], labels, settings, api_judge) for key in keys),
        attacks=tuple(
            _attack(groups[model, "permuted"], groups[model, "attacked"], metric, settings)
            for model in asked
            for metric in RIGHT_OR_WRONG
            if (model, "permuted") in groups and (model, "attacked") in groups
        ),
        changes=together(
            [
                compare(groups[baseline, condition], groups[model, condition], metric, settings)
                for model, condition in keys
                if condition != "permuted"  # the control of an attack, and no result of its own
                for metric in METRICS
                if model != baseline and groups.get((baseline, condition), {}).keys() & groups[model, condition].keys()
            ]
        ),
        floor=_floor(guessed, floor, floor_name, settings) if guessed else None,
        unforged=max((_unforged(groups, model) for model in asked), default=0),
    )


def _unforged(groups: Mapping[tuple[str, Condition], Group], model: str) -> int:
    """Questions with a known oracle that this model was not attacked on."""
    if (model, "attacked") not in groups:
        return 0
    return len(groups.get((model, "oracle"), {}).keys() - groups[model, "attacked"].keys())


def _labels(questions: Iterable[Question]) -> dict[str, str]:
    """The right label by question id, for the datasets whose answers are all yes, no or maybe."""
    asked = list(questions)
    free = {question.dataset for question in asked if normalise(question.answers[0]) not in LABELS}
    return {q.id: answers.pubmed_label(q.answers[0]) for q in asked if q.dataset not in free}


def _cell(group: Group, labels: Mapping[str, str], settings: Settings, api_judge: Judge | None) -> Cell:
    rows = list(group.values())
    bounds = _bounds(settings)
    truth = {key: labels[key] for key in group if key in labels}
    said = {key: answers.pubmed_label(group[key].answer) for key in truth}
    binary = set(truth.values()) - {"maybe"}
    calls = api_judge.tally(rows).shares if api_judge else None
    return Cell(
        model=rows[0].model,
        condition=rows[0].condition,
        rows=len(rows),
        em=bounds([row.em for row in rows]),
        f1=bounds([row.f1 for row in rows]),
        subspan=bounds([row.subspan for row in rows]),
        states_forgery=_mean(row.states_forgery for row in rows),
        untagged=_mean(not row.tagged for row in rows) if settings.prompts.answer == "reasoned" else None,
        quotes_valid=_mean(row.quotes_valid for row in rows),
        retrieved_oracle=_mean(row.retrieved_oracle for row in rows),
        unfinished=_mean(not row.ended for row in rows) or 0.0,
        cut_prompts=_mean(row.cut_tokens > 0 for row in rows) or 0.0,
        cut_answers=_mean(row.cut_answer for row in rows) or 0.0,
        perplexity=_mean(row.perplexity for row in rows),
        three_way=answers.pubmed_accuracy(truth, said) if truth else None,
        two_way=answers.pubmed_accuracy(truth, said, ("yes", "no")) if binary else None,
        api_calls=calls if calls and calls.rows else None,
    )


def _attack(control: Group, attacked: Group, metric: Metric, settings: Settings) -> Attack:
    right = [key for key in control if key in attacked and getattr(control[key], metric) == 1.0]
    lost = [1.0 - getattr(attacked[key], metric) for key in right]
    success = _bounds(settings)(lost) if lost else None
    return Attack(model=next(iter(control.values())).model, metric=metric, rows=len(right), success=success)


def compare(before: Group, after: Group, metric: Metric, settings: Settings) -> Change:
    """The paired change from one group to another, over the questions of both; the condition is that of `after`."""
    shared = [key for key in before if key in after]
    old, new = ([getattr(group[key], metric) for key in shared] for group in (before, after))
    change = difference(old, new, settings.evaluation.resamples, settings.seed)
    p = p_value(old, new, settings.seed)
    return Change(
        before=before[shared[0]].model,
        after=after[shared[0]].model,
        condition=after[shared[0]].condition,
        metric=metric,
        rows=len(shared),
        change=change,
        p=p,
        corrected=p,
        verdict=verdict(change, len(shared), p),
    )


def _floor(questions: Sequence[Question], said: Mapping[str, str], name: str, settings: Settings) -> Floor:
    em = [answers.score(said[question.id], question, settings.evaluation.normalise).em for question in questions]
    return Floor(name=name, rows=len(em), em=_bounds(settings)(em))


def _bounds(settings: Settings) -> Callable[[Sequence[float]], Interval]:
    return lambda values: interval(values, settings.evaluation.resamples, settings.seed)


def _mean(values: Iterable[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
