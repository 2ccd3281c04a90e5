"""Settings from YAML files and `key=value` overrides, checked, and printed again."""

from __future__ import annotations

import difflib
import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import ValidationError

from ragdist.config import Settings, strict
from ragdist.config.block import SettingsBlock
from ragdist.config.table import TableFile
from ragdist.errors import ConfigError

MOVED = {
    "atm.in_flight": "cluster.in_flight",
    "atm.deadline_s": "cluster.deadline_s",
    "atm.max_failures": "cluster.max_failures",
    "kube.driver_gpu": "evaluation.answerers",
}
"""Settings of earlier versions, all of them about where a run runs, and what took their place."""
SYSTEMS = ("raft", "atm", "duet")
Kind = TypeVar("Kind", bound=Settings)
Source = str | Path | Mapping[str, Any]
"""A YAML file, `key=value`, or values, nested or by dotted keys."""


def load(arguments: Source | Sequence[Source], base: Mapping[str, Any] | None = None) -> Settings:
    """Settings from YAML files, `key=value` overrides (the value in YAML) and nested values, later ones winning over
    earlier ones and those of `base`.

    Raises:
        ConfigError: a file cannot be read, a key is unknown (with the nearest known one), a value is out of range.
    """
    return resolve(nested(arguments, base))


def nested(arguments: Source | Sequence[Source], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What these say, as nested values that are not checked; raises as `load` where they cannot be read."""
    values: dict[str, Any] = {}
    _merge(values, base or {})
    for argument in arguments if isinstance(arguments, list | tuple) else [cast(Source, arguments)]:
        for said in map(_undotted, argument.items()) if isinstance(argument, Mapping) else [_said(argument)]:
            _merge(values, said)
    return values


def changed(settings: Kind, changes: Mapping[str, Any]) -> Kind:
    """The settings with these values, nested or by dotted keys; raises as `load`."""
    wanted = nested(changes)
    if isinstance(corpus := wanted.get("corpus"), Mapping):
        wanted["corpus"] = _with_source(corpus)
    return cast(Kind, load([settings.model_dump(mode="json"), wanted]))


def _undotted(item: tuple[Any, Any]) -> dict[str, Any]:
    return _nested(str(item[0]), item[1])


def is_setting(argument: str) -> bool:
    """Whether this is `key=value`, and not a file of that name."""
    return "=" in argument and not os.path.isfile(os.path.expanduser(argument))


def load_kept(path: Path) -> Settings:
    """The settings that a run kept in its folder, those that have moved since left out; raises as `load`."""
    if not (values := dict(_read(str(path)))):
        raise ConfigError(f"{path} is empty, and holds a run's settings; copy it again, or make the run again")
    for key in MOVED:
        block, _, name = key.partition(".")
        if isinstance(kept := values.get(block), dict):
            values[block] = {other: value for other, value in kept.items() if other != name}
    return resolve(values)


def load_table(path: Path) -> TableFile:
    """A table's file; raises as `load`, also where a row's settings are none."""
    try:
        return TableFile.model_validate(_read(str(path)))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_explain(found)}" for found in error.errors()[:MOST_TOLD])) from None


def _said(argument: str | Path) -> Mapping[str, Any]:
    if not isinstance(argument, str | Path):
        raise ConfigError(
            f"{argument!r:.80} is no settings: give a YAML file, key=value, values by key, or a list of these"
        )
    argument = str(argument)
    if is_setting(argument):
        key, _, text = argument.partition("=")
        return _nested(key.strip(), strict.parse(text, f"value of {key[:80]}"))
    return _read(argument)


def resolve(values: Mapping[str, Any]) -> Settings:
    """Settings from nested values; raises as `load`."""
    if isinstance(corpus := values.get("corpus"), Mapping):
        values = {**values, "corpus": _with_source(corpus)}
    whole = Settings().model_dump(mode="json")  # `attacker.train` has defaults of its own, below which a file may dip
    _merge(whole, values)
    try:
        return Settings.model_validate(whole)
    except ValidationError as error:
        found = error.errors()
        more = [f"and {len(found) - MOST_TOLD} more"] if len(found) > MOST_TOLD else []
        raise ConfigError("\n".join([*map(_explain, found[:MOST_TOLD]), *more])) from None


def _with_source(corpus: Mapping[str, Any]) -> Mapping[str, Any]:
    """A folder that is named is the source of the documents; without one, question files that are."""
    if "source" in corpus or corpus.get("benchmark"):
        return corpus
    source = "folder" if corpus.get("folder") else "records" if corpus.get("questions") else ""
    return {**corpus, "source": source} if source else corpus


def dump(settings: Settings) -> str:
    """The settings as YAML that `load` takes."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe() -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, sentence) of every setting, in the order of the architecture."""
    for key, field, value in _fields(Settings()):
        yield key, _kind(field.annotation), json.dumps(value), " ".join((field.description or "").split())


def flatten(settings: SettingsBlock) -> dict[str, Any]:
    """Every setting's value by its dotted key."""
    return {key: value for key, _, value in _fields(settings)}


def _fields(block: SettingsBlock, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        if isinstance(value, SettingsBlock):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, value


def markdown() -> str:
    """docs/settings.md: every setting, from the sentences in `config`."""
    lines = ["# Settings", "", "Made from `ragdist/config/` by `make docs`; a test holds it current.", ""]
    lines += ["A settings file is YAML with these keys; on the command line each is `key=value`. A file is UTF-8; what"]
    lines += ["stands twice is refused, as are tags; what looks like a date or a time stays text.", ""]
    owner = None
    for key, kind, default, sentence in describe():
        block = key.rpartition(".")[0]
        if block != owner:
            lines += ["", f"## {block}", ""] if block else []
            lines += ["| setting | type | default | what it does |", "|---|---|---|---|"]
            owner = block
        cells = (f"`{key}`", kind, f"`{default}`", sentence)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _kind(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _kind(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_kind, get_args(kind)))
    if get_origin(kind) is tuple and get_args(kind)[-1] is ...:
        return f"list[{_kind(get_args(kind)[0])}]"
    text: str = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    for old, new in (
        ("typing.", ""),
        ("Literal", ""),
        ("'", ""),
        ("tuple", "list"),
        (", ...]", "]"),
        ("NoneType", "null"),
    ):
        text = text.replace(old, new)
    return text


def _read(path: str) -> Mapping[str, Any]:
    what = f"settings file {path[:200]!r}"
    try:
        with open(os.path.expanduser(path), "rb") as file:
            content = file.read(strict.MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if path in SYSTEMS:
            raise ConfigError(
                f"{path!r} is a system, and this command takes settings alone, the same for all systems; leave it out"
            ) from None
        reason = getattr(error, "strerror", "") or error
        raise ConfigError(f"{what} cannot be read: {reason}; give a YAML file or key=value") from None
    values = strict.parse(strict.decoded(content, what), what) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what} holds a {type(values).__name__}, wanted keys and values")
    return values


def _nested(key: str, value: Any) -> dict[str, Any]:
    names = reversed(key.split(".", strict.MOST_DEPTH))
    return cast(dict[str, Any], reduce(lambda inner, name: {name: inner}, names, value))


def _merge(into: dict[str, Any], new: Mapping[str, Any], above: str = "") -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, f"{above}{key}.")
        else:
            into[str(key)] = strict.plain(value, f"{above}{key}")


WANTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "wanted a list, as [a, b]"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "it has settings of its own, as {below}"),
    **dict.fromkeys(("int_from_float", "int_parsing", "int_type"), "wanted a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "wanted a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "wanted true or false"),
    "truth": "true and false, which YAML also reads from yes, no, on and off, are no value of it",
    "string_type": "wanted text, in quotes where it has braces",
}
"""Pydantic's kinds of error in plain words; of others its own message is plain."""
MOST_TOLD, LONGEST_KEY = 20, 100
"""Errors that are told at once; characters of a key in them."""
ABBREVIATED = 0.95
"""Likeness of a name to its first letters: `lr` to `learning_rate`."""


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])[:LONGEST_KEY]
    if error["type"] == "extra_forbidden" and key in MOVED:
        return f"no such setting any more: {key!r}; set {MOVED[key]!r} (`ragdist settings` lists all)"
    if error["type"] == "extra_forbidden":
        return f"no such setting: {key!r}; the nearest is {_nearest(key)!r} (`ragdist settings` lists all)"
    problem = str(error["msg"]).removeprefix("Value error, ")
    if not key or (error["type"] == "value_error" and isinstance(error["input"], Mapping)):
        return problem  # of several settings together: it names them itself
    below = next((f"{known}=..." for known, *_ in describe() if known.startswith(f"{key}.")), f"{key}.NAME=...")
    problem = WANTED.get(error["type"], "").format(below=below) or problem[0].lower() + problem[1:]
    return f"{key}={error['input']!r:.200}: {problem}; set {key}=... or change it in the settings file"


def _nearest(key: str) -> str:
    """The setting that may have been meant, by its whole name, its last part, or the letters that begin its words."""
    block, _, name = key.rpartition(".")

    def likeness(known: str) -> tuple[float, float]:
        above, _, last = known.rpartition(".")
        initials = "".join(word[0] for word in last.split("_"))
        alike = max(_ratio(name, last), ABBREVIATED * (name == initials), _ratio(key, known))
        return round(alike, 2), _ratio(block, above) if block else -known.count(".")

    return max((known for known, *_ in describe()), key=likeness)


def _ratio(one: str, two: str) -> float:
    return difflib.SequenceMatcher(None, one, two).ratio()
