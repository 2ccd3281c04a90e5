"""Held-out questions put to a generator with forgeries and without, beside the generator, a microbatch at a time.

clean      the question under its list D
permuted   under D in the order that the attacked lists have it in: what moving documents does, without an attack
absent     under D without its oracles, where `evaluation.conditions` has it
template   under D and the template attack's forgeries, permuted
attacker   under D and the forgeries of one version of the attacker, permuted
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.data.matching import Form, contains
from ragdist.evaluation import answers
from ragdist.evaluation.ask import write
from ragdist.evaluation.cases import by_question
from ragdist.records import Forgery, OpenQuestion, Page, Prediction, Question, from_row
from ragdist.roles import Model
from ragdist.systems.atm import training_rows

Condition = Literal["clean", "permuted", "absent", "template", "attacker"]
Notes = dict[str, float]


def ask_clean(
    model: Model, questions: Sequence[OpenQuestion], template: str, settings: Settings
) -> tuple[list[Prediction], Notes]:
    """Answers under the clean lists, then under the same lists permuted (where that moves nothing, asked once), then
    under the lists without their oracles.

    Args:
        model: the generator.
        questions: of one microbatch.
        template: JSONL of the template attack's Forgery rows; not shown, repeating them is the base rate.
        settings: `evaluation`, `model`, `prompts` and the seed are read.
    """
    forgeries = template_forgeries(template, settings.evaluation.forgeries)
    clean, notes = _ask(model, questions, forgeries, "clean", -1, settings)
    moved = [question for question in questions if _shown(question, (), settings.seed) != [*question.documents]]
    asked, _ = _ask(model, moved, forgeries, "permuted", -1, settings) if moved else ([], {})
    by_id = {row.question_id: row for row in asked}
    permuted = [by_id.get(row.question_id) or replace(row, condition="permuted") for row in clean]
    hidden = [q for q in questions if q.oracle_positions] if "absent" in settings.evaluation.conditions else []
    absent, _ = _ask(model, hidden, forgeries, "absent", -1, settings) if hidden else ([], {})
    return [*clean, *permuted, *absent], notes | {"right_permuted": sum(row.em for row in permuted)}


def ask_template(
    model: Model, questions: Sequence[OpenQuestion], clean: Sequence[Prediction], template: str, settings: Settings
) -> tuple[list[Prediction], Notes]:
    """Answers under the template attack; `clean` is what `ask_clean` had from the same generator."""
    forgeries = template_forgeries(template, settings.evaluation.forgeries)
    found, notes = _ask(model, questions, forgeries, "template", -1, settings)
    return found, notes | _lost(clean, found)


def ask_attacked(
    model: Model,
    questions: Sequence[OpenQuestion],
    forgeries: Sequence[Forgery],
    clean: Sequence[Prediction],
    attacker: int,
    settings: Settings,
) -> tuple[list[Prediction], Notes]:
    """Answers under all the forgeries given, written by that version of the attacker.

    A question for which it wrote nothing usable is asked all the same: an attack that failed.
    """
    written = by_question(sorted(forgeries, key=lambda forgery: forgery.number))
    found, notes = _ask(model, questions, written, "attacker", attacker, settings)
    return found, notes | _lost(clean, found)


def list_of(
    question: OpenQuestion, condition: str, forgeries: Sequence[Forgery], seed: int
) -> Sequence[Page | Forgery]:
    """What a generator is shown with the question, in that order; `forgeries` under an attack alone."""
    if condition == "clean":
        return question.documents
    if condition == "absent":
        return [page for at, page in enumerate(question.documents) if at not in question.oracle_positions]
    return _shown(question, () if condition == "permuted" else forgeries, seed)


def _shown(question: OpenQuestion, forgeries: Sequence[Forgery], seed: int) -> list[Page | Forgery]:
    """The permuted list with these forgeries; its documents are in one order whatever the forgeries."""
    return training_rows.attacked_list(question, forgeries, f"asked/{question.id}", seed)


def _ask(
    model: Model,
    questions: Sequence[OpenQuestion],
    forgeries: dict[str, list[Forgery]],
    condition: Condition,
    attacker: int,
    settings: Settings,
) -> tuple[list[Prediction], Notes]:
    """Asks greedily, one answer a question, in the order of questions. Runs beside the generator.

    Texts of D and of the forgeries are shown letter by letter; their order belongs to (seed, question).
    """
    limit, form = settings.answer_tokens, settings.evaluation.normalise
    asked = []
    for question in questions:
        shown = list_of(question, condition, forgeries.get(question.id, ()), settings.seed)
        room = max(limit, len(model.tokenizer.encode(question.target).ids) + 1)
        golden = {question.document_ids[at] for at in question.oracle_positions}
        places = (at for at, document in enumerate(shown) if document.id in golden)
        asked.append(
            prompts.prompt(
                question.text,
                shown,
                model.tokenizer,
                settings.prompts,
                id=question.id,
                max_tokens=settings.model.max_tokens,
                room=room,
                golden=prompts.golden_of(question, places),
            )
        )
    written = {text.prompt_id: text for batch in write(model, asked, limit, settings.seed) for text in batch}
    found = []
    for question, prompt in zip(questions, asked, strict=True):
        text, judged = written[question.id], _plain(question)
        answer = prompts.extract(text.text).answer
        score = answers.score(answer, judged, form)
        found.append(
            Prediction(
                question_id=question.id,
                condition=condition,
                generator=model.version,
                attacker=attacker,
                text=text.text,
                answer=answer,
                em=score.em,
                f1=score.f1,
                subspan=score.subspan,
                states_forgery=_repeats(answer, question, forgeries.get(question.id, ()), form),
                ended=text.ended,
                cut_tokens=prompt.cut_tokens,
                cut_answer=prompt.cut_answer,
            )
        )
    return found, {
        "asked": len(found),
        "right": sum(row.em for row in found),
        "repeats": sum(bool(row.states_forgery) for row in found),
        "unfinished": sum(not row.ended for row in found),
        "cut_prompts": sum(row.cut_tokens > 0 for row in found),
        "cut_answers": sum(row.cut_answer for row in found),
    }


def _plain(question: OpenQuestion) -> Question:
    """The question as answers are judged by."""
    return Question(
        id=question.id,
        text=question.text,
        answers=question.answers,
        oracle_ids=(),
        split="test",
        dataset=question.dataset,
        all_answers_required=question.all_answers_required,
    )


def _repeats(answer: str, question: OpenQuestion, forgeries: Sequence[Forgery], form: Form) -> bool:
    """Whether the answer repeats what the forgeries argue for.

    An attacker that was told no wrong answer (`states` is empty) is repeated by an answer that is wrong, stands in one
    of its forgeries, and in none of the question's documents.
    """
    judged = _plain(question)
    if wrong := sorted({forgery.states for forgery in forgeries} - {""}):
        return answers.repeats(answer, judged, wrong, form)
    forged = any(contains(f"{forgery.title}\n{forgery.text}", answer) for forgery in forgeries)
    return (
        forged
        and answers.score(answer, judged, form).subspan == 0.0
        and not any(contains(f"{page.title}\n{page.text}", answer) for page in question.documents)
    )


def _lost(clean: Sequence[Prediction], attacked: Sequence[Prediction]) -> Notes:
    """Attack success as two sums, for the live view: of those right on the permuted list, those that are lost."""
    right = {row.question_id for row in clean if row.condition == "permuted" and row.em == 1.0}
    lost = sum(row.question_id in right and row.em < 1.0 for row in attacked)
    return {"right_clean": len(right), "lost": lost}


def template_forgeries(path: str, count: int) -> dict[str, list[Forgery]]:
    """Those of the template attack that are shown, by question."""
    return {key: rows[:count] for key, rows in _read_template(path, Path(path).stat().st_mtime_ns).items()}


@lru_cache(maxsize=1)
def _read_template(path: str, _changed: int) -> dict[str, list[Forgery]]:
    """The file's forgeries by question, read once by each process."""
    found: dict[str, list[Forgery]] = {}
    with open(path) as lines:
        for line in lines:
            forgery = from_row(Forgery, json.loads(line))
            found.setdefault(forgery.question_id, []).append(forgery)
    return found
