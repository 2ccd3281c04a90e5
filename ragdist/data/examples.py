"""Training rows: the prompt, the target, the end token; the loss is on the last two."""

from __future__ import annotations

from collections.abc import Sequence

from ragdist.config import PromptsConfig
from ragdist.data.prompts import Shown, prompt, target
from ragdist.records import Example, Question
from ragdist.roles import Codec


def example(
    question: Question, documents: Sequence[Shown], codec: Codec, prompts: PromptsConfig, *, max_tokens: int
) -> Example:
    """The training row of a question with these documents; what is too long loses document text only.

    Raises:
        DataError: question and target alone are longer than `max_tokens`.
    """
    answer = [*codec.encode(target(question, prompts)).ids, codec.end]
    asked = prompt(question.text, documents, codec, prompts, id=question.id, max_tokens=max_tokens, room=len(answer))
    return Example(
        id=question.id,
        tokens=(*asked.tokens, *answer),
        prompt_tokens=len(asked.tokens),
        cut_tokens=asked.cut_tokens,
    )
