import json

import pytest

from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.sweeps import trials
from ragdist.sweeps.trials import Rung, Trial

P = "contexts.oracle_fraction"


@pytest.mark.parametrize(
    ("argument", "over"),
    [
        (f"{P}=0,0.5,1", {P: [0, 0.5, 1]}),
        (
            "evaluation.conditions=[oracle],[oracle,attacked]",
            {"evaluation.conditions": [["oracle"], ["oracle", "attacked"]]},
        ),
        ("evaluation.conditions=[oracle,attacked]", {}),
        ("model.source=a,b", {"model.source": ["a", "b"]}),
        ('prompts.system="Short, please."', {}),
        ("train.learning_rate=1e-6..1e-4:log", {"train.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True}}),
        ("corpus.folder=../a..b", {}),
        ("seed=1,2", {"seed": [1, 2]}),
        ("run.folder=runs", {}),
    ],
)
def test_commas_and_ranges_are_swept_and_lists_stay_values(argument, over):
    assert trials.load([argument]).sweep.over == over


def test_a_single_value_fixes_what_a_file_sweeps(tmp_path):
    (tmp_path / "s.yaml").write_text(f"sweep: {{over: {{{P}: [0, 1], seed: [0, 1]}}}}")
    settings = trials.load([str(tmp_path / "s.yaml"), f"{P}=0.4"])
    assert settings.sweep.over == {"seed": [0, 1]} and settings.contexts.oracle_fraction == 0.4
    assert trials.load([str(tmp_path / "s.yaml"), f"{P}=0.4,0.6"]).sweep.over == {P: [0.4, 0.6], "seed": [0, 1]}


def test_a_grid_is_every_combination_and_seeds_are_a_dimension():
    settings = trials.load([f"{P}=0,1", "train.epochs=1,2,3", "sweep.seeds=2", "seed=5"])
    points = trials.points(settings)
    assert len(points) == 2 * 3 * 2 and {point["seed"] for point in points} == {5, 6}
    assert len({trials.name_of(point) for point in points}) == 12


def test_random_points_are_drawn_by_seed_in_their_ranges():
    how = [f"{P}=0..0.5", "train.learning_rate=1e-6..1e-4:log", "sweep.search=random", "sweep.samples=200"]
    points = trials.points(trials.load(how))
    assert points == trials.points(trials.load(how)) != trials.points(trials.load([*how, "seed=1"]))
    assert all(0 <= point[P] <= 0.5 and 1e-6 <= point["train.learning_rate"] <= 1e-4 for point in points)
    below = sum(point["train.learning_rate"] < 1e-5 for point in points)
    assert 70 < below < 130  # half of the logarithm's range; evenly drawn it were 18


def test_a_name_follows_from_values_alone():
    name = trials.name_of({P: 0.2, "seed": 1})
    assert name != trials.name_of({P: 0.2, "seed": 2}) and name.startswith("oracle_fraction=0.2-seed=1-")
    assert trials.points(trials.load([f"{P}=0,0.0,1"])) == [{P: 0.0}, {P: 1.0}]
    assert trials.points(trials.load(["train.learning_rate=1e-4,2e-4"])) == [
        {"train.learning_rate": 1e-4 * n} for n in (1, 2)
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing is swept"),
        (["contexts.oracle_fractoin=0,1"], "contexts.oracle_fraction"),
        ([f"{P}=0,2"], P),
        ([f"{P}=0..1"], "sweep.search=random"),
        ([f"{P}=1..0", "sweep.search=random"], "no range"),
        ([f"{P}=0..1:log", "sweep.search=random"], "logarithm"),
        (["cluster.workers=1,2"], "cluster.workers"),
        (["seed=0,1", "sweep.seeds=2"], "sweep.seeds=1"),
        ([f"{P}=0,1", "sweep.seeds=2", "sweep.search=optuna"], "sweep.seeds=1"),
        ([f"{P}=0,1", "sweep.scheduler=asha"], "sweep.objective"),
        ([f"{P}=0,1", "evaluation.conditions=[oracle]"], "attacked"),
        (["train.microbatch=4,3"], "examples_per_step"),
        (["sweep.over={a: 3}"], "list of values"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(arguments, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        settings = trials.load(arguments)
        trials.check("raft", settings.sweep, settings.evaluation)
        trials.points(settings)


def test_rungs_of_raft_are_shares_and_of_atm_rounds():
    settings = trials.load([f"{P}=0,1", "sweep.scheduler=asha", "sweep.halving=3", "atm.rounds=4"])
    assert trials.rungs("raft", settings.sweep, 4) == (Rung(1, 1 / 9), Rung(3, 1 / 3), Rung(9, 1.0))
    assert trials.rungs("atm", settings.sweep, 4) == (Rung(1, 0.25), Rung(2, 0.5), Rung(3, 0.75), Rung(4, 1.0))
    assert trials.rungs("raft", trials.load([f"{P}=0,1"]).sweep, 1) == (Rung(1, 1.0),)


def test_a_trial_survives_its_file(tmp_path):
    scores = {"clean": {"em": (0.5, 0.4, 0.6)}}
    noted = Trial(name="a-1", values={P: 0.5}, state="finished", scores=scores, rungs=((0.5, scores), (1.0, scores)))
    assert trials.read(tmp_path, "a-1", {P: 0.5}) == Trial(name="a-1", values={P: 0.5})
    trials.note(tmp_path, noted)
    assert trials.read(tmp_path, "a-1", {}) == noted and trials.known(tmp_path) == [noted]


def test_settings_of_a_trial_are_those_of_the_sweep_but_for_its_values():
    settings = trials.load(["atm.kl_weight=0,0.5", "attacker.train.learning_rate=1e-5", "run.mapper=ray"])
    found = loader.flatten(trials.at(settings, {"atm.kl_weight": 0.5, "seed": 3}))
    base = loader.flatten(settings)
    changed = {key for key in base if base[key] != found[key]}
    assert changed == {"atm.kl_weight", "seed", "sweep.over", "run.mapper"}
    assert json.loads(json.dumps(found["attacker.train.learning_rate"])) == 1e-5


def test_arms_are_points_with_every_setting_that_any_arm_has():
    arms = {
        "paper": {},
        "clean": {"atm.clean_weight": 1},
        "mix": {"atm.mix.clean": 0.3, "atm.replay.attacks": ["template"]},
    }
    settings = loader.resolve({"sweep": {"arms": arms, "seeds": 2}})
    points = trials.points(settings)
    assert len(points) == 6 and {point["seed"] for point in points} == {0, 1}
    usual = {"atm.clean_weight": 0.0, "atm.mix.clean": 0.0, "atm.replay.attacks": []}
    assert [point for point in points if point["seed"] == 0] == [
        usual | {"seed": 0},
        usual | {"atm.clean_weight": 1.0, "seed": 0},
        usual | {"atm.mix.clean": 0.3, "atm.replay.attacks": ["template"], "seed": 0},
    ]
    assert trials.at(settings, points[-1]).atm.mix.clean == 0.3


def test_arms_are_no_part_of_a_grid():
    with pytest.raises(ConfigError, match=r"got sweep\.over=seed beside them"):
        trials.points(loader.resolve({"sweep": {"arms": {"a": {}, "b": {"seed": 1}}, "over": {"seed": [0, 1]}}}))


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": {}, "b": {"atm.clean_wieght": 1}}, "nearest is 'atm.clean_weight'"),
        ({"a": {}, "b": {"atm.clean_weight": 0}}, "a and b have the same settings"),
        ({"a": {}, "b": {"atm.clean_weight": -1}}, "atm.clean_weight"),
    ],
)
def test_arms_that_cannot_be_are_refused(arms, said):
    with pytest.raises(ConfigError, match=said):
        trials.points(loader.resolve({"sweep": {"arms": arms}}))
