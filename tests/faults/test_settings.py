"""Settings files and overrides."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ragdist.config import Settings, loader
from tests.faults.bases import documents, teacher
from tests.faults.calls import HOSTILE, WORDS, Case, Surface, edited, share, spoiled

KEYS = st.one_of(st.sampled_from(sorted(loader.flatten(Settings()))), WORDS, HOSTILE)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, HOSTILE, st.dates().map(str))
VALUES = st.recursive(
    LEAVES, lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(WORDS, below, max_size=3))
)
SAID = st.tuples(KEYS, st.one_of(VALUES.map(str), HOSTILE, WORDS))
OVERRIDES = SAID.map("=".join).map(lambda text: text.replace("\0", ""))
WHOLE = loader.dump(loader.load(["corpus.folder=documents", "corpus.questions=[q.csv]"])).encode()
FILES = st.one_of(
    spoiled(WHOLE),
    st.dictionaries(KEYS, VALUES, max_size=4).map(lambda values: repr(values).encode(errors="surrogatepass")),
    st.lists(st.tuples(KEYS, VALUES), max_size=4).map(
        lambda rows: "".join(f"{key}: {value}\n" for key, value in rows).encode(errors="surrogatepass")
    ),
    st.binary(max_size=200),
)
SUITE = {
    "attacks": ["template", "flood"],
    "grid": {"attack": "template", "documents": [1, 3], "forged": [0.0, 0.5], "positions": ["first"], "absent": True},
    "conditions": ["closed_book", "oracle", "attacked"],
    "forgeries": 2,
    "oracle_share": None,
    "max_new_tokens": 4,
    "tokens_per_batch": 512,
    "normalise": "unicode",
    "resamples": 100,
}
LIMITS = st.sampled_from(["--max-misled", "--min-clean", "--attack", "--grid", "--junit", "--sarif", "--json"])
COMMANDS = st.sampled_from([["settings"], ["settings", "--json"], ["plan", "raft"], ["plan", "atm", "--json"]])


@pytest.fixture(scope="module")
def surface():
    with Surface("settings", 0.1, documents) as made:
        yield made


@pytest.fixture(scope="module")
def typed():
    with Surface("overrides", 0.12, documents) as made:
        yield made


@pytest.fixture(scope="module")
def suite():
    with Surface("suite", 0.04, teacher) as made:
        yield made


@given(edited(SUITE), st.lists(st.tuples(LIMITS, st.one_of(HOSTILE, WORDS, st.floats().map(str))), max_size=2))
@share(0.02)
def test_attacks_grids_and_gates(suite, evaluation, options):
    """Of a tiny model, which is asked where the settings are good ones."""
    asked = ["gate", "teacher.yaml", "e.yaml", "corpus.source=records", "corpus.questions=[q.jsonl]"]
    asked += ["contexts.documents=3", "contexts.distractors=random", "--model", "m=model", "--max-misled", "0.5"]
    files = {"e.yaml": yaml.safe_dump({"evaluation": evaluation}).encode()}
    suite.run(Case([*asked, *(word.replace("\0", "") for option in options for word in option)], files))


@given(COMMANDS, FILES, st.lists(OVERRIDES, max_size=2))
@share(0.12)
def test_settings_files(surface, command, content, overrides):
    surface.run(Case([*command, "s.yaml", *overrides], {"s.yaml": content}))


@given(COMMANDS, st.lists(OVERRIDES, min_size=1, max_size=4))
@share(0.16)
def test_overrides(typed, command, overrides):
    typed.run(Case([*command, "s.yaml", *overrides]))
