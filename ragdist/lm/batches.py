"""Microbatches that waste little on padding and depend on nothing but what is in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar


class Sequenced(Protocol):
    """A Prompt or an Example."""

    @property
    def id(self) -> str: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


Item = TypeVar("Item", bound=Sequenced)


def by_length(
    items: Sequence[Item], limit: int, width: Callable[[int], int] = lambda length: length
) -> Iterator[list[Item]]:
    """The items in batches of similar length, longest first, the same whatever order they came in.

    Args:
        items: each with an id of its own.
        limit: no batch of two or more takes more than so many tokens, padding included.
        width: tokens that one item takes in a batch whose longest has so many.
    """
    batch: list[Item] = []
    room = 0
    for item in sorted(items, key=lambda item: (-len(item.tokens), item.id)):
        if len(batch) == room:
            if batch:
                yield batch
            batch, room = [], max(1, limit // width(len(item.tokens)))
        batch.append(item)
    if batch:
        yield batch


def unfinished(batches: Iterable[Sequence[Item]], done: Collection[str]) -> Iterator[Sequence[Item]]:
    """The batches with anything in them that is not done. Cut again, alone or together, each of them stays whole, so
    that what is missing is computed as it would have been the first time."""
    return (batch for batch in batches if any(item.id not in done for item in batch))
