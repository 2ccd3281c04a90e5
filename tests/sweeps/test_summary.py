import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from ragdist.config import SweepConfig, loader
from ragdist.evaluation import kept_answers, page
from ragdist.evaluation.intervals import Interval
from ragdist.evaluation.sheet import markdown
from ragdist.sweeps import report, trials
from ragdist.sweeps import summary as sweep
from ragdist.sweeps.trials import Trial
from tests.evaluation.test_kept_answers import answer

P = "contexts.oracle_fraction"


def trial(p, clean, attacked, seed=0, state="finished", **more):
    scores = {
        name: dict.fromkeys(("em", "f1", "subspan"), (mean, mean - 0.1, mean + 0.1))
        for name, mean in (("clean", clean), ("attacked", attacked), ("base_clean", 0.1))
    }
    values = {P: p, "seed": seed}
    return Trial(name=trials.name_of(values), values=values, state=state, scores=scores, seconds=60.0, **more)


def test_over_seeds_is_students_t():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 21):
        values = rng.uniform(0.4, 0.6, count)
        found = sweep.over_seeds(list(values))
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert found == pytest.approx((values.mean(), max(0, low), min(1, high)), abs=2e-4)


def test_points_are_trials_without_their_seed_and_failed_ones_count_for_nothing():
    found = sweep.summarise(
        "raft",
        [trial(0.0, 0.5, 0.1), trial(0.0, 0.7, 0.3, seed=1), trial(1.0, 0.9, 0.2), trial(1.0, 0.0, 0.0, 1, "failed")],
        SweepConfig(objective="clean"),
    )
    assert [(tried.values, tried.seeds) for tried in found.points] == [({P: 0.0}, 2), ({P: 1.0}, 1)]
    assert found.points[0].scores["clean"].mean == pytest.approx(0.6)
    assert found.points[1].scores["clean"] == Interval(0.9, 0.8, 1.0)  # one seed: over questions, as the trial has it
    assert found.best is found.points[1] and found.keys == (P,)


def test_seeds_that_agree_keep_the_interval_over_questions():
    found = sweep.summarise("raft", [trial(0.0, 0.5, 0.5), trial(0.0, 0.5, 0.5, seed=1)], SweepConfig())
    assert found.points[0].scores["clean"] == Interval(0.5, 0.4, 0.6)


def test_the_front_holds_what_no_other_point_beats_in_both():
    """By hand: (.9,.1) and (.6,.6) stand; (.5,.6) is beaten by (.6,.6), (.6,.2) too; an equal of a best one stands."""
    means = {0.0: (0.9, 0.1), 0.2: (0.6, 0.6), 0.4: (0.5, 0.6), 0.6: (0.6, 0.2), 0.8: (0.6, 0.6)}
    found = sweep.summarise("raft", [trial(p, *both) for p, both in means.items()], SweepConfig(objective="both"))
    assert [tried.values[P] for tried in found.front] == [0.0, 0.2, 0.8]
    assert found.best.values[P] == 0.2


def test_every_output_is_there_and_tells_the_same(tmp_path):
    over = {P: [0.0, 0.5, 1.0], "prompts.answer": ["plain"]}
    settings = loader.resolve({"run": {"name": "mine"}, "sweep": {"over": over}})
    ended = [
        trial(0.0, 0.5, 0.4),
        trial(0.5, 0.8, 0.3),
        trial(1.0, 0.0, 0.0, state="failed", error="<b> & no rows").__class__(
            name="x", values={P: 1.0, "seed": 0}, state="failed", error="<b> & no rows"
        ),
    ]
    found = sweep.summarise("raft", ended, settings.sweep)
    summary = report.write(found, settings, tmp_path)
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [(row[P], row["state"], row["clean"], row["clean_low"], row["error"]) for row in rows] == [
        (0.0, "finished", 0.5, 0.4, ""),
        (0.5, "finished", 0.8, pytest.approx(0.7), ""),
        (1.0, "failed", None, None, "<b> & no rows"),
    ]
    best = loader.load([str(tmp_path / "best.yaml")])
    assert best.contexts.oracle_fraction == summary["best"]["values"][P] == 0.5
    assert best.run.name == "" and best.sweep == SweepConfig()
    fronts = [loader.load([str(path)]) for path in sorted((tmp_path / "front").glob("*.yaml"))]
    assert [one.contexts.oracle_fraction for one in fronts] == [0.0, 0.5]
    kept_answers.write([answer()], tmp_path)
    shown = page.write(tmp_path).read_text()
    assert "&lt;b&gt; &amp; no rows" in shown and "<b> & no rows" not in shown and "src=" not in shown
    assert "Highest mean of clean list and template attack (of 2, Subspan EM): oracle_fraction=0.5" in shown
    said = (tmp_path / "report.md").read_text()
    assert (
        said.startswith("**Highest mean of clean list")
        and "3 trials: 2 finished, 1 failed." in said
        and "x failed" in said
    )


def test_no_finished_trial_has_no_best_and_still_a_report(tmp_path):
    failed = Trial(name="x", values={P: 1.0}, state="failed", error="gone")
    found = sweep.summarise("raft", [failed], SweepConfig())
    summary = report.write(found, loader.resolve({}), tmp_path)
    assert found.best is None and summary["best"] is None and not (tmp_path / "best.yaml").exists()
    kept_answers.write([], tmp_path)
    assert "gone" in page.write(tmp_path).read_text()


def test_a_tie_is_not_called_best():
    """U14: 0.9 + 0.1 and 0.6 + 0.4 have one mean."""
    tried = [trial(0.0, 0.9, 0.1), trial(0.5, 0.6, 0.4), trial(1.0, 0.5, 0.4)]
    found = sweep.summarise("raft", tried, SweepConfig())
    (line,) = [line for line in report.headline(found) if "tie" in line]
    assert line.startswith("A tie by mean of clean list") and "oracle_fraction=0, oracle_fraction=0.5, each" in line
    said = markdown(report.sheet(found))
    assert said.count("tie of 2") == 2 and "| best |" not in said
