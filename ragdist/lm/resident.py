"""A model that stays in memory over many phases of work and learning: one rank's part of it.

Lives in a process whose torch process group exists already, or makes one of its own. Implements `roles.Model` between
`open_phase` and `close_phase`, and learns between `begin` and `finish`; whatever is marked collective is called by
every rank. Weights of version N are what `folder/model` of the phase that made it holds, to the bit.

    folder/checkpoints/checkpoint-N     while it learns: each rank's part of what learns and of the optimizer
    folder/model                        what was learned, a plain transformers folder; of an adapter that alone

Texts are written by the side's engine (`lm.engines`), which has to prove at each new version that it holds its weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from ragdist.config import ModelConfig, Settings, SideConfig, TrainConfig
from ragdist.errors import ConfigError
from ragdist.lm import checkpoints, engines, probe, zero
from ragdist.lm.adapters import Origin, adapted, origin
from ragdist.lm.checkpoints import ABOUT, CHECKPOINTS, MODEL
from ragdist.lm.learn import Learning, LearningTask, LossOf, Prepare
from ragdist.lm.load import dtype_of, load_model, load_tokenizer, stop_at
from ragdist.lm.memory import enough, give_back_freed_memory
from ragdist.lm.read import ModelReader
from ragdist.lm.shared import around
from ragdist.lm.source import resolve
from ragdist.lm.write import ModelWriter
from ragdist.records import Bundle, Example, Prompt, Written
from ragdist.roles import Tokenizer
from ragdist.storage.atomic import read_json, write_json
from ragdist.tracking.card import CARD

SHARDED = "ranks"
"""What DeepSpeed writes in a checkpoint."""
LESS = (
    "lower this side's train.microbatch (train.tokens_per_pass where that is set), or set its "
    "train.gradient_checkpointing=true"
)
SHARD = "raise this side's train.zero_stage, or set its train.offload"


class Resident:
    """One rank of a side. Every rank makes one, together.

    Args:
        source: folder or other source of the model, instead of `model.source`.
        settings: all settings.
        side: this side's own; `train` decides how it is held and how it learns.
        version: of the model in `source`.
        base: the model that its adapter belongs to, where that is there already; its weights are shared.

    Raises:
        ConfigError: the ZeRO stage keeps no master weights, or an adapter has another shape than `train.lora`.
        ModelError: the model does not load.
    """

    def __init__(
        self, source: str, settings: Settings, side: SideConfig, version: int, base: PreTrainedModel | None = None
    ) -> None:
        self.version, self.seed, self.train = version, settings.seed, side.train
        zero.prepare()
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it at every step of ZeRO-3, alone too
        model = settings.model if source == settings.model.source else settings.model.at(source)
        self._tokenizer = load_tokenizer(model)
        with zero.process_group(), zero.quiet():
            self.stage = side.train.stage(dist.get_world_size(), dtype_of(model).itemsize)
            with enough(SHARD):
                lora, found = side.train.lora, Origin(model, None)
                if lora.rank:
                    found = origin(source, settings, side)
                whole = around(base) if base else load_base(found.base, side.train, self.stage)
                made = adapted(whole, lora, settings.seed, found.adapter) if lora.rank else whole
                self.module: PreTrainedModel = whole
                self.engine = _engine(made, dtype_of(model), side.train, self.stage)
        self._phase, self._lock = ExitStack(), ExitStack()
        self._learning: Learning | None = None
        self._folder, self._step = Path(), 0
        self._said: dict[str, float] | None = None
        self._tokens_per_batch = tokens = settings.evaluation.tokens_per_batch
        self._published = resolve(model)
        """Where the weights of this version are."""
        self._engine = engines.engine_of(side.engine, self.module, self._tokenizer, model, settings.engines, tokens)
        self._engines, self._proved = settings.engines, False
        self._writer = self._engine or ModelWriter(self.module, self._tokenizer, tokens)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return self._tokenizer

    def open_phase(self) -> list[dict[str, Any]]:
        """Collective: from here to `close_phase`, each rank writes and reads without the others.

        At ZeRO-3 every rank holds all weights meanwhile.

        Returns:
            What the probe of its engine found, see `lm.probe`; nothing where there is nothing to prove.

        Raises:
            EngineError: the engine does not write with the weights of this version.
        """
        self.close_phase()
        self._phase.enter_context(independent(self))
        return self.prove(self._phase)

    def prove(self, phase: ExitStack) -> list[dict[str, Any]]:
        """See `open_phase`; the engine rests when `phase` ends."""
        if not self._engine:
            return []
        phase.callback(self._engine.rest)
        if self._proved and self._engine.version == self.version:
            return []
        reader = ModelReader(self.module, self._tokens_per_batch)
        about = (self.version, self._published, reader, self._tokenizer, self._engines, self.seed)
        found = probe.take_up(self._engine, *about)
        self._proved = True
        return [found]

    def close_phase(self) -> None:
        """Collective: the end of what `open_phase` began."""
        self._phase.close()

    def write(self, prompts: Sequence[Prompt], **how: Any) -> Iterator[list[Written]]:
        """See `roles.Writer`. An EngineError where the engine has the weights of another version."""
        if self._engine:
            engines.refuse_other(self._engine, self.version)
        return self._writer.write(prompts, **how)

    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """See `roles.Reader`."""
        # A reader keeps keys and values of what it read, and these weights learn: a new one each time.
        return ModelReader(self.module, self._tokens_per_batch).read(examples)

    def begin(self, loss: LossOf, rows: Sequence[Bundle], prepare: Prepare | None, folder: Path) -> tuple[int, int]:
        """Collective: begins to learn with a fresh optimizer, or goes on from the newest finished checkpoint.

        Args:
            loss: `loss(forward, batch, *, total)`, see `algo.losses`.
            rows: the same on all ranks.
            prepare: computed once for each row, before the first step, and kept in checkpoints.
            folder: the phase's folder, seen by all ranks.

        Returns:
            Steps in all, steps done.

        Raises:
            ConfigError: the checkpoint was written by another number of ranks.
            DataError: rows that cannot be learned from.
            StorageError: another process learns in that folder.
        """
        self.close_phase()
        self._folder, self._step, self._said = folder, 0, None
        self._lock.close()
        self._lock.enter_context(checkpoints.alone(folder))
        self.module.train(self.train.gradient_checkpointing)  # which transformers does in training mode alone
        self._learning = Learning(self.engine, LearningTask(loss, prepare, rows, self.train, self.seed))
        self.engine.basic_optimizer.state.clear()
        if hasattr(self.engine.optimizer, "refresh_fp32_params"):
            self.engine.optimizer.refresh_fp32_params()
        if resume := checkpoints.agreed(folder / CHECKPOINTS):
            self._resume(resume)
        else:
            with zero.quiet(), enough(LESS):
                self._learning.prepare()
        return len(self._learning.plan), self._step

    def steps(self, count: int) -> list[dict[str, float]]:
        """Collective: takes at most `count` optimizer steps and says what each was like.

        Raises:
            TrainError: the loss is not a number any more.
        """
        learning, said = self._begun(), []
        for _ in range(min(count, len(learning.plan) - self._step)):
            with zero.quiet(), enough(LESS):
                said.append(learning.step(self._step))
            self._said = said[-1]
            self._step += 1
            if self._step % self.train.checkpoint_every == 0 and self._step < len(learning.plan):
                self.checkpoint()
        return said

    def checkpoint(self) -> None:
        """Collective: keeps what was learned so far, so that a later `begin` resumes from here to the same bits."""
        target = self._folder / CHECKPOINTS / f"checkpoint-{self._step}"
        done = [target in checkpoints.complete(target.parent)]
        dist.broadcast_object_list(done)
        if done[0]:
            return
        with zero.quiet():
            state = {"prepared": self._begun().prepared}
            self.engine.save_checkpoint(
                str(target),
                tag=SHARDED,
                client_state=state,
                save_latest=False,
                exclude_frozen_parameters=self.train.lora.rank > 0,
            )
        dist.barrier()
        if dist.get_rank() == 0:
            write_json(target / ABOUT, {"ranks": dist.get_world_size(), "said": self._said})
            checkpoints.finish(target, self.train.keep_checkpoints)
        dist.barrier()

    def finish(self) -> Path:
        """Collective: writes the model, forgets the optimizer, removes the checkpoints; the version grows by one."""
        self._begun()
        model = self._published = self.save(self._folder)
        if dist.get_rank() == 0:
            shutil.rmtree(self._folder / CHECKPOINTS, ignore_errors=True)
        self._learning = None
        self.engine.basic_optimizer.state.clear()  # nobody goes on with it; its memory serves writing
        self.module.train(False)
        self.version += 1
        self._lock.close()
        give_back_freed_memory()
        dist.barrier()
        return model

    def save(self, folder: Path) -> Path:
        """Collective: `folder/model`, written by rank 0 beside its name and renamed."""
        with zero.quiet():
            weights = self._weights()
        if dist.get_rank() == 0:
            stop_at(self.module, self._tokenizer.end)
            with checkpoints.new_model(folder) as half, zero.quiet():
                self.engine.module.save_pretrained(half, state_dict=weights)
                self._tokenizer.backend.save_pretrained(half)
                (half / CARD).unlink(missing_ok=True)  # peft's, which says nothing
        dist.barrier()
        return folder / MODEL

    def _weights(self) -> dict[str, Any] | None:
        """Collective: on rank 0 all weights; of a model with an adapter, the adapter's alone."""
        if not self.train.lora.rank:
            whole = self.engine._zero3_consolidated_16bit_state_dict if self.stage == 3 else self.module.state_dict
            found: dict[str, Any] | None = whole()
            return found
        learns = {name: weight for name, weight in self.engine.module.named_parameters() if weight.requires_grad}
        with _gathered(list(learns.values())):
            return {name: weight.detach().cpu().clone() for name, weight in learns.items()}

    def _begun(self) -> Learning:
        if self._learning is None:
            raise RuntimeError("begin comes before steps, checkpoint and finish")
        return self._learning

    def _resume(self, checkpoint: Path) -> None:
        about = read_json(checkpoint / ABOUT)
        ranks, self._said = about["ranks"], about.get("said")
        if ranks != dist.get_world_size():
            raise ConfigError(
                f"{checkpoint} was written by {ranks} ranks and cannot be read by {dist.get_world_size()}; "
                "set this side's workers as they were, or remove that folder to begin the phase again"
            )
        with zero.quiet():
            whole = not self.train.lora.rank
            _, state = self.engine.load_checkpoint(str(checkpoint), tag=SHARDED, load_module_strict=whole)
        self._begun().prepared = state["prepared"]
        self._step = checkpoints.step_of(checkpoint)


@contextmanager
def independent(*models: Resident) -> Iterator[None]:
    """Collective, as is its end: for the block each rank writes and reads with these models without the others.

    At ZeRO-3 every rank holds all weights meanwhile, those that models share once.
    """
    for model in models:
        model.module.train(False)
    with ExitStack() as until:
        if models[0].stage == 3:
            with zero.quiet():
                until.enter_context(_gathered([weight for model in models for weight in model.module.parameters()]))
            for model in models:
                until.enter_context(_without_hooks(model.module))
        yield


@contextmanager
def _gathered(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Collective: for the block each rank holds these weights whole, where they are sharded."""
    from deepspeed import zero as sharding

    with sharding.GatheredParameters(list(weights)):
        yield


def load_base(model: ModelConfig, train: TrainConfig, stage: int) -> PreTrainedModel:
    """The model to learn from; at ZeRO-3 no rank ever holds all of it."""
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    config = zero.zero_config(train, dist.get_world_size(), dtype_of(model))
    # Before loading, which shards at ZeRO-3 and would count one rank; it takes up the process group that is there.
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False)
    resolve(model)  # a GGUF file is converted whole, before sharding is switched on
    sharding = HfDeepSpeedConfig(config) if stage == 3 else None  # type: ignore[no-untyped-call]
    try:
        return load_model(model, training=True)
    finally:
        if sharding:
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]


def _engine(module: Any, dtype: torch.dtype, train: TrainConfig, stage: int) -> Any:
    """The model in a DeepSpeed engine."""
    import deepspeed

    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # what is prepared and what is learned must see the same model
    if train.gradient_checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = _adamw(module, train.weight_decay)
    if not stage:
        zero.clip_before_steps(optimizer, train.gradient_clip)
    config = zero.zero_config(train, dist.get_world_size(), dtype)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    zero.average_nothing(engine)
    return engine


def _adamw(module: nn.Module, decay: float) -> torch.optim.Optimizer:
    """AdamW for what learns, that decays matrices alone; `Learning` sets the learning rate of each step."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in (parameter for parameter in module.parameters() if parameter.requires_grad):
        (matrices if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, fused=True)


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """DeepSpeed's hooks, which gather weights before a part of the model and let go of them behind it, stand aside."""
    kept: list[tuple[Any, Any]] = []
    for part in module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            kept.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, held in kept:
            hooks.update(held)
