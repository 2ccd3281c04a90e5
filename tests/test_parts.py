"""What names a part of the user's own: all that it would do differently, and nothing else."""

import functools
import re
import threading

import pytest

from ragdist.errors import ConfigError
from ragdist.parts import name_of

WORDS = {"one": 1}
BODY = """
{comment}
import math
LIMIT = {limit}
def helper(answer):
    return [letter for letter in answer if len(answer) {sign} LIMIT]
class Judge:
    weight = {weight}
    def __init__(self, state):
        self.state = state
    def __call__(self, answer, question):
        return self.inner(answer) * math.pi
    def inner(self, answer):
        return self.weight * len(helper(answer))
judge = Judge({state})
def metric(answer, question, least={least}):
    return max(least, len(helper(answer)))
made = (lambda bound: lambda answer, question: len(answer) > bound)({bound})
"""
FIRST = {"comment": "", "limit": 3, "sign": ">", "weight": 1, "state": "'a'", "least": 0, "bound": 5}


def named(part, **changes):
    space = {}
    exec(BODY.format(**FIRST | changes), space)
    return name_of("metric", space[part])


@pytest.mark.parametrize("part", ["judge", "metric", "made"])
def test_the_same_code_has_the_same_name_wherever_it_stands(part):
    assert named(part) == named(part, comment="# moved down\n\n")
    assert re.fullmatch(r"(Judge|metric|lambda)-\w{12}", named(part))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("judge", {"limit": 4}),
        ("judge", {"sign": "<"}),
        ("judge", {"weight": 2}),
        ("judge", {"state": "'b'"}),
        ("judge", {"state": "{'k': [1, {2, 3}]}"}),
        ("metric", {"limit": 4}),
        ("metric", {"sign": "<"}),
        ("metric", {"least": 1}),
        ("made", {"bound": 6}),
    ],
)
def test_what_a_part_uses_is_part_of_its_name(part, changes):
    assert named(part, **changes) != named(part)


@pytest.mark.parametrize(("part", "changes"), [("metric", {"state": "'b'"}), ("made", {"limit": 4})])
def test_what_a_part_does_not_use_is_not(part, changes):
    assert named(part, **changes) == named(part)


def test_what_cannot_be_told_apart_needs_a_fingerprint():
    store = threading.Lock()

    def search(question, count):
        return store.acquire()

    for part in (search, functools.partial(search, count=3)):
        with pytest.raises(ConfigError, match=r"^your retriever \w+ uses a lock, .* an attribute `fingerprint`"):
            name_of("retriever", part)
    search.fingerprint = "documents of May"
    first = name_of("retriever", search)
    assert name_of("retriever", functools.partial(search, count=3)) != first
    search.fingerprint = "documents of June"
    assert name_of("retriever", search) != first
    with pytest.raises(ConfigError, match="retriever=3 cannot be called"):
        name_of("retriever", 3)


def test_installed_code_is_named_and_globals_are_read_when_asked():
    def part(answer, question):
        return re.sub("a", "b", answer) + str(WORDS)

    before = name_of("metric", part)
    assert name_of("metric", part) == before
    WORDS["two"] = 2
    assert name_of("metric", part) != before
    assert name_of("metric", re.sub) == name_of("metric", re.sub)
