"""What each kind of retrieval makes anew on the data pipeline, and what it leaves alone."""

import json

import numpy as np
import pytest

from ragdist.config import Settings
from ragdist.data.pipeline import Pipeline
from ragdist.local import SerialMapper
from ragdist.storage.stages import Store
from tests import library, tiny
from tests.embedder import Words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return library.write(tmp_path_factory.mktemp("library"))


def pipeline(settings, store, embedder=None):
    return Pipeline(settings, Store(store), tiny.tokenizer(), SerialMapper(), embedder=embedder)


def names(made):
    return {name: rows.fingerprint for name, rows in made.make("candidates")}


def test_bm25_rows_are_named_by_nothing_that_belongs_to_vectors(folder, tmp_path):
    plain = names(pipeline(library.settings(folder), tmp_path))
    unread = library.settings(folder, embedder="other", query_prefix="q", rank_constant=1, count=9)
    assert names(pipeline(unread, tmp_path)) == plain
    assert names(pipeline(library.settings(folder, k1=2), tmp_path))["candidates"] != plain["candidates"]
    assert not list(tmp_path.glob("vectors-*"))


def test_kind_and_embedder_name_questions_and_candidates_and_leave_chunks(folder, tmp_path):
    made = [
        names(pipeline(library.settings(folder, **retrieval), tmp_path, Words(name)))
        for retrieval, name in (
            ({}, "words"),
            ({"kind": "dense"}, "words"),
            ({"kind": "dense"}, "others"),
            ({"kind": "dense", "query_prefix": "query: "}, "words"),
            ({"kind": "hybrid"}, "words"),
            ({"kind": "hybrid", "rank_constant": 1}, "words"),
        )
    ]
    assert len({found["chunks"] for found in made}) == 1
    for stage in ("questions", "candidates"):
        assert len({found[stage] for found in made}) == len(made)
    assert len(list(tmp_path.glob("vectors-*"))) == 2  # one for each embedder


def test_dense_distractors_are_the_nearest_chunks_that_are_no_oracle(folder, tmp_path):
    settings = library.settings(folder, kind="dense")
    settings = settings.model_copy(update={"contexts": settings.contexts.model_copy(update={"filter_answers": False})})
    made = pipeline(settings, tmp_path, Words())
    ids = sorted(made.chunk_by_id)
    chunks = [made.chunk_by_id[i] for i in ids]
    vectors = Words().embed([f"{chunk.title}\n{chunk.text}" for chunk in chunks]).astype(float)
    for question, found in zip(made.questions, made.candidates, strict=True):
        assert question.answers[0] in made.chunk_by_id[question.oracle_ids[0]].text
        scores = vectors @ Words().embed([question.text])[0].astype(float)
        ranked = [
            ids[i] for i in np.argsort(-scores.astype(np.float32), kind="stable") if ids[i] not in question.oracle_ids
        ]
        assert found.chunk_ids == tuple(ranked[:4])


def test_vectors_are_made_once_for_all_stages_and_runs(folder, tmp_path):
    settings, first, second = library.settings(folder, kind="hybrid"), Words(), Words()
    pipeline(settings, tmp_path, first).make("candidates")
    passages = [text for text in first.texts if "\n" in text]
    assert len(passages) == len(set(passages)) > 80
    more = library.settings(folder, kind="hybrid", rank_constant=10)
    pipeline(more, tmp_path, second).make("candidates")
    assert second.texts and not [text for text in second.texts if "\n" in text]


def test_random_distractors_ask_no_retriever(tmp_path):
    """Their name says nothing of retrieval, and no vector is made for them."""
    documents = [
        {"title": f"t{n}", "text": f"text number {n}", "kind": "golden" if n < 1 else "distractor"} for n in range(9)
    ]
    row = {"question": "Which number?", "answers": ["0"], "split": "train", "documents": documents}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    made = {}
    for kind in ("bm25", "dense"):
        embedder = Words()
        settings = Settings.model_validate(
            {
                "corpus": {"source": "records", "questions": [str(tmp_path / "rows.jsonl")]},
                "contexts": {"distractors": "random"},
                "retrieval": {"kind": kind},
            }
        )
        made[kind] = names(pipeline(settings, tmp_path / "data", embedder))
        assert not embedder.texts
    assert made["bm25"] == made["dense"]
