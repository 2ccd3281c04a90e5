"""Cases put to a model; what it answered is kept while the rest is being asked."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ragdist.config import Settings
from ragdist.evaluation.answers import Tally
from ragdist.evaluation.cases import Case
from ragdist.evaluation.predictions import Prediction, judge, made_of
from ragdist.records import Example, Question, as_row, from_row
from ragdist.roles import Reader, Writer
from ragdist.storage.append import AppendLog, kept_rows
from ragdist.tracking.progress import Bar

PERPLEXITY = ".perplexity.jsonl"


def ask_cases(
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
    with AppendLog(path, made_by) as journal, Bar(f"asking {label}", len(cases), "prompts") as bar:
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


def kept_predictions(
    label: str,
    sources: Sequence[str],
    cases: Sequence[Case],
    questions: Collection[Question],
    folder: Path,
    settings: Settings,
) -> list[Prediction] | None:
    """What an earlier `ask_cases` left, if nothing is missing; then no model needs to be loaded."""
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


def _perplexities(label: str, reader: Reader, asked: Sequence[Case], path: Path, made_by: str) -> dict[str, float]:
    """exp of the mean negative log-probability of the right answer's tokens, the end token included, by case id."""
    read: dict[str, float] = {}
    with AppendLog(path, made_by) as journal, Bar(f"reading with {label}", len(asked), "answers") as bar:
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
