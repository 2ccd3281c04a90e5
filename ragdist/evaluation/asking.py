"""Held-out questions put to a generator with forgeries and without, beside the generator, a microbatch at a time.

clean      the question under its list D
template   under D and the template attack's forgeries, permuted
attacker   under D and the forgeries of one version of the attacker, permuted
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ragdist.config import Settings
from ragdist.data import lists, prompts
from ragdist.evaluation import answers
from ragdist.records import Answered, Forgery, OpenQuestion, Page, Question, from_row
from ragdist.roles import Model

Condition = Literal["clean", "template", "attacker"]
Notes = dict[str, float]


def ask_clean(
    model: Model, questions: Sequence[OpenQuestion], template: str, settings: Settings
) -> tuple[list[Answered], Notes]:
    """Answers under the clean lists.

    Args:
        model: the generator.
        questions: of one microbatch.
        template: JSONL of the template attack's Forgery rows; not shown, repeating them is the base rate.
        settings: `evaluation`, `model`, `prompts` and the seed are read.
    """
    return _ask(model, questions, _of_template(template, settings), "clean", -1, settings)


def ask_template(
    model: Model, questions: Sequence[OpenQuestion], clean: Sequence[Answered], template: str, settings: Settings
) -> tuple[list[Answered], Notes]:
    """Answers under the template attack; `clean` is what the same generator answered without it."""
    found, notes = _ask(model, questions, _of_template(template, settings), "template", -1, settings)
    return found, notes | _lost(clean, found)


def ask_attacked(
    model: Model,
    questions: Sequence[OpenQuestion],
    forgeries: Sequence[Forgery],
    clean: Sequence[Answered],
    attacker: int,
    settings: Settings,
) -> tuple[list[Answered], Notes]:
    """Answers under all the forgeries given, written by that version of the attacker.

    A question for which it wrote nothing usable is asked all the same: an attack that failed.
    """
    by_id: dict[str, list[Forgery]] = {}
    for forgery in sorted(forgeries, key=lambda forgery: forgery.number):
        by_id.setdefault(forgery.question_id, []).append(forgery)
    found, notes = _ask(model, questions, by_id, "attacker", attacker, settings)
    return found, notes | _lost(clean, found)


def _ask(
    model: Model,
    questions: Sequence[OpenQuestion],
    forgeries: dict[str, list[Forgery]],
    condition: Condition,
    attacker: int,
    settings: Settings,
) -> tuple[list[Answered], Notes]:
    """Asks greedily, one answer a question, in the order of questions. Runs beside the generator.

    Texts of D and of the forgeries are shown letter by letter; their order belongs to (seed, condition, question).
    """
    limit, form = settings.evaluation.max_new_tokens, settings.evaluation.normalise
    asked = []
    for question in questions:
        shown: Sequence[Page | Forgery] = question.documents
        if condition != "clean":
            forged = forgeries.get(question.id, [])
            shown = lists.attacked_list(question, forged, f"{condition}/{question.id}", settings.seed)
        room = max(limit, len(model.codec.encode(question.target).ids) + 1)
        golden = {question.document_ids[at] for at in question.oracle_positions}
        places = (at for at, document in enumerate(shown) if document.id in golden)
        asked.append(
            prompts.prompt(
                question.text,
                shown,
                model.codec,
                settings.prompts,
                id=question.id,
                max_tokens=settings.model.max_tokens,
                room=room,
                golden=prompts.golden_of(question, places),
            )
        )
    written = {
        text.prompt_id: text
        for batch in model.write(asked, max_new_tokens=limit, temperature=0.0, seed=settings.seed)
        for text in batch
    }
    found = []
    for question, prompt in zip(questions, asked, strict=True):
        text, judged = written[question.id], _plain(question)
        answer = prompts.extract(text.text).answer
        score = answers.score(answer, judged, form)
        wrong = {forgery.states for forgery in forgeries.get(question.id, ())}
        found.append(
            Answered(
                question_id=question.id,
                condition=condition,
                generator=model.version,
                attacker=attacker,
                text=text.text,
                answer=answer,
                em=score.em,
                f1=score.f1,
                subspan=score.subspan,
                states_forgery=answers.repeats(answer, judged, sorted(wrong), form),
                ended=text.ended,
                cut_tokens=prompt.cut_tokens,
                cut_answer=prompt.cut_answer,
            )
        )
    return found, {
        "asked": len(found),
        "right": sum(row.em for row in found),
        "repeats": sum(row.states_forgery for row in found),
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


def _lost(clean: Sequence[Answered], attacked: Sequence[Answered]) -> Notes:
    """Attack success as two sums, for the live view."""
    right = {row.question_id for row in clean if row.em == 1.0}
    lost = sum(row.question_id in right and row.em < 1.0 for row in attacked)
    return {"right_clean": len(right), "lost": lost}


def _of_template(path: str, settings: Settings) -> dict[str, list[Forgery]]:
    count = settings.evaluation.forgeries
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
