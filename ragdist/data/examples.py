"""Training rows: the prompt, the target, the end token; the loss is on the last two."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ragdist.config import PromptsConfig
from ragdist.data.prompts import golden_of, prompt, quotes_hold, target
from ragdist.records import Chunk, Context, Example, Question
from ragdist.roles import Mapper, Tokenizer
from ragdist.storage.stages import CARD, Counted, Rows, Stage, Store, card_of

Sibling = tuple[Rows[Context], Rows[Example]]


def example(
    question: Question, documents: Sequence[Chunk], tokenizer: Tokenizer, prompts: PromptsConfig, *, max_tokens: int
) -> Example:
    """The training row of a question with these documents; what is too long loses document text only. A DataError if
    question and target alone are too long."""
    oracles = [at for at, chunk in enumerate(documents) if chunk.id in question.oracle_ids]
    answer = [*tokenizer.encode(target(question, prompts, oracles)).ids, tokenizer.end]
    asked = prompt(
        question.text,
        documents,
        tokenizer,
        prompts,
        id=question.id,
        max_tokens=max_tokens,
        room=len(answer),
        golden=golden_of(question, oracles),
    )
    return Example(
        id=question.id,
        tokens=(*asked.tokens, *answer),
        prompt_tokens=len(asked.tokens),
        cut_tokens=asked.cut_tokens,
        cut_answer=asked.cut_answer,
    )


def from_row(
    row: tuple[Question, Sequence[Chunk]], tokenizer: Tokenizer, prompts: PromptsConfig, max_tokens: int
) -> Example:
    """`example` of a question and its documents as one item, for a Mapper."""
    return example(*row, tokenizer, prompts, max_tokens=max_tokens)


def quotes_valid(question: Question, chunks: Mapping[str, Chunk], prompts: PromptsConfig) -> bool:
    """Whether the target quotes word for word from the oracles; answers that are not reasoned quote nothing."""
    return prompts.answer != "reasoned" or quotes_hold(
        question.reasoning, [chunks[i].text for i in question.oracle_ids]
    )


def siblings(contexts: Rows[Context], stage: Stage, store: Store) -> list[Sibling]:
    """Finished stages that differ from `stage` in the oracle fraction alone: the nearest below, the nearest above.

    What keeps its oracle at a lower P keeps it at every higher one, so these two have all rows of a P between them, and
    of any number of P each question is rendered twice at most: with its oracle and without.
    """

    def made_by(card: Mapping[str, Any]) -> list[Any]:
        settings = {key: value for key, value in card["settings"].items() if key not in ("oracle_fraction", "draw")}
        return [card["inputs"], card["version"], settings]

    own = contexts.card
    found: dict[float, Sibling] = {}
    for path in store.folder.glob(f"contexts-*/{CARD}"):
        card, other = card_of(path.parent), Rows(path.parent, Context)
        if card is None:
            continue
        there = store.find(replace(stage, inputs={**stage.inputs, "contexts": other.fingerprint}), Example)
        if there and made_by(card) == made_by(own):
            found[card["settings"]["oracle_fraction"]] = (other, there)
    here = own["settings"]["oracle_fraction"]
    below, above = [p for p in found if p <= here], [p for p in found if p > here]
    return [found[p] for p in (*sorted(below)[-1:], *sorted(above)[:1])]


def render(
    shown: Iterable[tuple[Context, Any]],
    kept: Sequence[Sibling],
    mapper: Mapper,
    shared: tuple[Tokenizer, PromptsConfig, int],
) -> Counted[Example]:
    """A row for each context, taken from a sibling that shows its question with the same chunks in the same order.

    `shown` has beside each context what `from_row` takes, in the siblings' order of questions; the mapper renders those
    that no sibling has; they are counted.
    """
    rendered = 0
    origins: deque[tuple[str, int]] = deque()
    """(question, which sibling) of rows that were asked for and not yet given out; -1 is none. Texts stay on disk."""

    def missing() -> Iterator[Any]:
        others = [iter(contexts) for contexts, _ in kept]
        for context, row in shown:
            found = (next(other for other in rows if other.question_id == context.question_id) for rows in others)
            same = [n for n, other in enumerate(found) if other.chunk_ids == context.chunk_ids]
            origins.append((context.question_id, (*same, -1)[0]))
            if not same:
                yield row

    finished = [iter(examples) for _, examples in kept]
    for new in chain(mapper.map(from_row, missing(), *shared), [None]):
        while origins and (new is None or origins[0][1] >= 0):
            question_id, sibling = origins.popleft()
            yield next(row for row in finished[sibling] if row.id == question_id)
        if new is not None:
            origins.popleft()
            rendered += 1
            yield new
    return {"rendered": rendered}
