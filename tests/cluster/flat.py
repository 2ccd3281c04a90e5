"""A driver to be watched from outside: `python -m tests.cluster.flat FOLDER`. Prints its memory after 20 microbatches
of a megabyte and after 200, everything in the object store and none of it in the driver."""

import sys
from pathlib import Path

import psutil

from ragdist.cluster import session
from ragdist.cluster.group import WorkerGroup
from ragdist.cluster.ranks import GroupSpec
from tests.cluster import fake


def main() -> None:
    """Two stages as a stream, and the memory of this process on the way."""
    folder, settings = Path(sys.argv[1]), fake.settings()
    shards = fake.questions(folder, 200)
    part = {shard.name: shard for shard in shards}
    sides = (GroupSpec(name, settings, settings.attacker, fake.Fake, folder) for name in ("attacker", "generator"))
    with session.connect(settings.cluster):
        attacker, generator = (WorkerGroup(plan, "", 0) for plan in sides)
        with attacker, generator:
            made = attacker.each(fake.big, ((shard,) for shard in shards), folder=folder / "big", phase="big")
            both = ((part[shard.name], shard) for shard in made)
            kept = []
            for shard in generator.each(fake.weigh, both, folder=folder / "weighed", phase="weigh"):
                kept.append(shard)
                if len(kept) in (20, 200):
                    sys.stdout.write(f"{psutil.Process().memory_info().rss}\n")
            assert sum(shard.notes["bytes"] for shard in kept) == 200e6


if __name__ == "__main__":
    main()
