from pathlib import Path

import psutil
import pytest

from ragdist.cluster import session
from ragdist.config import ClusterConfig
from tests import tiny
from tests.training import write_rows


@pytest.fixture(scope="package")
def ray_here():
    """One local Ray for all tests here that train; other folders' tests find none open."""
    with session.connect(ClusterConfig(workers=2)):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture
def workers():
    """A function that finds the training workers below a process, this one by default."""

    def find(pid: int | None = None) -> list[psutil.Process]:
        below = psutil.Process(pid).children(recursive=True)
        return [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]

    return find
