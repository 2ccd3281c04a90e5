"""A side of ATM whose texts are written elsewhere than where it learns. Implements `roles.Side` with two groups.

    learners    hold the model sharded, read with it and train it      `attacker`, `generator`
    writers     each hold all of it, and write                         `attacker.writers`, `generator.writers`

Writers take up a version when the next text is wanted, from the folder that the learners published, and prove it: the
learners read what they make of a few prompts (`lm.probe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from ragdist.cluster.group import WorkerGroup, seated
from ragdist.cluster.place import never
from ragdist.cluster.ranks import GroupSpec
from ragdist.config import Settings, SideConfig
from ragdist.lm import probe, turns
from ragdist.lm.resident import Resident
from ragdist.lm.residents import SharedResidents
from ragdist.lm.written import WritingModel
from ragdist.roles import MicrobatchRef
from ragdist.storage.tables import Work
from ragdist.tracking.run import metrics


class WriterSide:
    """Implements Side, as a context.

    Args:
        learners: read and learn.
        writers: write.
    """

    def __init__(self, learners: WorkerGroup, writers: WorkerGroup) -> None:
        self.learners, self.writers = learners, writers
        self._stack = ExitStack()
        self._proved: int | None = None
        """The version that the writers were seen to hold."""

    def __enter__(self) -> Self:
        self._stack.enter_context(seated(self.learners, self.writers))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def version(self) -> int:
        """Of the weights that all learners hold."""
        return int(self.learners.version)

    def each(
        self, work: Work, inputs: Iterable[tuple[MicrobatchRef, ...]], *shared: Any, writes: bool = False, **about: Any
    ) -> Iterator[MicrobatchRef]:
        """See `roles.Side`."""
        if writes and self._proved != self.version:
            self._take_up()
        group = self.writers if writes else self.learners
        return group.each(work, inputs, *shared, **about)

    def _take_up(self) -> None:
        """Lets the writers hold what the learners hold, and has the learners read what those make of it.

        Raises:
            EngineError: writers, fresh ones too, have other weights.
        """
        name, settings = self.writers.plan.name, self.writers.plan.settings
        if self.writers.version != self.version:
            self.writers.take_up(self.learners.source, self.version)
        (engine, *_) = self.writers.ask(WritingModel.named, "probe")
        (allowed, *_) = self.learners.ask(partial(probe.allowed, config=settings.engines), "probe")

        def off() -> float:
            made = self.writers.ask(WritingModel.continued, "probe")
            nats: list[float] = [off for one in made for off in self.learners.ask(partial(probe.apart, one), "probe")]
            return max(nats)

        def renew() -> None:
            self.writers.restart(self.learners.source, self.version)

        metrics("probe", group=name, **probe.proved(engine, self.version, off, renew, allowed))
        self._proved = self.version

    def learn(self, loss: Callable[..., Any], shards: Sequence[MicrobatchRef], **about: Any) -> list[dict[str, float]]:
        """See `roles.Side`."""
        return self.learners.learn(loss, shards, **about)


def side(
    name: str,
    source: str,
    version: int,
    settings: Settings,
    folder: Path,
    stop: Callable[[], bool] = never,
    **heard: Any,
) -> WorkerGroup | WriterSide:
    """A side of ATM in its places, not opened yet.

    Args:
        name: its block of the settings, `attacker` or `generator`.
        source: folder or name of the model that it starts with.
        version: of that model.
        settings: all settings.
        folder: the run's, for the ranks' logs.
        stop: asked between microbatches and steps.
        heard: `on_span`, `on_step` of `WorkerGroup`.
    """
    config: SideConfig = settings.group(name)
    reads = config.replaced("engine", "transformers") if config.writers.workers else config
    learners = WorkerGroup(GroupSpec(name, settings, reads, Resident, folder, stop), source, version, **heard)
    if not config.writers.workers:
        return learners
    about = (f"{name}.writers", settings, config.writers, partial(WritingModel, engine=config.engine), folder, stop)
    spec = GroupSpec(*about, meet=False, memory="evaluation.tokens_per_batch")
    return WriterSide(learners, WorkerGroup(spec, source, version, **heard))


@contextmanager
def sides_of_one_base(
    attacker: tuple[str, int],
    generator: tuple[str, int],
    settings: Settings,
    folder: Path,
    stop: Callable[[], bool] = never,
    **heard: Any,
) -> Iterator[tuple[turns.RoleSide, turns.RoleSide]]:
    """Both sides of ATM on the ranks of `attacker`, for as long as the block lasts.

    Args:
        attacker: folder or name of the model that it starts with, and its version.
        generator: likewise.
        settings: all settings.
        folder: the run's, for the ranks' logs.
        stop: asked between microbatches and steps.
        heard: `on_span`, `on_step` of `WorkerGroup`.
    """
    sources, versions = zip(attacker, generator, strict=True)
    spec = GroupSpec("attacker", settings, settings.attacker, SharedResidents, folder, stop)
    with seated(WorkerGroup(spec, sources, versions, **heard)) as (both,):
        yield turns.sides(both)
