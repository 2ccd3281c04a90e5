"""A model over many phases: ranks, stages, kills and restarts leave no trace in what it learns."""

import json
import math
from itertools import chain

import pytest
import torch

from ragdist.errors import ConfigError, StorageError
from ragdist.lm import checkpoints
from ragdist.lm.load import load_model
from ragdist.lm.read import ModelReader, beginning
from ragdist.lm.write import ModelWriter
from tests import learning, tiny

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two(tmp_path_factory, folder):
    """Two ranks did `learning.stages` at each stage in float32."""
    root = tmp_path_factory.mktemp("two")
    learning.two_ranks("stages", folder, root, "float32", "0123")
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory, folder):
    """One rank did the same two phases; ZeRO 0."""
    root = tmp_path_factory.mktemp("one")
    held = learning.resident(folder, learning.settings(folder, zero_stage=0))
    said = {loss: learning.learn(held, loss, root / loss, 6) for loss in ("mito", "dpo")}
    return root, said


def close(some, other):
    """Whether all weights agree to 1e-6."""
    some, other = learning.weights(some), learning.weights(other)
    return some.keys() == other.keys() and all(torch.allclose(some[name], other[name], atol=1e-6) for name in some)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_step_of_one_at_every_stage_check_71(two, one, stage):
    """Three microbatches for two ranks, with MITO and then DPO."""
    alone, said = one
    found = json.loads((two / f"{stage}" / "said.json").read_text())["said"]
    for loss in ("mito", "dpo"):
        assert len(said[loss]) == len(found[loss]) == 1
        for name in set(said[loss][0]) - {"seconds", "rank_tokens_per_s", "busy_share"}:
            assert found[loss][0][name] == pytest.approx(said[loss][0][name], abs=1e-5), name
    assert close(two / f"{stage}/mito/model", alone / "mito/model")
    assert found["dpo"][0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # check 38


@pytest.mark.parametrize("stage", STAGES)
def test_resident_that_learned_goes_on_like_one_that_loaded_its_model(two, stage):
    here = two / f"{stage}"
    assert learning.checksum(here / "on/model") == learning.checksum(here / "fresh/model")
    assert learning.checksum(here / "on/model") != learning.checksum(here / "dpo/model")


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_write_by_themselves_what_one_process_writes(two, stage):
    model = load_model(learning.settings(two / f"{stage}/dpo/model").model)
    writer = ModelWriter(model, tiny.tokenizer(), 8192)
    wanted = {text.prompt_id: text.text for batch in writer.write(tiny.prompts(4), max_new_tokens=9) for text in batch}
    assert json.loads((two / f"{stage}" / "said.json").read_text())["texts"] == wanted


def test_what_is_read_after_learning_is_by_the_new_weights(tmp_path, folder):
    """Also where the prompts begin as those did that were read before."""
    held = learning.resident(folder, learning.settings(folder, zero_stage=0))
    examples = tiny.examples(6)
    assert beginning(examples)
    before = dict(chain.from_iterable(held.read(examples)))
    learning.learn(held, "sft", tmp_path)
    held.open_phase()
    reader = ModelReader(load_model(learning.settings(tmp_path / "model").model), 8192)
    after = dict(chain.from_iterable(reader.read(examples)))
    found = dict(chain.from_iterable(held.read(examples)))
    assert all(found[name] == pytest.approx(after[name], abs=1e-5) for name in after)
    assert all(found[name] != pytest.approx(before[name], abs=1e-3) for name in before)


def test_resident_in_bfloat16_goes_on_like_one_that_loaded_its_model(tmp_path, folder):
    learning.two_ranks("stages", folder, tmp_path, "bfloat16", "123")
    for stage in (1, 2, 3):
        here = tmp_path / f"{stage}"
        assert learning.checksum(here / "on/model") == learning.checksum(here / "fresh/model")
        assert next(iter(learning.weights(here / "on/model").values())).dtype == torch.bfloat16


@pytest.mark.parametrize(("stage", "dtype"), [pytest.param(2, "float32", marks=pytest.mark.again), (3, "bfloat16")])
def test_killed_phase_goes_on_to_the_same_bits_check_39(tmp_path, folder, stage, dtype):
    """Killed after step 3 with a checkpoint at 2; the reference is the one of the start, not of the checkpoint."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    learning.two_ranks("interrupted", folder, tmp_path / "whole", stage, dtype, "never")
    learning.two_ranks("interrupted", folder, tmp_path / "killed", stage, dtype, 3, wanted=-9)
    half = tmp_path / "killed/checkpoints/checkpoint-3"
    half.mkdir()
    (half / "part").touch()
    learning.two_ranks("interrupted", folder, tmp_path / "killed", stage, dtype, "never")
    whole, killed = (json.loads((tmp_path / name / "said.json").read_text()) for name in ("whole", "killed"))
    assert (whole["done"], killed["done"]) == (0, 2)
    assert [line["loss"] for line in whole["said"]][2:] == [line["loss"] for line in killed["said"]]
    assert learning.checksum(tmp_path / "whole/model") == learning.checksum(tmp_path / "killed/model")
    assert not (tmp_path / "killed/checkpoints").exists()


def test_resident_keeps_the_newest_checkpoints_until_it_is_finished(tmp_path, folder):
    made = learning.settings(folder, checkpoint_every=1, keep_checkpoints=2, epochs=3)
    held = learning.resident(folder, made)
    function, prepare = learning.LOSSES["dpo"]
    total, done = held.begin(function, learning.rows(), prepare, tmp_path)
    assert (total, done) == (6, 0)  # 42 rows, 8 a step
    assert [line["step"] for line in held.steps(3) + held.steps(1)] == [1, 2, 3, 4]
    assert [path.name for path in checkpoints.complete(tmp_path / "checkpoints")] == ["checkpoint-3", "checkpoint-4"]
    held.checkpoint()  # there already
    assert checkpoints.last_said(tmp_path, 4)["step"] == 4 and checkpoints.last_said(tmp_path, 2) is None
    (tmp_path / "checkpoints/checkpoint-4/about.json").write_text('{"ranks": 2}')
    with pytest.raises(ConfigError, match="workers"):
        held.begin(function, learning.rows(), prepare, tmp_path)


def test_begin_where_another_learns_raises(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "ORPHANS_S", 1)
    made = learning.settings(folder)
    first, second = learning.resident(folder, made), learning.resident(folder, made)
    first.begin(*learning.LOSSES["sft"][:1], learning.rows(), None, tmp_path)
    with pytest.raises(StorageError, match="another run"):
        second.begin(*learning.LOSSES["sft"][:1], learning.rows(), None, tmp_path)


def test_a_model_that_another_finished_meanwhile_stays(tmp_path):
    """A rank on a machine that was cut off ends its phase, and the one that took its place then ends it too."""
    for text in ("one", "two"):
        with checkpoints.new_model(tmp_path) as half:
            (half / "weights").write_text(text)
    assert (tmp_path / "model" / "weights").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_second_phase_begins_anew_checks_38_and_53(tmp_path, folder):
    """The reference is the model at the start of each phase, and a phase changes the model that learns alone."""
    made = learning.settings(folder)
    held, other = learning.resident(folder, made), learning.resident(folder, made, version=4)
    before = learning.checksum(other.save(tmp_path))
    losses = [learning.learn(held, "dpo", tmp_path / name)[0]["loss"] for name in ("first", "second")]
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert (held.version, other.version) == (2, 4)
    (tmp_path / "after").mkdir()
    assert learning.checksum(other.save(tmp_path / "after")) == before == learning.checksum(folder)
    assert learning.checksum(tmp_path / "second/model") != learning.checksum(tmp_path / "first/model") != before


def test_resident_in_bfloat16_needs_master_weights(folder):
    with pytest.raises(ConfigError, match=r"zero_stage=0 in bfloat16"):
        learning.resident(folder, learning.settings(folder, dtype="bfloat16", zero_stage=0))
