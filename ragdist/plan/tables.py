"""A plan as tables for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.table import Table

from ragdist.plan import memory
from ragdist.plan.fits import PlannedGroup
from ragdist.plan.layout import Plan
from ragdist.plan.memory import Place
from ragdist.plan.seats import GIB
from ragdist.plan.workload import RowCount

DATA = {"train": "training questions", "test": "test questions", "documents": "documents"}


def as_json(plan: Plan) -> dict[str, Any]:
    """All numbers of the plan; memory in bytes."""
    return {
        "job": plan.job,
        "model": asdict(plan.model) if plan.model else None,
        "bytes_per_weight": plan.width,
        "nodes": [asdict(node) for node in plan.nodes] if plan.nodes is not None else None,
        "seats": list(plan.turns),
        "loads": [
            {"node": load.node.name, "place": load.place, "peak_bytes": load.peak, "room_gib": load.room}
            for load in plan.loads
        ],
        "groups": [_group(group) for group in plan.groups],
        "driver_bytes": plan.driver,
        "object_store_bytes": plan.store,
        "data": dict(plan.data),
        "rows": asdict(plan.rows) | {"exact": plan.rows.exact},
        "steps": dict(plan.steps),
        "teacher": asdict(plan.asked) if plan.asked else None,
        "training_seconds": plan.seconds,
        "measured_by": plan.measured_by,
        "problems": [asdict(problem) for problem in plan.problems],
    }


def _group(group: PlannedGroup) -> dict[str, Any]:
    parts = {phase: [asdict(part) for part in found] for phase, found in group.parts().items()}
    peak = {"host": group.peak("host"), "gpu": group.peak("gpu")}
    return {"role": asdict(group.role), "knobs": group.knobs, "parts": parts, "peak_bytes_per_rank": peak}


def tables(plan: Plan) -> Iterator[Table]:
    """What to print, from top to bottom."""
    yield _overview(plan)
    if any(group.held for group in plan.groups):
        yield _memory(plan)


def _overview(plan: Plan) -> Table:
    table = Table("", "", title=f"Plan of {plan.job}", title_justify="left", show_header=False)
    model = plan.model
    if model:
        sizes = f"{model.layers} layers of {model.hidden}, {'bfloat16' if plan.width == 2 else 'float32'}"
        table.add_row("model", f"{model.weights:,} weights, {sizes}")
    else:
        table.add_row(
            "model",
            "not on this machine: its shape and memory are unknown; set model.source to a folder with its config.json",
        )
    if plan.nodes is None:
        table.add_row("machines", "those of the cluster, unknown from here; describe them with --nodes")
    turns = ("; ".join(f"{name}: {_where(where)}" for name, where in turn.items()) for turn in plan.turns)
    if plan.turns:
        table.add_row("placement", "; then ".join(turns))
    for group in plan.groups:
        gpus = f" and {group.role.gpus:g} GPUs" if group.role.gpus else ""
        stage = f", ZeRO {group.held.stage}" if group.held and group.work else ""
        ranks = "1 rank" if group.role.ranks == 1 else f"{group.role.ranks} ranks"
        table.add_row(group.role.name, f"{ranks} with {group.role.cpus:g} CPUs{gpus}{stage}")
    for load in plan.loads if plan.model else ():
        what = "memory" if load.place == "host" else "a card"
        room = "an unknown amount" if load.room is None else f"{load.room:.1f}"
        who = " and ".join(group.role.name for group, _ in load.crowd)
        table.add_row(f"{what} of {load.node.name}", f"up to {load.peak / GIB:.1f} of {room} GiB, for {who}")
    if plan.store:
        table.add_row("object store", f"up to {plan.store / 2**20:.1f} MiB of forged documents in flight")
    if counted := [f"{count:,} {DATA[name]}" for name, count in plan.data.items() if count is not None]:
        table.add_row("data", ", ".join(counted))
    table.add_row("rows", _rows(plan.rows))
    most = "" if plan.rows.exact else "at most "
    steps = (f"{name}: {'unknown' if count is None else f'{most}{count:,}'}" for name, count in plan.steps.items())
    table.add_row("steps", "; ".join(steps))
    if plan.asked:
        money = f", ${plan.asked.usd:,.2f}" if plan.asked.usd else ""
        read, written = f"{plan.asked.read:,} tokens read", f"{plan.asked.written:,} written"
        table.add_row("teacher", f"at most {read}, {written}{money}: {plan.asked.why}")
    if plan.seconds is not None:
        table.add_row("training", f"{most}{plan.seconds / 60:.0f} min, at the speed of {plan.measured_by}")
    else:
        table.add_row("training", "time unknown until a run has measured this machine's speed")
    return table


def _where(slots: Mapping[str, int]) -> str:
    """Machines one after another that hold as many ranks are counted, not named each."""
    found = []
    for count, nodes in groupby(slots, key=lambda node: slots[node]):
        first, *others = nodes
        found.append(
            f"{count} on each of {len(others) + 1}, {first} to {others[-1]}" if others else f"{count} on {first}"
        )
    return ", ".join(found)


def _rows(rows: RowCount) -> str:
    if rows.exact:
        return f"{rows.rows:,} rows, {rows.tokens:,} tokens, the longest {rows.longest:,}, counted in {rows.stage}"
    number = f"at most {rows.rows:,}" if rows.rows else "unknown"
    return f"{number} (the data is not made yet), each at most {rows.longest:,} tokens (model.max_tokens)"


def _memory(plan: Plan) -> Table:
    """A column for each group: the parts of one rank, and what they come to."""
    groups = [group for group in plan.groups if group.held]
    title = "Memory of one rank, GiB (of phases the larger counts)"
    table = Table("", *(group.role.name for group in groups), title=title, title_justify="left")
    cells: dict[tuple[str, str, str], list[str]] = {}
    for number, group in enumerate(groups):
        for phase, parts in group.parts().items():
            for part in parts:
                row = cells.setdefault((phase, part.name, part.place), [""] * len(groups))
                row[number] = f"{part.bytes / GIB:.2f}"
    for (phase, name, place), row in cells.items():
        where = f", {place}" if any(group.held and group.held.gpu for group in groups) else ""
        table.add_row(f"{name} ({phase}{where})" if phase != "states" else f"{name}{where}", *row)
    places: tuple[Place, ...] = ("gpu", "host")
    for place in places:
        if any(group.peak(place) for group in groups):
            own = [f"{memory.process(group.role.gpus > 0, place) / GIB:.2f}" for group in groups]
            table.add_row(f"the process itself, {place}", *own)
            table.add_row(
                f"together, {place}", *(f"{group.peak(place) / GIB:.2f}" for group in groups), end_section=True
            )
    return table
