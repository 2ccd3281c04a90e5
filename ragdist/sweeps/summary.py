"""What a sweep found: trials that differ in their seed alone are one point, and points are compared.

A point's interval is over its seeds (Student's t, so two seeds say little and the interval shows it); with one seed, or
where all scored the same, it is a trial's own, over questions. The best points by both objectives are a Pareto front:
none is beaten in both. The best is chosen on the questions that it is reported on: of many trials it looks better than
it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ragdist.config import SweepConfig
from ragdist.evaluation.intervals import Interval
from ragdist.sweeps.trials import OBJECTIVES, Point, Trial

ARM = "arm"
T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5 percentiles of Student's t with 1, 2, ... degrees of freedom; then the normal's is near enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A point.

    Example: Tried(values={"arm": "paper"}, point={"atm.clean_weight": 0.0}, seeds=3, scores={...}, seconds=310)
    """

    values: Point
    """What people are shown: the arm's name, if there are arms, and what is swept beside them; without the seed."""
    point: Point
    """Every setting that trials differ in, without the seed."""
    seeds: int
    """Trials that came to their end."""
    scores: dict[str, Interval]
    """By the list shown; `base_...` is the untuned model's."""
    seconds: float
    """Of all its trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All that the report of a sweep shows."""

    job: str
    objective: tuple[str, ...]
    metric: str
    drawn: bool
    """Values were drawn, so that they make no curve."""
    keys: tuple[str, ...]
    """What was swept, the seed left out."""
    trials: tuple[Trial, ...]
    points: tuple[Tried, ...]
    """Those with a finished trial, in the order of trials."""
    front: tuple[Tried, ...]
    """Those that no other beats in every objective."""

    @property
    def best(self) -> Tried | None:
        """Of the front, the highest mean of the objectives; None where no trial came to its end."""
        return max(self.front, key=lambda tried: sum(self.of(tried)), default=None)

    @property
    def tied(self) -> list[Tried]:
        """The points whose mean of the objectives is that of the best, which it is one of."""
        best = self.best
        return [tried for tried in self.front if best and math.isclose(sum(self.of(tried)), sum(self.of(best)))]

    def of(self, tried: Tried) -> list[float]:
        """The point's objectives."""
        return [tried.scores[name].mean for name in self.objective]


def summarise(job: str, trials: Sequence[Trial], config: SweepConfig, arms: Mapping[str, Point] | None = None) -> Sweep:
    """The sweep's report from its trials; `arms` as `sweeps.trials.arms` gives them."""
    arms = arms or {}
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(repr(_unseeded(trial.values)), []).append(trial)
    points = [tried for group in groups.values() if (tried := _tried(group, config.metric, arms))]
    objective = OBJECTIVES[config.objective]
    judged = [tried for tried in points if all(name in tried.scores for name in objective)]
    return Sweep(
        job=job,
        objective=objective,
        metric=config.metric,
        drawn=config.search != "grid",
        keys=tuple(dict.fromkeys(key for trial in trials for key in shown(_unseeded(trial.values), arms))),
        trials=tuple(trials),
        points=tuple(points),
        front=tuple(front(judged, objective)),
    )


def front(points: Sequence[Tried], objective: Sequence[str]) -> list[Tried]:
    """The points that no other one equals or beats in all objectives while beating it in one; higher is better."""

    def beats(one: Tried, other: Tried) -> bool:
        pairs = [(one.scores[name].mean, other.scores[name].mean) for name in objective]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [tried for tried in points if not any(beats(other, tried) for other in points)]


def over_seeds(means: Sequence[float]) -> Interval:
    """Mean of two seeds or more with its 95% interval, cut to what a share can be.

    Example: `over_seeds([0.5, 0.6, 0.7])` is Interval(0.6, 0.352, 0.848).
    """
    count, mean = len(means), math.fsum(means) / len(means)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (count - 1))
    far = (T975[count - 2] if count - 2 < len(T975) else 1.96) * spread / math.sqrt(count)
    return Interval(mean, max(0.0, mean - far), min(1.0, mean + far))


def shown(point: Point, arms: Mapping[str, Point]) -> Point:
    """The point for people: an arm's settings are its name."""
    for name, arm in arms.items():
        if arm.items() <= point.items():
            return {ARM: name} | {key: value for key, value in point.items() if key not in arm}
    return point


def _tried(group: Sequence[Trial], metric: str, arms: Mapping[str, Point]) -> Tried | None:
    done = [trial for trial in group if trial.state == "finished"]
    if not done:
        return None
    names = [name for name in done[0].scores if all(name in trial.scores for trial in done)]
    found = {name: [trial.scores[name][metric] for trial in done] for name in names}
    return Tried(
        values=shown(_unseeded(done[0].values), arms),
        point=_unseeded(done[0].values),
        seeds=len(done),
        scores={
            # Seeds that all score the same say nothing of how far others would be: then it is over questions too.
            name: over_seeds(means) if len(set(means := [mean for mean, *_ in values])) > 1 else Interval(*values[0])
            for name, values in found.items()
        },
        seconds=sum(trial.seconds for trial in group),
    )


def _unseeded(point: Mapping[str, object]) -> Point:
    return {key: value for key, value in point.items() if key != "seed"}
