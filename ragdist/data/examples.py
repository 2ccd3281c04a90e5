"""Training rows: the prompt, the target, the end token; the loss is on the last two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragdist.config import PromptsConfig
from ragdist.data.prompts import Shown, prompt, quotes_hold, target
from ragdist.records import Chunk, Example, Question
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


def from_row(row: tuple[Question, Sequence[Shown]], codec: Codec, prompts: PromptsConfig, max_tokens: int) -> Example:
    """`example` of a question and its documents as one item, for a Mapper."""
    return example(*row, codec, prompts, max_tokens=max_tokens)


def quotes_valid(question: Question, chunks: Mapping[str, Chunk], prompts: PromptsConfig) -> bool:
    """Whether the target quotes word for word from the oracles; plain answers quote nothing."""
    return prompts.answer == "plain" or quotes_hold(question.reasoning, [chunks[i].text for i in question.oracle_ids])
