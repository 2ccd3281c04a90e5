"""`make test-kills`: 20 random kills, or N=200 of them; SEED=1 for others."""

import os

import pytest

from tests import tiny
from tests.kills import chain

KILLS, SEED = int(os.environ.get("N", "20")), int(os.environ.get("SEED", "0"))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("job", list(chain.JOBS))
def test_killed_job_goes_on_to_the_same_result_and_leaves_nothing(job, tmp_path):
    kills = len(range(list(chain.JOBS).index(job), KILLS, len(chain.JOBS)))
    done = chain.run(job, kills, SEED, tmp_path, tiny.model_folder(tmp_path))
    assert not [kill for kill in done if kill.wrong]
