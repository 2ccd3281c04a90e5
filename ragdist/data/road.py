"""The road from documents to training rows: every stage in order, each made once and found again.

    corpus -> chunks -> questions -> candidates -> contexts -> examples
                  |           ^ `-> forgeries (for the attacked condition)
                  `-> asked -> taught (what a teacher writes about the chunks)

Each stage is named by what made it (`store.Stage`), so a change of `contexts.oracle_fraction` makes contexts and
examples anew, from those of other P where they are the same, and leaves the rest alone: P% is a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

from ragdist import track
from ragdist.config import ColumnsConfig, CorpusConfig, Settings
from ragdist.data import (
    apidocs,
    benchmarks,
    chunks,
    contexts,
    corpus,
    examples,
    forgeries,
    hub,
    hybrid,
    lists,
    places,
    prompts,
    questions,
    retrieval,
)
from ragdist.data.lessons import Lessons
from ragdist.data.public import PublicRow
from ragdist.draws import draws
from ragdist.errors import ConfigError
from ragdist.records import Candidates, Chunk, Context, Document, Example, Forgery, OpenQuestion, Question, Split
from ragdist.roles import Codec, Embedder, Mapper, Retriever, Teacher
from ragdist.store import Rows, Stage, Store

STAGES = ("chunks", "asked", "taught", "selected", "questions", "forgeries", "candidates", "contexts", "examples")

WRONG_ANSWERS = 3
"""Wrong answers that ATM's forgeries argue for, one a round in turn."""


class Road:
    """The stages of one settings file. Asking for one makes those before it; a finished one is only opened."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        codec: Codec,
        mapper: Mapper,
        *,
        teacher: Teacher | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.settings, self.store, self.codec, self.mapper = settings, store, codec, mapper
        self.teacher, self.embedder = teacher, embedder

    def make(self, until: str) -> list[tuple[str, Rows[Any]]]:
        """The stages up to and with `until`, in order; afterwards a teacher's model is out of memory.

        Raises:
            ConfigError: there is no stage of that name.
        """
        config = self.settings.teacher
        unused = {"asked", "taught"} if not config.questions_per_chunk else set()
        unused |= {"selected"} if not config.reasoning else set()
        stages = [name for name in STAGES if name not in unused]
        if until not in stages:
            raise ConfigError(f"no stage {until!r}; with these settings the stages are {', '.join(stages)}")
        made = [(name, getattr(self, name)) for name in stages[: stages.index(until) + 1]]
        if self.teacher:
            self.teacher.close()
        return made

    @cached_property
    def documents(self) -> Rows[Document]:
        """The user's own documents (`corpus.source=folder`)."""
        config, found = self.settings.corpus, places.files(self.settings.corpus.folder)
        settings = config.model_dump(include={"broken", "near_duplicates", "similarity"})
        stage = Stage("documents", {"files": places.digest(found)}, settings, version=corpus.VERSION)

        def produce(counts: dict[str, Any]) -> Iterator[Document]:
            yield from track.progress(corpus.read(found, config, self.mapper, counts), "documents")
            if near := counts.get("near_duplicates"):
                done = "left out" if config.near_duplicates == "drop" else "kept, as corpus.near_duplicates is not drop"
                track.say(f"{near} documents nearly repeat an earlier one and are {done}")

        return self.store.make(stage, Document, produce)

    @cached_property
    def chunks(self) -> Rows[Chunk]:
        """All chunks, each text once."""
        config = self.settings.chunks
        if self.settings.corpus.source == "folder":
            settings = {**config.model_dump(), "codec": self.codec.fingerprint}
            stage = Stage("chunks", {"documents": self.documents.fingerprint}, settings)
            cut = self.mapper.map(chunks.cut, self.documents, self.codec, config)
            return self.store.make(stage, Chunk, lambda _: _once(piece for pieces in cut for piece in pieces))
        return self.store.make(self._source_stage("chunks"), Chunk, self._source_chunks)

    @cached_property
    def asked(self) -> Rows[Question]:
        """A teacher's questions about the chunks, not yet answered."""
        return self._lessons.asked(self.chunks)

    @cached_property
    def taught(self) -> Rows[Question]:
        """A teacher's questions with reasoned answers that hold (`teacher.questions_per_chunk`)."""
        own = [question for question, _, _ in self._rows()] if self.settings.corpus.questions else []
        made_by = {"own": self._source_stage("source").fingerprint, "chunks": self.chunks.fingerprint}
        searched = hybrid.ranked_by(self.settings.retrieval, self.embedder)
        return self._lessons.taught(self.asked, own, self.chunk_by_id, self.retriever, made_by | searched)

    @cached_property
    def questions(self) -> Rows[Question]:
        """Training and test questions; where `teacher.reasoning` says so, with the teacher's."""
        found = self.selected
        return self._lessons.reasoned(found, self.chunk_by_id) if self.settings.teacher.reasoning else found

    @cached_property
    def selected(self) -> Rows[Question]:
        """Training and test questions, capped, without leakage."""
        shown = self.settings.contexts
        settings = {"seed": self.settings.seed, **self.settings.questions.model_dump()}
        settings |= shown.model_dump(include={"documents", "too_many_oracles"})
        inputs = {"source": self._source_stage("source").fingerprint}
        if self.settings.corpus.source == "folder":
            inputs["chunks"] = self.chunks.fingerprint
            settings |= hybrid.ranked_by(self.settings.retrieval, self.embedder)
        if self.settings.teacher.questions_per_chunk:
            inputs["taught"] = self.taught.fingerprint
        stage = Stage("questions", inputs, settings)

        def produce(counts: dict[str, Any]) -> Iterable[Question]:
            broken: list[str] = []
            found = contexts.showable(self._all_questions(broken), shown, counts)
            selected = questions.select(found, self.settings.questions, self.settings.seed, counts)
            counts["broken"] = broken
            return selected

        return self.store.make(stage, Question, produce)

    @cached_property
    def forgeries(self) -> Rows[Forgery]:
        """Forged documents for the test questions: the data's own, else the template attack."""
        return self.forged("forgeries", [question for question in self.questions if question.split == "test"])

    def forged(self, name: str, questions: Sequence[Question], **made_by: Any) -> Rows[Forgery]:
        """Likewise for these questions, as a stage of that name; `made_by` are the settings that chose them."""
        count, seed = self.settings.evaluation.forgeries, self.settings.seed
        inputs = {"questions": self.questions.fingerprint, "chunks": self.chunks.fingerprint}

        def produce(counts: dict[str, Any]) -> Iterator[Forgery]:
            given = self._given_forgeries
            by_id, ids = self.chunk_by_id, [*self.chunk_by_id]
            pool = sorted({answer for question in self.questions for answer in question.answers[:1]})
            make = partial(forgeries.forge, pool=pool, count=count, seed=seed, counts=counts)
            counts |= {"given": 0, "given_truthful": 0}
            for question in questions:
                drawn = [ids[at % len(ids)] for at in draws(seed, "imitated", question.id, 1 + count)] if ids else []
                others = [by_id[i] for i in (*question.near_miss_ids[:count], *drawn[1:])]
                sources = [by_id[i] for i in question.oracle_ids or question.near_miss_ids[:1] or drawn[:1]]
                own = forgeries.checked(question, given.get(question.id, ()))
                counts["given"] += len(own)
                counts["given_truthful"] += sum(forgery.truthful for forgery in own)
                yield from own or make(question, sources, others=others)

        stage = Stage(name, inputs, {"count": count, "seed": seed, **made_by}, version=2)
        return self.store.make(stage, Forgery, produce)

    @cached_property
    def candidates(self) -> Rows[Candidates]:
        """Distractors for every question, the same for every oracle fraction."""
        config = self.settings.contexts
        used = config.model_dump(include={"documents", "distractors", "hard_share", "filter_answers", "too_few"})
        settings = {"seed": self.settings.seed, **used}
        ranked = retrieval.are_ranked(config)
        if ranked:
            settings |= hybrid.ranked_by(self.settings.retrieval, self.embedder)
        inputs = {"questions": self.questions.fingerprint, "chunks": self.chunks.fingerprint}
        if judge := self.settings.teacher.judge:
            settings |= self._lessons.judged_by

        def produce(counts: dict[str, Any]) -> Iterator[Candidates]:
            chunks, retriever = self.chunk_by_id, self.retriever if ranked else None
            seed = self.settings.seed
            find = partial(retrieval.candidates, chunks=chunks, retriever=retriever, config=config, seed=seed)
            asked: Iterable[Question] = track.progress(self.questions, "distractors")
            if not judge:
                return find(asked, counts=counts)
            rejected = self._lessons.rejected(asked, chunks, lambda some, bad: find(some, counts={}, rejected=bad))
            counts["rejected"] = sum(map(len, rejected.values()))
            return find(self.questions, counts=counts, rejected=rejected)

        return self.store.make(Stage("candidates", inputs, settings), Candidates, produce)

    @cached_property
    def contexts(self) -> Rows[Context]:
        """What each training question is shown with; a view on the candidates by `oracle_fraction`."""
        config, seed = self.settings.contexts, self.settings.seed
        inputs = {"questions": self.questions.fingerprint, "candidates": self.candidates.fingerprint}
        settings = {"seed": seed, **config.model_dump(include={"oracle_fraction", "draw", "documents", "too_few"})}

        def produce(counts: dict[str, Any]) -> Iterator[Context]:
            keep = contexts.keep_oracle((q.id for q in self.questions if q.split == "train"), config, seed)
            for question, distractors in zip(self.questions, self.candidates, strict=True):
                if question.split == "train":
                    context = contexts.assemble(question, distractors, keep(question.id), config, seed)
                    counts["with_oracle"] = counts.get("with_oracle", 0) + bool(context.oracle_positions)
                    yield context

        return self.store.make(Stage("contexts", inputs, settings, version=2), Context, produce)

    @cached_property
    def examples(self) -> Rows[Example]:
        """Training rows: prompt and target in the tuned model's tokens."""
        config, limit = self.settings.prompts, self.settings.model.max_tokens
        inputs = {"contexts": self.contexts.fingerprint, "chunks": self.chunks.fingerprint}
        settings = {**config.model_dump(), "max_tokens": limit, "codec": self.codec.fingerprint}
        stage = Stage("examples", inputs, settings)

        def produce(counts: dict[str, Any]) -> Iterator[Example]:
            kept = examples.siblings(self.contexts, stage, self.store)
            rows = examples.render(self._shown(counts), kept, self.mapper, (self.codec, config, limit), counts)
            yield from track.progress(rows, "training rows", total=len(self.contexts))

        return self.store.make(stage, Example, produce)

    def open_questions(self, split: Split) -> Rows[OpenQuestion]:
        """Questions with the texts that are shown with them, for ATM: as `contexts` has them to train on, with their
        oracles to be judged by; or all as they are retrieved (`atm.lists`)."""
        config, seed, retrieved = self.settings.contexts, self.settings.seed, self.settings.atm.lists == "retrieved"
        inputs = {"contexts": self.contexts.fingerprint, "chunks": self.chunks.fingerprint}
        settings = {"split": split, **self.settings.prompts.model_dump(include={"answer"})}
        if retrieved:
            settings |= {"lists": "retrieved", **hybrid.ranked_by(self.settings.retrieval, self.embedder)}

        def produce(counts: dict[str, Any]) -> Iterator[OpenQuestion]:
            by_id = self._retrieved(split) if retrieved else {context.question_id: context for context in self.contexts}
            counts["with_oracle"] = 0
            pool = sorted({answer for question in self.questions for answer in question.answers[:1]})
            for question, found in zip(self.questions, self.candidates, strict=True):
                if question.split != split or (split == "test" and not question.oracle_ids):
                    continue
                shown = by_id.get(question.id) or contexts.assemble(question, found, True, config, seed)
                wrong = forgeries.wrong_answers(question, pool, count=WRONG_ANSWERS, seed=seed)
                documents = [self.chunk_by_id[i] for i in shown.chunk_ids]
                target = prompts.target(question, self.settings.prompts)
                counts["with_oracle"] += bool(shown.oracle_positions)
                yield lists.open_question(question, documents, shown.oracle_positions, target, wrong)

        return self.store.make(Stage(f"open-{split}", inputs, settings), OpenQuestion, produce)

    def _retrieved(self, split: Split) -> dict[str, Context]:
        """The best documents for each question, in their order, and which of them hold its answer."""
        asked = [question for question in self.questions if question.split == split]
        found = self.retriever.search([question.text for question in asked], self.settings.contexts.documents)
        ids = [tuple(hit.chunk_id for hit in hits) for hits in found]
        return {
            question.id: Context(
                question_id=question.id,
                chunk_ids=shown,
                oracle_positions=tuple(at for at, id in enumerate(shown) if id in question.oracle_ids),
            )
            for question, shown in zip(asked, ids, strict=True)
        }

    @cached_property
    def chunk_by_id(self) -> dict[str, Chunk]:
        """All chunks in memory, by id."""
        return {chunk.id: chunk for chunk in self.chunks}

    @cached_property
    def retriever(self) -> Retriever:
        """Who ranks all chunks, as `retrieval.kind` says."""
        config, made_by = self.settings.retrieval, self.chunks.fingerprint
        return hybrid.open_retriever(config, self.chunk_by_id, made_by, self.store, self.embedder)

    def _shown(self, counts: dict[str, Any]) -> Iterator[tuple[Context, tuple[Question, tuple[Chunk, ...]]]]:
        """Each context with its question and documents, less those whose quotes do not hold."""
        by_id = self.chunk_by_id
        by_question = {question.id: question for question in self.questions if question.split == "train"}
        counts["invalid_quotes"] = 0
        for context in self.contexts:
            question = by_question[context.question_id]
            if not examples.quotes_valid(question, by_id, self.settings.prompts):
                counts["invalid_quotes"] += 1
                if self.settings.prompts.invalid_quotes == "drop":
                    continue
            yield context, (question, tuple(by_id[i] for i in context.chunk_ids))

    # Sources: what differs between API documentation, question files and a folder of documents.

    @cached_property
    def benchmark(self) -> Rows[PublicRow]:
        """A public benchmark's rows (`corpus.source=benchmark`) in the form of a question file."""
        config = self.settings.corpus
        stage = Stage("benchmark", hub.made_by(config), {"broken": config.broken})
        rows = self.store.make(stage, PublicRow, lambda counts: hub.read(config, counts))
        counts = rows.card["counts"]
        track.say("{repository}, commit {commit}, licence: {licence}; cite {citation}".format(**counts))
        return rows

    @cached_property
    def _question_files(self) -> CorpusConfig:
        """`corpus`, with a benchmark's rows as its question file."""
        config = self.settings.corpus
        if config.source != "benchmark":
            return config
        return config.model_copy(update={"questions": (str(self.benchmark.path),), "columns": ColumnsConfig()})

    def _source_stage(self, name: str) -> Stage:
        config = self._question_files
        fraction = {"test_fraction": self.settings.questions.test_fraction, "seed": self.settings.seed}
        if config.source == "apidocs":
            return Stage(name, apidocs.versions(config.packages), fraction, version=apidocs.VERSION)
        if not config.questions and not self.settings.teacher.questions_per_chunk:
            raise ConfigError(
                f"corpus.source={config.source} needs question files, corpus.questions names none; "
                "set corpus.questions=[path.jsonl], or corpus.source=folder and teacher.questions_per_chunk=2"
            )
        columns = {"columns": config.columns.model_dump(), "datasets": list(config.datasets), "broken": config.broken}
        return Stage(name, {"questions": places.digest(map(places.at, config.questions))}, columns | fraction)

    @cached_property
    def _apidocs(self) -> tuple[list[Chunk], list[Question]]:
        config = self.settings
        with track.span("read API documentation"):
            return apidocs.read(config.corpus.packages, config.seed, config.questions.test_fraction)

    def _rows(self, broken: list[str] | None = None) -> Iterator[benchmarks.Row]:
        settings, fraction = self.settings, self.settings.questions.test_fraction
        return benchmarks.read(self._question_files, test_fraction=fraction, seed=settings.seed, broken=broken)

    def _source_chunks(self, counts: dict[str, Any]) -> Iterable[Chunk]:
        if self.settings.corpus.source == "apidocs":
            return self._apidocs[0]
        if self.settings.corpus.source == "benchmark":
            origin = self.benchmark.card["counts"]
            counts |= {key: origin[key] for key in ("repository", "commit", "licence", "citation")}
        return _once(chunk for _, pieces, _ in self._rows() for chunk in pieces)

    def _all_questions(self, broken: list[str]) -> Iterator[Question]:
        if self.settings.corpus.source == "apidocs":
            yield from self._apidocs[1]
        elif self.settings.corpus.source in ("records", "benchmark"):
            yield from (question for question, _, _ in self._rows(broken))
        else:
            found = [question for question, _, _ in self._rows(broken)] if self.settings.corpus.questions else []
            hits = self.retriever.search([question.text for question in found], questions.LINK_DEPTH)
            for question, best in zip(found, hits, strict=True):
                yield questions.link(question, self.chunk_by_id, best)
            yield from self.taught if self.settings.teacher.questions_per_chunk else ()

    @cached_property
    def _lessons(self) -> Lessons:
        if self.teacher is None:
            raise ConfigError("settings of teacher ask for one, and the road was given none; pass Road(teacher=...)")
        return Lessons(self.settings, self.store, self.teacher)

    @cached_property
    def _given_forgeries(self) -> dict[str, list[Forgery]]:
        if self.settings.corpus.source != "records":
            return {}
        return {question.id: forged for question, _, forged in self._rows() if forged}


def _once(pieces: Iterable[Chunk]) -> Iterator[Chunk]:
    seen: set[str] = set()
    for piece in pieces:
        if piece.id not in seen:
            seen.add(piece.id)
            yield piece
