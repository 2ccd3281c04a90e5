"""Values from outside: YAML of which nothing is lost or guessed, and what any settings may hold.

A key that stands twice, an anchor that holds itself, aliases that multiply and tags are refused; dates, times of day
and numbers that begin with 0 stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import PurePath
from typing import Any

import yaml

from ragdist.config.block import SettingsBlock
from ragdist.errors import ConfigError

MOST_BYTES, MOST_NODES, MOST_DEPTH = 2**20, 100_000, 32
"""Of a file; values in it with every alias written out; brackets or indentations inside each other."""
NEWLINE = b"\n"
TAG = "tag:yaml.org,2002:"
NO_TEXT = re.compile("[\0\ud800-\udfff]")


class _RefusedError(ValueError):
    """YAML that no settings file is, or not one that its writer meant."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0
        self.sizes: dict[yaml.Node, int] = {}
        """Of nodes that are whole; an alias to any other leads back to where it stands."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self.nodes
        where = f"in line {event.start_mark.line + 1}"
        if getattr(event, "tag", None) not in (None, "!", f"{TAG}str"):
            raise _RefusedError(f"has the tag {event.tag!r} {where}; leave it out, and put text in quotes")
        if self.depth == MOST_DEPTH:
            raise _RefusedError(f"is nested deeper than {MOST_DEPTH} levels {where}; no setting is")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        is_alias = isinstance(event, yaml.AliasEvent)
        if node is None or (is_alias and node not in self.sizes):
            raise _RefusedError(f"has *{event.anchor} {where} inside what it stands for; write it out")
        self.nodes += self.sizes[node] if is_alias else 1
        if self.nodes > MOST_NODES:
            raise _RefusedError(f"holds more than {MOST_NODES:,} values {where}, counted where aliases put them")
        self.sizes[node] = self.nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(f"has a key in line {line} that is no text; write it as text")
            if key.value in lines:
                where = f"in lines {lines[key.value]} and {line}"
                raise _RefusedError(f"has {key.value!r} twice, {where}; join them, or remove one")
            lines[key.value] = line
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep) for key, value in node.value}


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("float", r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]\d+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("int", r"[-+]?(0b[01]{1,99}|0x[\da-fA-F]{1,99}|0|[1-9][\d_]{0,99})", "-+0123456789"),
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"{TAG}{_kind}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), list(_first))


class _Manifests(_Loader):
    """As the API server reads numbers: 0644 is octal."""


_Manifests.add_implicit_resolver(f"{TAG}int", re.compile(r"[-+]?0[0-7]+\Z", re.ASCII), list("-+0"))


def parse(text: str, what: str) -> Any:
    """What a YAML text says; nothing where it is empty.

    Args:
        text: one document.
        what: names it in errors. Example: settings file 'a.yaml'.

    Raises:
        ConfigError: it is not YAML, or none that can be read without a guess.
    """
    with _translated(what):
        return yaml.load(text, _Loader)


def parse_manifests(text: str, what: str) -> list[Any]:
    """The objects of a file for Kubernetes, as JSON has them; arguments and raises as of `parse`."""
    with _translated(what):
        return [plain(found, what) for found in yaml.load_all(text, _Manifests)]


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise ConfigError(f"{what} {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


def decoded(content: bytes, what: str) -> str:
    """The text of a file, in UTF-8 with or without a byte order mark; a ConfigError for all else, or for too much."""
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{what} is larger than {MOST_BYTES // 2**20} MiB; is it a settings file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {content[error.start]:#04x} in line {content[: error.start].count(NEWLINE) + 1}"
        raise ConfigError(f"{what} is not UTF-8: {where}; save it as UTF-8") from None
    if "\0" in text:
        raise ConfigError(f"{what} holds NUL characters, as UTF-16 and binary files do; save it as UTF-8")
    return text


def plain(value: Any, key: str, depth: int = 0) -> Any:
    """The value as JSON has it, a copy: dates and paths are text, keys are text.

    Raises:
        ConfigError: it is something else, no finite number or beyond 64 bits, no text, or nested too deep.
    """
    if depth > MOST_DEPTH:
        raise ConfigError(f"{key[:80]} is nested deeper than {MOST_DEPTH} levels; no setting is")
    if isinstance(value, SettingsBlock):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {plain(str(name), key): plain(below, f"{key}.{name}", depth + 1) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, key, depth + 1) for item in value]
    if isinstance(value, date | PurePath):  # a datetime is a date
        value = str(value)
    if problem := _problem(value):
        raise ConfigError(f"{key[:80]} {problem}")
    return value


def _problem(value: Any) -> str:
    if isinstance(value, str):
        return f"holds {value[found.start()]!a}, which is no character" if (found := NO_TEXT.search(value)) else ""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is a whole number beyond 64 bits; write a smaller one, or put it in quotes"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; wanted a finite number, or put it in quotes"
    if value is None or isinstance(value, bool | int | float):
        return ""
    return f"is a {type(value).__name__}; wanted text, numbers, true or false, lists, or keys and values"
