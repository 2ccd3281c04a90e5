"""Whole sweeps by the real command: real Ray Tune, Ray Train, DeepSpeed, a tiny model; killed twice on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ragdist.config import loader
from ragdist.lm.checkpoints import CHECKPOINTS, MARK
from ragdist.sweeps import trials
from tests import game, tiny
from tests.training import noted

ENV = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
CLI = [sys.executable, "-c", "from ragdist.cli import main; main()", "sweep"]
DEADLINE_S = 600
pytestmark = [
    pytest.mark.sweeps,
    pytest.mark.timeout(1800),
]  # some minutes each


def wait_for(what, driver):
    """The first true result of `what()`; the driver is not to end before."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := what():
            return found
        assert driver.poll() is None, driver.returncode
        time.sleep(0.1)
    pytest.fail("nothing came of it")


def trial(folder, **values):
    """The trial's folder, its card and what its run says, as far as they are there."""
    here = folder / trials.TRIALS / trials.name_of({"contexts.oracle_fraction": values["p"], "seed": values["seed"]})
    card, state = here / trials.TRIAL, here / "state.json"
    return (
        here,
        json.loads(card.read_text()) if card.exists() else {},
        json.loads(state.read_text()) if state.exists() else {},
    )


def training(here):
    return (here / "metrics.jsonl").exists() and bool(noted(here, "train"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A grid of two P by two seeds. The first trial's process is killed while its workers train, which leaves their
    placement group behind on a machine that has room for one; the driver is killed in the second trial."""
    folder = tmp_path_factory.mktemp("sweep")
    questions = game.write_questions(folder / "questions.jsonl", train=24, test=6)
    arguments = [
        *("raft", f"run.folder={folder / 'runs'}", "run.name=p", f"model.source={tiny.model_folder(folder)}"),
        *("model.dtype=float32", "model.max_tokens=512", "corpus.source=records", f"corpus.questions=[{questions}]"),
        *("contexts.documents=2", "train.examples_per_step=4", "train.microbatch=4", "train.zero_stage=1"),
        *("train.epochs=40", "train.checkpoint_every=20", "evaluation.conditions=[oracle,attacked]"),
        *("evaluation.max_new_tokens=4", "evaluation.resamples=200"),
        *("contexts.oracle_fraction=0,1", "sweep.seeds=2", "--json"),
    ]
    run = folder / "runs" / "p"
    with (folder / "log").open("w") as log:
        driver = subprocess.Popen([*CLI, *arguments], env=ENV, stdout=log, stderr=log, start_new_session=True)
        first, *_ = trial(run, p=0.0, seed=0)
        wait_for(lambda: list((first / CHECKPOINTS).glob(f"*/{MARK}")), driver)
        os.kill(trial(run, p=0.0, seed=0)[2]["pid"], signal.SIGKILL)
        wait_for(lambda: trial(run, p=0.0, seed=0)[1].get("state") == "finished", driver)
        second, *_ = trial(run, p=0.0, seed=1)
        wait_for(lambda: training(second), driver)
        driver.kill()
        driver.wait(60)
    before = (first / "model" / "model.safetensors").stat().st_mtime_ns
    done = subprocess.run([*CLI, *arguments], env=ENV, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return run, json.loads(done.stdout), (folder / "log").read_text(), before, done.stderr


def test_a_killed_sweep_goes_on_and_finished_trials_are_not_run_again(swept):
    run, summary, _, before, said = swept
    assert [trial["state"] for trial in summary["trials"]] == ["finished"] * 4
    first, *_ = trial(run, p=0.0, seed=0)
    assert (first / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "oracle_fraction=0 seed=0 ..." not in said and "4 of 4 trials" in said


def test_a_trial_whose_process_died_gives_its_seats_back_and_goes_on_from_its_checkpoint(swept):
    run, _, said, *_ = swept
    assert "gave back" in said and "failed and is tried again" in said
    starts = [line["step"] for line in noted(trial(run, p=0.0, seed=0)[0], "train_start")]
    assert len(starts) == 2 and starts[0] == 0 < starts[1]


def test_base_is_asked_once_for_both_fractions_and_rows_are_rendered_once(swept):
    run, *_ = swept
    data = run.parent / "data"
    assert len(list(data.glob("answers-*/base.jsonl"))) == 2  # one for each seed: attacked lists are drawn anew
    cards = [json.loads(path.read_text()) for path in data.glob("examples-*/stage.json")]
    assert sorted(card["counts"]["rendered"] for card in cards) == [24] * 4  # no row of P=0 is one of P=1
    for seed in (0, 1):
        said = [(trial(run, p=p, seed=seed)[0] / "evaluation" / "base.jsonl").read_bytes() for p in (0.0, 1.0)]
        assert said[0] == said[1]


def test_best_yaml_is_what_train_takes_and_trials_parquet_holds_all(swept):
    run, summary, *_ = swept
    best = loader.load([str(run / "best.yaml")])
    assert best.contexts.oracle_fraction == summary["best"]["values"]["contexts.oracle_fraction"]
    assert best.train.epochs == 40 and best.run.name == "" and not best.sweep.over
    rows = pq.read_table(run / "trials.parquet").to_pylist()
    assert [(row["contexts.oracle_fraction"], row["seed"], row["state"]) for row in rows] == [
        *((0.0, 0, "finished"), (0.0, 1, "finished"), (1.0, 0, "finished"), (1.0, 1, "finished")),
    ]
    for row in rows:
        _, card, _ = trial(run, p=row["contexts.oracle_fraction"], seed=row["seed"])
        assert row["clean"] == card["scores"]["clean"]["subspan"][0] and row["seconds"] > 0 and row["error"] == ""
        assert loader.resolve(loader.yaml.safe_load(row["settings"])).seed == row["seed"]
    page = (run / "report.html").read_text()
    assert "<svg" in page and "default-src &#39;none&#39;" in page
    answers = pq.read_table(run / "answers.parquet", columns=["model", "seed", "condition"]).to_pylist()
    assert {(row["model"], row["seed"]) for row in answers} == {
        (model, seed) for model in ("before", "oracle_fraction=0", "oracle_fraction=1") for seed in (0, 1)
    }
    assert (run / "report.png").stat().st_size > 5000


def test_atm_plays_what_weights_share_once_and_each_ends_as_a_game_alone(tmp_path):
    """Two KL weights: forging, grading and the attacker's learning are one game; the rest has the bytes of a game that
    was played by itself."""
    settings = game.settings(tmp_path, tiny.model_folder(tmp_path), atm={"rounds": 1}, run={"name": "kl"})
    (tmp_path / "settings.yaml").write_text(loader.dump(settings))
    arguments = ["atm", str(tmp_path / "settings.yaml"), "atm.kl_weight=0,1", "sweep.objective=attacked"]
    done = subprocess.run([*CLI, *arguments, "--json"], env=ENV, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "kl"
    assert json.loads(done.stdout)["best"]["values"]["atm.kl_weight"] in (0.0, 1.0)
    games = [run / trials.TRIALS / trials.name_of({"atm.kl_weight": weight}) for weight in (0.0, 1.0)]
    answers = pq.read_table(run / "answers.parquet", columns=["model", "condition"]).to_pylist()
    assert {row["model"] for row in answers} == {"before", "kl_weight=0", "kl_weight=1"}
    assert "kl_weight" in (run / "report.html").read_text()
    spans = [{line["name"] for line in noted(here, "span")} for here in games]
    assert all("round-0/generator" in span and "round-0/attacker" not in span for span in spans)
    alone = [CLI[0], *CLI[1:-1], "train", "atm", str(tmp_path / "settings.yaml"), "run.name=alone", "atm.kl_weight=1"]
    done = subprocess.run(alone, env=ENV, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert game.journal(games[1]) == game.journal(tmp_path / "runs" / "alone")
    assert (
        game.journal(games[0])["atm/round-0/generator/model/model.safetensors"]
        != (game.journal(games[1])["atm/round-0/generator/model/model.safetensors"])
    )


def test_trials_at_once_share_one_pool_and_answer_as_without(tmp_path):
    """Two trials beside each other; the pool's rank starts once and holds one model after the other."""
    questions = game.write_questions(tmp_path / "questions.jsonl", train=8, test=6)
    arguments = [
        *("raft", f"run.folder={tmp_path / 'runs'}", f"model.source={tiny.model_folder(tmp_path)}"),
        *("model.dtype=float32", "model.max_tokens=512", "corpus.source=records", f"corpus.questions=[{questions}]"),
        *("contexts.documents=2", "train.examples_per_step=4", "train.microbatch=4", "train.epochs=4"),
        *("cluster.workers=1", "cluster.cpus_per_worker=0.5", "evaluation.conditions=[oracle,attacked]"),
        *("evaluation.max_new_tokens=4", "evaluation.resamples=200", "evaluation.before=false"),
        *("contexts.oracle_fraction=0,1", "sweep.concurrent=2", "--json"),
    ]
    ranks = ["evaluation.answerers.workers=1", "evaluation.answerers.cpus_per_worker=0.5"]
    scores = {}
    for name, more in (("pool", ranks), ("alone", [])):
        environment = ENV | {"OMP_NUM_THREADS": "1"}
        command = [*CLI, *arguments, f"run.name={name}", *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "no room for answerers" not in done.stderr
        cards = sorted((tmp_path / "runs" / name / trials.TRIALS).glob(f"*/{trials.TRIAL}"))
        scores[name] = [(card["state"], card["scores"]) for card in map(json.loads, map(Path.read_text, cards))]
    assert scores["pool"] == scores["alone"] and [state for state, _ in scores["pool"]] == ["finished"] * 2
    log = (tmp_path / "runs" / "pool" / "logs" / "answerers-rank-0.jsonl").read_text().splitlines()
    done = [
        message.split(":")[0] for line in log if not (message := json.loads(line)["message"]).startswith("answered")
    ]
    assert done == ["start", "hold"]
    assert not list((tmp_path / "runs" / "pool" / "trials").glob("*/logs/answerers-rank-*"))
