"""Both sides of ATM in one process: two adapters over one base that is held once. One learns at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ragdist.config import Settings, SideConfig
from ragdist.errors import ConfigError
from ragdist.lm import zero
from ragdist.lm.adapters import origin
from ragdist.lm.learn import Prepare
from ragdist.lm.load import dtype_of
from ragdist.lm.memory import enough
from ragdist.lm.resident import SHARD, Resident, independent, load_base
from ragdist.lm.source import resolve
from ragdist.lm.turns import ByRole
from ragdist.records import Bundle


class SharedResidents:
    """One rank of both sides: two models whose adapters belong to one base, which is held once. Every rank makes one.

    Between `open_phase` and `close_phase` both can write and read; one at a time learns.

    Args:
        sources: folder or other source of the attacker's model and of the generator's.
        settings: all settings.
        versions: of the models in `sources`.

    Raises:
        ConfigError: the models are of different bases, or as `Resident` raises it.
        ModelError: a model does not load.
    """

    def __init__(self, sources: Sequence[str], settings: Settings, _: SideConfig, versions: Sequence[int]) -> None:
        sides = (settings.attacker, settings.generator)
        zero.prepare()
        first, second = (origin(source, settings, side) for source, side in zip(sources, sides, strict=True))
        if resolve(first.base) != resolve(second.base):
            raise ConfigError(
                f"atm.layout=shared_base: the attacker's base is {first.base.source!r} and the generator's "
                f"{second.base.source!r}; set attacker.source and generator.source to one model or to adapters of one, "
                "or atm.layout=separate"
            )
        with zero.process_group(), zero.quiet(), enough(SHARD):
            train = settings.attacker.train
            stage = train.stage(dist.get_world_size(), dtype_of(first.base).itemsize)
            base = load_base(first.base, train, stage)
        made = zip(sources, sides, versions, strict=True)
        self.roles = [Resident(source, settings, side, version, base) for source, side, version in made]
        self._phase, self._learner = ExitStack(), self.roles[0]

    @property
    def version(self) -> tuple[int, ...]:
        """Of both models."""
        return tuple(model.version for model in self.roles)

    def open_phase(self) -> list[dict[str, Any]]:
        """See `Resident`; for both, by `group`."""
        self.close_phase()
        self._phase.enter_context(independent(*self.roles))
        named = zip(("attacker", "generator"), self.roles, strict=True)
        return [{**found, "group": name} for name, model in named for found in model.prove(self._phase)]

    def close_phase(self) -> None:
        """See `Resident`; for both."""
        self._phase.close()

    def begin(self, loss: ByRole, rows: Sequence[Bundle], prepare: Prepare | None, folder: Path) -> tuple[int, int]:
        """See `Resident`; `loss` says who learns until `finish`."""
        self.close_phase()
        self._learner = self.roles[loss.role]
        return self._learner.begin(loss.what, rows, prepare, folder)

    def steps(self, count: int) -> list[dict[str, float]]:
        """See `Resident`."""
        return self._learner.steps(count)

    def checkpoint(self) -> None:
        """See `Resident`."""
        self._learner.checkpoint()

    def finish(self) -> Path:
        """See `Resident`."""
        return self._learner.finish()
