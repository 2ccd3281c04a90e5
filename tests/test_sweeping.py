"""What a trial does of its job on a share of the training; whole sweeps are in test_sweeps.py."""

from types import SimpleNamespace

import pytest

from ragdist import sweeping
from ragdist.config.loader import resolve
from ragdist.errors import DataError
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.report import Cell, Report
from ragdist.storage.phases import PhaseCheckpoint
from ragdist.sweeping import scores_of
from ragdist.sweeps import trials
from ragdist.systems.atm import run as atm
from ragdist.tracking.run import run_folder


def cell(model, condition, mean):
    score = Interval(mean, mean / 2, mean * 2)
    none = dict.fromkeys(("states_forgery", "untagged", "quotes_valid", "retrieved_oracle", "perplexity"))
    rates = {"three_way": None, "two_way": None, "unfinished": 0.0, "cut_prompts": 0.0, "rows": 8}
    return Cell(model=model, condition=condition, em=score, f1=score, subspan=score, **none, **rates)


@pytest.fixture
def settings(tmp_path):
    values = {"run": {"folder": str(tmp_path), "name": "s/trials/t"}, "train": {"epochs": 4}, "atm": {"rounds": 4}}
    return resolve(values)


def job(asked, name):
    """A job that notes its settings and what its journal begins with."""

    def run(settings):
        folder = run_folder(settings, name)
        begun = sorted(path.stem for path in (folder / "atm").glob("*/*.json"))
        asked.append((settings.run.name, settings.train.epochs, settings.atm.rounds, begun))
        cells = (cell("base", "oracle", 0.25), cell("RAFT", "oracle", 0.5), cell("RAFT", "attacked", 0.125))
        report = Report(baseline="base", attack_name="", cells=cells, attacks=(), changes=(), floor=None)
        return SimpleNamespace(folder=folder, report=report)

    return run


def test_raft_trains_on_a_share_of_its_epochs_and_drops_its_checkpoints(settings, tmp_path):
    asked = []
    (tmp_path / "s" / "trials" / "t" / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    for share in (0.25, 1.0):
        scores = sweeping.play("raft", job(asked, "raft"), tmp_path / "s", settings, {"train.epochs": 4}, share)
    assert [row[:2] for row in asked] == [("s/trials/t/share-0.25", 1.0), ("s/trials/t", 4.0)]
    assert {name: by["em"][0] for name, by in scores.items()} == {"base_clean": 0.25, "clean": 0.5, "attacked": 0.125}
    assert not (tmp_path / "s" / "trials" / "t" / "checkpoints").exists()


def test_atm_begins_with_the_common_game_and_goes_on_from_its_last_rung(settings, tmp_path):
    point, asked = {"atm.kl_weight": 0.5}, []
    common = sweeping._begun(tmp_path / "s", point, settings)[0]
    PhaseCheckpoint(common / "atm").note("round-0/forged", [])
    sweeping.play("atm", job(asked, "atm"), tmp_path / "s", settings, point, 0.25)
    PhaseCheckpoint(tmp_path / "s" / "trials" / "t" / "share-0.25" / "atm").note("round-0/generator", {"steps": []})
    sweeping.play("atm", job(asked, "atm"), tmp_path / "s", settings, point, 1.0)
    assert [(name, rounds, begun) for name, _, rounds, begun in asked] == [
        ("s/trials/t/share-0.25", 1, ["forged"]),
        ("s/trials/t", 4, ["forged", "generator"]),
    ]


@pytest.mark.parametrize(
    ("keys", "values", "phase"),
    [
        (["atm.kl_weight", "atm.detach_clean"], {}, atm.GENERATOR),
        (["atm.kl_weight", "atm.dpo_beta"], {}, atm.ATTACKER),
        (["attacker.train.learning_rate"], {}, atm.ATTACKER),
        (["attacker.train.learning_rate"], {"atm": {"attacker_warmup": "swap"}}, ""),
        (["generator.train.epochs"], {}, atm.GENERATOR),
        (["generator.train.epochs"], {"atm": {"first_tuning": True}}, ""),
        (["atm.kl_weight", "contexts.documents"], {}, ""),
        (["seed"], {}, ""),
        (["atm.variant"], {}, ""),
    ],
)
def test_games_are_one_up_to_the_first_phase_that_reads_what_differs(keys, values, phase):
    assert atm.common(keys, resolve(values).atm) == phase


def test_scores_are_intervals_over_questions():
    report = Report(
        baseline="", attack_name="", cells=(cell("RAFT", "oracle", 0.5),), attacks=(), changes=(), floor=None
    )
    assert Interval(*scores_of(report)["clean"]["em"]) == report.cells[0].em


def test_a_trial_that_cannot_be_prepared_is_left_to_fail_alone_and_a_common_game_is_played_once(settings, tmp_path):
    played = []

    def begin(settings, until):
        if settings.contexts.documents == 3:
            raise DataError("too few documents")
        folder = run_folder(settings, "atm")
        folder.mkdir(parents=True)
        played.append((settings.contexts.documents, until, folder.parent.name))

    shared = trials.load(["contexts.documents=2,3", "atm.kl_weight=0,1", f"run.folder={tmp_path}", "run.name=s"])
    points = trials.points(shared)
    for _ in range(2):
        sweeping._prepare_all("atm", shared, points, tmp_path / "s", begin)
    assert played == [(2, atm.GENERATOR, "common")]
    with pytest.raises(DataError, match="too few"):
        sweeping._prepare_all("atm", shared, points[2:], tmp_path / "s", begin)
