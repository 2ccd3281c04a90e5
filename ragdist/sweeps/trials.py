"""Which trials a sweep makes: settings with several values each, their combinations, a name and a folder for each.

    runs/<sweep>/trials/oracle_fraction=0.2-seed=0-1f0a2b/trial.json     values, state, scores, seconds, error

A trial's name follows from its values, so the same sweep finds its trials again, and a wider one adds to them.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ragdist.config import EvaluationConfig, Settings, SweepConfig, loader, strict
from ragdist.draws import rng_for
from ragdist.errors import ConfigError
from ragdist.records import as_row
from ragdist.storage.atomic import read_json, write_json

TRIALS, TRIAL = "trials", "trial.json"
OBJECTIVES = {"clean": ("clean",), "attacked": ("attacked",), "both": ("clean", "attacked"), "mixed": ("mixed",)}
RANGE = re.compile(r"([-+.\deE]+)\.\.([-+.\deE]+)(:log)?")
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
State = Literal["finished", "stopped", "failed", "begun"]
Point = dict[str, Any]
"""Values by setting."""
Scores = dict[str, dict[str, tuple[float, float, float]]]
"""[list shown][metric]: mean and 95% interval over questions. Example: {"clean": {"em": (0.8, 0.7, 0.9)}}."""


class Range(NamedTuple):
    """Values that are drawn. Example: Range(low=1e-6, high=1e-4, log=True)."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly in the logarithm."""


class Rung(NamedTuple):
    """Where a trial is compared with others. Example: Rung(budget=2, share=0.5)."""

    budget: int
    """In the scheduler's counting: rounds of ATM; for RAFT `sweep.halving` to the power of the rung."""
    share: float
    """Of the rounds, or of `train.epochs`; 1 is the whole job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a sweep, as its folder tells it.

    Example: Trial(name="oracle_fraction=0.2-1f0a2b", values={"contexts.oracle_fraction": 0.2}, state="finished",
    scores={"clean": {"em": (0.8, 0.7, 0.9)}}, seconds=92.1)
    """

    name: str
    values: Point
    state: State = "begun"
    """stopped: by the scheduler, the scores are those of the last rung; begun: under way, or its process died."""
    scores: Scores = field(default_factory=dict)
    rungs: tuple[tuple[float, Scores], ...] = ()
    """What it scored by share of the job."""
    seconds: float = 0.0
    error: str = ""


def load(arguments: Sequence[str]) -> Settings:
    """As `config.loader.load`, with `key=v1,v2,v3` and `key=low..high` (`:log` behind it) going into `sweep.over`.

    Values are separated by commas as in a YAML list, so a value with commas of its own stands in brackets or quotes:
    `evaluation.conditions=[oracle],[oracle,attacked]`. A single value fixes the setting, whatever a file sweeps.
    """
    plain, fixed = [], set()
    for argument in arguments:
        key, _, text = argument.partition("=")
        key = key.strip()
        if loader.is_setting(argument) and not key.startswith("sweep."):
            if (several := _several(text)) is not None:
                plain.append(f"sweep.over={yaml.safe_dump({key: several}, default_flow_style=True, width=math.inf)}")
                continue
            fixed.add(key)
        plain.append(argument)
    settings = loader.load(plain)
    over = {key: values for key, values in settings.sweep.over.items() if key not in fixed}
    return settings.unchecked("sweep.over", over)


def _several(text: str) -> Any:
    """The list or range that the text writes, or None for a single value."""
    if found := RANGE.fullmatch(text.strip()):
        return {"low": float(found[1]), "high": float(found[2]), "log": bool(found[3])}
    try:
        values = strict.parse(f"[{text}]", "")
    except ConfigError:
        return None  # the loader says what is wrong with it
    return values if len(values) > 1 else None


def dimensions(config: SweepConfig) -> dict[str, tuple[Any, ...] | Range]:
    """What is swept, checked.

    Raises:
        ConfigError: nothing is, or not as `sweep.search` needs it.
    """
    found: dict[str, tuple[Any, ...] | Range] = {}
    for key, given in config.over.items():
        if key.startswith(("run.", "sweep.", "cluster.", "kube.")):
            raise ConfigError(f"{key} says where and how trials run, which makes no difference to them; sweep another")
        if isinstance(given, list) and given:
            found[key] = tuple(map(_number, given))
        elif isinstance(given, Mapping) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
            low, high = float(given["low"]), float(given["high"])
            found[key] = _range(key, Range(low, high, bool(given.get("log"))), config)
        else:
            raise ConfigError(f"sweep.over has {key}: {given!r}; wanted a list of values, or {{low: .., high: ..}}")
    if not found and not config.arms:
        raise ConfigError("nothing is swept; give a setting several values, as contexts.oracle_fraction=0,0.5,1")
    if config.arms and (found or config.search != "grid"):
        beside = f"sweep.over={', '.join(found)}" if found else f"sweep.search={config.search}"
        raise ConfigError(
            f"sweep.arms are compared with each other and nothing else, got {beside} beside them; drop one"
        )
    if config.seeds > 1 and ("seed" in found or config.search == "optuna"):
        which = "sweep.search=optuna runs each combination once" if config.search == "optuna" else "seed is swept"
        raise ConfigError(f"{which}, so sweep.seeds={config.seeds} has no meaning; set sweep.seeds=1")
    return found


def _number(value: Any) -> Any:
    """YAML takes 1e-4 for a text, because it has no point."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _range(key: str, given: Range, config: SweepConfig) -> Range:
    if config.search == "grid":
        raise ConfigError(
            f"{key} is a range, and a grid needs values; list them as {key}={given.low:g},{given.high:g}, or set "
            "sweep.search=random or optuna"
        )
    if not given.low < given.high or (given.log and given.low <= 0):
        raise ConfigError(f"{key}={given.low:g}..{given.high:g} is no range" + ", or has no logarithm" * given.log)
    return given


def points(settings: Settings) -> list[Point]:
    """The combinations of a grid, or those drawn; none for Optuna, which looks at results first. Each point once.

    Raises:
        ConfigError: see `dimensions`; or a value is no value of its setting, or not beside the others.
    """
    config, over = settings.sweep, dimensions(settings.sweep)
    if config.search == "optuna":
        at(settings, next(_drawn(over, settings.seed, 1)))  # a wrong key stops here, not in every trial
        return []
    lists = [values for values in over.values() if isinstance(values, tuple)]
    found: Iterator[Point] = (dict(zip(over, values, strict=True)) for values in itertools.product(*lists))
    if config.search == "random":
        found = _drawn(over, settings.seed, config.samples)
    if config.arms:
        found = iter(arms(settings).values())
    if config.seeds > 1:
        seeds = range(settings.seed, settings.seed + config.seeds)
        found = ({**point, "seed": seed} for point in found for seed in seeds)
    resolved = [canonical(settings, point) for point in found]
    return list({name_of(point): point for point in resolved}.values())


def arms(settings: Settings) -> dict[str, Point]:
    """The arms of a sweep by name, each with a value for every setting that any of them has, else the sweep's own.

    Raises:
        ConfigError: a setting is unknown, a value out of range; two arms are one.
    """
    keys = list(dict.fromkeys(key for arm in settings.sweep.arms.values() for key in arm))
    usual = canonical(settings, {}, keys)
    found = {name: usual | canonical(settings, arm) for name, arm in settings.sweep.arms.items()}
    for one, other in itertools.combinations(found, 2):
        if found[one] == found[other]:
            raise ConfigError(f"sweep.arms {one} and {other} have the same settings; change or remove one of them")
    return found


def check(job: str, config: SweepConfig, evaluation: EvaluationConfig) -> None:
    """Whether the trials can be judged as the sweep wants it.

    Raises:
        ConfigError: a condition is not asked, two objectives for a scheduler, Optuna is not installed, defences.
    """
    if evaluation.defences:
        raise ConfigError("evaluation.defences are no training, which trials differ in; leave them out of a sweep")
    if config.scheduler == "asha" and config.objective == "both":
        raise ConfigError("sweep.scheduler=asha compares by one number; set sweep.objective=clean or attacked")
    if config.search == "optuna" and not importlib.util.find_spec("optuna"):
        raise ConfigError("sweep.search=optuna needs `pip install ragdist[sweeps]`; or set sweep.search=random")
    if config.objective == "mixed" and (job != "raft" or evaluation.oracle_share is None):
        raise ConfigError(
            "sweep.objective=mixed judges RAFT where oracles are missing now and then; set evaluation.oracle_share, or "
            "sweep.objective=clean, attacked or both"
        )
    asked = {"clean": "oracle", "attacked": "attacked", "mixed": "oracle"}
    for name in OBJECTIVES[config.objective] if job == "raft" else ():
        if asked[name] not in evaluation.conditions:
            raise ConfigError(
                f"sweep.objective={config.objective} judges by the condition {asked[name]}, evaluation.conditions has "
                f"{', '.join(evaluation.conditions)}; add it there"
            )


def _drawn(over: Mapping[str, tuple[Any, ...] | Range], seed: int, count: int) -> Iterator[Point]:
    for number in range(count):
        point: Point = {}
        for key, given in over.items():
            rng = rng_for(seed, f"sweep {key}", str(number))
            if not isinstance(given, Range):
                point[key] = rng.choice(given)
            elif given.log:
                point[key] = math.exp(rng.uniform(math.log(given.low), math.log(given.high)))
            else:
                point[key] = rng.uniform(given.low, given.high)
        yield point


def at(settings: Settings, point: Mapping[str, Any]) -> Settings:
    """The settings with these values, as a job takes them.

    Raises:
        ConfigError: a setting is unknown, a value out of range, or not allowed beside the others.
    """
    values = settings.model_dump(mode="json") | {"sweep": {}}
    values["run"]["mapper"] = "processes"  # a trial's seats have no room for more tasks
    for key, value in point.items():
        *owners, name = key.split(".")
        block = values
        for owner in owners:
            block = block.setdefault(owner, {})
        block[name] = value
    return loader.resolve(values)


def canonical(settings: Settings, point: Mapping[str, Any], keys: Iterable[str] = ()) -> Point:
    """The point's values, and those of `keys`, as the settings have them: 0 and 0.0 of a float are one value.

    Raises:
        ConfigError: see `at`; or `keys` has an unknown one.
    """
    resolved = loader.flatten(at(settings, point))
    if unknown := [key for key in keys if key not in resolved]:
        near = difflib.get_close_matches(unknown[0], resolved, n=1, cutoff=0)
        raise ConfigError(f"no such setting: {unknown[0]!r} in sweep.arms; the nearest is {near[0]!r}")
    return {key: _plain(resolved[key]) for key in (*point, *keys)}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def name_of(point: Mapping[str, Any]) -> str:
    """The trial's name, from its values alone; also its folder's."""
    said = "-".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())
    digest = hashlib.sha256(json.dumps(dict(sorted(point.items()))).encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_.=+-]+', '_', said)[:60]}-{digest}"


def label(point: Mapping[str, Any]) -> str:
    """The point for people. Example: `oracle_fraction=0.2 seed=1`."""
    return " ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rungs(job: str, config: SweepConfig, rounds: int) -> tuple[Rung, ...]:
    """Where trials are compared with each other; without a scheduler at the end only."""
    if config.scheduler == "none":
        return (Rung(1, 1.0),)
    if job == "atm":
        return tuple(Rung(played, played / rounds) for played in range(1, rounds + 1))
    return tuple(Rung(config.halving**n, config.halving ** (n + 1.0 - config.rungs)) for n in range(config.rungs))


def read(folder: Path, name: str, values: Point) -> Trial:
    """What the trial's folder tells of it, if anything."""
    path = folder / TRIALS / name / TRIAL
    if not path.exists():
        return Trial(name=name, values=values)
    row = read_json(path)
    scored = tuple((share, _scores(scores)) for share, scores in row["rungs"])
    return Trial(**row | {"rungs": scored, "scores": _scores(row["scores"])})


def is_over(folder: Path, point: Point) -> bool:
    """Whether the trial came to its end, or was stopped by the scheduler."""
    return read(folder, name_of(point), point).state in ("finished", "stopped")


def known(folder: Path) -> list[Trial]:
    """All trials that the sweep's folder holds, by name."""
    found = [read_json(path) for path in sorted((folder / TRIALS).glob(f"*/{TRIAL}"))]
    return [read(folder, row["name"], row["values"]) for row in found]


def note(folder: Path, trial: Trial) -> None:
    """Writes down how it stands with the trial."""
    path = folder / TRIALS / trial.name / TRIAL
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, as_row(trial))


def _scores(row: Mapping[str, Mapping[str, Sequence[float]]]) -> Scores:
    return {shown: {name: (v[0], v[1], v[2]) for name, v in by.items()} for shown, by in row.items()}
