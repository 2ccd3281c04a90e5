"""Two answers to one question, as DuetRAG's arbiter meets them: what it learns from, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ragdist.config import DuetConfig, PromptsConfig
from ragdist.data import prompts
from ragdist.draws import draw, rng_for
from ragdist.records import Example, Judgement, Prompt, Question, Rated
from ragdist.roles import Pair, Tokenizer


class Dispute(NamedTuple):
    """What the two said. Example: Dispute(question_id="7...", question="Which ...?", reciter="3", discoverer="4")."""

    question_id: str
    question: str
    reciter: str
    discoverer: str
    documents: tuple[prompts.Showable, ...] = ()
    """What the discoverer was shown, in that order; empty for arbiters that do not read it."""
    dataset: str = ""
    """The question's, which says how answers are compared."""


class JudgedAnswer(NamedTuple):
    """An answer and whether it is right, by the metric of `duet.right_by`. Example: JudgedAnswer("None", True)."""

    answer: str
    right: bool


def judgements(
    questions: Iterable[Question],
    reciter: Mapping[str, JudgedAnswer],
    discoverer: Mapping[str, Mapping[str, JudgedAnswer]],
    same: Callable[[str, str, Question], bool],
    config: DuetConfig,
    seed: int,
) -> Iterator[Judgement]:
    """What both sides said to each question, once where they agree; with `duet.gold_pairs` a right and a wrong one too.

    What the discoverer says again when it is shown something else is no new row. Answers to a question that only one
    side has right weigh `duet.disagreement_weight`: there the arbiter decides.

    Args:
        questions: held out from both sides.
        reciter: its answers by question id.
        discoverer: its answers by what it was shown, then likewise; a question may be missing under some.
        same: whether two answers to a question are one.
        config: the weights.
        seed: decides which other question's answer is the wrong one, where the data offers none.
    """
    asked = list(questions)
    golds = sorted({prompts.right_answer(question) for question in asked})
    for question in asked:
        first = reciter[question.id]
        shown = {name: said[question.id] for name, said in discoverer.items() if question.id in said}
        fresh: dict[str, JudgedAnswer] = {}
        for name, side in shown.items():
            if not any(same(side.answer, other.answer, question) for other in fresh.values()):
                fresh[name] = side
        if not any(same(first.answer, side.answer, question) for side in fresh.values()):
            apart = any(first.right != side.right for side in fresh.values())
            yield _judgement(question, "reciter", "reciter", first, config.disagreement_weight if apart else 1.0)
        for name, side in fresh.items():
            weight = config.disagreement_weight if first.right != side.right else 1.0
            yield _judgement(question, "discoverer", f"discoverer/{name}", side, weight)
        if config.gold_pairs:
            right = prompts.right_answer(question)
            yield _judgement(question, "gold", "gold", JudgedAnswer(right, True), 1.0)
            wrong = [*question.wrong_answers, *rng_for(seed, "duet/other", question.id).sample(golds, len(golds))]
            other = next(
                (a for a in wrong if not any(same(a, gold, question) for gold in (right, *question.answers))), None
            )
            if other is not None:
                yield _judgement(question, "other", "other", JudgedAnswer(other, False), 1.0)


def rated(judgement: Judgement, tokenizer: Tokenizer, config: PromptsConfig) -> Rated:
    """The judgement in the tokens of the model that learns to score."""
    tokens = pair_tokens(Pair(judgement.question, judgement.answer), tokenizer, config)
    return Rated(id=judgement.id, tokens=tokens, right=judgement.right, weight=judgement.weight)


def pair_tokens(pair: Pair, tokenizer: Tokenizer, config: PromptsConfig) -> tuple[int, ...]:
    """The question as the reciter is asked it, then the answer, without an end token: what a scorer reads."""
    asked = tokenizer.chat(prompts.user_text(pair.question, (), config), config.system_closed)
    return tuple(tokenizer.encode(asked + pair.answer).ids)


def summary_prompt(dispute: Dispute, tokenizer: Tokenizer, config: PromptsConfig, *, flipped: bool) -> Prompt:
    """What the summarizer reads: the question, both answers and how to decide.

    Args:
        dispute: the two answers.
        tokenizer: the summarizer's.
        config: the system message.
        flipped: the answer from documents comes first.
    """
    asked = tokenizer.chat(summary_text(dispute, flipped=flipped), config.system_closed)
    return Prompt(id=dispute.question_id, tokens=tuple(tokenizer.encode(asked).ids))


def summary_text(dispute: Dispute, *, flipped: bool) -> str:
    """The words of `summary_prompt`."""
    said = [f"Answer from memory: {dispute.reciter}", f"Answer from documents: {dispute.discoverer}"]
    return "\n".join([f"Question: {dispute.question}", *(said[::-1] if flipped else said), prompts.SUMMARY])


def summary_example(
    dispute: Dispute, answer: str, tokenizer: Tokenizer, config: PromptsConfig, condition: str, *, flipped: bool
) -> Example:
    """A row that a summarizer is tuned on; `answer` is the right one, `condition` what the discoverer was shown."""
    asked = summary_prompt(dispute, tokenizer, config, flipped=flipped)
    return Example(
        id=f"{dispute.question_id}/{condition}/{'flipped' if flipped else 'straight'}",
        tokens=(*asked.tokens, *tokenizer.encode(answer).ids, tokenizer.end),
        prompt_tokens=len(asked.tokens),
    )


def is_flipped(question_id: str, seed: int) -> bool:
    """In which order this question's answers are shown, so that neither side always comes first."""
    return draw(seed, "duet/order", question_id) < 0.5


def _judgement(question: Question, source: str, name: str, side: JudgedAnswer, weight: float) -> Judgement:
    return Judgement(
        id=f"{question.id}/{name}",
        question_id=question.id,
        question=question.text,
        answer=side.answer,
        right=side.right,
        weight=weight,
        source=source,  # type: ignore[arg-type]
    )


def one_label(rows: Sequence[Judgement]) -> str:
    """`right` or `wrong` where all rows are that, so that there is nothing to tell apart; else empty."""
    labels = {row.right for row in rows}
    return "" if len(labels) > 1 else "right" if labels == {True} else "wrong"
