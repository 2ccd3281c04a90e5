"""Attackers that a game of ATM trained, each version an attack: `evaluation.attacks: [atm:runs/NAME]`.

What each wrote about the test questions lies in the run's folder, so no attacker is loaded, and all models are shown
the same words. Questions that the game did not ask about are left out and counted.
"""

from __future__ import annotations

import os.path
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ragdist.config.block import digest
from ragdist.data.attacks.plugin import Attack, Lie, Target
from ragdist.errors import ConfigError
from ragdist.records import Forgery
from ragdist.storage.atomic import read_json, translate_broken
from ragdist.storage.tables import rows_at

PREFIX = "atm:"
Told = dict[str, list[Forgery]]
"""By question id."""


def attackers(name: str) -> list[Attack]:
    """Those of `atm:RUN`, or one of them, `atm:RUN@1`; 0 is the attacker before it learned.

    Raises:
        ConfigError: there is no such game, or no such attacker.
        StorageError: what it left is broken.
    """
    place, version = re.findall(r"(?s)^(.*?)(?:@([0-9]*))?$", name.removeprefix(PREFIX))[0]
    folder = Path(os.path.expanduser(place))
    noted = (folder / "atm" / "test").glob("forged-a*.json") if os.path.isdir(folder) else ()
    versions = {
        int(_version(path)): path for path in noted if re.fullmatch("[0-9]+", _version(path)) and path.is_file()
    }
    written = [versions[number] for number in sorted(versions) if version in ("", str(number))]
    if not written:
        raise ConfigError(
            f"{name!r} is no attacker: {folder} holds no atm/test/forged-a{version or 0}.json, as a run of ATM does; "
            "give atm:RUN for all versions of its attacker, or atm:RUN@1 for one"
        )
    label = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "atm"
    return [_attack(f"{label}-a{_version(path)}", path) for path in written]


def _version(path: Path) -> str:
    return path.stem.removeprefix("forged-a")


def _attack(name: str, noted: Path) -> Attack:
    told: Told = defaultdict(list)
    with translate_broken(noted):
        files = [noted.with_suffix("") / f"{row['name']}.parquet" for row in read_json(noted)]
        if not all(map(os.path.isfile, files)):
            raise LookupError("not all files that it names are beside it")
        for forgery in (row for file in files for row in rows_at(file)):
            told[forgery.question_id] += [] if forgery.truthful else [forgery]
    return Attack(
        name=name,
        source="arXiv 2405.18111",
        purpose="training",
        write=partial(_write, told),
        about=f"What attacker {_version(noted)} of the game in {noted.parents[2]} wrote about the test questions.",
        version=digest(read_json(noted)),
    )


def _write(told: Told, target: Target, rng: random.Random) -> Iterator[Lie]:
    yield from (Lie(one.title, one.text, one.states) for one in told.get(target.question.id, ()))
