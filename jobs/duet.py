"""DuetRAG on a Ray cluster.

ray job submit --working-dir . -- python jobs/duet.py jobs/settings/duet.yaml run.folder=/mnt/shared/runs
"""

import sys

from ragdist import cli

if __name__ == "__main__":
    cli.main(["train", "duet", *sys.argv[1:]])
