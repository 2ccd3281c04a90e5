"""Settings: frozen blocks, one for each part of the architecture, resolved once and never edited.

The sentence under each field is its help text (`ragdist settings`, `docs/settings.md`); `config/loader.py` reads files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from typing import Any, Self

from pydantic import Field, model_validator

from ragdist.config.block import SettingsBlock
from ragdist.config.data import (
    AnswerStyle,
    ChunksConfig,
    ColumnsConfig,
    ContextsConfig,
    CorpusConfig,
    ModelConfig,
    PartsConfig,
    PromptsConfig,
    QuestionsConfig,
    RetrievalConfig,
    RunConfig,
    TeacherConfig,
)
from ragdist.config.duet import Arbiter, DuetConfig
from ragdist.config.engines import Engine, EnginesConfig
from ragdist.config.kube import KubeConfig
from ragdist.config.serve import ServeConfig
from ragdist.config.sweep import SweepConfig
from ragdist.config.training import (
    AnswerersConfig,
    AtmConfig,
    ClusterConfig,
    Condition,
    EvaluationConfig,
    GridConfig,
    GroupConfig,
    LoraConfig,
    MixConfig,
    ReplayConfig,
    SideConfig,
    TrainConfig,
    WritersConfig,
)

PLAIN_TOKENS, LONGER_TOKENS = 32, {"reasoned": 256, "sentence": 96, "cited": 48}
"""Longest answer where `evaluation.max_new_tokens` says nothing."""
DUET_ROLES = ("reciter", "discoverer", "scorer", "summarizer")
"""Those of `duet` that are tuned."""


def uneven(prefix: str, train: TrainConfig, owner: str, workers: int) -> str:
    """Why a step of `train`, the settings at `prefix`, cannot be divided evenly by the workers of the block `owner`;
    empty where it can."""
    if train.tokens_per_pass or not train.examples_per_step % (train.microbatch * workers):
        return ""
    return (
        f"{prefix}.examples_per_step={train.examples_per_step} must be a multiple of "
        f"{prefix}.microbatch * {owner}.workers = {train.microbatch} * {workers}; change one of the three, or set "
        f"{prefix}.tokens_per_pass"
    )


class Settings(SettingsBlock):
    """All settings of a job."""

    seed: int = Field(0, ge=0)
    """Seed of every draw; each is derived from it, the stage and the record."""
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    chunks: ChunksConfig = ChunksConfig()
    teacher: TeacherConfig = TeacherConfig()
    questions: QuestionsConfig = QuestionsConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    contexts: ContextsConfig = ContextsConfig()
    prompts: PromptsConfig = PromptsConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    duet: DuetConfig = DuetConfig()
    atm: AtmConfig = AtmConfig()
    attacker: SideConfig = SideConfig(train=TrainConfig(learning_rate=8e-7, weight_decay=1e-4))
    generator: SideConfig = SideConfig(train=TrainConfig(learning_rate=5e-6, weight_decay=1e-4))
    engines: EnginesConfig = EnginesConfig()
    sweep: SweepConfig = SweepConfig()
    kube: KubeConfig = KubeConfig()
    serve: ServeConfig = ServeConfig()
    parts: PartsConfig = PartsConfig()

    def replaced(self, key: str | Mapping[str, Any], value: Any = None) -> Self:
        """The same with other values, checked as `ragdist.load` checks them.

        Example: `settings.replaced("train.epochs", 2)`, `settings.replaced({"train.epochs": 2, "seed": 1})`

        Args:
            key: of one setting; or several with their values, by dotted keys or nested.
            value: of the one.

        Raises:
            ConfigError: a key is unknown, a value is out of range, or not allowed beside the others.
        """
        from ragdist.config import loader  # it reads files into Settings

        return loader.changed(self, key if isinstance(key, Mapping) else {key: value})

    def _repr_html_(self) -> str:
        """What a notebook shows: what differs from the defaults, then all, folded."""
        from ragdist.config import html, loader

        every, defaults = loader.flatten(self), loader.flatten(Settings())
        rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in every.items()]
        other = [(key, text) for key, text in rows if every[key] != defaults[key]]
        return html.table(("setting", "value"), other) + html.folded("all settings", html.table(("", ""), rows))

    def unchecked(self, key: str, value: Any) -> Self:
        """The same with another value of one dotted key, which is not checked: for places that know what they do."""
        return super().replaced(key, value)

    @property
    def answer_tokens(self) -> int:
        """Tokens that a model may answer with: `evaluation.max_new_tokens`, or what `prompts.answer` needs."""
        most = LONGER_TOKENS.get(self.prompts.answer, PLAIN_TOKENS)
        return self.evaluation.max_new_tokens or max(PLAIN_TOKENS, min(most, self.model.max_tokens // 2))

    @property
    def training(self) -> dict[str, TrainConfig]:
        """Every block that says how a model learns, by its key."""
        sides = {"attacker.train": self.attacker.train, "generator.train": self.generator.train}
        return {"train": self.train, **sides, **{f"duet.{role}": getattr(self.duet, role) for role in DUET_ROLES}}

    @model_validator(mode="after")
    def _what_is_offloaded_is_sharded(self) -> Settings:
        for block, train in self.training.items():
            needed = {"none": 0, "optimizer": 1, "all": 3}[train.offload]
            if train.zero_stage < needed:
                raise ValueError(
                    f"{block}.offload={train.offload} needs {block}.zero_stage={needed} or more, got "
                    f"{train.zero_stage}; change one of the two"
                )
        return self

    @model_validator(mode="after")
    def _sides_see_one_model(self) -> Settings:
        for key in ("attacker.train", "generator.train"):
            lora = self.training[key].lora
            if lora.rank and lora.dropout:
                raise ValueError(
                    f"{key}.lora.dropout={lora.dropout:g}: ATM compares (DPO with its reference, MITO's lists); all "
                    f"must see the same model; set {key}.lora.dropout=0"
                )
        return self

    @model_validator(mode="after")
    def _a_shared_base_is_held_one_way(self) -> Settings:
        if self.atm.layout == "separate":
            return self
        for key in ("attacker.train", "generator.train"):
            if not self.training[key].lora.rank:
                raise ValueError(
                    f"atm.layout=shared_base shares a base between adapters, and {key}.lora.rank=0 tunes all weights; "
                    f"set {key}.lora.rank=16, or atm.layout=separate"
                )
        for name in ("zero_stage", "offload"):
            first, second = (getattr(self.training[f"{side}.train"], name) for side in ("attacker", "generator"))
            if first != second:
                raise ValueError(
                    f"atm.layout=shared_base holds one base in one way, got attacker.train.{name}={first} and "
                    f"generator.train.{name}={second}; set both alike, or atm.layout=separate"
                )
        for name, field in GroupConfig.model_fields.items():
            first, second = getattr(self.attacker, name), getattr(self.generator, name)
            if second not in (first, field.get_default(call_default_factory=True)):
                raise ValueError(
                    f"atm.layout=shared_base has one worker group, the attacker's, got attacker.{name}={first} and "
                    f"generator.{name}={second}; leave generator.{name} out, or set atm.layout=separate"
                )
        for block, writers in self.writers.items():
            raise ValueError(
                f"atm.layout=shared_base writes where it learns, got {block}.workers={writers.workers}; "
                f"set {block}.workers=0, or atm.layout=separate"
            )
        return self

    @model_validator(mode="after")
    def _one_engine_has_its_cards(self) -> Settings:
        cards = self.engines.tensor_parallel
        sides = {f"{side}.writers": self.group(side) for side in ("attacker", "generator")}
        for block, side in sides.items() if cards > 1 else ():
            if side.engine == "vllm" and not (side.writers.workers and side.writers.gpus_per_worker == cards):
                raise ValueError(
                    f"engines.tensor_parallel={cards} splits a model over as many cards of one rank, got "
                    f"{block}.workers={side.writers.workers} and {block}.gpus_per_worker="
                    f"{side.writers.gpus_per_worker:g}; set both, the second to {cards}, or engines.tensor_parallel=1"
                )
        for block in ("evaluation", "teacher"):
            if cards > 1 and self.group(block).engine == "vllm":
                raise ValueError(
                    f"engines.tensor_parallel={cards} with {block}.engine=vllm: the model that is asked is also read, "
                    f"on one card; set {block}.engine=paged, or engines.tensor_parallel=1"
                )
        return self

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Blocks of the worker groups; those that stand together hold their places at the same time."""
        sides = ("attacker", "generator", *self.writers) if self.atm.layout == "separate" else ("attacker",)
        return (("cluster",), sides, ("evaluation.answerers",))

    def group(self, block: str) -> Any:
        """The block of this dotted name, such as `evaluation.answerers`."""
        return reduce(getattr, block.split("."), self)

    @property
    def writers(self) -> dict[str, WritersConfig]:
        """The ranks of ATM that only write, by the name of their block; empty where those that learn write too."""
        both = {f"{side}.writers": self.group(side).writers for side in ("attacker", "generator")}
        return {block: writers for block, writers in both.items() if writers.workers}

    def answerers(self, gpu_here: bool) -> AnswerersConfig:
        """`evaluation.answerers`; where a GPU cluster's driver has no GPU, one in the place of each training worker."""
        asked, cluster = self.evaluation.answerers, self.cluster
        if asked.workers or gpu_here or not cluster.gpus_per_worker:
            return asked
        found = asked.replaced("workers", cluster.workers)
        found = found.replaced("cpus_per_worker", asked.cpus_per_worker or cluster.cpus_per_worker)
        return found.replaced("gpus_per_worker", asked.gpus_per_worker or cluster.gpus_per_worker)

    @model_validator(mode="after")
    def _steps_divide(self) -> Settings:
        held = "generator" if self.atm.layout == "separate" else "attacker"
        for prefix, owner in (("train", "cluster"), ("attacker.train", "attacker"), ("generator.train", held)):
            if why := uneven(prefix, self.training[prefix], owner, self.group(owner).workers):
                raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _every_worker_has_its_card(self) -> Settings:
        cluster = self.cluster
        if cluster.workers > 1 and 0 < cluster.gpus_per_worker < 1:
            raise ValueError(
                f"cluster.gpus_per_worker={cluster.gpus_per_worker:g} with cluster.workers={cluster.workers}: NCCL "
                "lets no two workers of a job share a card; set cluster.gpus_per_worker=1, or cluster.workers=1"
            )
        return self

    @model_validator(mode="after")
    def _teacher_has_documents(self) -> Settings:
        if self.teacher.questions_per_chunk and self.corpus.source != "folder":
            raise ValueError(
                f"teacher.questions_per_chunk={self.teacher.questions_per_chunk} asks about a folder of documents, but "
                f"corpus.source={self.corpus.source} brings its own questions; set corpus.source=folder"
            )
        return self

    @model_validator(mode="after")
    def _samples_can_pair(self) -> Settings:
        if self.atm.variant == "released_code" and self.atm.samples <= self.contexts.documents:
            raise ValueError(
                f"atm.variant=released_code shows each of atm.samples={self.atm.samples} forgeries another document "
                f"and compares within one: contexts.documents={self.contexts.documents} is too many; raise atm.samples"
            )
        return self
