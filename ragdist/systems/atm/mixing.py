"""Which list stands beside the clean one when ATM's generator learns: attacked by whom, by how many, or not at all.

The paper shows every question with all its forgeries, always. A generator that learns from nothing else is taught to
doubt each list, and pays for it where retrieval is honest; `atm.mix` and `atm.replay` say otherwise. Each choice is
drawn by (seed, round, question), so that no order of work changes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import cache, partial

from ragdist.config import AtmConfig, MixConfig
from ragdist.data.attacks import Target, registry
from ragdist.data.attacks.forging import LeftOut, forge
from ragdist.data.attacks.plugin import aim
from ragdist.draws import draw, order_for
from ragdist.records import Forgery, OpenQuestion, Page

Attack = Sequence[Forgery]


def attacks(
    question: OpenQuestion, newest: Attack, earlier: Iterable[Attack], round: int, config: AtmConfig, seed: int
) -> list[Attack]:
    """The newest forgeries, then what `atm.replay.attacks` adds to them; one that makes nothing is left out.

    Args:
        question: what is asked.
        newest: what the attacker that learned last wrote about it.
        earlier: what earlier ones wrote, an entry each.
        round: names the draws.
        config: its `replay` and `samples` are read.
        seed: of the draws.
    """
    found, target = list[Attack](), cache(partial(_target, question, config.samples, seed))  # few replay any
    for name in config.replay.attacks:
        if name == "earlier":
            found += earlier
            continue
        with contextlib.suppress(LeftOut):
            found.append(forge(registry.for_training(name), target(), f"{round}/{question.id}"))
    return [newest, *filter(None, found)]


def _target(question: OpenQuestion, count: int, seed: int) -> Target:
    golden = [question.documents[place] for place in question.oracle_positions]
    others = [document for document in question.documents if document not in golden]
    return aim(question, golden, others, (), count=count, seed=seed)


def drawn(among: Sequence[Attack], name: str, config: AtmConfig, seed: int) -> Attack:
    """The attack that a row's list holds: the newest, or in `atm.replay.share` of the rows one of the others."""
    others = among[1:]
    if not others or draw(seed, "replayed", name) >= config.replay.share:
        return among[0]
    return others[int(draw(seed, "replayed attack", name) * len(others))]


def shown(
    question: OpenQuestion, attack: Attack, name: str, round: int, config: AtmConfig, seed: int
) -> list[Page | Forgery]:
    """The documents, then the forgeries, of a row's second list, as `atm.mix` draws them."""
    mix, at = config.mix, draw(seed, "mix", name)
    documents, golden = question.documents, set(question.oracle_positions)
    if at < mix.clean:
        return [*documents]
    if at < mix.clean + mix.absent:
        return [document for place, document in enumerate(documents) if place not in golden]
    if at < mix.clean + mix.absent + mix.oracle_alone:
        return [document for place, document in enumerate(documents) if place in golden] or [*documents]
    return [*documents, *_some(attack, name, round, config, seed)]


def _some(attack: Attack, name: str, round: int, config: AtmConfig, seed: int) -> Attack:
    """All of them, or k of n as `atm.mix.forgeries` says, in their order."""
    mix: MixConfig = config.mix
    if mix.forgeries == "all":
        return attack
    most = len(attack)
    if mix.curriculum:
        most = -(-most * min(round + 1, config.rounds) // config.rounds)
    kept = int(draw(seed, "forgeries shown", name) * (most + 1))
    places = sorted(order_for(seed, "which forgeries", name, len(attack))[:kept])
    return [attack[place] for place in places]
