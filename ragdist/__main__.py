"""`python -m ragdist`: the command line where no `ragdist` is on the PATH, as in a job on a cluster."""

from ragdist.cli import main

if __name__ == "__main__":
    main()
