"""All attacks by name: ragdist's own, and those that installed packages bring (entry points `ragdist.attacks`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

from ragdist import parts
from ragdist.config import Condition
from ragdist.data.attacks import attackers, claims, noise, orders
from ragdist.data.attacks.plugin import Attack, Place, Purpose
from ragdist.data.plugins import Kind
from ragdist.errors import ConfigError

OWN = {attack.name: attack for attack in (*claims.ATTACKS, *orders.ATTACKS, *noise.ATTACKS)}
GROUPS: dict[str, Purpose | None] = {"all": None, "held-out": "judging"}
"""What stands for several attacks in `evaluation.attacks`."""
TAKEN = {*get_args(Condition), *GROUPS, "mixed", "own", "dataset", "attacker", "earlier", "clean"}
"""Names that mean something else in reports and settings."""


def _wrong(attack: Attack) -> Iterator[tuple[bool, str]]:
    yield attack.name in TAKEN, "has a name that means something else in reports"
    yield attack.purpose not in get_args(Purpose), f"has purpose={attack.purpose!r}, wanted training or judging"
    places = get_args(Place)
    yield attack.place not in places, f"has place={attack.place!r}, wanted one of {', '.join(places)}"


def _noted(attack: Attack, whose: str) -> Attack:
    """With a version that changes with its code."""
    return replace(attack, version=f"{whose} {parts.name_of('attack', attack.write)} {attack.version}")


KIND = Kind("attack", Attack, "ragdist.data.attacks", OWN, _wrong, _noted)
names = KIND.names


def named(name: str) -> Attack:
    """The attack of this name. A ConfigError if there is none, or its package is broken."""
    if not name.startswith(attackers.PREFIX):
        return KIND.named(name)
    *others, last = attackers.attackers(name)
    if others:
        raise ConfigError(f"{name!r} are {len(others) + 1} attackers, wanted one; take {name}@{len(others)}")
    return last


def every(purpose: Purpose | None = None) -> list[Attack]:
    """All attacks, or those of one list. A ConfigError if a package that brings one is broken."""
    return [attack for attack in KIND.every() if purpose in (None, attack.purpose)]


def chosen(wanted: Sequence[str]) -> list[Attack]:
    """Those of `evaluation.attacks`, each once; raises as `named`."""
    found = [one for name in dict.fromkeys(wanted) for one in _of(name)]
    by_name = {attack.name: attack for attack in found}
    if two := [one.name for one in found if one.version != by_name[one.name].version]:
        raise ConfigError(f"evaluation.attacks names two attacks {two[0]}; rename one of the runs")
    return [*by_name.values()]


def _of(name: str) -> list[Attack]:
    if name in GROUPS:
        return every(GROUPS[name])
    return attackers.attackers(name) if name.startswith(attackers.PREFIX) else [named(name)]


def for_training(name: str) -> Attack:
    """The attack of this name, if models may learn from it. A ConfigError if it is held out."""
    if name.startswith(attackers.PREFIX):
        raise ConfigError(
            f"atm.replay.attacks={name!r}: these forgeries are about test questions, which no model may learn from; "
            "`earlier` replays those of this game's attackers"
        )
    attack = named(name)
    if attack.purpose != "training":
        allowed = ", ".join(one.name for one in OWN.values() if one.purpose == "training")
        raise ConfigError(
            f"atm.replay.attacks={name!r}: this attack is held out for judging, and a model that learned from it "
            f"could not be judged by it; take earlier, {allowed}, or an attack of your own for training"
        )
    return attack
