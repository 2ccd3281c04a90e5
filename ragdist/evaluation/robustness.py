"""The same questions under friendly and hostile retrieval: what each model is shown, and what it answers.

closed_book  no documents
oracle       the oracles and distractors, `contexts.documents` in all
absent       distractors only, as many
retrieved    BM25's best `retrieval.count`, by rank
attacked     the list of `oracle` with forgeries strewn in; nothing of it is removed or altered
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ragdist import track
from ragdist.config import Condition, Settings
from ragdist.data import contexts, prompts
from ragdist.draws import rng_for
from ragdist.evaluation import answers
from ragdist.evaluation.answers import Score, Tally
from ragdist.evaluation.predictions import Journal, Prediction
from ragdist.records import Candidates, Chunk, Example, Forgery, Prompt, Question, Written, as_row, from_row
from ragdist.roles import Codec, Reader, Retriever, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question under one condition, ready to be asked.

    Example: Case(id="attacked/77...", condition="attacked", question_id="77...", documents=(d7, forged, oracle, d2),
    oracle_ids=("03...",), wrong=("'ascii'",), prompt=Prompt(...), answer=(60, 2))
    """

    id: str
    """Also the prompt's."""
    condition: Condition
    question_id: str
    documents: tuple[Chunk | Forgery, ...]
    """In the order they are shown."""
    oracle_ids: tuple[str, ...]
    """Those of `documents` that hold the answer."""
    wrong: tuple[str, ...]
    """What the question's forgeries state, in every condition, so that repeating it has a base rate."""
    prompt: Prompt
    answer: tuple[int, ...]
    """The right answer as tokens, with its tag if answers are reasoned, and the end token; what a Reader is asked."""

    @property
    def forged_ids(self) -> tuple[str, ...]:
        """Those of `documents` that were written to mislead."""
        return tuple(document.id for document in self.documents if isinstance(document, Forgery))


def cases(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    candidates: Mapping[str, Candidates],
    forgeries: Mapping[str, Sequence[Forgery]],
    retriever: Retriever,
    codec: Codec,
    settings: Settings,
    conditions: Sequence[Condition],
) -> Iterator[Case]:
    """Every question under every condition that it allows, condition by condition.

    `oracle` and `attacked` take questions whose oracle is known, `attacked` only those with forgeries. What a question
    is shown depends on the seed, the question and the condition, and on no other question.

    Raises:
        DataError: a question has no answer that can be scored, or does not fit into `model.max_tokens`.
    """
    for question in questions:
        answers.usable(question)
    count = settings.retrieval.count
    hits = (
        retriever.search([q.text for q in questions], count) if "retrieved" in conditions else [[] for _ in questions]
    )
    for condition in conditions:
        for question, found in zip(questions, hits, strict=True):
            forged = tuple(forgeries.get(question.id, ()))[: settings.evaluation.forgeries]
            if condition in ("oracle", "attacked") and not question.oracle_ids:
                continue
            if condition == "attacked" and not forged:
                continue
            shown: tuple[Chunk | Forgery, ...] = ()
            if condition == "retrieved":
                shown = tuple(chunks[hit.chunk_id] for hit in found)
            elif condition != "closed_book":
                keep = condition != "absent"
                listed = contexts.assemble(question, candidates[question.id], keep, settings.contexts, settings.seed)
                shown = tuple(chunks[chunk_id] for chunk_id in listed.chunk_ids)
            if condition == "attacked":
                shown = _strewn(shown, forged, settings.seed, question.id)
            yield _case(question, condition, shown, forged, codec, settings)


def evaluate(
    label: str,
    writer: Writer,
    cases: Iterable[Case],
    questions: Iterable[Question],
    folder: Path,
    settings: Settings,
    *,
    weights: str,
    reader: Reader | None = None,
) -> list[Prediction]:
    """One prediction for each case, in their order, greedy; kept in `folder/<label>.jsonl` microbatch by microbatch.

    The same call after a kill asks only what is missing; other prompts, answers or weights start anew.

    Args:
        label: the model's name in reports.
        writer: the model, which may finish its microbatches in any order.
        cases: what it is asked.
        questions: those of the cases, perhaps more.
        folder: where predictions are kept.
        settings: `evaluation`, `prompts.answer` and the seed are read.
        weights: whatever changes with the model's weights: a commit, a hash, a training fingerprint.
        reader: the same model, to read the right answers' perplexity as well.

    Raises:
        StorageError: `folder` cannot be written, or its disk is full.
    """
    asked = list(cases)
    by_id = {case.id: case for case in asked}
    by_question = {question.id: question for question in questions}
    reasoned = settings.prompts.answer == "reasoned"
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', label)}.jsonl"
    made_by = _fingerprint(asked, by_question, [label, weights, settings.evaluation.max_new_tokens, reasoned])
    done: dict[str, Prediction] = {}
    total = Tally()

    def note(new: list[Prediction]) -> None:
        nonlocal total
        for prediction in new:
            done[f"{prediction.condition}/{prediction.question_id}"] = prediction
            total += Score(prediction.em, prediction.f1, prediction.subspan)
        bar.advance(len(new), f"EM {total.mean.em:.2f} Subspan {total.mean.subspan:.2f}")

    with Journal(path, made_by) as journal, track.Bar(f"asking {label}", len(asked), "prompts") as bar:
        note([from_row(Prediction, row) for row in journal.rows])
        missing = [case.prompt for case in asked if case.id not in done]
        limit = settings.evaluation.max_new_tokens
        for written in writer.write(missing, max_new_tokens=limit, seed=settings.seed) if missing else ():
            pairs = [(by_id[text.prompt_id], text) for text in written]
            new = [_judged(label, case, by_question[case.question_id], text, reasoned) for case, text in pairs]
            journal.add([as_row(prediction) for prediction in new])
            note(new)
    read = _perplexities(label, reader, asked, path.with_suffix(".perplexity.jsonl"), made_by) if reader else {}
    return [replace(done[case.id], perplexity=read.get(case.id)) for case in asked]


def _strewn(
    shown: tuple[Chunk | Forgery, ...], forged: tuple[Forgery, ...], seed: int, question_id: str
) -> tuple[Chunk | Forgery, ...]:
    """Both, in an order that is uniform over all orders and belongs to the question."""
    mixed = [*shown, *forged]
    rng_for(seed, "attacked", question_id).shuffle(mixed)
    return tuple(mixed)


def _case(
    question: Question,
    condition: Condition,
    shown: tuple[Chunk | Forgery, ...],
    forged: tuple[Forgery, ...],
    codec: Codec,
    settings: Settings,
) -> Case:
    tag = "<ANSWER>: " if settings.prompts.answer == "reasoned" else ""
    answer = (*codec.encode(tag + question.answers[0]).ids, codec.end)
    name = f"{condition}/{question.id}"
    prompt = prompts.prompt(
        question.text,
        shown,
        codec,
        settings.prompts,
        id=name,
        max_tokens=settings.model.max_tokens,
        room=max(settings.evaluation.max_new_tokens, len(answer)),
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


def _judged(label: str, case: Case, question: Question, written: Written, reasoned: bool) -> Prediction:
    found = answers.extract(written.text)
    score = answers.score(found.answer, question)
    quoted = prompts.quotes(written.text) if reasoned else None
    valid = None
    if quoted and (quoted.spans or not quoted.balanced):
        valid = quoted.balanced and prompts.quotes_hold(written.text, [document.text for document in case.documents])
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
        states_forgery=answers.repeats(found.answer, question, case.wrong) if case.wrong else None,
        retrieved_oracle=found_oracle,
        quotes_valid=valid,
        ended=written.ended,
        cut_tokens=case.prompt.cut_tokens,
    )


def _fingerprint(asked: Sequence[Case], questions: Mapping[str, Question], settings: list[object]) -> str:
    """16 hexadecimal digits of all that a prediction depends on: prompts, answers, forgeries, model, scoring."""
    digest = hashlib.sha256(json.dumps([answers.VERSION, *settings]).encode())
    for case in asked:
        question = questions[case.question_id]
        judged_by = [question.answers, question.dataset, question.all_answers_required, question.oracle_ids, case.wrong]
        digest.update(json.dumps([case.id, case.prompt.tokens, case.answer, judged_by]).encode())
    return digest.hexdigest()[:16]


def _perplexities(label: str, reader: Reader, asked: Sequence[Case], path: Path, made_by: str) -> dict[str, float]:
    """exp of the mean negative log-probability of the right answer's tokens, the end token included, by case id."""
    example = partial(Example, cut_tokens=0)
    read: dict[str, float] = {}
    with Journal(path, made_by) as journal, track.Bar(f"reading with {label}", len(asked), "answers") as bar:
        read.update((row["case"], row["perplexity"]) for row in journal.rows)
        bar.advance(len(read))
        rows = [
            example(id=case.id, tokens=case.prompt.tokens + case.answer, prompt_tokens=len(case.prompt.tokens))
            for case in asked
            if case.id not in read
        ]
        for batch in reader.read(rows) if rows else ():
            new = {case_id: math.exp(-sum(logs) / len(logs)) for case_id, logs in batch}
            journal.add([{"case": case_id, "perplexity": value} for case_id, value in new.items()])
            read |= new
            bar.advance(len(new))
    return read
