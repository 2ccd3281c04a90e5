"""Who learns from which question in DuetRAG, and what reciter and discoverer are shown."""

from dataclasses import replace

import pytest

from ragdist.config import DuetConfig, QuestionsConfig, Settings
from ragdist.config.loader import load
from ragdist.data import prompts, questions
from ragdist.data.pipeline import Pipeline
from ragdist.errors import ConfigError
from ragdist.local import SerialMapper
from ragdist.runs import settings_file
from ragdist.storage.stages import Store
from ragdist.systems.duet.training_rows import Trio, share
from tests import game, tiny

COUNT = 3


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trio")
    settings = game.settings(folder, folder, retrieval={"count": COUNT})
    return Trio(Pipeline(settings, Store(folder / "data"), tiny.tokenizer(), SerialMapper()))


def test_shares_are_disjoint_exact_and_of_training_questions_only_check_56(trio):
    shares = trio.shares
    assert [len(part) for part in shares] == [5, 2, 1]  # 0.6 of 8; a quarter of the other 3
    ids = [question.id for part in shares for question in part]
    assert len(set(ids)) == 8
    assert {question.split for part in shares for question in part} == {"train"}


def test_shares_are_drawn_by_seed_and_not_by_order(trio):
    asked = [question for part in trio.shares for question in part]
    config = DuetConfig()
    assert share(asked[::-1], config, seed=0) == trio.shares
    assert share(asked, config, seed=1) != trio.shares


@pytest.mark.parametrize(("config", "count"), [({"answerers_fraction": 1.0}, 8), ({}, 1), ({}, 2)])
def test_share_without_a_question_names_its_knobs(trio, config, count):
    asked = [question for part in trio.shares for question in part][:count]
    with pytest.raises(ConfigError, match=r"duet.answerers_fraction.*questions.train_rows"):
        share(asked, DuetConfig(**config), seed=0)


def test_reciter_sees_no_document_and_discoverer_the_best_of_retrieval_check_55(trio):
    tokenizer, retriever = tiny.tokenizer(), trio.pipeline.retriever
    by_id = {question.id: question for question in trio.shares.answerers}
    assert [row.id for row in trio.recited] == [row.id for row in trio.discovered] == list(by_id)
    for closed, open_ in zip(trio.recited, trio.discovered, strict=True):
        question = by_id[closed.id]
        hits = retriever.search([question.text], COUNT)[0]
        shown = [trio.pipeline.chunk_by_id[hit.chunk_id] for hit in hits]
        said = tokenizer.decode(open_.tokens[: open_.prompt_tokens])
        assert len(shown) == COUNT and prompts.user_text(question.text, shown, trio.settings.prompts) in said
        assert prompts.user_text(question.text, (), trio.settings.prompts) in tokenizer.decode(closed.tokens)
        assert "<DOCUMENT>" not in tokenizer.decode(closed.tokens)
        assert closed.tokens[closed.prompt_tokens :] == open_.tokens[open_.prompt_tokens :]


def test_plain_tuning_recites_all_training_questions(trio):
    assert {row.id for row in trio.recited_all} == {question.id for part in trio.shares for question in part}


def test_rows_are_named_by_the_fractions_and_retrieval_by_its_count(trio):
    other = trio.settings.duet.model_copy(update={"answerers_fraction": 0.5})
    moved = Trio(
        Pipeline(
            trio.settings.model_copy(update={"duet": other}), trio.pipeline.store, tiny.tokenizer(), SerialMapper()
        )
    )
    assert moved.recited.fingerprint != trio.recited.fingerprint
    assert moved.retrieved.fingerprint == trio.retrieved.fingerprint


def test_papers_preset_takes_the_first_rows_of_each_split_check_56():
    preset = load([str(settings_file("duet-paper.yaml"))]).questions
    assert (preset.train_rows, preset.test_rows, preset.caps) == (5000, 1000, "first")
    base = tiny.questions()[0]
    rows = [
        replace(base, id=f"{split}{number}", text=f"{split} {number}?", split=split)
        for number in range(9)
        for split in ("train", "test")
    ]
    config = QuestionsConfig(train_rows=4, test_rows=2, caps="first")
    kept, _ = questions.select(rows, config, seed=0)
    assert [question.id for question in kept] == ["train0", "train1", "train2", "train3", "test0", "test1"]
    assert Settings().questions.caps == "drawn"
