"""Which rank sits on which machine: arithmetic over what the machines have, nothing is started.

    2x8xA100-80GB                       two machines with 8 cards of 80 GiB each
    2x8xA100-80GB:128cpu:1024GB         and 128 cores and 1024 GiB of host memory each
    4x64cpu:256GB:pool=attack           four machines without cards, labelled pool=attack
    8xH100-80GB,1x64cpu                 one machine of a kind, then one of another

What is not said is not known, and not known is never too little.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from ragdist.errors import ConfigError

NUMBER = r"[1-9]\d{0,5}"
COUNT = rf"(?:(?P<count>{NUMBER})x)?"
CARDS = re.compile(rf"{COUNT}(?P<gpus>{NUMBER})x(?P<name>[A-Za-z][\w.]*)-(?P<gib>{NUMBER})Gi?B", re.ASCII)
CORES = re.compile(rf"{COUNT}(?P<cpus>{NUMBER})cpu", re.ASCII)
MOST_NODES = 4096
GIB = 2**30
ACCELERATORS = ("/proc/driver/nvidia", "/dev/dxg", "/dev/kfd", "/dev/accel", "/dev/vfio")
"""One of them is there on a machine with cards of any maker."""
NO_BFLOAT16 = {"V100", "T4", "P100", "P40", "K80"}
"""Cards of `--nodes` that do not multiply bfloat16; of this machine's, those below AMPERE."""
AMPERE = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine. Example: Node(name="node 0", gpus=8, gpu_gib=80, card="A100")."""

    name: str
    gpus: int | None = 0
    """Cards; None where they are not known."""
    gpu_gib: float | None = None
    """Memory of each, in GiB."""
    card: str = ""
    bfloat16: bool = True
    """The cards multiply it."""
    cpus: float | None = None
    ram_gib: float | None = None
    swap_gib: float = 0
    here: bool = False
    """The machine that plans, alone: ranks that ask for no cores share its own."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def room(self, role: Role) -> int:
        """Ranks of this role that fit, were they alone."""
        if any(self.labels.get(key) != value for key, value in role.labels.items()):
            return 0
        most = role.ranks
        if role.cpus and self.cpus is not None:
            most = min(most, int(self.cpus / role.cpus + 1e-6))
        if role.gpus and self.gpus is not None:
            on_a_card = int(1 / role.gpus + 1e-6)
            most = min(most, self.gpus * on_a_card if role.gpus < 1 else int(self.gpus / role.gpus))
        return most

    def without(self, role: Role, count: int) -> Node:
        """What `count` ranks of the role leave of it, whole cards."""
        cpus = None if self.cpus is None else self.cpus - count * role.cpus
        gpus = None if self.gpus is None else self.gpus - math.ceil(count * role.gpus - 1e-6)
        return replace(self, gpus=gpus, cpus=cpus)

    def beside(self, role: Role, other: Role, count: int) -> int:
        """Ranks of `role` that fit beside `count` of the other."""
        cpus = None if self.cpus is None else self.cpus - count * other.cpus
        gpus = self.gpus
        if gpus is not None and role.gpus and other.gpus:
            taken = count * other.gpus
            gpus = gpus - int(taken) if role.gpus < 1 and other.gpus < 1 else int(gpus - taken + 1e-6)
        return replace(self, gpus=gpus, cpus=cpus).room(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A group of ranks that are all alike. Example: Role(name="attacker", ranks=2, cpus=4, gpus=1)."""

    name: str
    ranks: int
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)


def unreserved(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels without those that Ray gives a node itself."""
    return {key: value for key, value in labels.items() if not key.startswith("ray.io/")}


Placement = Mapping[str, Mapping[str, int]]
"""{role: {node: ranks}}"""


def parse(spec: str) -> list[Node]:
    """The machines that `--nodes` describes. A ConfigError if it cannot be read."""
    nodes: list[Node] = []
    for group in spec.split(","):
        head, *parts = group.strip().split(":")
        match = CARDS.fullmatch(head) or CORES.fullmatch(head)
        if not match:
            raise _unreadable(group)
        said = match.groupdict()
        node = Node(name="", cpus=float(said["cpus"])) if "cpus" in said else Node(name="")
        if "gpus" in said:
            card = said["name"]
            node = replace(node, gpus=int(said["gpus"]), gpu_gib=float(said["gib"]), card=card)
            node = replace(node, bfloat16=card not in NO_BFLOAT16)
        for part in parts:
            node = _with(node, part, group)
        count = int(said["count"] or 1)
        if len(nodes) + count > MOST_NODES:
            raise ConfigError(f"--nodes has more than {MOST_NODES:,} machines in {group[:80]!r}; describe fewer")
        for _ in range(count):
            nodes.append(replace(node, name=f"node {len(nodes)}"))
    return nodes


def _with(node: Node, part: str, group: str) -> Node:
    """The machine with what `part` says of it: 128cpu, 1024GB, key=value."""
    key, equals, value = part.partition("=")
    if equals and key and value:
        return replace(node, labels={**node.labels, key: value})
    number = re.fullmatch(rf"({NUMBER})(cpu|Gi?B)", part, re.ASCII)
    if not number:
        raise _unreadable(group)
    size = float(number[1])
    return replace(node, cpus=size) if number[2] == "cpu" else replace(node, ram_gib=size)


def _unreadable(group: str) -> ConfigError:
    return ConfigError(
        f"--nodes has {group[:80]!r}; wanted machines such as 2x8xA100-80GB:128cpu:1024GB or "
        "4x64cpu:256GB:pool=attack, with commas between them, and numbers of 1 to 999999"
    )


def this_machine() -> Node:
    """What this machine has, without torch."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).is_file() and (said := Path(limit).read_text().strip()).isdigit():
            memory = min(memory, int(said))
    cards = _cards()
    gpus = len(cards) if cards or not any(map(os.path.exists, ACCELERATORS)) else None
    return Node(
        name="this machine",
        gpus=gpus,
        gpu_gib=min((card.gib for card in cards), default=None),
        card=cards[0].name if cards else "",
        bfloat16=all(card.capability >= AMPERE for card in cards),
        cpus=float(os.cpu_count() or 1),
        ram_gib=memory / GIB,
        swap_gib=_swap() / GIB,
        here=True,
    )


def _swap() -> int:
    """Bytes of swap on this machine."""
    memory = Path("/proc/meminfo")
    match = re.search(r"SwapTotal:\s+(\d+) kB", memory.read_text()) if memory.exists() else None
    return int(match[1]) * 1024 if match else 0


class _Card(NamedTuple):
    name: str
    gib: float
    capability: float


def _cards() -> list[_Card]:
    """The NVIDIA cards that this process may use; none where the driver is too old to say what they can."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout
    found = [re.fullmatch(r"(.+), (\d+), (\d+\.\d+)", line.strip()) for line in said.splitlines()]
    cards = [_Card(line[1], int(line[2]) / 1024, float(line[3])) for line in found if line]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return cards if visible is None else cards[: len([name for name in visible.split(",") if name.strip()])]


def place(roles: Sequence[Role], nodes: Sequence[Node]) -> Placement | None:
    """Slots for all ranks of these roles side by side; None where no way was found. A role stays together.

    Exact for one role and for two, so that no layout that exists is refused: for each number of ranks of the first on
    the machines so far, the most of the second that fit beside them. More are placed one after another, in any order.
    """
    if len(roles) > 2:
        found = (_in_turn(order, nodes) for order in permutations(roles))
        return next((placed for placed in found if placed), None)
    first, second = roles[0], roles[1] if len(roles) > 1 else Role(name="", ranks=0, cpus=0, gpus=0)
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for node in nodes:
        grown: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        for sat, (others, where) in best.items():
            for here in range(min(node.room(first), first.ranks - sat), -1, -1):
                more = min(node.beside(second, first, here), second.ranks - others)
                if sat + here not in grown or grown[sat + here][0] < others + more:
                    grown[sat + here] = others + more, [*where, (here, more)]
        best = grown
    others, where = best.get(first.ranks, (-1, []))
    if others < second.ranks:
        return None
    return {
        role.name: {node.name: slots[number] for node, slots in zip(nodes, where, strict=True) if slots[number]}
        for number, role in enumerate(roles)
    }


def _in_turn(roles: Sequence[Role], nodes: Sequence[Node]) -> Placement | None:
    """Each role in what those before it left."""
    placed: dict[str, Mapping[str, int]] = {}
    left = list(nodes)
    for role in roles:
        if (found := place([role], left)) is None:
            return None
        placed |= found
        left = [node.without(role, found[role.name].get(node.name, 0)) for node in left]
    return placed


def short(roles: Sequence[Role], nodes: Sequence[Node]) -> bool:
    """Whether these roles, which found no slots, surely have none."""
    if len(roles) <= 2 or any(place([role], nodes) is None for role in roles):
        return True
    cards = [node.gpus for node in nodes if node.gpus is not None]
    return len(cards) == len(nodes) and sum(role.ranks * role.gpus for role in roles) > sum(cards)
