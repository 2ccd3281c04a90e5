"""A sweep on a Ray cluster, its trials side by side where there is room.

ray job submit --working-dir . -- python jobs/sweep.py raft jobs/settings/sweep-p.yaml run.folder=/mnt/shared/runs
"""

import sys

from ragdist import cli

if __name__ == "__main__":
    cli.main(["sweep", *sys.argv[1:]])
