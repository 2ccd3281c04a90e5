"""Whether a job's groups fit into the machines: slots, memory, settings that contradict each other.

A problem is sure when nothing could make it work (no slot, or less memory than the states alone take); all others
are near the limit. Where machines or a model are not known there is no problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ragdist.config import ModelConfig
from ragdist.errors import ConfigError
from ragdist.plan import memory, seats
from ragdist.plan.memory import ModelFootprint, Part, Place, Work, Writing
from ragdist.plan.seats import GIB, Node, Placement, Role
from ragdist.plan.shape import Shape

CLOSE = 0.9
"""Share of a machine's or card's memory from which a plan is near the limit."""
KEPT = 0.75
"""Share of the counted activations without which no step can do, whatever the kernel, LoRA or not."""
USUAL_CARD = 80
"""GiB of a card that most have none larger than."""
Crowd = Sequence[tuple["PlannedGroup", int]]
"""Groups that share a machine or a card, and how many ranks of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """A model on its ranks."""

    role: Role
    knobs: str
    """Of its training settings: `train`, `attacker.train`, `duet.reciter`."""
    workers: str
    """Setting that says how many ranks there are."""
    held: ModelFootprint | None
    """None where the model's shape is not known."""
    work: Work | None
    """Its largest microbatch; None where it answers and never learns."""
    exact: bool = False
    """The microbatch is of counted rows, not of bounds."""
    writing: Writing | None = None
    """Where it also writes, between its phases of learning."""

    def parts(self) -> dict[str, list[Part]]:
        """All that a rank holds: its states, then what it needs beside them in each of its phases, in turn."""
        if self.held is None:
            return {}
        states = memory.states(self.held)
        if self.work:
            found = {"states": states, "learning": memory.learning(self.held, self.work)}
        else:
            found = {"states": [part for part in states if part.name == "weights"]}
        if self.writing:
            found["writing"] = memory.writing(self.held, self.writing)
        if self.held.gpu:
            found["loading"] = memory.loading(self.held)
        return found

    def peak(self, place: Place) -> int:
        """Bytes of one rank at most."""
        found = {name: memory.total(parts, place) for name, parts in self.parts().items()}
        return found.pop("states", 0) + max(found.values(), default=0) + memory.process(self.role.gpus > 0, place)

    def least(self, place: Place) -> int:
        """Bytes without which one rank cannot do: its states, and what it must have to learn or to write."""
        found = self.parts()
        kept = [part for part in found.get("learning", []) if part.name == "activations"] if self.exact else []
        whole = [part for part in found.get("writing", []) if part.name == memory.REPLICA]
        beside = max(int(KEPT * memory.total(kept, place)), memory.total(whole, place))
        return memory.total(found.get("states", []), place) + beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What stands in the way: surely, or perhaps."""

    sure: bool
    text: str


def place_groups(
    groups: Sequence[PlannedGroup], nodes: Sequence[Node] | None, *, side_by_side: bool
) -> tuple[list[Placement], list[Problem]]:
    """Where the groups are placed, turn by turn; machines that are not known (None) place nobody.

    `side_by_side`: they need each other; else the first two share a turn where there is room, the rest comes after.
    """
    if nodes is None:
        return [], []
    roles = [group.role for group in groups]
    together = roles if side_by_side else roles[:2]
    if side_by_side or seats.place(together, nodes):
        turns = [together, *([role] for role in roles[len(together) :])]
    else:
        turns = [[role] for role in roles]
    found = [(turn, seats.place(turn, nodes)) for turn in turns]
    why = _no_card if all(node.here and node.gpus == 0 for node in nodes) and any(r.gpus for r in roles) else _no_slots
    missing = [
        Problem(sure=seats.short(turn, nodes), text=why(turn, groups, nodes)) for turn, sat in found if sat is None
    ]
    return [sat for _, sat in found if sat is not None], missing


def _no_card(roles: Sequence[Role], groups: Sequence[PlannedGroup], nodes: Sequence[Node]) -> str:
    """For this machine, where a GPU is asked for and none is there."""
    knobs = [
        f"{group.workers.removesuffix('workers')}gpus_per_worker=0"
        for group in groups
        if group.role.gpus and any(group.role is role for role in roles)
    ]
    if not knobs:
        return _no_slots(roles, groups, nodes)
    return (
        f"this machine has no GPU; set {' '.join(dict.fromkeys(knobs))} to train on its CPUs, send the job to a "
        "cluster (`ragdist submit`), or plan for other machines with --nodes 1x8xA100-80GB"
    )


def without_a_card(attention: str, groups: Sequence[PlannedGroup]) -> Iterator[str]:
    """What is asked of the CPU and only GPUs can do."""
    if attention.startswith("flash") and any(not group.role.gpus for group in groups):
        yield (
            f"model.attention={attention} runs on GPUs alone, and {groups[0].workers.removesuffix('workers')}"
            "gpus_per_worker=0 trains on CPUs; set model.attention=sdpa"
        )


def unasked(model: Shape | None, width: int, node: Node | None) -> Iterator[str]:
    """What a driver cannot hold on its card, where nobody else is asked."""
    if model and node and node.gpus and node.gpu_gib and width * model.weights > node.gpu_gib * GIB:
        yield (
            f"a model is asked whole, and its weights take {width * model.weights / GIB:.1f} GiB of a card of "
            f"{node.name}, which has {node.gpu_gib:.1f}; set model.source to a smaller model"
        )


def wide(model: Shape | None, width: int, groups: Sequence[PlannedGroup]) -> Iterator[str]:
    """What a card that nobody told of may not hold: a model is asked whole, whatever its training is divided by."""
    size = width * model.weights / GIB if model else 0
    if size > USUAL_CARD and any(group.role.gpus for group in groups):
        yield f"a model is asked whole, and its weights take {size:.1f} GiB of a card; --nodes holds it against yours"


def _no_slots(roles: Sequence[Role], groups: Sequence[PlannedGroup], nodes: Sequence[Node]) -> str:
    wanted, knobs = [], []
    for role in roles:
        takes = f"{role.cpus:g} CPUs" + f" and {role.gpus:g} GPUs" * bool(role.gpus)
        where = "".join(f", on machines labelled {key}={value}" for key, value in role.labels.items())
        workers = next(group.workers for group in groups if group.role is role)
        alone = sum(node.room(role) for node in nodes)
        wanted.append(f"{workers}={role.ranks} with {takes} each{where} (room for {alone})")
        prefix = workers.removesuffix("workers")
        knobs += [workers, f"{prefix}cpus_per_worker"] + [f"{prefix}gpus_per_worker"] * bool(role.gpus)
    have = "; ".join(describe(node) for node in nodes[:4]) + f"; and {len(nodes) - 4} more" * (len(nodes) > 4)
    return f"no slots for {' beside '.join(wanted)}; there is {have}; lower {', '.join(knobs)}, or add machines"


def contradictions(
    config: ModelConfig, groups: Sequence[PlannedGroup], width: int, model: Shape | None
) -> Iterator[str]:
    """Settings that `lm` would refuse later, when the data is made and a model is loaded."""
    if model and model.longest and config.max_tokens > model.longest:
        yield (
            f"model.max_tokens={config.max_tokens} is more than {config.source!r} can read "
            f"({model.longest}); set model.max_tokens={model.longest} or less"
        )
    for group in groups:
        if group.held is None or group.work is None:
            continue
        try:
            group.held.train.check_precision(width, group.knobs)
        except ConfigError as error:
            yield str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What sits on one machine, or on the fullest card of one, in one turn."""

    node: Node
    place: Place
    crowd: Crowd
    peak: int
    """Bytes at most, the driver's too where it is on this machine."""
    least: int
    """Bytes without which it cannot do."""

    @property
    def room(self) -> float | None:
        """GiB that there are; None where it is not known."""
        return self.node.ram_gib if self.place == "host" else self.node.gpu_gib


def loads(groups: Sequence[PlannedGroup], nodes: Sequence[Node], turns: Sequence[Placement], driver: int) -> list[Load]:
    """The loads of all machines in all turns; of those that are alike the first. The driver's bytes are on the first
    machine."""
    by_name = {group.role.name: group for group in groups}
    found: dict[tuple[object, ...], Load] = {}
    for turn in turns:
        for number, node in enumerate(nodes):
            sits = [(by_name[name], where[node.name]) for name, where in turn.items() if node.name in where]
            places: tuple[tuple[Crowd, Place], ...] = ((sits, "host"), (_on_a_card(sits), "gpu"))
            for crowd, place in places:
                extra = driver if place == "host" and number == 0 else 0
                peak = sum(count * group.peak(place) for group, count in crowd) + extra
                least = sum(count * group.least(place) for group, count in crowd)
                load = Load(node=node, place=place, crowd=crowd, peak=peak, least=least)
                key = (*((group.role.name, count) for group, count in crowd), place, load.room, extra)
                if crowd and key not in found:
                    found[key] = load
    return list(found.values())


def too_much(loads: Sequence[Load]) -> Iterator[Problem]:
    """Cards and machines that have less than what sits on them takes."""
    for load in loads:
        if load.room is None:
            continue
        sure = load.least > (load.room + (load.node.swap_gib if load.place == "host" else 0)) * GIB
        if not sure and load.peak <= CLOSE * load.room * GIB:
            continue
        who = " and ".join(f"{count} rank{'s' * (count > 1)} of {group.role.name}" for group, count in load.crowd)
        take = "takes" if [count for _, count in load.crowd] == [1] else "take"
        what = "memory" if load.place == "host" else "a card"
        size = f"at the very least {load.least / GIB:.1f}" if sure else f"up to {load.peak / GIB:.1f}"
        has = f"{who} {take} {size} GiB of {what} of {load.node.name}, which has {load.room:.1f}"
        yield Problem(sure=sure, text=f"{has}; {'; '.join(_remedies(load.crowd, load.place))}")


def _on_a_card(sits: Crowd) -> Crowd:
    """The ranks on the fullest card: as many fractions of one group as it holds, or one of each group."""
    cards = [(group, min(count, max(1, int(1 / group.role.gpus + 1e-6)))) for group, count in sits if group.role.gpus]
    if len(cards) > 1 and sum(group.role.gpus for group, _ in cards) <= 1:
        return [(group, 1) for group, _ in cards]
    return sorted(cards, key=lambda card: -card[1] * card[0].peak("gpu"))[:1]


def _remedies(crowd: Crowd, place: Place) -> Iterator[str]:
    """Settings that bring a rank down, and to what."""
    group = max((group for group, _ in crowd), key=lambda group: group.peak(place))
    if group.held is None:
        return
    now, train = group.peak(place), group.held.train
    yield f"a rank of {group.role.name} takes {now / GIB:.1f}"
    if group.work is None:
        yield "evaluation.tokens_per_batch and model.max_tokens lower it"
        return
    higher = [stage for stage in (2, 3) if stage > train.zero_stage]
    tries: list[tuple[str, dict[str, Any]]] = [
        *[(f"zero_stage={stage}", {"zero_stage": stage}) for stage in higher],
        ("gradient_checkpointing=true", {"gradient_checkpointing": True}),
        ("offload=optimizer", {"offload": "optimizer", "zero_stage": max(1, train.zero_stage)}),
        ("lora.rank=16", {"lora": train.lora.replaced("rank", 16)}),
    ]
    for knob, change in tries:
        changed = replace(group, held=replace(group.held, train=train.model_copy(update=change)))
        if changed.peak(place) < 0.95 * now:
            yield f"{group.knobs}.{knob} makes that {changed.peak(place) / GIB:.1f}"
    yield f"{group.knobs}.{train.cut_by} (now {getattr(train, train.cut_by)}) and model.max_tokens lower it too"


def describe(node: Node) -> str:
    """A machine in words."""
    cards = f"{node.gpus} {node.card or 'GPU'}" + (f" of {node.gpu_gib:.0f} GiB" if node.gpu_gib else "")
    cpus = f"{node.cpus:g} CPUs" if node.cpus else ""
    ram = f"{node.ram_gib:.0f} GiB" if node.ram_gib else ""
    labels = ", ".join(f"{key}={value}" for key, value in node.labels.items())
    return f"{node.name} with " + ", ".join(part for part in (cards if node.gpus else "", cpus, ram, labels) if part)
