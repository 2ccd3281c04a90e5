"""A cluster of several nodes whose attacker's node is taken away: `python -m tests.cluster.nodes FOLDER`.

Prints as JSON the digests of both stages and whether the generator's process stayed.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from ragdist.cluster.group import WorkerGroup
from ragdist.cluster.ranks import GroupSpec
from tests.cluster import fake

MEMORY = {"object_store_memory": 80 * 1024**2}


def main() -> None:
    """Forges and grades a dozen questions; the attacker's node goes after the third, a new one comes."""
    folder = Path(sys.argv[1])
    settings = fake.settings(start_timeout_s=120, deadline_s=120)
    shards = fake.questions(folder, 12)
    part = {shard.name: shard for shard in shards}
    (folder / "note").touch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "labels": {"group": "generator"}, **MEMORY})
    try:
        node = cluster.add_node(num_cpus=1, labels={"group": "attacker"}, **MEMORY)
        ray.init(address=cluster.address, log_to_driver=False)
        plans = (
            GroupSpec(
                name, settings, settings.attacker.model_copy(update={"labels": {"group": name}}), fake.Fake, folder
            )
            for name in ("attacker", "generator")
        )
        attacker, generator = (WorkerGroup(plan, "", 0) for plan in plans)
        with attacker, generator:
            theirs, where = generator.pids, attacker.nodes
            inputs = ((shard,) for shard in shards)
            forged = attacker.each(fake.forge, inputs, folder / "note", {}, folder=folder / "forged", phase="forge")
            first = [next(forged) for _ in range(3)]
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1, labels={"group": "attacker"}, **MEMORY)

            def both():
                for shard in (*first, *forged):
                    yield part[shard.name], shard

            graded = sorted(
                (shard.name, shard.digest)
                for shard in generator.each(fake.grade, both(), folder=folder / "graded", phase="grade")
            )
            said = {"graded": graded, "stayed": generator.pids == theirs, "failures": attacker.failures}
            said["moved"] = attacker.nodes != where
        sys.stdout.write(json.dumps(said) + "\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
