"""Ranks answer as one process does, whoever dies and in whatever order."""

import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import psutil
import pytest
import torch

from ragdist import players
from ragdist.cluster.answerers import RankAnswerers
from ragdist.errors import TrainError
from ragdist.local import LocalAnswerers
from ragdist.systems import raft
from tests import game, tiny

pytestmark = pytest.mark.cluster
HOW = {"max_new_tokens": 6}
DRIVER = """
import os, signal, sys
from pathlib import Path
from ragdist import players
from ragdist.cluster.answerers import RankAnswerers
from ragdist.evaluation import ask
from ragdist.systems import raft
from tests.cluster.test_answerers import settings_in
batches, write = [], ask.AppendLog.add
def add(self, rows):
    write(self, rows)
    batches.append(rows)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
ask.AppendLog.add = add
folder, model = map(Path, sys.argv[1:])
settings = settings_in(folder, model)
with players.pipeline(settings) as pipeline:
    raft.evaluate(pipeline, {"base": str(model)}, RankAnswerers(settings, folder / "ranks"), folder / "ranks", settings)
"""


def settings_in(folder, model, **cluster):
    """Two ranks, batches of a prompt or two."""
    evaluation = {
        "answerers": {"workers": 2, "cpus_per_worker": 0.5},
        "tokens_per_batch": 600,
        "conditions": ["closed_book", "oracle", "attacked"],
        "perplexity": True,
    }
    return game.settings(folder, model, evaluation=evaluation, cluster=cluster)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model):
    return settings_in(tmp_path_factory.mktemp("answers"), model)


@pytest.fixture(scope="module")
def alone(settings, model):
    """What this process answers, with one thread as each rank has: more add up in another order (decision 0015)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluated(settings, model, LocalAnswerers(settings), "alone")
    torch.set_num_threads(threads)


def evaluated(settings, model, answerers, name):
    """The predictions, and the rows of both files that keep them."""
    folder = Path(settings.run.folder) / name
    with players.pipeline(settings) as pipeline:
        asked = raft.evaluate(pipeline, {"base": str(model)}, answerers, folder, settings)
    return asked["base"], kept(folder)


def kept(folder):
    files = sorted((folder / raft.EVALUATION).glob("*.jsonl"))
    assert len(files) == 2
    return [sorted(file.read_text().splitlines()) for file in files]


def texts(stream):
    return {text.prompt_id: text for text in chain.from_iterable(stream)}


def test_ranks_evaluate_as_this_process_does_to_the_byte(ray_here, settings, model, alone):
    """Answers, scores and perplexities."""
    ranks = RankAnswerers(settings, Path(settings.run.folder) / "ranks")
    assert evaluated(settings, model, ranks, "ranks") == alone
    logs = sorted((Path(settings.run.folder) / "ranks" / "logs").glob("answerers-rank-*.jsonl"))
    done = [[line for line in map(json.loads, log.open()) if "answered" in line["message"]] for log in logs]
    assert len(done) == 2 and all(done)  # each had its share


def test_a_killed_rank_costs_its_batch_and_the_other_goes_on(ray_here, tmp_path, settings, model):
    prompts = tiny.prompts(16)
    with LocalAnswerers(settings).open(str(model)) as answerer:
        expected = texts(answerer.write(prompts, **HOW))
    with RankAnswerers(settings, tmp_path).open(str(model)) as group:
        first, second = group.pids
        stream = group.write(prompts[::-1], **HOW)  # the order in which they are asked does not matter
        found = texts([next(stream)])
        os.kill(first, signal.SIGKILL)
        found |= texts(stream)
        assert found == expected and group.failures == 1
        assert psutil.pid_exists(second)
        assert texts(group.write(prompts, done={prompt.id for prompt in prompts[1:]}, **HOW)).items() <= found.items()


def test_a_rank_that_always_dies_ends_the_run(ray_here, tmp_path, model):
    settings = settings_in(tmp_path, model, max_failures=0)
    with RankAnswerers(settings, tmp_path).open(str(model)) as group:
        os.kill(group.pids[1], signal.SIGKILL)
        with pytest.raises(TrainError, match=r"answerers rank 1 on .*batch .*cluster\.max_failures=0"):
            list(group.write(tiny.prompts(16), **HOW))


def test_a_killed_driver_asks_only_what_is_missing(settings, model, alone, tmp_path):
    """What ranks answered for the first one is not asked again, by whoever goes on."""
    folder = Path(settings.run.folder).parent
    died = subprocess.run([sys.executable, "-c", DRIVER, str(folder), str(model)], timeout=300)
    assert died.returncode == -signal.SIGKILL
    (file,) = (folder / "ranks" / raft.EVALUATION).glob("base.jsonl")
    done = len(file.read_text().splitlines()) - 1
    assert 0 < done < len(alone[0])
    asked = []

    class Counting(LocalAnswerers):
        def open(self, *sources):
            answerer = super().open(*sources)
            return Counted(answerer, asked)

    (folder / "ranks").rename(Path(settings.run.folder) / "resumed")
    assert evaluated(settings, model, Counting(settings), "resumed") == alone
    assert 0 < len(asked) <= len(alone[0]) - done


class Counted:
    """A context that notes what is written."""

    def __init__(self, opened, asked):
        self.opened, self.asked = opened, asked

    def __enter__(self):
        answerer = self.opened.__enter__()
        write = answerer.writer.write

        def noted(prompts, **how):
            self.asked.extend(prompts)
            return write(prompts, **how)

        answerer.writer.write = noted
        return answerer

    def __exit__(self, *error):
        return self.opened.__exit__(*error)
