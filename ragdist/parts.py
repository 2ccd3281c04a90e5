"""Parts of the user's own: what `ragdist.raft(settings, retriever=..., attack=..., metric=..., callbacks=...)` takes.

They are called in the process that called ragdist, one call at a time; no worker sees them. What one gave is kept in
`runs/data` under its name (`name_of`), so it is asked once, and never mistaken for what another gave.
"""

from __future__ import annotations

import builtins
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ragdist.config import PartsConfig, Settings
from ragdist.config.block import digest
from ragdist.errors import ConfigError, PartError, RagdistError, first_line
from ragdist.records import Chunk, Question

Out = TypeVar("Out")
INSTALLED = (*(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parent))
"""Code below these folders is named, not read."""
PLAIN = (str, int, float, complex, bool, bytes, type(None), type(...), Path, re.Pattern)


class Retriever(Protocol):
    """Finds documents for a question, wherever they are kept.

    It may have a method `index(chunks)`, which is given the run's own documents, cut into chunks, before the first
    question.

    Example: `lambda question, count: store.similarity_search(question, k=count)`
    """

    def __call__(self, question: str, count: int) -> Iterable[Any]:
        """At most `count` documents, best first: texts, mappings with `text` and perhaps `title`, or objects with
        `page_content` as LangChain has them, or with `text` and perhaps `title`, as a `Chunk`."""


class Attack(Protocol):
    """Writes documents that mislead about a question.

    Example: `lambda question, documents: [{"text": "It is 9.", "states": "9"}]`
    """

    def __call__(self, question: Question, documents: Sequence[Chunk]) -> Iterable[str | Mapping[str, str]]:
        """Texts, or mappings with `text`, perhaps `title`, and in `states` the wrong answer that they argue for;
        `documents` are those that hold the right one, else near ones. None: the question is not attacked."""


class Metric(Protocol):
    """Says how good an answer is. Example: `lambda answer, question: float(answer in question.answers)`."""

    def __call__(self, answer: str, question: Question) -> float:
        """A finite number, the higher the better; `question` has `text` and its right `answers`."""


class Event(NamedTuple):
    """What a callback is told. Example: Event("step", Path("runs/demo"), "train", 12, {"loss": 0.41})."""

    kind: Literal["begin", "step", "phase", "end"]
    folder: Path
    """The run's."""
    phase: str = ""
    """step: whose it is, as train or attacker; phase: what is done; end: finished, stopped or failed."""
    step: int = 0
    values: Mapping[str, Any] = {}
    """begin: all settings by dotted key; step: the step's numbers; phase: its seconds; end: scores of a run that
    finished, by `model/condition/metric`."""


class Callback(Protocol):
    """Is told how a run goes. Example: `print`."""

    def __call__(self, event: Event) -> object:
        """Called in a thread of its own, in the order of events, within seconds."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run was given of the user's own."""

    retriever: Retriever | None = None
    attack: Attack | None = None
    metric: Metric | None = None

    @property
    def names(self) -> dict[str, str]:
        """The name of each that is there, by what it is."""
        found = {kind: getattr(self, kind) for kind in PartsConfig.model_fields}
        return {kind: name_of(kind, part) for kind, part in found.items() if part is not None}

    def noted(self, settings: Settings) -> Settings:
        """The settings with the names of these parts."""
        names = self.names
        return settings.unchecked("parts", settings.parts.model_copy(update=names)) if names else settings

    def refuse_missing(self, wanted: PartsConfig) -> None:
        """Lets pass where all parts that the settings name are there; else a ConfigError."""
        names = self.names
        for kind, name in wanted.model_dump().items():
            if name and names.get(kind) != name:
                raise ConfigError(
                    f"parts.{kind}={name!r}: these settings are of a run with a {kind} of your own, and "
                    f"{repr(names[kind]) + ' was' if kind in names else 'none was'} given; hand it over in Python, as "
                    f"{kind}=..., or set parts.{kind}='' for a run without"
                )


class Unusable(Exception):
    """What a part gave is not what it should give; says what it was and what was wanted."""


def call(kind: str, part: Callable[..., Any], about: str, read: Callable[[Any], Out], *args: Any) -> Out:
    """What the part gives for these arguments, as `read` understands it.

    Args:
        kind: retriever, attack or metric.
        part: of the user's own.
        about: the question, for errors.
        read: makes of what it gives what is kept; raises Unusable where it cannot.
        args: what it is asked.

    Raises:
        PartError: the part raised, or gave what `read` does not take.
    """
    on = f"on {about!r:.200}: "
    kept = "; what it gave before is kept, and the same call goes on from there"
    try:
        return read(part(*args))
    except RagdistError:
        raise
    except Unusable as given:
        raise PartError(f"your {kind} {short_name(part)} gave what it must not {on}{given}{kept}") from given
    except Exception as error:  # of the user's code: told as its own, with the traceback as the cause
        said = f"{type(error).__name__} {on}{first_line(error)}"
        raise PartError(f"your {kind} {short_name(part)} raised {said}{kept}") from error


def short_name(part: Any) -> str:
    """What a part is called in reports and errors."""
    found = getattr(part, "name", None) or getattr(part, "__name__", None) or type(part).__name__
    return "lambda" if found == "<lambda>" else str(found)


def name_of(kind: str, part: Any) -> str:
    """The part's name with 12 digits that change with its code and all that its code uses, or with its `fingerprint`.

    Args:
        kind: retriever, attack or metric, for errors.
        part: a function, or an object that can be called.

    Raises:
        ConfigError: it cannot be called, or uses what nobody can tell apart from another, and has no `fingerprint`.
    """
    if not callable(part):
        raise ConfigError(f"{kind}={part!r:.80} cannot be called; docs/python.md says what a {kind} is")
    try:
        return f"{short_name(part)}-{digest(_told(part, {}))}"
    except _UnknownState as unknown:
        raise ConfigError(
            f"your {kind} {short_name(part)} uses {unknown}, of which nothing tells whether it is the same next time; "
            f"give the {kind} an attribute `fingerprint`, a text that changes whenever it would give something else"
        ) from None


class _UnknownState(Exception):
    pass


def _told(value: Any, seen: dict[int, Any]) -> Any:
    """The value as plain JSON that changes with whatever it would do."""
    if isinstance(value, PLAIN):
        return [type(value).__name__, str(value)]
    if isinstance(own := getattr(value, "fingerprint", None), str):
        return ["fingerprint", own]
    if id(value) in seen:
        return "above"
    seen[id(value)] = value  # held, so that no other object gets its id
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        return _collection(value, seen)
    if isinstance(value, ModuleType):
        return ["module", value.__name__]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return _definition(value, seen)
    if isinstance(value, MethodType):
        return [_told(value.__func__, seen), _told(value.__self__, seen)]
    if isinstance(getattr(value, "__dict__", None), dict) and not _is_installed(type(value)):
        return [_told(type(value), seen), _told(vars(value), seen)]
    if isinstance(func := getattr(value, "func", None), Callable):  # type: ignore[arg-type]
        return [_told(one, seen) for one in (func, value.args, value.keywords)]  # functools.partial
    raise _UnknownState(f"a {type(value).__qualname__}")


def _collection(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, Mapping):
        return [[_told(key, seen), _told(one, seen)] for key, one in value.items()]
    found = [_told(one, seen) for one in value]
    return sorted(found, key=str) if isinstance(value, (set, frozenset)) else found


def _definition(value: Any, seen: dict[int, Any]) -> Any:
    """A function or class: its name, and its code where that is not installed."""
    name = [value.__module__, value.__qualname__]
    if _is_installed(value):
        return name
    if isinstance(value, type):
        bases = [_told(base, seen) for base in value.__bases__]
        return [name, bases, [[key, _told(one, seen)] for key, one in vars(value).items() if _is_code(key, one)]]
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    used = [value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__]
    return [name[1], _code(value.__code__), *(_told(one, seen) for one in (cells, used, value.__defaults__))]


def _is_code(key: str, one: Any) -> bool:
    return isinstance(one, (FunctionType, *PLAIN, list, tuple, dict)) and key not in ("__module__", "__doc__")


def _names(code: CodeType) -> set[str]:
    """Names of globals in the code and what is defined in it."""
    return {*code.co_names}.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))


def _code(code: CodeType) -> Any:
    """The code without the places where it stands."""
    consts = [_code(one) if isinstance(one, CodeType) else _told(one, {}) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), consts]


def _is_installed(value: Any) -> bool:
    """Whether a function or class comes with Python, a package or ragdist."""
    if isinstance(value, BuiltinFunctionType):
        return True
    if isinstance(value, FunctionType):
        return value.__code__.co_filename.startswith(INSTALLED)
    if value.__module__ in ("__main__", "builtins"):  # code that is run by `exec` says it is of builtins
        return getattr(builtins, value.__name__, None) is value
    file = getattr(sys.modules.get(value.__module__ or ""), "__file__", None)
    return file is None or file.startswith(INSTALLED)
