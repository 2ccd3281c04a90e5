"""What is known by name: ragdist's own, and what installed packages bring through an entry point."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Generic, Protocol, TypeVar

from ragdist.errors import ConfigError, first_line


class Named(Protocol):
    """Has a name that settings say."""

    @property
    def name(self) -> str: ...


Plugin = TypeVar("Plugin", bound=Named)


@dataclass(frozen=True, eq=False)
class Kind(Generic[Plugin]):
    """A kind of plug-in. Example: Kind("attack", Attack, "ragdist.data.attacks", {...}, wrong, noted)."""

    what: str
    """In errors; the group of entry points is `ragdist.<what>s`."""
    type: type[Plugin]
    home: str
    """Where strangers import it from."""
    own: Mapping[str, Plugin]
    wrong: Callable[[Plugin], Iterable[tuple[bool, str]]]
    """(whether it is so, what then is wrong) beside what is asked of all kinds."""
    noted: Callable[[Plugin, str], Plugin]
    """The plug-in that knows which package it is of."""

    def names(self) -> list[str]:
        """Of all, ragdist's own first."""
        return [*self.own, *dict.fromkeys(one.name for one in self._points() if one.name not in self.own)]

    def named(self, name: str) -> Plugin:
        """The one of this name. A ConfigError if there is none, or its package is broken."""
        if name in self.own:
            return self.own[name]
        found = [one for one in self._points() if one.name == name]
        if not found:
            raise ConfigError(f"no {self.what} {name!r}; there are {', '.join(self.names())}")
        if len(found) > 1:
            whose = ", ".join(sorted(str(one.dist and one.dist.name) for one in found))
            raise ConfigError(f"{self.what} {name!r} is brought by {whose}; uninstall all but one")
        brought: Plugin = loaded(self, found[0])
        return brought

    def every(self) -> list[Plugin]:
        """All. A ConfigError if a package that brings one is broken."""
        return [*map(self.named, self.names())]

    def _points(self) -> Sequence[metadata.EntryPoint]:
        return sorted(metadata.entry_points(group=f"ragdist.{self.what}s"), key=lambda one: one.name)


@cache
def loaded(kind: Kind[Any], point: metadata.EntryPoint) -> Any:
    """What a package brings."""

    def broken(why: str) -> ConfigError:
        whose = f"package {point.dist.name}" if point.dist else point.value
        return ConfigError(f"{kind.what} {point.name!r} of {whose} {why}; mend it, or uninstall the package")

    try:
        found = point.load()
    except Exception as error:  # of code that is not ours
        raise broken(f"raised {type(error).__name__} ({first_line(error)})") from error
    if not isinstance(found, kind.type):
        raise broken(f"is a {type(found).__name__}, wanted a {kind.home}.{kind.type.__name__}")
    for is_so, why in (
        (found.name != point.name, f"calls itself {found.name!r}, wanted the name of its entry point"),
        (not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", found.name), "wants lower case, digits and hyphens in its name"),
        *kind.wrong(found),
    ):
        if is_so:
            raise broken(why)
    whose = point.dist.name if point.dist else point.value
    return kind.noted(found, f"{whose} {point.dist.version if point.dist else ''}")
