"""A group of ranks that hold two models and work with them in turn: who is meant, and each as a Side of its own.

What is done with one of them travels as `ByRole`; the ranks' plain object has the models in `roles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ragdist.roles import MicrobatchRef
from ragdist.storage.tables import Work


class ByRole(NamedTuple):
    """Work with one of the models, or a loss that it learns by."""

    role: int
    what: Callable[..., Any]

    def __call__(self, models: Any, *inputs: Any) -> Any:
        """The work, beside the model that is meant."""
        return self.what(models.roles[self.role], *inputs)


class RoleSide:
    """Implements Side for one of the models of a group.

    Args:
        group: `source` and `version` of it are tuples, an entry for each model.
        role: number of the model.
    """

    def __init__(self, group: Any, role: int) -> None:
        self.group, self.role = group, role

    @property
    def version(self) -> int:
        """See `roles.Side`."""
        return int(self.group.version[self.role])

    def each(
        self, work: Work, inputs: Iterable[tuple[MicrobatchRef, ...]], *shared: Any, **about: Any
    ) -> Iterator[MicrobatchRef]:
        """See `roles.Side`."""
        found: Iterator[MicrobatchRef] = self.group.each(ByRole(self.role, work), inputs, *shared, **about)
        return found

    def learn(self, loss: Callable[..., Any], shards: Sequence[MicrobatchRef], **about: Any) -> list[dict[str, float]]:
        """See `roles.Side`."""
        said: list[dict[str, float]] = self.group.learn(ByRole(self.role, loss), shards, **about)
        return said


def sides(group: Any) -> tuple[RoleSide, RoleSide]:
    """Both models of a group."""
    return RoleSide(group, 0), RoleSide(group, 1)


def learned(source: Any, version: Any, loss: Callable[..., Any], model: str) -> tuple[Any, Any]:
    """Source and version of what a group holds once `loss` was learned and written to `model`; of two models that whose
    turn it was is one version newer, the other is as it was."""
    if not isinstance(loss, ByRole):
        return model, version + 1
    own = [number == loss.role for number in range(len(source))]
    return (
        tuple(model if mine else kept for mine, kept in zip(own, source, strict=True)),
        tuple(number + mine for mine, number in zip(own, version, strict=True)),
    )
