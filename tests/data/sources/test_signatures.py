"""Documented functions read from source: held against `inspect` on the same modules, and a package made by hand."""

import ast
import gzip
import inspect
import json
import pathlib
import shutil
import textwrap

import pytest

from ragdist.data.sources.signatures import Default, functions
from ragdist.errors import DataError

SOURCE = {
    "__init__.py": '''
        """Package."""
        raise RuntimeError("read, never imported")
        from ._core import hidden, Thing
        from ._core import hidden as _private
        from json import dumps
        ''',
    "_core.py": '''
        def hidden(a, /, b: int = 1, *rest, c: str = "x", **more):
            """hidden(a, b) -> int

            What it does,
            in two lines.

            Second paragraph.

            Parameters
            ----------
            a : int
            """

        class Thing:
            """A thing."""

            def __init__(self, size=0x10):
                pass

            def grow(self, by=1.0, *, fast=False):
                """Make it larger."""

            @staticmethod
            def make(size=2):
                """Make one."""

            def _secret(self, x=1):
                """Not public."""

            def bare(self, x=1):
                pass
        ''',
    "tools.py": f'''
        def same(x=1):
            """Equal text."""

        def long(a=1):
            """{"word " * 200}"""

        def huge({", ".join(f"parameter_{i}={i}" for i in range(60))}):
            """Too many parameters."""

        def typed(value: "dict[str, tuple[int, int]]" = None, other: {"dict[str, " * 30 + "int" + "]" * 30} = None):
            """Annotated."""
        ''',
    "deep/__init__.py": "",
    "deep/tools.py": '''
        def same(x=1):
            """Equal text."""
        ''',
    "deep/er/__init__.py": "",
    "deep/er/most.py": '''
        def far(x=1):
            """Four names deep."""
        ''',
    "tests/__init__.py": '''
        def helper(x=1):
            """A test's own."""
        ''',
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, source in SOURCE.items():
        path = tmp_path / "sample_package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    return {function.path.removeprefix("sample_package."): function for function in functions(["sample_package"])}


def test_package_is_read_by_its_public_paths_without_being_imported(package):
    assert set(package) == {
        "hidden",
        "Thing",
        "Thing.grow",
        "Thing.make",
        "tools.same",
        "tools.long",
        "tools.typed",
    }


def test_text_is_signature_and_opening_prose(package):
    assert package["hidden"].text == (
        "hidden(a, /, b: int = 1, *rest, c: str = 'x', **more)\nWhat it does, in two lines. Second paragraph."
    )
    assert package["hidden"].defaults == {"b": Default("b: int = 1", "1"), "c": Default("c: str = 'x'", "'x'")}
    assert package["Thing"].text == "Thing(size=16)\nA thing."
    assert package["Thing.grow"].text.startswith("grow(by=1.0, *, fast=False)\n")
    assert package["Thing.make"].text.startswith("make(size=2)\n")
    assert package["tools.typed"].text.startswith("typed(value=None, other=None)\n")
    assert len(package["tools.long"].text) <= len("long(a=1)\n") + 350
    assert package["tools.long"].text.endswith("word ...")


@pytest.mark.parametrize("module", [gzip, json, pathlib, shutil])
def test_real_defaults_equal_those_that_inspect_sees(module):
    checked = 0
    for function in functions([module.__name__]):
        first, *names = function.path.removeprefix(f"{module.__name__}.").split(".")
        target = getattr(module, first, None)
        for name in names:
            target = getattr(target, name, None)
        if not callable(target):
            continue
        parameters = inspect.signature(target).parameters
        for name, default in function.defaults.items():
            assert default.shown in function.text
            try:
                value = ast.literal_eval(default.value)
            except ValueError:
                continue
            assert parameters[name].default == value, function.path
            checked += 1
    assert checked >= 10


def test_unknown_or_undocumented_package_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"'no_such_package' is not installed.*corpus\.packages"):
        functions(["no_such_package"])
    with pytest.raises(DataError, match="not installed"):
        functions(["../etc"])
    (tmp_path / "silent_module.py").write_text("def f(x=1): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="no documented function"):
        functions(["silent_module"])
