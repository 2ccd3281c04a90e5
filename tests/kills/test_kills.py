"""`make test-kills`: 20 random kills, or N=200 of them; SEED=1 for others."""

import os
import random

import pytest

from tests import tiny
from tests.kills import chain
from tests.kills.chain import KILLS, SEED


@pytest.mark.timeout(0)
@pytest.mark.parametrize("job", list(chain.JOBS))
def test_killed_job_goes_on_to_the_same_result_and_leaves_nothing(job, tmp_path):
    kills = len(range(list(chain.JOBS).index(job), KILLS, len(chain.JOBS)))
    with (tmp_path / "kills.log").open("w", buffering=1) as log:  # to be watched meanwhile
        done = chain.run(job, kills, SEED, tmp_path, tiny.model_folder(tmp_path), log.write)
    assert not [kill for kill in done if kill.wrong]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("job", ["raft", "evaluate", "atm", "duet", "sweep"][: 2 if KILLS <= 20 else None])
def test_full_disk_is_one_line_and_with_room_the_same_command_goes_on_to_the_same_result(job, tmp_path):
    """Wherever it fills up: a stage, a checkpoint, a model, a report."""
    if os.getuid():
        pytest.skip("only root makes a small disk")
    model, draw = tiny.model_folder(tmp_path), random.Random(f"{SEED} {job}")
    whole = chain.Chain(job, tmp_path / "whole", model)
    whole.undisturbed()
    took = sum(path.stat().st_size for path in (tmp_path / "whole" / "runs").rglob("*") if path.is_file())
    small = chain.Chain(job, tmp_path / "small", model)
    with small.disk() as resize:
        for size in sorted(draw.randint(2**15, 2 * took) for _ in range(max(3, KILLS // 20))):
            resize(size)
            tried = small.attempt()
            assert tried.code in (0, 1, 2) and not [what for what in tried.wrong if "exit" not in what], (
                tried,
                small.said(),
            )
            assert not tried.code or "No space left" in small.said() or "full" in small.said(), small.said()
        resize(2**32)
        assert small.attempt().code == 0, small.said()
        assert small.result() == whole.result()
