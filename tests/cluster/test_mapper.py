"""RayMapper on a real Ray: what this process gives, in its order, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ragdist.cluster.mapper import RayMapper
from ragdist.config import ClusterConfig, RetrievalConfig
from ragdist.data.pipeline import Pipeline
from ragdist.data.retrieval.bm25 import Bm25
from ragdist.errors import DataError, TrainError
from ragdist.local import ProcessMapper, SerialMapper
from ragdist.storage.stages import Store
from tests import library, tiny
from tests.data.chunks import corpus
from tests.mapped import broken_at_seven, dies, scaled

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mapper(ray_here):
    with RayMapper(2, ClusterConfig(workers=2), batch=3) as made:
        yield made


def dies_once(item, folder):
    """Its process is killed at item 7, the first time; notes each item that is begun."""
    with (folder / "begun").open("a") as file:
        file.write(f"{item}\n")
    if item == 7 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item * item


def sleeps(item):
    time.sleep(0.2 if item < 3 else 60)
    return item


def pid(item):
    time.sleep(0.05)
    return os.getpid()


class Noted:
    """Notes the process that unpickles it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return arrived, (self.folder,)


def arrived(folder):
    with (folder / "arrived").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Noted(folder)


def pid_beside(item, noted):
    return pid(item)


def search_one(query, retriever):
    return retriever.search([query], 7)[0]


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_tasks_give_what_this_process_gives(mapper, count):
    """check 71: same results in the same order."""
    assert list(mapper.map(scaled, range(count), 3)) == list(SerialMapper().map(scaled, range(count), 3))


def test_shared_arrives_once_in_each_worker(mapper, tmp_path):
    pids = set(mapper.map(pid_beside, range(30), Noted(tmp_path)))
    here = (tmp_path / "arrived").read_text().split()
    assert len(here) == len(set(here)) and {int(one) for one in here} == pids
    assert os.getpid() not in pids


def test_no_more_items_are_taken_than_are_under_way(mapper):
    """check 74: an endless source is read as results are asked for."""
    taken = []

    def source():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = mapper.map(scaled, source(), 2)
    assert [next(results)[0] for _ in range(12)] == list(range(0, 24, 2))
    assert len(taken) <= 12 + 2 * 2 * 3
    results.close()


def test_error_arrives_as_itself(mapper):
    with pytest.raises(DataError, match="row 7 is broken"):
        list(mapper.map(broken_at_seven, range(20)))


def test_killed_worker_costs_its_batch_only(mapper, tmp_path):
    """check 72: no row lost or doubled; only items 6, 7, 8 are begun again."""
    assert list(mapper.map(dies_once, range(24), tmp_path)) == [item * item for item in range(24)]
    begun = sorted(map(int, (tmp_path / "begun").read_text().split()))
    assert begun == sorted([*range(24), 6, 7])


def test_batch_that_kills_every_worker_is_one_clear_error(ray_here):
    with pytest.raises(TrainError, match=r"a batch of 1 for dies lost its worker 2 times.*cluster\.max_failures"):
        list(RayMapper(2, ClusterConfig(max_failures=1), batch=1).map(dies, range(4)))


def test_batch_that_does_not_come_back_is_named(ray_here):
    """What is still under way is ended, so the next ones find room."""
    start = time.monotonic()
    with pytest.raises(TrainError, match=r"a batch of 1 for sleeps .* CPUs.* within 3 s; raise cluster\.start_timeout"):
        list(RayMapper(1, ClusterConfig(start_timeout_s=3), batch=1).map(sleeps, range(9)))
    assert time.monotonic() - start < 20
    assert list(RayMapper(1, ClusterConfig(start_timeout_s=20), batch=1).map(scaled, [1], 2)) == [(2, 1)]


def test_search_shared_between_tasks_is_a_single_scan(mapper):
    """check 25."""
    retriever = Bm25(corpus(100).values(), RetrievalConfig())
    queries = [f"w{n} w{n + 1}" for n in range(20)]
    assert list(mapper.map(search_one, queries, retriever)) == retriever.search(queries, 7)


class Deadly(tiny.TinyTokenizer):
    """The tiny tokenizer; the first two worker processes that encode with it are killed. Stages are named as ever."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.driver = folder, os.getpid()

    def encode(self, text):
        if os.getpid() != self.driver and (died := len(list(self.folder.iterdir()))) < 2:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(text)


def test_rows_of_the_road_are_byte_equal_for_every_mapper(ray_here, tmp_path):
    """check 10, check 71, check 72: one process, two, tasks of Ray with two workers killed; every stage."""
    settings, deaths = library.settings(library.write(tmp_path)), tmp_path / "deaths"
    deaths.mkdir()
    played = {
        "serial": (SerialMapper(), tiny.tokenizer()),
        "processes": (ProcessMapper(2, batch=7), tiny.tokenizer()),
        "ray": (RayMapper(2, ClusterConfig(workers=2), batch=5), Deadly(deaths)),
    }
    rows = {}
    for name, (mapper, tokenizer) in played.items():
        pipeline = Pipeline(settings, Store(tmp_path / name), tokenizer, mapper)
        rows[name] = {stage: made.path.read_bytes() for stage, made in pipeline.make("examples")}
    assert rows["serial"] == rows["processes"] == rows["ray"]
    assert len(rows["serial"]["chunks"].splitlines()) > 80 and len(rows["serial"]["examples"].splitlines()) > 20
    assert len(list(deaths.iterdir())) == 2


DRIVER = """
import sys
from ragdist.cluster.mapper import RayMapper
from ragdist.config import ClusterConfig
from ragdist.errors import Stopped
from tests.cluster.test_mapper import pid

with RayMapper(1, ClusterConfig(), batch=1) as mapper:
    try:
        for worker in mapper.map(pid, range(100_000)):
            print(worker, flush=True)
    except Stopped as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
"""


def test_stopped_driver_says_so_and_leaves_no_process():
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout.readline()
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "stopped during pid; the same command" in said.splitlines()[-1]
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive
