"""The data pipeline from documents to training rows: every stage in order, each made once and found again.

    corpus -> chunks -> questions -> candidates -> contexts -> examples
                  |           ^ `-> forgeries (for the attacked condition)
                  `-> asked -> taught (what a teacher writes about the chunks)

Each stage is named by what made it (`storage.stages.Stage`), so a change of `contexts.oracle_fraction` makes contexts
and examples again, from those of other P where they are the same, and leaves the rest alone: P% is a view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ragdist.config import ColumnsConfig, ContextsConfig, CorpusConfig, PromptsConfig, Settings, TeacherConfig
from ragdist.data import chunks, contexts, distractors, examples, matching, questions, template_attack
from ragdist.data.attacks import Attack
from ragdist.data.attacks.forging import Tally, forge_all
from ragdist.data.attacks.own import OwnAttack
from ragdist.data.attacks.plugin import aim
from ragdist.data.attacks.taught import replied
from ragdist.data.examples import Sibling
from ragdist.data.retrieval import hybrid
from ragdist.data.retrieval.kept import KeptRetriever
from ragdist.data.retrieval.own import OwnRetriever
from ragdist.data.sources import apidocs, benchmarks, check, corpus, hub, naming, places
from ragdist.data.sources.benchmarks import SourceRow
from ragdist.data.sources.files import Broken
from ragdist.data.sources.public_rows import PublicRow
from ragdist.data.teaching.stages import TeacherStages
from ragdist.draws import draws
from ragdist.errors import ConfigError, DataError
from ragdist.parts import Parts
from ragdist.records import Candidates, Chunk, Context, Document, Example, Forgery, Question
from ragdist.roles import Embedder, Mapper, Retriever, Teacher, Tokenizer
from ragdist.storage.stages import Counted, CountedRows, Rows, Stage, Store
from ragdist.tracking.progress import progress, say
from ragdist.tracking.run import span

STAGES = ("chunks", "asked", "taught", "selected", "questions", "forgeries", "candidates", "contexts", "examples")
# Fields of settings blocks by which output is found again; tests/data/test_reuse.py lists those that change nothing.
DOCUMENTS = {"broken", "near_duplicates", "similarity"}
QUESTION_FILES = {"columns", "datasets", "truths", "broken"}
SHOWABLE = {"documents", "too_many_oracles"}
CANDIDATES = {"documents", "distractors", "hard_share", "filter_answers", "too_few"}
CONTEXTS = {"oracle_fraction", "draw", "documents", "too_few"}
QUOTES = {"answer", "invalid_quotes"}
SPARE = 4
"""Other documents that are drawn for each one that an attack may write: some are drawn twice, or hold the answer."""
LEFT_OUT = (
    *("duplicates", "train_in_test", "too_many_oracles", "without_oracle_dropped", "train_over_cap"),
    *("invalid_quotes_dropped", "cut_answers_dropped"),
)
"""Counts of the stages that say how many questions make no training row."""


def stages_until(until: str, config: TeacherConfig) -> list[str]:
    """The stages that a teacher with these settings leaves to make, up to one. A ConfigError if it is none of them."""
    unused = {"asked", "taught"} if not config.questions_per_chunk else set()
    unused |= {"selected"} if not config.reasoning else set()
    stages = [name for name in STAGES if name not in unused]
    if until not in stages:
        raise ConfigError(f"no stage {until!r}; with these settings the stages are {', '.join(stages)}")
    return stages[: stages.index(until) + 1]


@dataclass(eq=False)
class Pipeline:
    """The stages of one settings file. Asking for one makes those before it; a finished one is only opened."""

    settings: Settings
    store: Store
    tokenizer: Tokenizer
    mapper: Mapper
    teacher: Teacher | None = None
    embedder: Embedder | None = None
    parts: Parts = field(default_factory=Parts)

    def __post_init__(self) -> None:
        self.parts.refuse_missing(self.settings.parts)

    def make(self, until: str) -> list[tuple[str, Rows[Any]]]:
        """The stages up to and with `until`, in order; afterwards a teacher's model is out of memory. A ConfigError if
        there is no stage of that name."""
        made = [(name, getattr(self, name)) for name in stages_until(until, self.settings.teacher)]
        if self.teacher:
            self.teacher.close()
        return made

    @cached_property
    def documents(self) -> Rows[Document]:
        """The user's own documents (`corpus.source=folder`)."""
        config, found = self.settings.corpus, corpus.found(self.settings.corpus)
        settings = config.model_dump(include=DOCUMENTS)
        settings |= {"kinds": kinds} if (kinds := corpus.later(found)) else {}
        stage = Stage("documents", {"files": places.digest(found)}, settings, version=corpus.VERSION)

        def produce() -> Counted[Document]:
            read = CountedRows(corpus.read(found, config, self.mapper))
            yield from progress(read, "documents")
            counts = read.counts
            if guesses := counts["guesses"]:
                say(f"read by a guess or with gaps, all on the stage's card: {len(guesses)} files ({guesses[0]})")
            corpus.tell_others(counts["other_files"])
            if copies := counts["copies_named"]:
                say(f"left out as copies: {counts['copies']} documents ({copies[0]})")
            if near := counts.get("near_duplicates"):
                done = "left out" if config.near_duplicates == "drop" else "kept, as corpus.near_duplicates is not drop"
                say(f"{near} documents nearly repeat an earlier one and are {done}")
            return counts

        return self.store.make(stage, Document, produce)

    @cached_property
    def chunks(self) -> Rows[Chunk]:
        """All chunks, each text once."""
        config = self.settings.chunks
        if self.settings.corpus.source == "folder":
            settings = {**config.model_dump(), "codec": self.tokenizer.fingerprint}
            stage = Stage("chunks", {"documents": self.documents.fingerprint}, settings)
            cut = self.mapper.map(chunks.cut, self.documents, self.tokenizer, config)
            return self.store.make(stage, Chunk, lambda: _once(piece for pieces in cut for piece in pieces))
        return self.store.make(self._source_stage("chunks"), Chunk, self._source_chunks)

    @cached_property
    def asked(self) -> Rows[Question]:
        """A teacher's questions about the chunks, not yet answered."""
        if self.settings.corpus.questions:
            list(self._of_folder([]))  # names of documents that are not there are told before anybody is asked
        fraction = self.settings.questions.test_fraction
        return self._teacher_stages.asked(self.chunks, fraction, self.settings.seed)

    @cached_property
    def taught(self) -> Rows[Question]:
        """A teacher's questions with reasoned answers that hold (`teacher.questions_per_chunk`)."""
        own = [question for question, _, _ in self._rows()] if self.settings.corpus.questions else []
        made_by = {"own": self._source_stage("source").fingerprint, "chunks": self.chunks.fingerprint}
        made_by |= self.ranked_by
        return self._teacher_stages.taught(self.asked, own, self.chunk_by_id, self.retriever, made_by)

    @cached_property
    def questions(self) -> Rows[Question]:
        """Training and test questions; where `teacher.reasoning` says so, with the teacher's."""
        found = self.selected
        return self._teacher_stages.reasoned(found, self.chunk_by_id) if self.settings.teacher.reasoning else found

    @cached_property
    def selected(self) -> Rows[Question]:
        """Training and test questions, capped, without leakage."""
        shown = self.settings.contexts
        settings = {"seed": self.settings.seed, **self.settings.questions.model_dump()}
        settings |= shown.model_dump(include=SHOWABLE)
        inputs = {"source": self._source_stage("source").fingerprint}
        if self.settings.corpus.source == "folder":
            inputs["chunks"] = self.chunks.fingerprint
            settings |= self.ranked_by
        if self.settings.teacher.questions_per_chunk:
            inputs["taught"] = self.taught.fingerprint
        stage = Stage("questions", inputs, settings, version=matching.VERSION)

        def produce() -> Counted[Question]:
            broken: list[str] = []
            found = CountedRows(contexts.showable(self._all_questions(broken), shown))
            judging = hub.judges(self.settings.corpus)
            selected, counts = questions.select(found, self.settings.questions, self.settings.seed, judging=judging)
            yield from selected
            return {**found.counts, **counts, "broken": broken}

        return self.store.make(stage, Question, produce)

    @cached_property
    def forgeries(self) -> Rows[Forgery]:
        """Forged documents for the test questions: the user's attack, else the data's own, else the template attack."""
        return self.forged("forgeries", [question for question in self.questions if question.split == "test"])

    def forged(self, name: str, questions: Sequence[Question], **made_by: Any) -> Rows[Forgery]:
        """Likewise for these questions, as a stage of that name; `made_by` are the settings that chose them."""
        count, seed = self.settings.evaluation.forgeries, self.settings.seed
        if self.parts.attack:
            own = OwnAttack(self.parts.attack, self.kept_by("attack")).attack
            return self._attacked(name, questions, own, count, attack=self.settings.parts.attack, **made_by)

        def produce() -> Counted[Forgery]:
            given = self._given_forgeries
            counts = Counter(given=0, given_truthful=0)
            for question, sources, others, pool in self._material(questions, count, [*self._chunks]):
                own = template_attack.checked(question, given.get(question.id, ()))
                counts["given"] += len(own)
                counts["given_truthful"] += sum(forgery.truthful for forgery in own)
                if not own:
                    own, missed = template_attack.forge(question, sources, pool, count=count, seed=seed, others=others)
                    counts.update(missed)
                yield from own
            return counts

        stage = Stage(name, self._forged_of, {"count": count, "seed": seed, **made_by}, version=2)
        return self.store.make(stage, Forgery, produce)

    def attacked(self, attack: Attack, questions: Sequence[Question], count: int) -> Rows[Forgery]:
        """Forged documents by an attack, at most `count` for each of these questions."""
        return self._attacked(f"forgeries-{attack.name}", questions, attack, count, attack=attack.version)

    def _attacked(
        self, name: str, questions: Sequence[Question], by: Attack, count: int, **made_by: Any
    ) -> Rows[Forgery]:
        seed, config = self.settings.seed, self.settings.teacher
        teacher = self.teacher if by.asks and (config.url or config.model) else None
        made_by |= {"teacher": teacher.fingerprint} if teacher else {}

        def produce() -> Counted[Forgery]:
            tally = Tally()
            # In the order of ids, so that no other question's place in a file changes what is drawn.
            material = self._material(questions, SPARE * count, sorted(self._chunks))
            aims = (aim(*about, count=count, seed=seed) for about in material)
            yield from forge_all(by, replied(aims, by, teacher) if teacher else aims, tally)
            if teacher:
                teacher.close()
            return tally.counts

        stage = Stage(name, self._forged_of, {"count": count, "seed": seed, **made_by}, version=3)
        return self.store.make(stage, Forgery, produce)

    @property
    def _forged_of(self) -> dict[str, str]:
        return {"questions": self.questions.fingerprint, "chunks": self.chunks.fingerprint}

    def _material(
        self, questions: Iterable[Question], count: int, ids: Sequence[str]
    ) -> Iterator[tuple[Question, list[Chunk], list[Chunk], list[str]]]:
        """Each question with documents to falsify, documents about other things, and answers of other questions."""
        by_id = self._chunks
        pool = sorted({answer for question in self.questions for answer in question.answers[:1]})
        for question in questions:
            numbers = draws(self.settings.seed, "imitated", question.id, 1 + count) if ids else ()
            drawn = [ids[at % len(ids)] for at in numbers]
            others = [by_id[i] for i in (*question.near_miss_ids[:count], *drawn[1:])]
            sources = [by_id[i] for i in question.oracle_ids or question.near_miss_ids[:1] or drawn[:1]]
            yield question, sources, others, pool

    @cached_property
    def candidates(self) -> Rows[Candidates]:
        """Distractors for every question, the same for every oracle fraction."""
        config = self.settings.contexts
        settings = {"seed": self.settings.seed, **config.model_dump(include=CANDIDATES)}
        ranked = distractors.hard_count(config) > 0
        if ranked:
            settings |= self.found_by
        inputs = {"questions": self.questions.fingerprint, "chunks": self.chunks.fingerprint}
        if judge := self.settings.teacher.judge:
            settings |= self._teacher_stages.judged_by

        def produce() -> Counted[Candidates]:
            chunks, retriever = self.chunk_by_id, self.finder if ranked else None
            seed = self.settings.seed
            find = partial(distractors.candidates, chunks=chunks, retriever=retriever, config=config, seed=seed)
            asked: Iterable[Question] = progress(self.questions, "distractors")
            if not judge:
                return (yield from find(asked))
            rejected = self._teacher_stages.rejected(asked, chunks, lambda some, bad: find(some, rejected=bad))
            counts = yield from find(self.questions, rejected=rejected)
            return {"rejected": sum(map(len, rejected.values())), **counts}

        return self.store.make(Stage("candidates", inputs, settings, version=matching.VERSION), Candidates, produce)

    @cached_property
    def contexts(self) -> Rows[Context]:
        """What each question that is trained on is shown with; a view on the candidates by `oracle_fraction`.

        Questions that make no row are left out first, so that P% is a share of the rows that are trained.
        """
        return self._contexts(self.settings.contexts, self._whole)

    @cached_property
    def examples(self) -> Rows[Example]:
        """Training rows: prompt and target in the tuned model's tokens."""
        return self._examples(self.contexts, self.settings.prompts, [self._whole] if self._whole else [])

    @cached_property
    def _whole(self) -> Sibling | None:
        """Every training question with its oracles, and its row, where `prompts.cut_answers` drops some.

        They tell which are dropped, the same for every P.
        """
        config, prompts = self.settings.contexts, self.settings.prompts
        if prompts.cut_answers == "keep":
            return None
        shown = self._contexts(config.replaced("oracle_fraction", 1.0).replaced("draw", "exact"), None)
        return shown, self._examples(shown, prompts.replaced("cut_answers", "keep"), [])

    def _contexts(self, config: ContextsConfig, whole: Sibling | None) -> Rows[Context]:
        prompts, seed = self.settings.prompts, self.settings.seed
        inputs = {"questions": self.questions.fingerprint, "candidates": self.candidates.fingerprint}
        settings = {"seed": seed, **config.model_dump(include=CONTEXTS)}
        if drops_quotes := prompts.answer == "reasoned" and prompts.invalid_quotes == "drop":
            settings |= prompts.model_dump(include=QUOTES)
        if whole:
            inputs["whole"] = whole[1].fingerprint

        def produce() -> Counted[Context]:
            quoting = self._invalid_quotes if drops_quotes else frozenset()
            cut = {row.id for row in whole[1] if row.cut_answer} if whole else set()
            counts = {"invalid_quotes_dropped": len(quoting), "cut_answers_dropped": len(cut), "with_oracle": 0}
            dropped = quoting | cut
            trained = [q.id for q in self.questions if q.split == "train" and q.id not in dropped]
            contexts.check_left(trained, counts)
            keep = contexts.keep_oracle(trained, config, seed)
            for question, found in zip(self.questions, self.candidates, strict=True):
                if question.split == "train" and question.id not in dropped:
                    context = contexts.assemble(question, found, keep(question.id), config, seed)
                    counts["with_oracle"] += bool(context.oracle_positions)
                    yield context
            return counts

        return self.store.make(Stage("contexts", inputs, settings, version=1 + matching.VERSION), Context, produce)

    def _examples(self, shown: Rows[Context], config: PromptsConfig, rendered: Sequence[Sibling]) -> Rows[Example]:
        """The rows of these contexts; those that are in `rendered` or in a stage of another P are taken from there."""
        limit = self.settings.model.max_tokens
        inputs = {"contexts": shown.fingerprint, "chunks": self.chunks.fingerprint}
        settings = {**config.named(), "max_tokens": limit, "codec": self.tokenizer.fingerprint}
        stage = Stage("examples", inputs, settings, version=matching.VERSION)

        def produce() -> Counted[Example]:
            kept = [*rendered, *examples.siblings(shown, stage, self.store)]
            counts = {"invalid_quotes": len(self._invalid_quotes), "cut_prompts": 0, "cut_answers": 0}
            rows = CountedRows(examples.render(self._shown(shown), kept, self.mapper, (self.tokenizer, config, limit)))
            for row in progress(rows, "training rows", total=len(shown)):
                counts["cut_prompts"] += row.cut_tokens > 0
                counts["cut_answers"] += row.cut_answer
                yield row
            return counts | rows.counts

        return self.store.make(stage, Example, produce)

    @property
    def dropped(self) -> dict[str, int]:
        """Questions that make no training row, or of which there is another, by why: as the stages counted them."""
        counted = self.questions.card["counts"] | self.contexts.card["counts"]
        near = ("near_duplicates",) if self.settings.questions.near_duplicates == "drop" else ()
        return {why: counted.get(why, 0) for why in (*LEFT_OUT, *near)}

    def refuse_no_step(self) -> None:
        """Lets pass where there is something to train on, a DataError where the rows and `train.epochs` give not one
        step."""
        for why in check.stepless(len(self.examples), self.settings.train):
            raise DataError(why)

    @property
    def shortages(self) -> list[str]:
        """What there is too little of to train or to judge."""
        tests = sum(question.split == "test" for question in self.questions)
        count = check.QuestionCount(len(self.examples), tests)
        return [*check.impossible(count, self.settings), *check.stepless(count.train, self.settings.train)]

    @property
    def without_oracle(self) -> Sequence[str]:
        """The first questions of which no document was found, as the stage of the questions noted them."""
        return list(self.selected.card["counts"].get("without_oracle_named", ()))

    @cached_property
    def _chunks(self) -> dict[str, Chunk]:
        """All chunks in memory, by id."""
        return {chunk.id: chunk for chunk in self.chunks}

    @property
    def chunk_by_id(self) -> dict[str, Chunk]:
        """The same, and those that a retriever of the user's own has brought so far."""
        return self._own_retriever.chunks if self._own_retriever else self._chunks

    @cached_property
    def _own_retriever(self) -> OwnRetriever | None:
        if not (part := self.parts.retriever):
            return None
        return OwnRetriever(part, self.kept_by("retriever", self.chunks.fingerprint), self._chunks)

    @cached_property
    def retriever(self) -> Retriever:
        """Who ranks all chunks, as `retrieval.kind` says; finds oracles, which no retriever of the user's own does."""
        config, made_by = self.settings.retrieval, self.chunks.fingerprint
        return hybrid.open_retriever(config, self._chunks, made_by, self.store, self.embedder)

    @property
    def finder(self) -> Retriever:
        """Who finds what is shown: the user's own retriever, else `retriever`."""
        return self._own_retriever or self.retriever

    @property
    def kept_hits(self) -> Retriever:
        """The same; what was searched once is found again, and no index is built before a search that is not kept."""
        if self._own_retriever:
            return self._own_retriever
        return KeptRetriever(self.store, self.chunks.fingerprint, self.ranked_by, lambda: self.retriever)

    @property
    def found_by(self) -> dict[str, Any]:
        """What the order of `finder` depends on, beside the chunks."""
        return {"retriever": self.settings.parts.retriever} if self.parts.retriever else self.ranked_by

    def kept_by(self, kind: str, *inputs: str) -> Path:
        """The file that keeps what this part of the user's own gave, for these inputs."""
        own = getattr(self.settings.parts, kind).rpartition("-")[2]
        return self.store.folder / f"{'-'.join(['own', kind, own, *inputs])}.jsonl"

    @cached_property
    def ranked_by(self) -> dict[str, Any]:
        """What the order of `retriever` depends on, beside the chunks."""
        return hybrid.ranked_by(self.settings.retrieval, self.embedder)

    @cached_property
    def _invalid_quotes(self) -> frozenset[str]:
        """The training questions whose target would quote what no oracle of theirs says."""
        config, by_id = self.settings.prompts, self.chunk_by_id
        train = (question for question in self.questions if question.split == "train")
        return frozenset(q.id for q in train if not examples.quotes_valid(q, by_id, config))

    def _shown(self, shown: Rows[Context]) -> Iterator[tuple[Context, tuple[Question, tuple[Chunk, ...]]]]:
        """Each context with its question and documents."""
        by_id = self.chunk_by_id
        by_question = {question.id: question for question in self.questions if question.split == "train"}
        for context in shown:
            yield context, (by_question[context.question_id], tuple(by_id[i] for i in context.chunk_ids))

    # Sources: what differs between API documentation, question files and a folder of documents.

    @cached_property
    def benchmark(self) -> Rows[PublicRow]:
        """A public benchmark's rows (`corpus.source=benchmark`) in the form of a question file."""
        config = self.settings.corpus
        stage = Stage("benchmark", hub.made_by(config), {"broken": config.broken})
        rows = self.store.make(stage, PublicRow, lambda: hub.read(config))
        counts = rows.card["counts"]
        say("{repository}, commit {commit}, licence: {licence}; cite {citation}".format(**counts))
        return rows

    @cached_property
    def _question_files(self) -> CorpusConfig:
        """`corpus`, with a benchmark's rows as its question file."""
        config = self.settings.corpus
        if config.source != "benchmark":
            return config
        return config.replaced("questions", (str(self.benchmark.path),)).replaced("columns", ColumnsConfig())

    def _source_stage(self, name: str) -> Stage:
        config = self._question_files
        fraction = {"test_fraction": self.settings.questions.test_fraction, "seed": self.settings.seed}
        if config.source == "apidocs":
            return Stage(name, apidocs.versions(config.packages), fraction, version=apidocs.VERSION)
        check.refuse_without_questions(config, self.settings.teacher)
        files = {"questions": places.digest(map(places.at, config.questions))}
        version = benchmarks.VERSION + matching.VERSION  # either rule, when it changes, makes other rows
        return Stage(name, files, config.model_dump(include=QUESTION_FILES) | fraction, version=version)

    @cached_property
    def _apidocs(self) -> tuple[list[Chunk], list[Question]]:
        config = self.settings
        with span("read API documentation"):
            return apidocs.read(config.corpus.packages, config.seed, config.questions.test_fraction)

    def _rows(self, broken: list[str] | None = None) -> Iterator[SourceRow]:
        settings, fraction = self.settings, self.settings.questions.test_fraction
        return benchmarks.read(self._question_files, test_fraction=fraction, seed=settings.seed, broken=broken)

    def _source_chunks(self) -> Counted[Chunk]:
        source = self.settings.corpus.source
        origin = self.benchmark.card["counts"] if source == "benchmark" else {}
        if source == "apidocs":
            yield from self._apidocs[0]
        else:
            yield from _once(chunk for _, pieces, _ in self._rows() for chunk in pieces)
        return {key: origin[key] for key in ("repository", "commit", "licence", "citation") if origin}

    def _all_questions(self, broken: list[str]) -> Iterator[Question]:
        if self.settings.corpus.source == "apidocs":
            yield from self._apidocs[1]
        elif self.settings.corpus.source in ("records", "benchmark"):
            yield from (question for question, _, _ in self._rows(broken))
        else:
            found = list(self._of_folder(broken)) if self.settings.corpus.questions else []
            hits = self.retriever.search([question.text for question in found], questions.LINK_DEPTH)
            for question, best in zip(found, hits, strict=True):
                yield questions.link(question, self.chunk_by_id, best)
            yield from self.taught if self.settings.teacher.questions_per_chunk else ()

    def _of_folder(self, broken: list[str]) -> Iterator[Question]:
        """The questions of the files, with the ids of the documents that they name."""
        config = self.settings.corpus
        found = [question for question, _, _ in self._rows(broken)]
        if not any(question.oracle_ids or question.near_miss_ids for question in found):
            return iter(found)
        copied, folder = self.documents.card["counts"]["copied"], places.name(config.folder)
        names = naming.of_documents(self.documents, copied, folder)
        there = (naming.Named(place.inside, place.inside) for place in places.files(config.folder))
        files = naming.Names(there, folder)
        return naming.resolved(found, names, files, Broken(config.broken, broken), config.folder)

    @cached_property
    def _teacher_stages(self) -> TeacherStages:
        if self.teacher is None:
            raise ConfigError(
                "settings of teacher ask for one, and the data pipeline was given none; pass Pipeline(teacher=...)"
            )
        return TeacherStages(self.settings.teacher, self.store, self.teacher)

    @cached_property
    def _given_forgeries(self) -> dict[str, list[Forgery]]:
        if not hub.brings_forged(self.settings.corpus):
            return {}
        return {question.id: forged for question, _, forged in self._rows() if forged}


def _once(pieces: Iterable[Chunk]) -> Iterator[Chunk]:
    seen: set[str] = set()
    for piece in pieces:
        if piece.id not in seen:
            seen.add(piece.id)
            yield piece
