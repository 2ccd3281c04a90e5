"""Where models are asked, and nowhere else; what they answered is kept while the rest is being asked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

from ragdist.config import Settings
from ragdist.evaluation.answers import Tally
from ragdist.evaluation.cases import Case
from ragdist.evaluation.predictions import judge, made_of, score_of
from ragdist.records import Example, Prediction, Prompt, Question, Written, as_row, content_id, from_row
from ragdist.roles import Answerer, Writer
from ragdist.storage.append import AppendLog, kept_rows
from ragdist.tracking.progress import Bar

PERPLEXITY = ".perplexity.jsonl"
LONGEST = 100
"""Characters of a label in the name of a file."""


def write(
    model: Writer | Answerer, prompts: Sequence[Prompt], limit: int, seed: int, done: Collection[str] = ()
) -> Iterator[list[Written]]:
    """Texts of at most `limit` tokens, greedy, batch by batch; of an Answerer without the batches that are done."""
    if not done:
        return model.write(prompts, max_new_tokens=limit, seed=seed) if prompts else iter(())
    return cast(Answerer, model).write(prompts, max_new_tokens=limit, seed=seed, done=done)


def ask_prompts(
    label: str, answerer: Answerer, prompts: Sequence[Prompt], path: Path, made_by: str, limit: int, seed: int
) -> list[str]:
    """The text for each prompt, in their order; arguments as of `ask_written`, with a model that is open."""
    found = ask_written(label, lambda: answerer, prompts, path, made_by, limit, seed)
    return [found[prompt.id].text for prompt in prompts]


def ask_written(
    label: str,
    opened: Callable[[], Answerer],
    prompts: Sequence[Prompt],
    path: Path,
    made_by: str,
    limit: int,
    seed: int,
) -> dict[str, Written]:
    """What is written to each prompt, greedy, by its id; kept in `path` batch by batch, under the name `made_by`.

    No model is opened where all is there.
    """
    with AppendLog(path, made_by) as journal, Bar(label, len(prompts), "prompts") as bar:
        kept = {row["id"]: _written(row["id"], row["text"], row.get("ended", True)) for row in journal.rows}
        done = kept.keys() & {prompt.id for prompt in prompts}
        bar.advance(len(done))
        for batch in write(opened(), prompts, limit, seed, done) if len(done) < len(prompts) else ():
            new = {one.prompt_id: _written(one.prompt_id, one.text, one.ended) for one in batch}
            new = {key: one for key, one in new.items() if key not in kept}
            journal.add([{"id": key, "text": one.text, "ended": one.ended} for key, one in new.items()])
            kept |= new
            bar.advance(len(new))
    return kept


def _written(name: str, text: str, ended: bool) -> Written:
    return Written(prompt_id=name, sample=0, text=text, tokens=0, ended=ended)


def ask_cases(
    label: str,
    sources: Sequence[str],
    answerer: Answerer,
    cases: Sequence[Case],
    questions: Collection[Question],
    folder: Path,
    settings: Settings,
) -> list[Prediction]:
    """One prediction for each case, in their order, greedy; kept in `folder/<label>.jsonl` batch by batch.

    Cases of one prompt are asked once (a list whose permutation moves nothing).

    The same call after a kill asks only what is missing; other prompts, answers or weights start again.

    Args:
        label: the model's name in reports.
        sources: where its weights come from; a folder that was written again counts as other weights.
        answerer: the models, which may finish their batches in any order; the first also reads the right answers'
            perplexity if `evaluation.perplexity`.
        cases: what is asked; their prompts say of which model.
        questions: those of the cases, perhaps more.
        folder: where predictions are kept.
        settings: `evaluation`, `model`, `prompts.answer` and the seed are read.

    Raises:
        StorageError: `folder` cannot be written, or its disk is full.
    """
    asked_of = {question.id: question for question in questions}
    style, form = settings.prompts.answer, settings.evaluation.normalise
    made_by = made_of(label, sources, cases, questions, settings)
    path, same = path_of(folder, label), _by_prompt(cases)
    with AppendLog(path, made_by) as journal, Bar(f"asking {label}", len(cases), "prompts") as bar:
        predicted = {f"{row['condition']}/{row['question_id']}": from_row(Prediction, row) for row in journal.rows}
        tally = Tally.of(map(score_of, predicted.values()))
        bar.advance(len(predicted))
        done = {name for name, group in same.items() if all(case.id in predicted for case in group)}
        prompts_of = [group[0].prompt for group in same.values()] if len(done) < len(same) else []
        for written in write(answerer, prompts_of, settings.answer_tokens, settings.seed, done):
            pairs = [(case, text) for text in written for case in same[text.prompt_id] if case.id not in predicted]
            new = {c.id: judge(label, c, asked_of[c.question_id], text, style, form) for c, text in pairs}
            journal.add([as_row(prediction) for prediction in new.values()])
            predicted |= new
            tally += Tally.of(map(score_of, new.values()))
            bar.advance(len(new), f"EM {tally.mean.em:.2f}, Subspan EM {tally.mean.subspan:.2f}")
    if not settings.evaluation.perplexity:
        return [predicted[case.id] for case in cases]
    rows = [
        Example(id=case.id, tokens=case.prompt.tokens + case.answer, prompt_tokens=len(case.prompt.tokens))
        for case in cases
    ]
    read = read_perplexities(label, lambda: answerer, rows, path.with_suffix(PERPLEXITY), made_by)
    return [replace(predicted[case.id], perplexity=read[case.id]) for case in cases]


def _by_prompt(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases by the first of those with the same prompt to the same model."""
    groups: dict[tuple[int, tuple[int | str, ...]], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.prompt.model, case.prompt.content), []).append(case)
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
    made_by, path = made_of(label, sources, cases, questions, settings), path_of(folder, label)
    done = {f"{row['condition']}/{row['question_id']}": from_row(Prediction, row) for row in kept_rows(path, made_by)}
    read: dict[str, float | None] = {case.id: None for case in cases}
    if settings.evaluation.perplexity:
        read = {row["case"]: row["perplexity"] for row in kept_rows(path.with_suffix(PERPLEXITY), made_by)}
    if any(case.id not in done or case.id not in read for case in cases):
        return None
    return [replace(done[case.id], perplexity=read[case.id]) for case in cases]


def path_of(folder: Path, label: str) -> Path:
    """Where the predictions of this label are kept."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", label)
    if len(plain) > LONGEST or not label.isascii():  # what others may be called too
        plain = f"{plain[:LONGEST]}-{content_id(label)}"
    return folder / f"{plain}.jsonl"


def read_perplexities(
    label: str, opened: Callable[[], Answerer], rows: Sequence[Example], path: Path, made_by: str
) -> dict[str, float]:
    """exp of the mean negative log-probability of the tokens after each row's prompt, by row id; kept as texts are."""
    with AppendLog(path, made_by) as journal, Bar(f"reading with {label}", len(rows), "texts") as bar:
        read: dict[str, float] = {row["case"]: row["perplexity"] for row in journal.rows}
        done = read.keys() & {row.id for row in rows}
        bar.advance(len(done))
        for batch in opened().read(rows, done=done) if len(done) < len(rows) else ():
            new = {name: math.exp(-sum(logs) / len(logs)) for name, logs in batch if name not in read}
            journal.add([{"case": name, "perplexity": value} for name, value in new.items()])
            read |= new
            bar.advance(len(new))
    return read


def read_groups(
    label: str,
    opened: Callable[[], AbstractContextManager[Answerer]],
    groups: Mapping[str, Sequence[Example]],
    path: Path,
    made_by: str,
) -> dict[str, list[list[float]]]:
    """Log-probabilities in nats of the tokens after each row's prompt, by group, in the order of its rows.

    What the prompts of a group begin with is computed once; its numbers depend on no other group. Each is kept in
    `path`, under the name `made_by`, as it is read; no model is opened where all are there.
    """
    with AppendLog(path, made_by) as journal, Bar(label, len(groups), "prompts") as bar:
        read: dict[str, list[list[float]]] = {row["id"]: row["logprobs"] for row in journal.rows}
        missing = groups.keys() - read.keys()
        bar.advance(len(groups) - len(missing))
        with opened() if missing else nullcontext() as answerer:
            for name, rows in groups.items():
                if name in missing:
                    named = [replace(row, id=str(at)) for at, row in enumerate(rows)]
                    found = dict(one for batch in cast(Answerer, answerer).read(named) for one in batch)
                    read[name] = [found[row.id] for row in named]
                    journal.add([{"id": name, "logprobs": read[name]}])
                    bar.advance(1)
    return read
