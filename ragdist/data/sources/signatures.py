"""Documented functions of installed packages, read from their source by griffe: nothing is imported or run."""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import NamedTuple

import griffe

from ragdist.errors import DataError

STDLIB = "stdlib"
DOC_CHARACTERS = 200
"""Longest description."""
TYPED_CHARACTERS = 250
"""Longest signature that keeps its annotations."""
SIGNATURE_CHARACTERS = 400
"""Longest signature; functions with more make no chunk, as their chunk would crowd out all others."""
MODULE_DEPTH = 3
"""Longest module path, in names; deeper ones (`torch.fx.passes.infra`) are for the package's own use."""
SKIPPED = re.compile(
    r"tests?|test_.*|testing|conftest|distutils|f2py|experimental|internals?|contrib|vendor|scripts|"
    r"idlelib|lib2to3|turtledemo|ensurepip|this|antigravity"
)
"""Modules that no user calls."""
PRIVATE_FOLDERS = re.compile(r"_(?!core$|internal$|src$|impl$|lib$).*")
"""Folders of private modules that are not read: all but those in which packages keep what they export."""
SECTION = re.compile(
    r"[A-Z][\w ]{2,20} [-=~]{3,}|[-*>.:@]|"
    r"(Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Keyword|Notes?|Shape)\b.*?:"
)
"""How a docstring's first paragraph that is no prose begins."""


class Default(NamedTuple):
    """A parameter's default. Example: Default(shown="mode: str = 'r'", value="'r'")."""

    shown: str
    """The parameter as the signature writes it."""
    value: str
    """Source text of the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A documented public function or method, or a class as its constructor.

    Example: Function(path="codecs.open", text="open(filename, mode='r')\\nOpen an encoded file using the given mode.",
    defaults={"mode": Default("mode='r'", "'r'")})
    """

    path: str
    """Nearest public dotted path."""
    text: str
    """Signature, a line break, the description's opening paragraphs."""
    defaults: dict[str, Default]


def functions(packages: Sequence[str]) -> list[Function]:
    """The packages' functions by path, those of equal text only once; `stdlib` is the standard library. A DataError if
    a package is not installed, or has no documented function written in Python."""
    found: dict[str, Function] = {}
    for package in packages:
        known = len(found)
        found.update((function.path, function) for root in _roots(package) for function in _public(root))
        if len(found) == known:
            raise DataError(f"package {package!r} has no documented function written in Python; change corpus.packages")
    nearest = sorted(found, key=lambda path: (path.count("."), path), reverse=True)
    by_text = {found[path].text: found[path] for path in nearest}
    return sorted(by_text.values(), key=lambda function: function.path)


def origin(package: str) -> Path:
    """The package's `__init__.py`, or the file of a module on its own; the package is not imported. A DataError if it
    is not installed, or not written in Python."""
    with suppress(ValueError):  # as of `__main__`
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        frozen = getattr(spec and spec.loader_state, "filename", None)  # of those that Python itself begins with
        if file := frozen or (spec and spec.has_location and spec.origin):
            return Path(file)
    raise DataError(f"package {package!r} is not installed as Python files; install it or change corpus.packages")


class _Finder(griffe.ModuleFinder):
    """Finds the modules that hold what a user calls; half of torch is others."""

    def iter_submodules(
        self, path: Path | list[Path], seen: set[Path] | None = None
    ) -> Iterator[tuple[tuple[str, ...], Path]]:
        for parts, file in super().iter_submodules(path, seen):
            folders = parts if file.stem == "__init__" else parts[:-1]
            skipped = any(map(SKIPPED.fullmatch, parts)) or any(map(PRIVATE_FOLDERS.fullmatch, folders))
            if file.suffix == ".py" and not skipped:
                yield parts, file


def _roots(package: str) -> Iterator[griffe.Module]:
    """The package as griffe reads it; for `stdlib` each of its modules that is written in Python."""
    if package == STDLIB:
        folder = Path(sysconfig.get_path("stdlib"))
        names = [name for name in sorted(sys.stdlib_module_names) if not SKIPPED.fullmatch(name) and name[0] != "_"]
        names = [name for name in names if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()]
    else:
        file, names = origin(package), [package]
        folder = file.parent.parent if file.stem == "__init__" else file.parent
    loader = griffe.GriffeLoader(search_paths=[folder], allow_inspection=False, store_source=False)
    loader.finder = _Finder([folder])
    with griffe.logger.disable():  # it warns of docstrings and annotations of other people's packages
        for name in names:
            root = loader.load(name, try_relative_path=False)
            if isinstance(root, griffe.Module):
                loader.expand_exports(root)
                loader.expand_wildcards(root, external=False)
                yield root


def _public(root: griffe.Module) -> Iterator[Function]:
    """The root's documented functions, each under the nearest of its public paths."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    targets: dict[str, griffe.Function | griffe.Class] = {}
    for path, target in _members(root, root.path, root.name, frozenset()):
        paths[target.path].append(path)
        targets[target.path] = target
    for where, target in targets.items():

        def distance(path: str, where: str = where) -> tuple[int, bool, str]:
            return path.count("."), not where.startswith(path.rpartition(".")[0] + "."), path

        if function := _function(min(paths[where], key=distance), target):
            yield function


def _members(
    owner: griffe.Module | griffe.Class, path: str, package: str, inside: frozenset[str]
) -> Iterator[tuple[str, griffe.Function | griffe.Class]]:
    """(public path, function or class) of everything below `owner` that its package defines, aliases included."""
    for name, member in owner.members.items():
        if name.startswith("_"):
            continue
        target = member
        if isinstance(member, griffe.Alias):
            if owner.exports is not None and name not in owner.exports:
                continue
            try:
                target = member.final_target
            except (griffe.AliasResolutionError, griffe.CyclicAliasError):
                continue
            if target.is_module or target.package.name != package:
                continue
        if isinstance(target, griffe.Function):
            yield f"{path}.{name}", target
        elif isinstance(target, griffe.Class) and target.path not in inside:
            yield f"{path}.{name}", target
            yield from _members(target, f"{path}.{name}", package, inside | {target.path})
        elif isinstance(target, griffe.Module) and path.count(".") + 1 < MODULE_DEPTH and not SKIPPED.fullmatch(name):
            yield from _members(target, f"{path}.{name}", package, inside)


def _function(path: str, target: griffe.Function | griffe.Class) -> Function | None:
    """The record, or None for one without a description or with too long a signature."""
    call = target.members.get("__init__") if isinstance(target, griffe.Class) else target
    if not isinstance(call, griffe.Function):
        return None
    description = _description(target) or _description(call)
    parameters = list(call.parameters)
    if isinstance(call.parent, griffe.Class) and "staticmethod" not in call.labels:
        parameters = parameters[1:]
    name = path.rpartition(".")[2]
    for typed in (True, False):
        signature, defaults = _signature(name, parameters, typed=typed)
        if len(signature) <= TYPED_CHARACTERS:
            break
    if not description or len(signature) > SIGNATURE_CHARACTERS:
        return None
    return Function(path=path, text=f"{signature}\n{description}", defaults=defaults)


def _signature(name: str, parameters: list[griffe.Parameter], *, typed: bool) -> tuple[str, dict[str, Default]]:
    """The signature as Python writes it (`open(a: int, /, *, b: str = 'r', **rest)`), and its defaults."""
    kinds = griffe.ParameterKind
    parts: list[str] = []
    defaults: dict[str, Default] = {}
    last: griffe.ParameterKind | None = None
    for parameter in parameters:
        kind = parameter.kind
        if last is kinds.positional_only and kind is not last:
            parts.append("/")
        if kind is kinds.keyword_only and last not in (kinds.keyword_only, kinds.var_positional):
            parts.append("*")
        shown = "*" * ((kind is kinds.var_positional) + 2 * (kind is kinds.var_keyword)) + parameter.name
        if annotated := typed and parameter.annotation is not None:
            shown += f": {parameter.annotation}"
        if parameter.default is not None and not shown.startswith("*"):
            value = str(parameter.default)
            shown += f" = {value}" if annotated else f"={value}"
            defaults[parameter.name] = Default(shown, value)
        parts.append(shown)
        last = kind
    if last is kinds.positional_only:
        parts.append("/")
    return f"{name}({', '.join(parts)})", defaults


def _description(target: griffe.Function | griffe.Class) -> str:
    """The docstring's opening paragraphs in one line, at most `DOC_CHARACTERS`, without a repeated signature."""
    text = target.docstring.value if target.docstring else ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    prose = list(
        takewhile(lambda p: not SECTION.match(p), (p for p in paragraphs if not p.startswith(f"{target.name}(")))
    )
    lengths = accumulate(len(paragraph) + 1 for paragraph in prose)
    fitting = [paragraph for paragraph, length in zip(prose, lengths, strict=True) if length <= DOC_CHARACTERS]
    return textwrap.shorten(" ".join(fitting or prose[:1]), DOC_CHARACTERS, placeholder=" ...")
