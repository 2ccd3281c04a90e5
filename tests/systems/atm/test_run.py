"""ATM in one process on the tiny model: what a round does, in which order, and that it goes on where it stopped."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist.algo import sft
from ragdist.config import AtmConfig, loader
from ragdist.data.pipeline import Pipeline
from ragdist.errors import TrainError
from ragdist.lm import turns
from ragdist.lm.load import load_tokenizer
from ragdist.lm.resident import Resident
from ragdist.lm.residents import SharedResidents
from ragdist.local import LocalSide, SerialMapper
from ragdist.records import Forgery
from ragdist.storage import tables
from ragdist.storage.stages import Store
from ragdist.systems.atm import report, training_rows
from ragdist.systems.atm import run as atm
from ragdist.systems.atm.live import Board
from ragdist.systems.atm.training_rows import open_questions
from ragdist.tracking.run import open_run
from tests import game, tiny


def play(settings):
    """The outcome of a game whose sides both live in this process."""
    folder = Path(settings.run.folder)
    pipeline = Pipeline(settings, Store(folder / "data"), load_tokenizer(settings.model), SerialMapper())

    @contextmanager
    def open_sides(attacker, generator):
        if settings.atm.layout == "shared_base":
            starts = zip(attacker, generator, strict=True)
            yield turns.sides(LocalSide(settings, settings.attacker, SharedResidents, *starts))
            return
        yield (
            LocalSide(settings, settings.attacker, Resident, attacker.source, attacker.version),
            LocalSide(settings, settings.generator, Resident, generator.source, generator.version),
        )

    train, test = (
        tables.split(open_questions(pipeline, split), settings.atm.questions_per_microbatch)
        for split in ("train", "test")
    )
    run = folder / settings.run.name
    with Board(settings.atm.rounds) as board:
        return atm.run(
            train, test, open_questions(pipeline, "test"), pipeline.forgeries.path, open_sides, run, settings, board
        )


def rows(run, phase):
    """All records of a phase, by microbatch."""
    return [row for file in sorted((run / "atm" / phase).glob("*.parquet")) for row in tables.rows_at(file)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model):
    return game.settings(tmp_path_factory.mktemp("game"), model)


@pytest.fixture(scope="module")
def outcome(settings):
    return play(settings)


@pytest.fixture(scope="module")
def run(settings, outcome):
    return Path(settings.run.folder) / "game"


def test_round_grades_with_its_generator_and_trains_on_the_new_attackers_forgeries_check_54(run):
    for number in (0, 1):
        assert {row.attacker for row in rows(run, f"round-{number}/forged")} == {number}
        assert {row.attacker for row in rows(run, f"round-{number}/forged-again")} == {number + 1}
        assert {row.round for row in rows(run, f"round-{number}/forged-again")} == {number}
        again = {row.id for row in rows(run, f"round-{number}/forged-again")}
        shown = {id for row in rows(run, f"round-{number}/lists") for id in row.about.split(",")}
        assert again <= shown


def test_every_forgery_has_its_lineage_and_is_marked_for_good_check_43(run):
    forged = rows(run, "round-0/forged")
    assert len({row.id for row in forged}) == len(forged)
    assert all(row.is_forged and row.prompt_hash and row.method == "attacker" for row in forged)
    prompts = {}
    for row in forged:
        prompts.setdefault(row.question_id, set()).add(row.prompt_hash)
    assert all(len(hashes) == 1 for hashes in prompts.values())  # check 27: one prompt a question and round


def test_forgeries_never_reach_the_road(settings, run):
    forged = {row.text for row in rows(run, "round-0/forged") if len(row.text) > 3}
    for file in (Path(settings.run.folder) / "data").glob("*/rows.jsonl"):
        if not file.parent.name.startswith("forgeries"):
            texts = file.read_text()
            assert not any(json.dumps(text)[1:-1] in texts for text in forged), file


def test_attacker_changes_in_its_phase_only_and_so_does_the_generator_check_53(settings, model, run):
    def weights(folder):
        return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()

    learned = [run / "atm" / f"round-{n}" / side for n in (0, 1) for side in ("attacker", "generator")]
    models = [weights(folder / "model") for folder in learned]
    assert len({*models, weights(model)}) == 5


def test_pairs_join_best_and_worst_by_id_check_33(run):
    grades = {row.forgery_id: row.perplexity for row in rows(run, "round-0/graded")}
    pairs = rows(run, "round-0/pairs")
    assert pairs
    for pair in pairs:
        chosen, rejected = pair.about.split(">")
        assert grades[chosen] > grades[rejected]
        own = [value for id, value in grades.items() if id.startswith(f"{pair.id}-")]
        assert (grades[chosen], grades[rejected]) == (max(own), min(own))


def test_reference_is_the_attacker_of_this_round_check_38(run):
    for number in (0, 1):
        steps = json.loads((run / "atm" / f"round-{number}" / "attacker.json").read_text())["steps"]
        assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_report_judges_before_and_after_each_round(outcome):
    stages = {(row["model"], row["condition"]) for row in report.as_json(outcome.report)["scores"]}
    for stage in ("before", "after round 1", "after round 2"):
        asked = {condition for model, condition in stages if model == stage}
        assert asked == {"clean", "permuted", "absent", "template", "attacker"}


def test_finished_game_is_not_played_again(settings, run, outcome):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")}
    again = play(settings)
    assert again.generator == outcome.generator
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.parquet")} == before


KILLED = """
import os, sys
from pathlib import Path
from ragdist.config import loader
from tests.systems.atm import test_run

rename, left = Path.replace, int(sys.argv[2])
def replace(path, target):
    global left
    left -= str(path).startswith(sys.argv[3])
    if not left:
        os.kill(os.getpid(), 9)  # the file beside is written, its name is not
    return rename(path, target)
Path.replace = replace
test_run.play(loader.load([sys.argv[1]]))
"""


@pytest.mark.cluster
def test_game_killed_in_the_middle_of_commits_ends_with_the_same_bytes(settings, run, tmp_path, model):
    here = game.settings(tmp_path, model)
    (tmp_path / "settings.yaml").write_text(loader.dump(here))
    atm_folder = str(tmp_path / "runs" / "game" / "atm")
    kills = 0
    for at in (2, 9, 30):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / "settings.yaml"), str(at), atm_folder],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=300,
        )
        kills += done.returncode == -9
    assert kills == 3
    play(here)
    assert game.journal(tmp_path / "runs" / "game") == game.journal(run)


def test_attacker_that_writes_nothing_usable_is_told_so(tmp_path, model):
    here = game.settings(tmp_path, model, atm={"max_new_tokens": 1, "rounds": 1, "samples": 2})
    try:
        play(here)
    except TrainError as error:
        assert "no row to learn from" in str(error)


def test_released_code_variant_first_tuning_and_warm_up_play_too(tmp_path, model):
    here = game.settings(
        tmp_path,
        model,
        atm={"rounds": 1, "variant": "released_code", "first_tuning": True, "attacker_warmup": "swap"}
        | {"max_new_tokens": 12, "questions_per_microbatch": 4, "samples": 5},
    )
    outcome = play(here)
    run = Path(here.run.folder) / "game" / "atm"
    assert (run / "first" / "generator" / "model").is_dir() and (run / "first" / "attacker" / "model").is_dir()
    assert {row.attacker for row in rows(run.parent, "round-0/forged")} == {0}
    assert outcome.generator == run / "round-0" / "generator" / "model"


def test_perplexity_depends_on_the_document_check_32(tmp_path, model):
    """A generator that learned from golden documents is less perplexed by them than by forgeries of them."""
    here = game.settings(tmp_path, model, generator={"train": {"epochs": 40, "learning_rate": 5e-3}})
    pipeline = Pipeline(here, Store(tmp_path / "data"), load_tokenizer(here.model), SerialMapper())
    asked = list(open_questions(pipeline, "train"))
    golden = [
        replace(q, document_ids=("golden",), titles=("",), texts=(q.texts[q.oracle_positions[0]],)) for q in asked
    ]
    generator = Resident(str(model), here, here.generator, 0)
    rows, _ = training_rows.first_tuning(
        generator, golden, here.model_copy(update={"atm": AtmConfig(closed_book_share=0)})
    )
    steps, _ = generator.begin(sft.answer_loss, rows, None, tmp_path)
    generator.steps(steps)
    shown = {
        kind: [
            Forgery(id=q.id, question_id=q.id, number=0, title="", text=text(q), states="", method="template")
            for q in golden
        ]
        for kind, text in (
            ("golden", lambda q: q.texts[0]),
            ("forged", lambda q: q.texts[0].replace(q.answers[0], q.wrong_answers[0])),
        )
    }
    mean = {
        kind: training_rows.grade(generator, golden, found, here)[1]["perplexity_sum"] for kind, found in shown.items()
    }
    assert mean["golden"] < mean["forged"]


def test_a_round_by_paged_is_the_round_by_transformers(tmp_path, model, run):
    """The same texts, pairs and models; and metrics.jsonl says at each new version that the engine had its weights."""
    engines = {"attacker": {"engine": "paged"}, "generator": {"engine": "paged"}, "engines": {"probe_tokens": 8}}
    made = game.settings(tmp_path, model, atm={"rounds": 1}, **engines)
    with open_run(made, "atm"):
        play(made)
    here = tmp_path / "runs" / "game"
    for phase in ("forged", "graded", "pairs", "forged-again", "lists"):
        assert rows(here, f"round-0/{phase}") == rows(run, f"round-0/{phase}") != []
    for side in ("attacker", "generator"):
        weights = [one / f"atm/round-0/{side}/model/model.safetensors" for one in (here, run)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    lines = map(json.loads, (here / "metrics.jsonl").read_text().splitlines())
    proofs = [line for line in lines if line["phase"] == "probe"]
    assert sorted(line["version"] for line in proofs) == [0, 0, 1, 1]
    assert all(line["nats"] < 1e-4 and not line["fresh"] and line["engine"] == "paged" for line in proofs)
