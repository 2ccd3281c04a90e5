"""Trials of a sweep ask one pool: their own models, one after another, in processes that stay."""

import json
from itertools import chain

import pytest
import ray
import torch

from ragdist import players
from ragdist.cluster import place, pool
from ragdist.errors import ModelError
from ragdist.local import LocalAnswerers
from tests import tiny
from tests.cluster.test_answerers import HOW, settings_in, texts

pytestmark = pytest.mark.cluster
PROMPTS = tiny.prompts(12)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two of other weights."""
    return [str(tiny.model_folder(tmp_path_factory.mktemp(f"model-{seed}"), seed=seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, models):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = LocalAnswerers(settings_in(tmp_path_factory.mktemp("alone"), models[0]))
    found = []
    for model in models:
        with alone.open(model) as answerer:
            found.append(texts(answerer.write(PROMPTS, **HOW)))
    torch.set_num_threads(threads)
    assert found[0] != found[1]
    return found


@pytest.fixture
def standing(ray_here, tmp_path, models):
    """What trials of a sweep with two of them at once are given."""
    settings = settings_in(tmp_path, models[0]).replaced("cluster.cpus_per_worker", 0.25)
    settings = settings.replaced("cluster.workers", 1).replaced("sweep.concurrent", 2)
    with pool.opened(settings, ("cluster",), tmp_path) as actor:
        assert actor is not None
        pool.use(actor)
        yield settings
        pool.use(None)
    place.await_leaving()


def done(folder):
    """What each rank did but answer, in order."""
    logs = sorted((folder / "logs").glob("answerers-rank-*.jsonl"))
    return [
        [line["message"].split(":")[0] for line in map(json.loads, log.open()) if "ans" not in line["message"]]
        for log in logs
    ]


def test_models_take_turns_in_the_same_processes_and_answer_as_alone(standing, tmp_path, models, expected):
    first, second = (players.answerers(standing, tmp_path / name) for name in ("one", "two"))
    with first.open(models[0]) as one, second.open(models[1]) as two:
        for answerer, right in ((one, expected[0]), (two, expected[1]), (one, expected[0])):
            assert texts(answerer.write(PROMPTS, **HOW)) == right
        assert texts(one.write(PROMPTS[:4], **HOW)).items() <= expected[0].items()
    assert done(tmp_path) == [["start", "hold", "hold"]] * 2


def test_a_folder_that_was_written_again_is_loaded_again(standing, tmp_path, models, expected):
    """What stands at a path is another model when it is opened anew."""
    place_of = tmp_path / "model"
    for model, right in zip(models, expected, strict=True):
        place_of.unlink(missing_ok=True)
        place_of.symlink_to(model)
        with players.answerers(standing, tmp_path).open(str(place_of)) as answerer:
            assert texts(answerer.write(PROMPTS, **HOW)) == right


def test_an_error_of_a_trial_is_its_own_and_the_pool_goes_on(standing, tmp_path, models, expected):
    with (
        players.answerers(standing, tmp_path).open(str(tmp_path / "nothing")) as answerer,
        pytest.raises(ModelError, match="nothing"),
    ):
        list(answerer.write(PROMPTS, **HOW))
    with players.answerers(standing, tmp_path).open(models[1]) as answerer:
        assert texts(answerer.write(PROMPTS, **HOW)) == expected[1]


def test_where_the_pool_died_a_trial_has_ranks_of_its_own(standing, tmp_path, models, expected, capsys):
    ray.kill(pool.standing())
    place.await_leaving()
    with players.answerers(standing, tmp_path / "trial").open(models[0]) as answerer:
        assert texts(answerer.write(PROMPTS, **HOW)) == expected[0]
    assert "this trial has its own" in capsys.readouterr().err
    assert chain(*done(tmp_path / "trial"))


def test_no_pool_where_workers_leave_it_no_room(ray_here, tmp_path, models, capsys):
    settings = settings_in(tmp_path, models[0]).replaced("cluster.cpus_per_worker", 0.75).replaced("cluster.workers", 1)
    with pool.opened(settings.replaced("sweep.concurrent", 2), ("cluster",), tmp_path) as actor:
        assert actor is None
    assert "no room for answerers beside the trials' workers" in capsys.readouterr().err
    assert place.fit(settings, ["evaluation.answerers", "cluster"])
