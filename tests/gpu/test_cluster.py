"""Jobs and groups of ranks on one GPU, whole or in parts. `make test-gpu`"""

import pytest
import torch

from ragdist.cluster import session
from ragdist.cluster.train import RayTuner
from ragdist.config import ClusterConfig
from tests import game, tiny
from tests.cluster import test_atm as games
from tests.systems.atm import test_run as alone
from tests.training import lesson, losses, settings, weights_hash, write_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
PART = {"gpus_per_worker": 0.3, "cpus_per_worker": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ray_here():
    with session.connect(ClusterConfig(workers=1, gpus_per_worker=1)):
        yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_worker_trains_on_the_card_and_two_jobs_share_it(ray_here, model, tmp_path, dtype):
    rows = write_rows(tmp_path / "rows.jsonl")
    made = settings(model, cluster={"gpus_per_worker": 0.5, "cpus_per_worker": 1})
    made = made.model_copy(update={"model": made.model.model_copy(update={"dtype": dtype})})
    lessons = [lesson(rows, tmp_path / name, made, name) for name in ("one", "two")]
    first, second = RayTuner(made).tune(lessons)
    assert losses(tmp_path / "one")[-1] < losses(tmp_path / "one")[0]
    assert weights_hash(first) == weights_hash(second)
    assert "loaded on cuda" in (tmp_path / "one" / "logs" / "rank-0.jsonl").read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_groups_share_a_card_and_play_as_one_process_does_check_71(ray_here, model, tmp_path, ranks):
    """Two ranks on one card meet over gloo: NCCL refuses them."""
    parts = {
        "attacker": PART,
        "generator": PART | {"workers": ranks, "train": {"microbatch": 1, "zero_stage": 2}},
        "atm": {"rounds": 1, "samples": 3, "max_new_tokens": 12, "questions_per_microbatch": 1},
    }
    for name in ("ray", "here"):
        (tmp_path / name).mkdir()
    games.play(game.settings(tmp_path / "ray", model, **parts))
    alone.play(game.settings(tmp_path / "here", model, atm=parts["atm"]))
    ours, theirs = (tmp_path / name / "runs" / "game" for name in ("ray", "here"))
    rows = [alone.rows(run, "round-0/graded") for run in (ours, theirs)]
    for row, other in zip(*rows, strict=True):
        assert row.perplexity == pytest.approx(other.perplexity, rel=1e-4)
