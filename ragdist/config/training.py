"""Settings of training: SFT, ATM and its two sides, the cluster, and what is asked of a model before and after."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ragdist.config.block import SettingsBlock
from ragdist.config.engines import Engine
from ragdist.errors import ConfigError


class LoraConfig(SettingsBlock):
    """Low-rank adapters (peft)."""

    rank: int = Field(0, ge=0)
    """Rank of the adapters; 0 tunes all weights."""
    alpha: int = Field(32, ge=1)
    """Scale of the adapters: alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    targets: tuple[str, ...] = ("all-linear",)
    """Modules that get an adapter; all-linear is every linear layer but the output head."""
    merge: bool = True
    """Write the tuned model with adapters merged; otherwise the adapter alone."""


class TrainConfig(SettingsBlock):
    """Fine-tuning: TRL's SFTTrainer on DeepSpeed ZeRO."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows; each has its own seeded order."""
    examples_per_step: int = Field(16, ge=1)
    """Rows of one optimizer step, over all workers; the last step takes what is left over."""
    microbatch: int = Field(4, ge=1)
    """Rows of one forward pass on one worker."""
    tokens_per_pass: int = Field(0, ge=0)
    """Tokens of one forward pass on one worker, padding included, in place of `microbatch`: a step's rows are dealt to
    the worker that has the fewest tokens so far, for any number of workers; a longer row has a pass of its own. 0 cuts
    by `microbatch` and deals in turn."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Course of the learning rate after warm-up."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    gradient_clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO: what is sharded over workers. 1: optimizer; 2: and gradients; 3: and weights. One worker shards
    nothing, and runs at 0 or 1."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep optimizer state, or it and the weights (stage 3), in host memory."""
    lora: LoraConfig = LoraConfig()
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; a killed run loses at most so many."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""
    log_every: int = Field(1, ge=1)
    """Steps between lines in metrics.jsonl."""

    def rows_at_once(self, tokens: int) -> int:
        """Rows of so many tokens in one forward pass."""
        return max(1, self.tokens_per_pass // tokens) if self.tokens_per_pass else self.microbatch

    @property
    def cut_by(self) -> str:
        """The setting that says how many rows are computed at once."""
        return "tokens_per_pass" if self.tokens_per_pass else "microbatch"

    def steps(self, rows: int) -> int:
        """Optimizer steps over `rows` rows; what does not fill a last step makes a smaller one."""
        return -(-round(rows * self.epochs) // self.examples_per_step)

    def check_precision(self, width: int, block: str = "train") -> None:
        """Passes where weights of `width` bytes can take small updates. No validator: `model.dtype=auto` goes by the
        machine. A ConfigError that names `block`, the key of these settings, if nothing keeps fp32 master weights."""
        if width == 2 and not self.zero_stage:
            raise ConfigError(
                f"{block}.zero_stage=0 in bfloat16 has no fp32 master weights, and small updates vanish; "
                f"set {block}.zero_stage=1 or more, or model.dtype=float32"
            )

    def stage(self, workers: int, width: int) -> int:
        """The ZeRO stage that runs: `zero_stage`, or where one worker holds everything anyway, the lowest that computes
        the same.

        Stage 2 and 3 copy each microbatch's gradients into buffers that serve nobody but other workers; bfloat16
        (`width` of 2 bytes) needs stage 1 for its fp32 master weights.
        """
        if workers > 1 or self.offload != "none":
            return self.zero_stage
        return min(self.zero_stage, 1 if width == 2 else 0)


class GroupConfig(SettingsBlock):
    """Ranks in a placement group of their own."""

    workers: int = Field(1, ge=1)
    """Ranks: processes with one model replica or ZeRO shard each, in a placement group of their own."""
    cpus_per_worker: float = Field(0, ge=0)
    """CPU cores of a rank; 0 shares this machine's cores evenly between the ranks that are there at the same time (1 on
    a joined cluster)."""
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """GPUs of a rank; a fraction puts several ranks on one card, 0 works on CPU."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray node labels that the group's machines must carry (`ray start --labels`, KubeRay `labels`)."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources that each rank takes."""


class WritersConfig(GroupConfig):
    """Ranks that write for a side of ATM beside those that learn: each holds the whole model of the newest version."""

    workers: int = Field(0, ge=0)
    """Ranks that write; 0: those that learn write too. They take up each version from the folder where it is
    published."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs of a rank; a fraction puts several ranks on one card, 0 works on CPU."""


class SideConfig(GroupConfig):
    """One of ATM's two models: where it comes from, how it is trained, and the worker group that holds it."""

    source: str = ""
    """Hub id, folder, `.gguf` or `package:NAME`; empty is `model.source`. It is held as `model` says."""
    train: TrainConfig = TrainConfig()
    """How it learns in each round."""
    engine: Engine = "auto"
    """Who writes its texts: transformers, one batch after another; paged, transformers' continuous batching on the same
    weights; vllm, an engine beside it that takes them up; auto is transformers."""
    writers: WritersConfig = WritersConfig()
    """Who writes for it."""


class MixConfig(SettingsBlock):
    """What the generator is shown beside the clean list in each row that it learns from. The paper shows D and all
    forgeries, always, which teaches that every list is attacked (beyond the paper, arXiv 2310.01558)."""

    forgeries: Literal["all", "drawn"] = "all"
    """all: every list holds all forgeries of its question; drawn: k of n, k from 0 to n alike often."""
    clean: float = Field(0.0, ge=0, le=1)
    """Share of rows whose second list is D alone, permuted."""
    absent: float = Field(0.0, ge=0, le=1)
    """Share of rows whose second list is D without its oracles."""
    oracle_alone: float = Field(0.0, ge=0, le=1)
    """Share of rows whose second list is the oracles alone."""
    curriculum: bool = False
    """With `forgeries: drawn`: round r of R draws from at most the first r / R of the forgeries (arXiv 2503.12759)."""

    @model_validator(mode="after")
    def _shares_fit(self) -> MixConfig:
        if (total := self.clean + self.absent + self.oracle_alone) > 1:
            raise ValueError(f"atm.mix: clean + absent + oracle_alone = {total:g}, wanted 1 at most; lower one of them")
        return self


class ReplayConfig(SettingsBlock):
    """Attacks that the generator learns from beside the newest attacker's forgeries (beyond the paper)."""

    attacks: tuple[str, ...] = ()
    """earlier: what attackers wrote in this round and those before it, before they learned; template: the template
    attack; swap: golden documents that each say another wrong answer; injection: a listed document with an instruction
    to give the wrong answer; or an attack of a package that is meant for training (docs/attacks.md). Those held out
    for judging are refused. The report's template attack is no attack unseen where template is among them."""
    share: float = Field(0.5, ge=0, le=1)
    """Share of the attacked lists that hold a replayed attack in place of the newest forgeries."""
    choice: Literal["drawn", "hardest"] = "drawn"
    """drawn: one of `attacks`, all alike often; hardest: of the newest forgeries and all `attacks`, that under which
    the right answer has the largest loss before the generator learns (arXiv 2405.20978); `share` is not read then."""


class AtmConfig(SettingsBlock):
    """Alternating rounds of attacker and generator (ATM, arXiv 2405.18111)."""

    rounds: int = Field(2, ge=1)
    """Rounds: each lets the attacker learn, then the generator."""
    samples: int = Field(5, ge=2)
    """Forgeries for each question; DPO needs a best and a worst."""
    temperature: float = Field(0.8, gt=0)
    """Sampling temperature of the attacker."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Share of the probability that the attacker samples from."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest forgery, in tokens."""
    forging: Literal["auto", "passages", "apidocs"] = "auto"
    """Wording of the forging prompt: open-domain passages or API documentation; auto goes by `corpus.source`."""
    lists: Literal["assembled", "retrieved"] = "assembled"
    """assembled: a question's list D as `contexts` has it, `oracle_fraction` of the training lists with their oracles;
    retrieved: as in the paper, the best `contexts.documents` by `retrieval.kind`, with the answer or without."""
    forging_answer: Literal["told", "free"] = "told"
    """told: the attacker is given a wrong answer to argue for; free: only the right one, as in the paper, for models
    that can invent."""
    forging_opening: Literal["listed", "own"] = "listed"
    """listed: a forgery begins as a document of the question's list, drawn by seed, so that nothing but its claim tells
    it from a retrieved one; own: the attacker writes all of it, title too, as in the paper."""
    prefer: Literal["highest", "lowest"] = "highest"
    """Which forgery DPO prefers, by the generator's perplexity of the right answer; `lowest` is for experiments."""
    dpo_beta: float = Field(0.2, gt=0)
    """DPO's beta: how hard the attacker is held to the one it was at the start of the round."""
    kl_weight: float = Field(0.2, ge=0)
    """Weight of the attack shift beside the answer loss (the paper's alpha)."""
    kl_direction: Literal["clean_to_attacked", "attacked_to_clean"] = "clean_to_attacked"
    """KL(clean || attacked), or the other way round."""
    detach_clean: bool = False
    """Take the clean side as a fixed target; by default gradients flow through both sides."""
    reduction: Literal["mean", "sum"] = "mean"
    """MITO's terms per answer token, or summed over each row's answer tokens."""
    clean_weight: float = Field(0.0, ge=0)
    """Weight of the answer loss on the clean list, beside that on the attacked one; 0 is the paper's MITO
    (beyond the paper, arXiv 2606.11627)."""
    preference_weight: float = Field(0.0, ge=0)
    """Weight of DPO, with `dpo_beta`, between the right and the forged answer after the attacked list (beyond the
    paper, arXiv 2501.13726)."""
    mix: MixConfig = MixConfig()
    replay: ReplayConfig = ReplayConfig()
    variant: Literal["paper", "released_code"] = "paper"
    """released_code: sample j is shown document j (counted round, so take more samples than documents) and compared
    within one prompt only, the answer loss is on the clean list, the KL runs from attacked to clean."""
    first_tuning: bool = False
    """Tune the generator on answers before the first round: `closed_book_share` of the rows without documents."""
    closed_book_share: float = Field(0.3, ge=0, le=1)
    """Share of the first tuning's rows that show no document."""
    attacker_warmup: Literal["none", "swap"] = "none"
    """swap: teach the attacker first on golden documents with the answer swapped; beyond the paper, for small
    models."""
    layout: Literal["separate", "shared_base"] = "separate"
    """separate: each side is a worker group of its own; shared_base: both are adapters (`lora.rank`) of one base, held
    once by each rank of the `attacker` group, which forges and grades in turn."""
    questions_per_microbatch: int = Field(8, ge=1)
    """Questions that a rank forges, grades or answers at once; what a killed rank loses."""


class ClusterConfig(SettingsBlock):
    """Which machines do the work."""

    address: str = ""
    """Ray cluster to join (`auto`, `host:6379`); empty starts a small one in this machine and ends it with the run."""
    workers: int = Field(1, ge=1)
    """Training processes, one model replica or ZeRO shard each."""
    cpus_per_worker: float = Field(0, ge=0)
    """CPU cores of a worker; 0 shares this machine's cores evenly between the workers (1 on a joined cluster)."""
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """GPUs of a worker; 0 trains on CPU, a fraction (of one worker) leaves room on the card for other jobs."""
    max_failures: int = Field(3, ge=0)
    """Times that each group of workers (of a training job, a side of ATM, the answerers) may lose one and resume with a
    new one, from the newest checkpoint, before the run counts as failed."""
    in_flight: int = Field(2, ge=1)
    """Microbatches under way for each rank of ATM's sides; bounds memory."""
    deadline_s: float = Field(1800, gt=0)
    """Longest wait, in seconds, for one microbatch or batch of answers, or one optimizer step of a side; where learning
    begins every microbatch is read once, and it has as many times that."""
    start_timeout_s: float = Field(600, gt=0)
    """Longest wait, in seconds, for workers to start, and with `run.mapper=ray` for one batch of records."""
    network_interface: str = ""
    """Network interface of gloo and NCCL, for hosts whose own name resolves to 127.0.0.1."""


Condition = Literal["closed_book", "oracle", "permuted", "absent", "retrieved", "attacked"]


class AnswerersConfig(GroupConfig):
    """Ranks that answer questions: each holds the whole model and takes one batch after another."""

    workers: int = Field(0, ge=0)
    """Ranks, each with the whole model; 0 asks it in the driver's own process. Where `cluster.gpus_per_worker` asks for
    GPUs and the driver has none, 0 puts a rank in the place of each training worker, which is free while nobody
    trains."""


Position = Literal["drawn", "first", "last"]


class GridConfig(SettingsBlock):
    """Lists of many kinds, each before every test question: how many documents, how many of them forged, and where."""

    attack: str = ""
    """Who forges, as in `evaluation.attacks`; empty: there is no grid. `ragdist evaluate --grid` takes template."""
    documents: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Documents of a list, forged ones included; empty: 1, 2, 3, 5, 8, ... up to `contexts.documents`, and that."""
    forged: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.0, 0.2, 0.4, 0.6, 0.8), min_length=1)
    """Shares of forged documents, which take the places of distractors; a list that cannot come within 0.1 of a share
    is left out."""
    positions: tuple[Position, ...] = Field(("drawn", "first", "last"), min_length=1)
    """Where forged documents stand in lists of `contexts.documents`: anywhere, before all others, behind them."""
    absent: bool = True
    """Such lists without the oracle too."""


class EvaluationConfig(SettingsBlock):
    """What is asked of a model before and after."""

    conditions: tuple[Condition, ...] = ("closed_book", "oracle", "absent", "retrieved", "permuted", "attacked")
    """No documents; oracle and distractors; distractors only; the best by `retrieval.kind`; the oracle list permuted;
    that list plus forgeries that agree on one wrong answer. `attacked` brings `permuted`, which attack success is
    measured against."""
    oracle_share: float | None = Field(None, ge=0, le=1)
    """Also report the list that retrieval would show if it found the oracle for this share of questions: each question
    counts so much with its oracle and the rest without (`mixed`). Nothing more is asked. RAFT's best P% can lie inside
    only where oracles are missing now and then (arXiv 2403.10131, section 5)."""
    forgeries: int = Field(3, ge=1, le=1000)
    """Forged documents of the attacked condition."""
    attacks: tuple[str, ...] = ()
    """Attacks by name, each a condition of its own: the list of `permuted` with that attack's forgeries among it.
    docs/attacks.md lists them; `all` is all, `held-out` those that no model may learn from, `atm:runs/NAME` the
    attackers of a game of ATM."""
    defences: tuple[str, ...] = ()
    """Defences by name: each model is also asked under each of them (`base + isolation`), in all conditions with
    documents. docs/attacks.md lists them; `all` is all."""
    before: bool = True
    """Evaluate the untuned model too."""
    max_new_tokens: int = Field(0, ge=0)
    """Longest answer, in tokens; 0 goes by `prompts.answer`: 32 for plain answers, 48 for cited ones, 96 for a
    sentence, 256 for reasoned ones, or half of `model.max_tokens` where that is less."""
    tokens_per_batch: int = Field(8192, ge=64)
    """Padded prompt tokens of one forward pass when writing or reading; a card of 80 GB has room for some 32768."""
    normalise: Literal["squad", "unicode"] = "squad"
    """Before answers are compared: squad drops ASCII punctuation and English articles; unicode all punctuation and the
    forms and widths of letters, with scripts without spaces and Korean compared by character, and keeps articles."""
    perplexity: bool = False
    """Also read the right answer's perplexity in every condition."""
    resamples: int = Field(10000, ge=100, le=1_000_000)
    """Bootstrap resamples behind each 95% interval."""
    grid: GridConfig = GridConfig()
    answerers: AnswerersConfig = AnswerersConfig()
    engine: Engine = "auto"
    """Who writes answers and summaries; as `attacker.engine`. ATM's rounds go by `generator.engine`."""

    @model_validator(mode="after")
    def _a_mix_has_both_sides(self) -> Self:
        if self.oracle_share is not None and not {"oracle", "absent"} <= {*self.conditions}:
            raise ValueError(
                f"evaluation.oracle_share={self.oracle_share:g} mixes the conditions oracle and absent, "
                f"evaluation.conditions has {', '.join(self.conditions)}; add both there, or leave oracle_share out"
            )
        return self

    @model_validator(mode="after")
    def _attacks_have_their_control(self) -> Self:
        if self.attacks and "permuted" not in self.conditions:
            raise ValueError(
                f"evaluation.attacks={', '.join(self.attacks)} is measured against the list without forgeries, and "
                "evaluation.conditions has no permuted; add it there"
            )
        return self

    @field_validator("conditions")
    @classmethod
    def _attack_has_its_control(cls, conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        if "attacked" not in conditions or "permuted" in conditions:
            return conditions
        at = conditions.index("attacked")
        return (*conditions[:at], "permuted", *conditions[at:])
