"""What a costly function gave for each question, kept line by line: nobody is asked the same twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ragdist.storage.append import AppendLog
from ragdist.storage.atomic import make_folder, translate_errors
from ragdist.storage.locks import locked


class KeptCalls:
    """Values of JSON by key, in a file that several processes share; one of them asks at a time.

    Args:
        path: the file, named by who is asked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path.parent)
        self.known: dict[str, Any] = {}
        """What was read or asked so far."""

    def read(self) -> dict[str, Any]:
        """All that is kept."""
        if self.path.exists():
            self._ask([], _nobody)
        return self.known

    def get(self, keys: Sequence[str], ask: Callable[[int], Any]) -> list[Any]:
        """The values of these keys; `ask(place)` gives that of `keys[place]`, which is kept before the next is asked.

        Raises:
            StorageError: the folder cannot be written.
        """
        if any(key not in self.known for key in keys):
            self._ask(keys, ask)
        return [self.known[key] for key in keys]

    def _ask(self, keys: Sequence[str], ask: Callable[[int], Any]) -> None:
        folder = self.path.parent
        with translate_errors(folder), locked(folder / f".{self.path.name}.lock"), AppendLog(self.path) as log:
            self.known.update(log.rows)
            for place, key in enumerate(keys):
                if key not in self.known:
                    value = ask(place)
                    log.add([[key, value]])
                    self.known[key] = value


def _nobody(_: int) -> Any:
    raise AssertionError("nothing is asked for")
