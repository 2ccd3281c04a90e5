"""All attacks by name: ragdist's own, and those that installed packages bring (entry points `ragdist.attacks`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import get_args

from ragdist import parts
from ragdist.config import Condition
from ragdist.data.attacks import attackers, claims, noise, orders
from ragdist.data.attacks.plugin import Attack, Place, Purpose
from ragdist.errors import ConfigError, first_line

GROUP = "ragdist.attacks"
OWN = {attack.name: attack for attack in (*claims.ATTACKS, *orders.ATTACKS, *noise.ATTACKS)}
GROUPS: dict[str, Purpose | None] = {"all": None, "held-out": "judging"}
"""What stands for several attacks in `evaluation.attacks`."""
TAKEN = {*get_args(Condition), *GROUPS, "mixed", "own", "dataset", "attacker", "earlier", "clean"}
"""Names that mean something else in reports and settings."""


def names() -> list[str]:
    """Of all attacks, ragdist's own first."""
    return [*OWN, *dict.fromkeys(one.name for one in _points() if one.name not in OWN)]


def named(name: str) -> Attack:
    """The attack of this name. A ConfigError if there is none, or its package is broken."""
    if name.startswith(attackers.PREFIX):
        *others, last = attackers.attackers(name)
        if others:
            raise ConfigError(f"{name!r} are {len(others) + 1} attackers, wanted one; take {name}@{len(others)}")
        return last
    if name in OWN:
        return OWN[name]
    found = [one for one in _points() if one.name == name]
    if not found:
        raise ConfigError(f"no attack {name!r}; there are {', '.join(names())}")
    if len(found) > 1:
        whose = ", ".join(sorted(str(one.dist and one.dist.name) for one in found))
        raise ConfigError(f"attack {name!r} is brought by {whose}; uninstall all but one")
    return _loaded(found[0])


def every(purpose: Purpose | None = None) -> list[Attack]:
    """All attacks, or those of one list. A ConfigError if a package that brings one is broken."""
    found = map(named, names())
    return [attack for attack in found if purpose in (None, attack.purpose)]


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


def _points() -> Sequence[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=GROUP), key=lambda one: one.name)


@cache
def _loaded(point: metadata.EntryPoint) -> Attack:
    """What a package brings, with a version that changes with its code."""
    whose = point.dist.name if point.dist else point.value
    try:
        attack = point.load()
    except Exception as error:  # of code that is not ours
        raise _broken(point, f"raised {type(error).__name__} ({first_line(error)})") from error
    if not isinstance(attack, Attack):
        raise _broken(point, f"is a {type(attack).__name__}, wanted a ragdist.data.attacks.Attack")
    for wrong, why in (
        (attack.name != point.name, f"calls itself {attack.name!r}, wanted the name of its entry point"),
        (not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", attack.name), "wants lower case, digits and hyphens in its name"),
        (attack.name in TAKEN, "has a name that means something else in reports"),
        (attack.purpose not in get_args(Purpose), f"has purpose={attack.purpose!r}, wanted training or judging"),
        (
            attack.place not in get_args(Place),
            f"has place={attack.place!r}, wanted one of {', '.join(get_args(Place))}",
        ),
    ):
        if wrong:
            raise _broken(point, why)
    code = parts.name_of("attack", attack.write)
    return replace(attack, version=f"{whose} {point.dist.version if point.dist else ''} {code} {attack.version}")


def _broken(point: metadata.EntryPoint, why: str) -> ConfigError:
    whose = f"package {point.dist.name}" if point.dist else point.value
    return ConfigError(f"attack {point.name!r} of {whose} {why}; mend it, or uninstall the package")
