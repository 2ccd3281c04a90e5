"""What a job will take, before anything is started: pure arithmetic over settings, machines and finished stages.

    settings + machines -> groups -> placement          `seats.py`
             + the model's shape -> bytes of a rank     `shape.py`, `memory.py`
             -> rows, steps, money                      `workload.py`, bounds; counted in this machine's stages if asked
             -> what surely does not fit, what is close, and which setting to change    `fits.py`

What is not known (a model that is not here, machines of a cluster) is said to be so, and never stands in the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from ragdist.config import DUET_ROLES, ClusterConfig, EvaluationConfig, GroupConfig, ModelConfig, Settings, TrainConfig
from ragdist.config.hardware import LEAST_CPUS, native_bfloat16
from ragdist.errors import ConfigError
from ragdist.plan import fits, shape, workload
from ragdist.plan.fits import Load, PlannedGroup, Problem
from ragdist.plan.memory import LIBRARIES, ModelFootprint, Work, Writing
from ragdist.plan.seats import Node, Placement, Role, unreserved
from ragdist.plan.shape import Shape
from ragdist.plan.workload import Here, RowCount, TeacherCalls
from ragdist.storage.tables import KEPT_TABLES

Job = Literal["raft", "atm", "duet"]
RAY = 600 * 2**20
"""Ray's own processes on the machine with the driver."""
DRIVER = LIBRARIES + RAY
"""Bytes of a driver that asks no model, and of Ray beside it."""
ROW, CHARACTERS = 400, 4
"""Bytes of a forgery's record without its text, and characters of a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is known beforehand."""

    job: Job
    model: Shape | None
    width: int
    """Bytes of a weight."""
    nodes: Sequence[Node] | None
    """None: a cluster that was not described."""
    groups: Sequence[PlannedGroup]
    turns: Sequence[Placement]
    """Who sits where, one turn after another."""
    loads: Sequence[Load]
    """What that comes to on each machine and its fullest card; of those that are alike the first."""
    driver: int
    """Bytes of host memory beside the ranks, on the first machine."""
    store: int
    """Bytes in Ray's object store at most."""
    rows: RowCount
    steps: Mapping[str, int | None]
    """Optimizer steps of each learning; None where they are not known."""
    asked: TeacherCalls | None
    seconds: float | None
    """Of training; None until a run has measured its speed."""
    measured_by: str
    """The run that did."""
    problems: Sequence[Problem]
    data: Mapping[str, int | None] = field(default_factory=dict)
    """What was counted of documents and questions, as they lie there; None what was not."""

    def _repr_html_(self) -> str:
        """What a notebook shows: the terminal's tables."""
        from ragdist.plan import tables

        return "".join(table._repr_mimebundle_(["text/html"], [])["text/html"] for table in tables.tables(self))


def make(
    settings: Settings, job: Job, nodes: Sequence[Node] | None, here: Here | None = None, train: int | None = None
) -> Plan:
    """The plan of a job; without `nodes` on a cluster that is not known from here.

    `here` counts in what this machine's runs left; without it settings and the model's files alone count, so that the
    plan is the same wherever it is made. `train` are the training questions at most, where they were counted. A
    ModelError if `model.source` names a package that is not there.
    """
    cores = nodes[0].cpus if nodes and nodes[0].here else None  # shared between the ranks; on a cluster they take one
    width, rows = _width(settings, nodes or ()), workload.examples(settings, here, train)
    groups = _sides(settings, width, cores) if job == "atm" else _tuned_groups(settings, job, width, rows, cores)
    turns, problems = fits.place_groups(groups, nodes, side_by_side=job == "atm")
    if answering := _answerers(settings, job, nodes, width, cores):
        turn, missing = fits.place_groups(answering, nodes, side_by_side=True)
        groups, turns, problems = [*groups, *answering], [*turns, *turn], [*problems, *missing]
    model = shape.read(settings.model)
    driver = _driver(settings.evaluation, job, model, width, groups)
    known = nodes is not None or settings.model.dtype != "auto"
    refused = fits.contradictions(settings.model, groups, width if known else 4, model)
    cardless = fits.without_a_card(settings.model.attention, groups)
    problems += [Problem(sure=True, text=text) for text in (*refused, *cardless)]
    loads = fits.loads(groups, nodes or (), turns, driver)
    alone = () if job == "atm" or answering else fits.unasked(model, width, nodes[0] if nodes else None)
    problems += [*fits.too_much(loads), *(Problem(sure=True, text=text) for text in alone)]
    timed = job == "raft" and rows.tokens and here and (nodes is None or any(node.here for node in nodes))
    measured = workload.speed(settings) if timed else None
    return Plan(
        job=job,
        model=model,
        width=width,
        nodes=nodes,
        groups=groups,
        turns=turns,
        loads=loads,
        driver=driver,
        store=_in_flight(settings) if job == "atm" else 0,
        rows=rows,
        steps=_steps(settings, job, rows, workload.open_questions(settings, here) or rows.rows),
        asked=workload.teacher(settings, here),
        seconds=(rows.tokens or 0) * settings.train.epochs / measured[0] if measured else None,
        measured_by=measured[1] if measured else "",
        problems=problems,
    )


def check(plan: Plan) -> list[str]:
    """Passes what can work: a sentence for all near the limit, or a ConfigError if something surely cannot fit."""
    for problem in plan.problems:
        if problem.sure:
            raise ConfigError(problem.text)
    return [problem.text for problem in plan.problems]


def _width(settings: Settings, nodes: Sequence[Node]) -> int:
    """Bytes of a weight, as `lm.load.dtype_of` will have it on these machines."""
    if settings.model.dtype != "auto":
        return 2 if settings.model.dtype == "bfloat16" else 4
    if settings.cluster.gpus_per_worker or settings.attacker.gpus_per_worker or settings.generator.gpus_per_worker:
        return 2 if all(node.bfloat16 for node in nodes) else 4
    return 2 if any(node.here for node in nodes) and native_bfloat16() else 4


def _tuned_groups(settings: Settings, job: Job, width: int, rows: RowCount, cores: float | None) -> list[PlannedGroup]:
    """The groups of a Ray Train job, one for each model that is tuned."""
    tuned = {"train": settings.train}
    if job == "duet":
        tuned = {name: getattr(settings.duet, name) for name in DUET_ROLES}
    return [
        PlannedGroup(
            role=(role := _role(name, settings.cluster, settings.cluster.workers, cores)),
            knobs=name if job == "raft" else f"duet.{name}",
            workers="cluster.workers",
            held=_held(settings.model, "", train, role, width),
            work=Work(
                rows=train.rows_at_once(rows.longest),
                tokens=rows.longest,
                answer=0 if name == "scorer" else rows.answer,
                attention=settings.model.attention,
                union=not role.gpus,
            ),
            exact=rows.exact and job == "raft",
        )
        for name, train in tuned.items()
    ]


def _sides(settings: Settings, width: int, cores: float | None) -> list[PlannedGroup]:
    """ATM's two groups; DPO's two answers follow one prompt, MITO's two prompts are in the graph together."""
    atm, longest, room = settings.atm, settings.model.max_tokens, settings.evaluation.tokens_per_batch
    together = [settings.group(block) for block in settings.groups[1]]
    ranks = sum(group.workers for group in together if not group.cpus_per_worker)
    if cores:  # those that ask for none share what the others leave
        cores = max(cores - sum(group.workers * group.cpus_per_worker for group in together), LEAST_CPUS * ranks)
    groups = []
    for name, side, new, samples in (
        ("attacker", settings.attacker, atm.max_new_tokens, max(atm.samples, settings.evaluation.forgeries)),
        ("generator", settings.generator, settings.answer_tokens, 1),
    ):
        role = _role(name, side, ranks, cores)
        new, cached = min(new, longest), max(room, samples * longest)
        writing = Writing(cached=cached, read=cached // samples, texts=max(samples, room // (new + 1)))
        groups.append(
            PlannedGroup(
                role=role,
                knobs=f"{name}.train",
                workers=f"{name}.workers",
                held=_held(settings.model, side.source, side.train, role, width),
                work=Work(
                    rows=side.train.rows_at_once(longest if name == "attacker" else 2 * longest),
                    tokens=longest,
                    answer=2 * new if name == "attacker" else new,
                    sequences=1 if name == "attacker" else 2,
                    attention=settings.model.attention,
                ),
                writing=writing,
            )
        )
        if writers := settings.writers.get(f"{name}.writers"):
            role = _role(f"{name}.writers", writers, ranks, cores)
            cards = settings.engines.tensor_parallel if side.engine == "vllm" else 1
            groups.append(_asked(role, settings.model, side.source, width, writing, cards=cards))
    return groups if atm.layout == "separate" else [_of_one_base(*groups)]


def _ranks(settings: Settings) -> int:
    """Those of ATM, all groups together."""
    return sum(settings.group(block).workers for block in settings.groups[1])


def _of_one_base(attacker: PlannedGroup, generator: PlannedGroup) -> PlannedGroup:
    """The attacker's ranks with both adapters; one of them learns at a time."""
    held, works, writings = attacker.held, (attacker.work, generator.work), (attacker.writing, generator.writing)
    if held and generator.held:
        held = replace(held, beside=generator.held.train.lora)
    return replace(attacker, held=held, work=_largest(*works), writing=_largest(*writings))


def _largest(one: Any, other: Any) -> Any:
    """What is as large as both in every number."""
    sizes = {part.name: getattr(one, part.name) for part in fields(one)}
    return replace(one, **{name: max(size, getattr(other, name)) for name, size in sizes.items()})


def _answerers(
    settings: Settings, job: Job, nodes: Sequence[Node] | None, width: int, cores: float | None
) -> list[PlannedGroup]:
    """The ranks that answer before and after training, if there are any; each holds the whole model."""
    config = settings.answerers(gpu_here=bool(nodes and nodes[0].gpus))
    if job == "atm" or not config.workers:
        return []
    role = _role("answerers", config, config.workers, cores)
    room, longest = settings.evaluation.tokens_per_batch, settings.model.max_tokens
    read, new = max(room, longest), settings.answer_tokens
    writing = Writing(cached=read, read=read, texts=max(1, room // (new + 1)))
    return [_asked(role, settings.model, "", width, writing, "evaluation.")]


def _asked(
    role: Role, model: ModelConfig, source: str, width: int, writing: Writing, of: str = "", cards: int = 1
) -> PlannedGroup:
    """Ranks that hold the whole model each, over so many cards, and never learn; `of` is the block that theirs is
    in."""
    held = _held(model, source, TrainConfig(zero_stage=0), replace(role, ranks=1), width)
    held = replace(held, cards=cards) if held else None
    block = of + role.name
    return PlannedGroup(role=role, knobs=block, workers=f"{block}.workers", held=held, work=None, writing=writing)


def _role(name: str, config: ClusterConfig | GroupConfig, together: int, cores: float | None) -> Role:
    """The ranks of a group; those that are there `together` share this machine's cores where it asks for none."""
    labels = {} if isinstance(config, ClusterConfig) else unreserved(config.labels)
    cpus = config.cpus_per_worker or (cores / together if cores else 1.0)
    return Role(name=name, ranks=config.workers, cpus=cpus, gpus=config.gpus_per_worker, labels=labels)


def _held(config: ModelConfig, source: str, train: TrainConfig, role: Role, width: int) -> ModelFootprint | None:
    model = config.at(source) if source else config
    found = shape.read(model)
    return ModelFootprint(shape=found, train=train, ranks=role.ranks, width=width, gpu=role.gpus > 0) if found else None


def _driver(config: EvaluationConfig, job: Job, model: Shape | None, width: int, groups: Sequence[PlannedGroup]) -> int:
    """Bytes of the driver and of Ray beside it; a driver on CPU keeps what the untuned model took when it
    was asked, unless answerers are."""
    asks = config.before and job != "atm" and not any(group.role.gpus for group in groups)
    asks = asks and all(group.work for group in groups)
    return DRIVER + (width * model.weights if model and asks else 0)


def _in_flight(settings: Settings) -> int:
    """Bytes of forged documents that are under way or still held."""
    atm, ranks = settings.atm, _ranks(settings)
    rows = KEPT_TABLES * settings.cluster.in_flight * ranks * atm.questions_per_microbatch * atm.samples
    return rows * (CHARACTERS * atm.max_new_tokens + ROW)


def _steps(settings: Settings, job: Job, rows: RowCount, questions: int | None) -> dict[str, int | None]:
    if job == "raft":
        return {"train": settings.train.steps(rows.rows) if rows.rows else None}
    if job == "duet":
        return dict.fromkeys(DUET_ROLES)  # who learns from which questions is drawn when they are there
    sides = {"attacker": settings.attacker.train, "generator": settings.generator.train}
    return {
        f"{name}, in each of {settings.atm.rounds} rounds": questions and max(1, train.steps(questions))
        for name, train in sides.items()
    }
