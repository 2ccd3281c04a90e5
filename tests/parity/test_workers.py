"""One worker and two take the same steps, at every ZeRO stage."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ragdist.lm.rows import lay_out
from ragdist.lm.tune import tune
from tests import tiny
from tests.training import Spy, losses, noted, settings, write_rated, write_rows

STAGES = (0, 1, 2, 3)
RANK = """
import sys
from pathlib import Path
import torch.distributed as dist
from ragdist.lm.tune import tune
from tests.training import Spy, settings

dist.init_process_group("gloo")
root, model = Path(sys.argv[1]), Path(sys.argv[2])
for stage in (0, 1, 2, 3):
    folder = root / f"two-{stage}"
    folder.mkdir(exist_ok=True)
    made = settings(model, workers=2, zero_stage=stage)
    tune(root / "rows.jsonl", folder, made, callbacks=[Spy(folder / f"seen-{dist.get_rank()}")])
for stage in (0, 3):
    folder = root / f"two-left-{stage}"
    folder.mkdir(exist_ok=True)
    made = settings(model, workers=2, zero_stage=stage, epochs=1, examples_per_step=20)
    tune(root / "left.jsonl", folder, made, callbacks=[Spy(folder / f"seen-{dist.get_rank()}")])
for stage, kind, tokens in ((0, "answers", 500), (3, "answers", 500), (2, "scorer", 100)):
    folder = root / f"two-dealt-{stage}"
    folder.mkdir(exist_ok=True)
    made = settings(model, workers=2, zero_stage=stage, epochs=1, examples_per_step=9, tokens_per_pass=tokens)
    tune(root / ("rated.jsonl" if kind == "scorer" else "rows.jsonl"), folder, made, kind=kind)
for stage in (2, 3):
    folder = root / f"two-scorers-{stage}"
    folder.mkdir(exist_ok=True)
    made = settings(model, workers=2, zero_stage=stage, lora={"rank": 4})
    tune(root / "rated.jsonl", folder, made, kind="scorer")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders one-STAGE and two-STAGE of finished runs, two ranks being two processes over gloo."""
    root = tmp_path_factory.mktemp("parity")
    model, rows = tiny.model_folder(root), write_rows(root / "rows.jsonl")
    rated, left = write_rated(root / "rated.jsonl"), write_rows(root / "left.jsonl", 22)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(root), str(model)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]
    for stage in STAGES:
        (root / f"one-{stage}").mkdir()
        tune(rows, root / f"one-{stage}", settings(model, zero_stage=stage))
    (root / "one-left").mkdir()
    tune(left, root / "one-left", settings(model, zero_stage=0, epochs=1, examples_per_step=20))
    (root / "one-scorer").mkdir()
    tune(rated, root / "one-scorer", settings(model, lora={"rank": 4}), kind="scorer")
    for kind, given in (("answers", rows), ("scorer", rated)):
        (root / f"one-dealt-{kind}").mkdir()
        made = settings(model, zero_stage=0, epochs=1, examples_per_step=9, microbatch=3)
        tune(given, root / f"one-dealt-{kind}", made, kind=kind)
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_have_the_losses_and_first_gradient_of_one(runs, stage):
    one, two, plain = runs / f"one-{stage}", runs / f"two-{stage}", runs / "one-2"
    assert losses(two)[0] == pytest.approx(losses(one)[0], abs=1e-6)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(two) == pytest.approx(losses(plain), abs=1e-4)
    assert noted(two)[0]["grad_norm"] == pytest.approx(noted(plain)[0]["grad_norm"], rel=1e-6)


@pytest.mark.parametrize("stage", [0, 3])
def test_last_step_that_leaves_a_worker_without_rows_is_that_of_one_worker(runs, stage):
    """T2: 22 rows at 20 a step: the second step has two rows, a microbatch of the first worker."""
    one, two = runs / "one-left", runs / f"two-left-{stage}"
    first, second = (Spy(two / f"seen-{rank}").seen() for rank in range(2))
    assert sum(row is not None for row in first[5]) == 2
    assert all(row is None for microbatch in second[5:] for row in microbatch) and len(first) == len(second) == 10
    assert losses(two)[0] == pytest.approx(losses(one)[0], abs=1e-6)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert noted(two)[1]["grad_norm"] == pytest.approx(noted(one)[1]["grad_norm"], rel=1e-3)
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_workers_teach_a_scorer_as_one_does(runs, stage):
    one, two = runs / "one-scorer", runs / f"two-scorers-{stage}"
    assert losses(two)[0] == pytest.approx(losses(one)[0], abs=1e-6)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert noted(two)[0]["grad_norm"] == pytest.approx(noted(one)[0]["grad_norm"], rel=1e-5)
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_see_the_rows_of_the_plan_each_microbatch_once_check_72(runs, stage):
    made = settings(runs / "tiny-0")
    order = lay_out(runs / "rows.jsonl", made).order
    planned = [order[at : at + 2] for at in range(0, len(order), 2)]
    first, second = (Spy(runs / f"two-{stage}" / f"seen-{rank}").seen() for rank in range(2))
    assert first == planned[0::2] and second == planned[1::2]


@pytest.mark.parametrize(("stage", "kind"), [(0, "answers"), (3, "answers"), (2, "scorer")])
def test_two_workers_that_are_dealt_nine_rows_by_tokens_take_the_steps_of_one(runs, stage, kind):
    one, two = runs / f"one-dealt-{kind}", runs / f"two-dealt-{stage}"
    assert losses(two)[0] == pytest.approx(losses(one)[0], abs=1e-6) and len(losses(one)) == 3
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert noted(two)[0]["grad_norm"] == pytest.approx(noted(one)[0]["grad_norm"], rel=1e-5)
    assert all(0.8 < line["busy_share"] <= 1 for line in noted(two))
    assert noted(two)[0]["rank_tokens_per_s"] == pytest.approx(noted(two)[0]["useful_tokens_per_s"] / 2, abs=0.01)


def test_checkpoint_has_a_part_of_every_rank_and_one_mark(runs):
    checkpoint = runs / "two-2" / "checkpoints" / "checkpoint-6"
    assert len(list(checkpoint.glob("global_step6/*optim_states.pt"))) == 2
    assert json.loads((checkpoint / "complete.json").read_text()) == {"step": 6}
