"""ragdist: fine-tune language models so that they stay right when retrieval is wrong.

import ragdist
run = ragdist.raft(ragdist.load(["settings.yaml", "contexts.oracle_fraction=0.8"]))
print(run.summary)
"""

import os

# Nothing of a run is told to anyone; huggingface_hub reads this once, when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from ragdist.config import Settings
from ragdist.config.loader import load
from ragdist.results import Run
from ragdist.runs import answer, atm, audit, build, duet, evaluate, prompt, raft

__version__ = "0.1.0"
__all__ = ["Run", "Settings", "answer", "atm", "audit", "build", "duet", "evaluate", "load", "prompt", "raft"]
