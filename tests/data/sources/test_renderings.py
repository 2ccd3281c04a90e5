"""P% is a view of rows too: whatever other P have rendered is taken from them, byte for byte."""

import json

import pytest

from ragdist.config.loader import resolve
from ragdist.data.pipeline import Pipeline
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.storage.stages import Store
from tests import tiny

CODEC = tiny.tokenizer()
COUNT = 40


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"question": f"Where is {n}?", "answers": [f"place {n}"], "split": "train" if n else "test"}
        | {
            "documents": [
                {"title": f"{n}", "text": f"{n} is at place {n}.", "kind": "golden"},
                {"title": f"not {n}", "text": f"Nobody knows {n}.", "kind": "distractor"},
            ]
        }
        for n in range(COUNT + 1)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "questions.jsonl")


def examples(folder, questions, p, mapper=None, **more):
    contexts = {"oracle_fraction": p, "documents": 2, "filter_answers": False, **more.pop("contexts", {})}
    settings = resolve({"corpus": {"source": "records", "questions": [questions]}, "contexts": contexts, **more})
    return Pipeline(settings, Store(folder), CODEC, mapper or SerialMapper()).examples


def rendered(rows):
    return rows.card["counts"]["rendered"]


@pytest.mark.parametrize("fractions", [(0, 0.2, 0.4, 0.6, 0.8, 1), (1, 0.8, 0.4, 0.2, 0), (0.4, 0, 1, 0.8, 0.2)])
@pytest.mark.parametrize("mapper", [SerialMapper(), ProcessMapper(2)])
def test_all_fractions_render_each_question_twice_at_most_with_the_bytes_of_one_alone(
    tmp_path, questions, fractions, mapper
):
    made = {p: examples(tmp_path / "shared", questions, p, mapper) for p in fractions}
    for p in fractions:
        assert made[p].path.read_bytes() == examples(tmp_path / f"alone-{p}", questions, p).path.read_bytes()
    assert rendered(made[fractions[0]]) == COUNT
    assert sum(map(rendered, made.values())) == 2 * COUNT


def test_a_single_fraction_renders_each_row_once(tmp_path, questions):
    assert rendered(examples(tmp_path, questions, 0.6)) == COUNT


def test_a_bernoulli_cut_takes_from_an_exact_one(tmp_path, questions):
    for p in (0, 1):
        examples(tmp_path / "shared", questions, p)
    coin = {"draw": "bernoulli"}
    found = examples(tmp_path / "shared", questions, 0.5, contexts=coin)
    assert rendered(found) == 0
    assert found.path.read_bytes() == examples(tmp_path / "alone", questions, 0.5, contexts=coin).path.read_bytes()


@pytest.mark.parametrize("more", [{"seed": 1}, {"prompts": {"system": "Other."}}, {"model": {"max_tokens": 4000}}])
def test_other_wordings_draws_or_lengths_are_rendered_anew(tmp_path, questions, more):
    examples(tmp_path, questions, 0.6)
    assert rendered(examples(tmp_path, questions, 0.6, **more)) == COUNT
