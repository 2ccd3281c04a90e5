"""ATM on a Ray cluster.

ray job submit --working-dir . -- python jobs/atm.py jobs/settings/atm.yaml run.folder=/mnt/shared/runs
"""

import sys

from ragdist import cli

if __name__ == "__main__":
    cli.main(["train", "atm", *sys.argv[1:]])
