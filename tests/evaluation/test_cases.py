"""Cases are made once for all who ask the same, and are those that were made."""

import pytest

from ragdist.evaluation.cases import kept_cases, make_cases
from ragdist.storage.stages import Store
from tests import tiny
from tests.evaluation import world

CONDITIONS = ("closed_book", "oracle", "absent", "retrieved", "permuted", "attacked")
QUESTIONS = tuple(world.QUESTIONS[:6])


@pytest.fixture
def kept(tmp_path):
    """A function that asks for the cases, and how often they were made."""
    made = []

    def find(settings, questions=QUESTIONS, forgeries=tuple(world.FORGERIES), **made_by):
        def make(forged):
            made.append(len(questions))
            given = world.TitleRetriever(), tiny.tokenizer(), settings
            return make_cases(questions, world.CHUNKS, world.CANDIDATES, forged, *given)

        return kept_cases(Store(tmp_path), made_by, questions, world.CHUNKS, forgeries, settings, make)

    return find, made


def test_cases_on_disk_are_those_that_were_made(kept):
    find, made = kept
    settings = world.settings(conditions=CONDITIONS)
    right = world.cases(settings, QUESTIONS)
    assert {case.condition for case in right} == set(CONDITIONS)
    assert find(settings) == find(settings) == right
    assert made == [len(QUESTIONS)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("evaluation.conditions", ("closed_book", "oracle")),
        ("evaluation.forgeries", 1),
        ("evaluation.max_new_tokens", 9),
        ("contexts.documents", 3),
        ("prompts.answer", "reasoned"),
        ("retrieval.count", 2),
        ("model.max_tokens", 600),
    ],
)
def test_other_settings_make_other_cases(kept, key, value):
    find, made = kept
    settings = world.settings(conditions=CONDITIONS)
    changed = settings.replaced(key, value)
    find(settings)
    assert find(changed) == world.cases(changed, QUESTIONS)
    assert len(made) == 2


def test_other_questions_forgeries_or_chunks_make_other_cases(kept):
    find, made = kept
    settings = world.settings(conditions=CONDITIONS)
    find(settings)
    find(settings, questions=QUESTIONS[1:])
    find(settings, forgeries=tuple(world.FORGERIES[1:]))
    find(settings, chunks="others")
    assert len(made) == 4


def test_what_says_nothing_about_prompts_makes_no_others(kept):
    find, made = kept
    settings = world.settings(conditions=CONDITIONS)
    find(settings)
    find(settings.replaced("evaluation.tokens_per_batch", 77).replaced("train.epochs", 9.0))
    assert len(made) == 1
