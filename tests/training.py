"""Small training runs that tests share: rows that differ, settings of seconds, and what a run did."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.lm.tune import request_stop
from ragdist.records import Example, Rated, as_row
from ragdist.roles import Pair, TrainingJob
from tests import tiny


def rows(count: int) -> list[Example]:
    """Examples of many lengths, no two alike."""
    numbered = []
    for number, example in enumerate(tiny.examples(count)):
        head = tuple(tiny.tokenizer().encode(f"row {number}\n").ids)
        numbered.append(
            Example(
                id=f"row-{number}",
                tokens=head + example.tokens,
                prompt_tokens=len(head) + example.prompt_tokens,
            )
        )
    return numbered


def write_rows(path: Path, count: int = 24) -> Path:
    """`rows` as the JSONL that a Tuner reads."""
    path.write_text("".join(json.dumps(as_row(row)) + "\n" for row in rows(count)))
    return path


def pairs(count: int, start: int = 0) -> list[tuple[Pair, bool]]:
    """Pairs of many lengths and whether the answer is right, which its last character says; no two questions alike."""
    said = []
    for number in range(start, start + count):
        question = f"question {number}: " + " ".join(f"item{at}" for at in range(number % 7))
        said.append((Pair(question, ("'utf-8'" if number % 2 else "None") + "?!"[number % 3 > 0]), number % 3 > 0))
    return said


def render(pair: Pair) -> list[int]:
    """A pair in tokens: the question as the user's turn, the answer as the assistant's."""
    return tiny.tokenizer().encode(tiny.tokenizer().chat(pair.question) + pair.answer).ids


def rated(count: int) -> list[Rated]:
    """`pairs` in tokens, with weights from 1 to 3."""
    return [
        Rated(id=f"pair-{number}", tokens=tuple(render(pair)), right=right, weight=1.0 + number % 3)
        for number, (pair, right) in enumerate(pairs(count))
    ]


def write_rated(path: Path, count: int = 24) -> Path:
    """`rated` as the JSONL that a Tuner reads for a scorer."""
    path.write_text("".join(json.dumps(as_row(row)) + "\n" for row in rated(count)))
    return path


def settings(model: Path, *, workers: int = 1, cluster: dict[str, Any] | None = None, **train: Any) -> Settings:
    """Two epochs of the tiny model in float32, 8 rows a step, unless told otherwise."""
    few = {"examples_per_step": 8, "microbatch": 2, "epochs": 2, "checkpoint_every": 2, "learning_rate": 1e-3}
    return resolve(
        {
            "model": {"source": str(model), "dtype": "float32"},
            "train": few | train,
            "cluster": {"workers": workers, **(cluster or {})},
        }
    )


def lesson(rows: Path, folder: Path, made: Settings, name: str = "RAFT", kind: Any = "answers") -> TrainingJob:
    """One to be tuned as the settings' `train` says."""
    return TrainingJob(name, rows, folder, made.train, kind)


def noted(folder: Path, phase: str = "train") -> list[dict[str, Any]]:
    """The lines of a phase in the run's metrics."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["phase"] == phase]


def losses(folder: Path) -> list[float]:
    """The loss of each step, the last one said where a resumed run repeated steps."""
    return list({line["step"]: line["loss"] for line in noted(folder)}.values())


def weights_hash(model: Path) -> str:
    """Names the bits of a model's weights."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


class Spy(TrainerCallback):
    """Writes down the rows of every microbatch that this rank is given; None is the blank row of a last step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        numbers = {row.tokens: number for number, row in enumerate(rows(100))}
        loader = train_dataloader.base_dataloader
        collate = loader.collate_fn

        def collate_and_note(batch: list[dict[str, list[int]]]) -> Any:
            with self.path.open("a") as file:
                file.write(json.dumps([numbers.get(tuple(row["input_ids"])) for row in batch]) + "\n")
            return collate(batch)

        loader.collate_fn = collate_and_note

    def seen(self) -> list[list[int]]:
        """Row numbers of each microbatch, in the order of training."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


class StopAt(TrainerCallback):
    """A person who asks for the end during a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            request_stop(self.folder)
