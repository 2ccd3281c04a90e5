"""Questions from Python are those of a file with the same rows."""

import datetime

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from ragdist import runs
from ragdist.config import loader
from ragdist.data.sources.given import with_questions
from ragdist.errors import ConfigError, DataError
from tests import tiny

ROWS = [
    {
        "query": f"Which river flows through town {n}?",
        "ground_truth": f"River {n}",
        "contexts": [f"Town {n}: River {n}."],
    }
    for n in range(12)
]


@pytest.fixture
def settings(tmp_path):
    return loader.resolve(
        {
            "run": {"folder": str(tmp_path / "runs")},
            "model": {"source": str(tiny.model_folder(tmp_path)), "max_tokens": 1024},
            "contexts": {"documents": 2},
            "questions": {"test_fraction": 0.3},
        }
    )


def questions_of(settings, rows):
    (*_, (name, made)) = runs.build(settings, "questions", rows)
    assert name == "questions"
    return sorted((q.text, q.answers, q.oracle_ids, q.split) for q in made)


def test_a_data_set_a_frame_and_dicts_are_one(settings, tmp_path):
    """U2"""
    whole = questions_of(settings, ROWS)
    assert len(whole) == 12 and all(oracles for _, _, oracles, _ in whole)
    assert questions_of(settings, pd.DataFrame(ROWS)) == whole
    assert questions_of(settings, Dataset.from_list(ROWS)) == whole
    assert questions_of(settings, iter(ROWS)) == whole


def test_they_take_the_place_of_the_settings_own_and_the_same_are_found_again(settings):
    one, two = (with_questions(settings, rows) for rows in (ROWS, pd.DataFrame(ROWS[:3])))
    assert one.corpus.source == "records" and one.corpus.questions != two.corpus.questions
    assert with_questions(settings, ROWS) == one
    assert with_questions(settings, None) is settings


def test_a_folder_keeps_its_documents(settings, tmp_path):
    folder = settings.replaced("corpus.folder", str(tmp_path))
    assert with_questions(folder, ROWS).corpus.source == "folder"


def test_numbers_of_numpy_dates_and_what_is_missing(settings):
    rows = [
        {"question": "How many?", "answer": np.int64(4), "contexts": np.array(["There are 4."])},
        {"question": "When?", "answer": datetime.date(2026, 11, 27), "contexts": ["On 2026-11-27."]},
    ]
    assert {answers for _, answers, _, _ in questions_of(settings, rows)} == {("4",), ("2026-11-27",)}
    frame = pd.DataFrame(
        {"question": ["a?", "b?"], "answer": ["x", "y"], "contexts": ["x", "y"], "split": ["train", None]}
    )
    assert len(questions_of(settings, frame)) == 2


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["What?"], r"questions\[0\] is a str, wanted a mapping"),
        ([{"question": "a?", "answer": object()}], r"questions\[0\] cannot be written as JSON: it holds a object"),
        ([], "no rows are there"),
    ],
)
def test_what_cannot_be_questions_is_one_line(settings, rows, why):
    with pytest.raises((DataError, ConfigError), match=why) as told:
        runs.build(settings, "questions", rows)
    assert "\n" not in str(told.value)
