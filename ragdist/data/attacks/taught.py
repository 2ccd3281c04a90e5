"""What a teacher writes for attacks that ask one; without a teacher they make do with templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ragdist.data.attacks.plugin import Attack, Target
from ragdist.data.teaching.replies import ask_each, spoken
from ragdist.records import Request
from ragdist.roles import Teacher

MOST_TOKENS = 128
"""Of a reply; PoisonedRAG's texts have 30 words."""
TEMPERATURE = 0.8


def replied(targets: Iterable[Target], attack: Attack, teacher: Teacher) -> Iterator[Target]:
    """Each target with the teacher's replies to `attack.asks`, one for each document, without those it refused.

    Raises:
        TeacherError: it cannot be reached.
        Stopped: a budget is spent.
    """
    asks = attack.asks
    if asks is None:
        yield from targets
        return

    def request(item: tuple[Target, int]) -> Request:
        target, number = item
        id = f"{attack.name}/{target.question.id}/{number}"
        text, seed = asks(target), target.seed + number
        return Request(id=id, text=text, max_new_tokens=MOST_TOKENS, temperature=TEMPERATURE, seed=seed)

    items = ((target, number) for target in targets for number in range(target.count))
    said: list[str] = []
    for (target, number), reply in ask_each(items, request, teacher, f"documents of {attack.name}"):
        said.append(spoken(reply).text.strip())
        if number == target.count - 1:
            yield replace(target, replies=[text for text in said if text], taught=True)
            said = []
