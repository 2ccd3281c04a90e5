"""Phases of learning that tests share: rows for each loss, settings of one side, and what two ranks do.

`python -m tests.learning NAME ARGUMENT...` runs a function of this module on this rank.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ragdist.algo import consistency, preference, sft
from ragdist.config import Settings
from ragdist.config.loader import resolve
from ragdist.lm import zero
from ragdist.lm.resident import Resident
from ragdist.lm.residents import SharedResidents
from ragdist.lm.turns import ByRole
from ragdist.records import Bundle
from tests import tiny

LOSSES = {
    "sft": (sft.answer_loss, None),
    "dpo": (partial(preference.dpo, beta=0.2), preference.reference),
    "mito": (partial(consistency.mito, kl_weight=0.5), None),
}


def settings(model: Path, *, workers: int = 1, dtype: str = "float32", **train: Any) -> Settings:
    """The attacker is the side that learns: 8 rows a step in microbatches of 2, one epoch."""
    few = {"examples_per_step": 8, "microbatch": 2, "checkpoint_every": 2, "learning_rate": 1e-3, "warmup": 0}
    return resolve(
        {
            "model": {"source": str(model), "dtype": dtype},
            "attacker": {"workers": workers, "train": few | train},
        }
    )


def resident(model: Path, made: Settings, version: int = 0) -> Resident:
    """A model in this process."""
    return Resident(str(model), made, made.attacker, version)


def rows(count: int = 14) -> list[Bundle]:
    """Pairs of texts after one prompt, no two rows alike."""
    made = []
    for number, example in enumerate(tiny.examples(count)):
        prompt = tuple(tiny.tokenizer().encode(f"row {number}\n").ids) + example.tokens[: 20 + 9 * (number % 3)]
        texts = [
            tuple(tiny.tokenizer().encode(text).ids) for text in (f"mode {'r' * number}", "None " * (1 + number % 4))
        ]
        end = (tiny.tokenizer().end,)
        made.append(
            Bundle(
                id=f"row-{number}",
                tokens=tuple(prompt + text + end for text in texts),
                prompt_tokens=(len(prompt),) * 2,
            )
        )
    return made


def lists(count: int = 14) -> list[Bundle]:
    """One answer after a clean and after a longer, attacked prompt."""
    made = []
    for row in rows(count):
        start = row.prompt_tokens[0]
        lie = tuple(tiny.tokenizer().encode("utf-8 " * (1 + start % 3)).ids)
        made.append(
            Bundle(
                id=row.id,
                tokens=(row.tokens[0], lie + row.tokens[0]),
                prompt_tokens=(start, start + len(lie)),
            )
        )
    return made


def learn(model: Resident, loss: str, folder: Path, count: int = 14) -> list[dict[str, float]]:
    """A whole phase: metrics of each step."""
    folder.mkdir(parents=True, exist_ok=True)
    function, prepare = LOSSES[loss]
    total, done = model.begin(function, lists(count) if loss == "mito" else rows(count), prepare, folder)
    said = model.steps(total - done)
    model.finish()
    return said


def weights(folder: Path) -> dict[str, Any]:
    """The model's tensors by name."""
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


def checksum(folder: Path) -> str:
    """Names the bits of all weights."""
    parts = (name.encode() + tensor.float().numpy().tobytes() for name, tensor in sorted(weights(folder).items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def shard_small_weights() -> None:
    """ZeRO-3 leaves small weights whole, which the tiny model's all are; not here."""
    whole = zero.zero_config

    def config(*args: Any) -> dict[str, Any]:
        made = whole(*args)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    zero.zero_config = config


def two_ranks(name: str, *arguments: object, wanted: int = 0, count: int = 2) -> None:
    """Runs `name(*arguments)` of this module on two ranks, or `count` of them, over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.learning", name, *map(str, arguments)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[1],
        )
        for rank in range(count)
    ]
    try:
        codes = [rank.wait(timeout=240) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert wanted in codes if wanted else codes == [0] * count, codes


def first_steps(held: Resident, folder: Path, count: int = 7) -> dict[str, tuple[float, dict[str, Any]]]:
    """Loss and gradient of one step of each loss, at the weights that it has; DPO's reference is the row's number."""
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    seen: dict[str, Any] = {}

    def look(*_: Any) -> None:
        seen.update((name, part.grad.clone()) for name, part in held.module.named_parameters())

    hook = held.engine.basic_optimizer.register_step_pre_hook(look)
    for name, (function, prepare) in LOSSES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        held.begin(function, lists(count) if name == "mito" else rows(count), prepare, folder / name)
        if prepare:
            held._begun().prepared["reference"] = references(count)
        found[name] = (held.steps(1)[0]["loss"], dict(seen))
    hook.remove()
    return found


def references(count: int) -> Any:
    """A number for each row, no two alike."""
    import torch

    return torch.arange(count) / 2 - 1


def still(model: Path, **more: Any) -> Settings:
    """Steps that are too small to change a weight, with gradients as they are."""
    return settings(model, learning_rate=1e-30, gradient_clip=0, **more)


def uneven_ranks(model: str, folder: str, tokens_per_pass: str) -> None:
    """The first steps of ranks, one of which has a pass less."""
    import torch
    import torch.distributed as dist

    cut = {"tokens_per_pass": int(tokens_per_pass), "microbatch": 1}
    made = still(Path(model), workers=dist.get_world_size(), zero_stage=0, **cut)
    held = resident(Path(model), made)
    found = first_steps(held, Path(folder))
    if held.engine.global_rank == 0:
        torch.save(found, Path(folder) / "found.pt")


def dealt(model: str, folder: str, tokens_per_pass: str) -> None:
    """`uneven_ranks`, and at ZeRO 1 to 3 two steps of DPO, whose passes are cut by tokens."""
    import torch.distributed as dist

    uneven_ranks(model, folder, tokens_per_pass)

    for stage in (1, 2, 3):
        here = Path(folder) / f"{stage}"
        cut = {"workers": dist.get_world_size(), "zero_stage": stage, "tokens_per_pass": int(tokens_per_pass)}
        held = resident(Path(model), settings(Path(model), **cut))
        said = learn(held, "dpo", here)
        if held.engine.global_rank == 0:
            (here / "said.json").write_text(json.dumps(said))


def stages(model: str, folder: str, dtype: str, wanted: str) -> None:
    """At each ZeRO stage: a step of MITO and of DPO with uneven shares, in one resident; then texts, two phases on."""
    for stage in map(int, wanted):
        here = Path(folder) / f"{stage}"
        held = resident(Path(model), settings(Path(model), workers=2, dtype=dtype, zero_stage=stage))
        said = {loss: learn(held, loss, here / loss, 6) for loss in ("mito", "dpo")}
        held.open_phase()
        prompts = tiny.prompts(4)[held.engine.global_rank * 2 :]  # four texts here, two there
        texts = {text.prompt_id: text.text for batch in held.write(prompts, max_new_tokens=9) for text in batch}
        held.close_phase()
        learn(held, "sft", here / "on", 6)
        fresh = resident(here / "dpo" / "model", settings(Path(model), workers=2, dtype=dtype, zero_stage=stage), 2)
        learn(fresh, "sft", here / "fresh", 6)
        assert held.version == 3
        if held.engine.global_rank == 0:
            (here / "said.json").write_text(json.dumps({"said": said, "texts": texts}))


def interrupted(model: str, folder: str, stage: str, dtype: str, dies_after: str) -> None:
    """A phase of DPO that is killed after so many steps, or goes on; its metrics are noted."""
    held = resident(Path(model), settings(Path(model), workers=2, dtype=dtype, zero_stage=int(stage), epochs=3))
    function, prepare = LOSSES["dpo"]
    total, done = held.begin(function, rows(), prepare, Path(folder))
    lines = []
    for step in range(done, total):
        if str(step) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        lines += held.steps(1)
    held.finish()
    if held.engine.global_rank == 0:
        (Path(folder) / "said.json").write_text(json.dumps({"done": done, "said": lines}))


def adapted(model: Path, layout: str, *, workers: int = 1, dtype: str = "float32", **train: Any) -> Settings:
    """Both sides are adapters, with few rows a step."""
    few = {"examples_per_step": 4, "microbatch": 2, "checkpoint_every": 1, "learning_rate": 1e-2, "warmup": 0}
    side = {"workers": workers, "train": few | {"lora": {"rank": 4}} | train}
    about = {"model": {"source": str(model), "dtype": dtype}, "atm": {"layout": layout}}
    return resolve(about | {"attacker": side, "generator": side})


class Pair:
    """Both sides on one rank, in either layout."""

    def __init__(self, made: Settings, sources: tuple[str, str], versions: tuple[int, int] = (0, 0)) -> None:
        self.both: Any = None
        if made.atm.layout == "shared_base":
            self.both = SharedResidents(sources, made, made.attacker, versions)
            self.roles = self.both.roles
        else:
            sides = zip(sources, (made.attacker, made.generator), versions, strict=True)
            self.roles = [Resident(source, made, side, version) for source, side, version in sides]

    def begin(self, role: int, loss: str, folder: Path) -> tuple[Any, int, int]:
        """Who learns, steps in all, steps done."""
        folder.mkdir(parents=True, exist_ok=True)
        function, prepare = LOSSES[loss]
        found = lists(6) if loss == "mito" else rows(6)
        if self.both:
            return self.both, *self.both.begin(ByRole(role, function), found, prepare, folder)
        return self.roles[role], *self.roles[role].begin(function, found, prepare, folder)

    def learn(self, role: int, loss: str, folder: Path) -> list[dict[str, float]]:
        """A whole phase: metrics of each step."""
        learner, total, done = self.begin(role, loss, folder)
        said: list[dict[str, float]] = learner.steps(total - done)
        learner.finish()
        return said

    def say(self, first: int) -> tuple[dict[str, str], dict[str, list[float]]]:
        """Texts of the first side and how likely the second finds answers: those of this rank, `first` and others."""
        for opened in [self.both] if self.both else self.roles:
            opened.open_phase()
        written = self.roles[0].write(tiny.prompts(4)[first:], max_new_tokens=9)
        texts = {text.prompt_id: text.text for batch in written for text in batch}
        read = dict(pair for batch in self.roles[1].read(tiny.examples(4)[first:]) for pair in batch)
        for opened in [self.both] if self.both else self.roles:
            opened.close_phase()
        return texts, read


def play(made: Settings, model: Path, folder: Path, first: int = 0) -> dict[str, Any]:
    """Two rounds of both sides; texts and probabilities between and after."""
    pair = Pair(made, (str(model), str(model)))
    said: dict[str, Any] = {"before": pair.say(first)}
    for number in (0, 1):
        said[f"attacker-{number}"] = pair.learn(0, "dpo", folder / f"{number}/attacker")
        said[f"between-{number}"] = pair.say(first)
        said[f"generator-{number}"] = pair.learn(1, "mito", folder / f"{number}/generator")
    said["after"] = pair.say(first)
    fresh = Pair(made, tuple(str(folder / f"1/{side}/model") for side in ("attacker", "generator")), (2, 2))
    assert fresh.say(first) == said["after"]
    assert [role.version for role in (*pair.roles, *fresh.roles)] == [2] * 4
    for name, held in (("on", pair), ("fresh", fresh)):
        held.learn(0, "dpo", folder / name)
    return said


def adapters(model: str, folder: str, dtype: str, layout: str, stages: str) -> None:
    """Two ranks play at these ZeRO stages."""
    import torch.distributed as dist

    for stage in map(int, stages):
        here = Path(folder) / layout / f"{stage}"
        made = adapted(Path(model), layout, workers=2, dtype=dtype, zero_stage=stage)
        said = play(made, Path(model), here, first=2 * dist.get_rank())
        if dist.get_rank() == 0:
            (here / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    import torch.distributed as dist

    dist.init_process_group("gloo")
    shard_small_weights()
    globals()[sys.argv[1]](*sys.argv[2:])
    dist.barrier()
    dist.destroy_process_group()
