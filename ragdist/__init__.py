"""ragdist: fine-tune language models so that they stay right when retrieval is wrong.

import ragdist
run = ragdist.raft(ragdist.load(["settings.yaml", "contexts.oracle_fraction=0.8"]))
print(run.summary)
"""

import os

# Nothing of a run is told to anyone; huggingface_hub reads this once, when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from ragdist.asking import answer, open_service, prompt
from ragdist.config import Settings
from ragdist.config.loader import load
from ragdist.errors import PartError, RagdistError
from ragdist.parts import Attack, Callback, Event, Metric, Parts, Retriever
from ragdist.records import Chunk, Question
from ragdist.results import Run, compare_runs, list_runs
from ragdist.runs import atm, audit, build, demo, duet, evaluate, export_data, export_model, gate, raft, sweep

__version__ = "0.1.0"
__all__ = [
    "Attack",
    "Callback",
    "Chunk",
    "Event",
    "Metric",
    "PartError",
    "Parts",
    "Question",
    "RagdistError",
    "Retriever",
    "Run",
    "Settings",
    "answer",
    "atm",
    "audit",
    "build",
    "compare_runs",
    "demo",
    "duet",
    "evaluate",
    "export_data",
    "export_model",
    "gate",
    "list_runs",
    "load",
    "open_service",
    "prompt",
    "raft",
    "sweep",
]
