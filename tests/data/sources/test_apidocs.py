"""Questions about defaults: right by construction, split by function, not given away by the parameter's name."""

import platform
import re
from collections import Counter
from importlib import metadata

import pytest

from ragdist.data.sources import apidocs
from ragdist.errors import DataError
from ragdist.records import Question


@pytest.fixture(scope="module")
def stdlib():
    chunks, questions = apidocs.read(["stdlib"], seed=0, test_fraction=0.2)
    return {chunk.id: chunk for chunk in chunks}, questions


def test_every_answer_is_the_default_in_its_oracle(stdlib):
    chunks, questions = stdlib
    assert len(chunks) > 2000 and len(questions) > 150
    for question in questions:
        (oracle,) = (chunks[name] for name in question.oracle_ids)
        signature = oracle.text.split("\n")[0]
        assert question.text == f"What is the default of `{question.topic}` in `{oracle.title}`?"
        assert f"{question.topic}={question.answers[0]}" in signature or f"= {question.answers[0]}" in signature
        quote = question.reasoning.split("##begin_quote##")[1].split("##end_quote##")[0]
        assert quote in oracle.text and quote.endswith(question.answers[0])


def test_known_function_is_there_as_the_library_documents_it(stdlib):
    chunks, _ = stdlib
    (text,) = (chunk.text for chunk in chunks.values() if chunk.title == "pathlib.Path.read_text")
    assert text.startswith("read_text(encoding=None, errors=None)\nOpen the file in text mode")


def test_near_misses_share_the_parameter_and_not_the_default(stdlib):
    chunks, questions = stdlib
    for question in questions:
        assert len(question.near_miss_ids) >= 4
        assert not set(question.oracle_ids) & set(question.near_miss_ids)
        for name in question.near_miss_ids:
            signature = chunks[name].text.split("\n")[0]
            assert question.topic in signature
            assert re.search(rf"\b{question.topic}={re.escape(question.answers[0])}[,)]", signature) is None
        assert question.wrong_answers and question.answers[0] not in question.wrong_answers


def test_no_function_is_in_both_splits(stdlib):
    """check 19: nor is any chunk an oracle of both."""
    _, questions = stdlib
    functions = {split: {q.oracle_ids[0] for q in questions if q.split == split} for split in ("train", "test")}
    assert not functions["train"] & functions["test"]
    assert 0.1 < len(functions["test"]) / sum(map(len, functions.values())) < 0.35


def test_name_of_the_parameter_gives_little_away(stdlib):
    _, questions = stdlib
    train, test = ([q for q in questions if q.split == split] for split in ("train", "test"))
    guesses = apidocs.floor(train, test)
    assert sum(guesses[q.id] == q.answers[0] for q in test) / len(test) <= 0.2
    assert Counter(q.answers[0] for q in questions).most_common(1)[0][1] / len(questions) <= 0.25
    assert min(Counter(q.topic for q in questions).values()) >= 2


def test_reading_again_gives_the_same_and_another_seed_other_questions():
    first, again, other = (apidocs.read(["logging", "subprocess", "tkinter"], seed, 0.2) for seed in (0, 0, 1))
    assert first == again
    assert first == apidocs.read(["tkinter", "subprocess", "logging"], 0, 0.2)
    assert first[0] == other[0] and first[1] != other[1]
    assert len({chunk.text for chunk in first[0]}) == len({chunk.id for chunk in first[0]}) == len(first[0])


def module(values):
    lines = (f"def f{i}(mode={value}):\n    'Function {i}.'\n" for i, value in enumerate(values))
    return "".join(lines) + "def g(only=1):\n    'One value.'\n"


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        # 9 and 8: None is cut to 8 by the second, to 2 as the most frequent of all, then the other one to 2.
        (["None"] * 9 + ["'r'"] * 8, {"None": 2, "'r'": 2}),
        # The other values keep their number below the second one's.
        (["None"] * 9 + ["'r'"] * 8 + ["'w'"] * 4 + ["2"], {"None": 2, "'r'": 4, "'w'": 4, "2": 1}),
        # 1e-5 and 0.00001 are one value; sentinels, calls and long values are none.
        (["1e-5"] * 3 + ["0.00001"] * 2 + ["None"] * 5 + ["_MISSING", "object()", "...", "'" + "x" * 40 + "'"], None),
    ],
)
def test_frequent_values_are_cut_as_documented(tmp_path, monkeypatch, values, kept):
    (tmp_path / "sample_module.py").write_text(module(values))
    monkeypatch.syspath_prepend(tmp_path)
    chunks, questions = apidocs.read(["sample_module"], seed=0, test_fraction=0.2)
    assert len(chunks) == len(values) + 1
    found = Counter(question.answers[0] for question in questions)
    if kept is not None:
        assert found == kept
    else:
        assert found.keys() <= {"1e-05", "None"} and len(found) == 2
    assert {question.topic for question in questions} == {"mode"}


def test_module_without_rival_defaults_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "lonely_module.py").write_text(module(["1"]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"several defaults.*corpus\.packages"):
        apidocs.read(["lonely_module"], seed=0, test_fraction=0.2)


def question(name, topic, answer):
    return Question(id=name, text=name, answers=(answer,), oracle_ids=(), split="train", topic=topic)


def test_floor_guesses_the_topics_majority_then_the_overall_one():
    train = [question(str(i), "a", answer) for i, answer in enumerate(["1", "2", "2"])]
    train += [question(str(i), "b", answer) for i, answer in enumerate(["3", "1", "1", "3"], start=3)]
    asked = [question("x", "a", ""), question("y", "b", ""), question("z", "c", "")]
    assert apidocs.floor(train, asked) == {"x": "2", "y": "1", "z": "1"}
    assert apidocs.floor([], asked[:1]) == {"x": ""}


def test_versions_name_what_the_chunks_depend_on(tmp_path, monkeypatch):
    found = apidocs.versions(["stdlib", "griffe"])
    assert found == {"griffe": metadata.version("griffe"), "stdlib": platform.python_version()}
    (tmp_path / "own_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = apidocs.versions(["own_module"])["own_module"]
    (tmp_path / "own_module.py").write_text("x = 2\n")
    assert apidocs.versions(["own_module"])["own_module"] != before
    with pytest.raises(DataError, match="not installed"):
        apidocs.versions(["no_such_package"])
    assert len(apidocs.versions(["codecs"])["codecs"]) > 3  # frozen, and a file beside


@pytest.mark.parametrize("name", ["sys", "__main__", "_frozen_importlib", "os.path", ""])
def test_what_has_no_python_files_is_named(name):
    with pytest.raises(DataError, match="not installed as Python files"):
        apidocs.versions([name])
