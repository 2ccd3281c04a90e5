"""What the benchmarks of ATM share: settings, 32 questions of Natural Questions, both flows on them.

RAGDIST_BENCH_QUESTIONS=4 makes a smoke run of any of them, RAGDIST_BENCH_MODEL names another model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.data.pipeline import Pipeline
from ragdist.lm.load import load_tokenizer
from ragdist.local import SerialMapper
from ragdist.records import OpenQuestion
from ragdist.roles import MicrobatchRef
from ragdist.storage.stages import Rows, Store
from ragdist.storage.tables import split
from ragdist.systems.atm.training_rows import open_questions
from tests.bench.raft_useful_tokens import MODEL, REPOSITORY

QUESTIONS = int(os.environ.get("RAGDIST_BENCH_QUESTIONS", "32"))
SAMPLES, NEW_TOKENS, DOCUMENTS, MAX_TOKENS = 3, 80, 5, 1280
DATA = REPOSITORY.parent / "shared" / "data" / "nq_open.jsonl.gz"
RANKS = 1
"""Of each group; a group that works alone uses both cores."""


def settings(dtype: str = "float32", **atm: Any) -> Settings:
    """Both groups as a user of this machine would set them; steps of 8 rows, 2 at a time, over all ranks."""
    train = {"examples_per_step": min(8, QUESTIONS), "microbatch": 2, "weight_decay": 1e-4, "zero_stage": 1}
    return resolve(
        {
            "model": {"source": MODEL, "dtype": dtype, "max_tokens": MAX_TOKENS},
            "corpus": {"source": "records", "questions": [str(DATA)]},
            "questions": {"train_rows": QUESTIONS, "test_rows": 1},
            "contexts": {"oracle_fraction": 1.0, "documents": DOCUMENTS, "distractors": "given"},
            "atm": {"rounds": 1, "samples": SAMPLES, "max_new_tokens": NEW_TOKENS} | atm,
            "attacker": {"workers": RANKS, "train": train | {"learning_rate": 5e-6}},
            "generator": {"workers": RANKS, "train": train | {"learning_rate": 1e-5}},
        }
    )


def questions(folder: Path, made: Settings) -> Rows[OpenQuestion]:
    """The training questions with their documents, by ragdist's data pipeline."""
    return open_questions(Pipeline(made, Store(folder / "data"), load_tokenizer(made.model), SerialMapper()), "train")


def prepare(folder: Path, made: Settings) -> None:
    """Leaves `settings.json` and `questions.jsonl` for both flows."""
    (folder / "settings.json").write_text(made.model_dump_json())
    (folder / "questions.jsonl").write_bytes(questions(folder, made).path.read_bytes())


def parts(folder: Path, made: Settings) -> list[MicrobatchRef]:
    """The questions that `prepare` left, as microbatches."""
    return split(questions(folder, made), made.atm.questions_per_microbatch)


@contextmanager
def groups(folder: Path, made: Settings) -> Iterator[tuple[Any, Any]]:
    """Attacker and generator as `ragdist train atm` seats them, on a Ray of this machine."""
    from ragdist.cluster.group import WorkerGroup, seated
    from ragdist.cluster.ranks import GroupSpec
    from ragdist.cluster.session import connect
    from ragdist.lm.resident import Resident

    with connect(made.cluster):
        sides = (("attacker", made.attacker), ("generator", made.generator))
        both = (
            WorkerGroup(GroupSpec(name, made, side, Resident, folder), made.model.source, 0) for name, side in sides
        )
        with seated(*both) as (attacker, generator):
            yield attacker, generator
