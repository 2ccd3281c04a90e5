"""RAFT on a Ray cluster.

ray job submit --working-dir . -- python jobs/raft.py jobs/settings/raft.yaml run.folder=/mnt/shared/runs
"""

import sys

from ragdist import cli

if __name__ == "__main__":
    cli.main(["train", "raft", *sys.argv[1:]])
