"""Drivers of their own: what they hold in memory, and what they do when a whole node goes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ragdist.local import LocalSide
from tests.cluster import fake

ROOT = Path(__file__).parents[2]


def run(module, folder, **variables):
    """What the driver printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.cluster.{module}", str(folder)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_driver_memory_does_not_grow_with_microbatches(tmp_path):
    """check 74: ten times the microbatches of a megabyte; the object store is forced to hold even the smallest."""
    early, late = map(int, run("flat", tmp_path, RAY_max_direct_call_object_size="0").split())
    assert late - early < 40e6, f"{early / 1e6:.0f} MB after 20, {late / 1e6:.0f} MB after 200"


def test_a_node_that_dies_takes_no_row_with_it(tmp_path):
    """check 72: the attacker moves to a new node with its label, forgeries that went with the old one are read again
    from their files, and the generator stays."""
    said = json.loads(run("nodes", tmp_path, RAY_max_direct_call_object_size="0").splitlines()[-1])
    assert said["stayed"] and said["moved"] and said["failures"] >= 1
    settings, folder = fake.settings(), tmp_path / "alone"
    side = LocalSide(settings, settings.attacker, fake.Fake, "", 0)
    shards = fake.questions(tmp_path, 12)
    note = tmp_path / "note"
    forged = side.each(fake.forge, ((shard,) for shard in shards), note, {}, folder=folder / "forged", phase="forge")
    both = zip(shards, forged, strict=True)
    graded = side.each(fake.grade, both, folder=folder / "graded", phase="grade")
    assert said["graded"] == [[shard.name, shard.digest] for shard in graded]
