"""Who implements the roles of `roles.py`, as the settings say: this process, its children, Ray's, an endpoint.

Heavy imports wait inside the functions; nothing is loaded before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist.config import PartsConfig, Settings
from ragdist.config.engines import named
from ragdist.parts import Parts, Retriever
from ragdist.plan.workload import note_tokenizer
from ragdist.storage.atomic import read_texts
from ragdist.storage.stages import Store
from ragdist.tracking.run import STATE

if TYPE_CHECKING:
    from ragdist.data.pipeline import Pipeline
    from ragdist.records import Judgement
    from ragdist.roles import Answerer, Answerers, Embedder, Mapper, Scorer, Side, Teacher, Tokenizer
    from ragdist.serving.service import Service
    from ragdist.systems.atm.live import Board
    from ragdist.systems.atm.run import Start
    from ragdist.systems.duet.opening import DuetRoles
    from ragdist.tracking.timeline import Timeline

NO_PARTS = Parts()


@contextmanager
def pipeline(settings: Settings, own: Parts = NO_PARTS) -> Iterator[Pipeline]:
    """The data pipeline of these settings, with all whom it may ask, and what the user gave. A ConfigError where the
    settings name a part that is not given."""
    from ragdist.data.pipeline import Pipeline

    store = Store(Path(settings.run.folder) / "data")
    codec, asked = tokenizer(settings), teacher(settings)
    note_tokenizer(store.folder, settings.model, codec.fingerprint)
    with mapper(settings) as mapping:
        try:
            yield Pipeline(settings, store, codec, mapping, teacher=asked, embedder=embedder(settings), parts=own)
        finally:
            if asked:
                asked.close()


def tokenizer(settings: Settings) -> Tokenizer:
    """The model's own."""
    from ragdist.lm.load import load_tokenizer

    return load_tokenizer(settings.model)


def embedder(settings: Settings) -> Embedder | None:
    """Who makes vectors, if anyone does; the model is loaded when they are not there yet."""
    if settings.retrieval.kind == "bm25":
        return None
    from ragdist.lm.embed import SentenceEmbedder

    return SentenceEmbedder(settings.retrieval.embedder)


def teacher(settings: Settings) -> Teacher | None:
    """Who is asked for questions, reasoning, verdicts and summaries, if anyone is; nothing is loaded before that."""
    config, folder = settings.teacher, Path(settings.run.folder) / "data"
    summarizes = "teacher_summarizer" in settings.duet.arbiters
    if not (config.questions_per_chunk or config.reasoning or config.judge or summarizes or _helps(settings)):
        return None
    if config.url:
        from ragdist.teacher.endpoint import Endpoint

        return Endpoint(config, folder)
    from ragdist.lm.engines import check
    from ragdist.teacher.local import LocalTeacher

    check(config.engine, "teacher")
    model, engine = settings.model, named(config.engine, settings.engines)
    if config.model:
        model = model.at(config.model)
    asked = settings.unchecked("model", model).unchecked("evaluation.engine", config.engine)
    return LocalTeacher(config, folder, model, partial(_open_teacher, asked, folder), engine)


def _helps(settings: Settings) -> bool:
    """Whether an attack of the robustness suite, or a defence, asks the teacher that is set."""
    from ragdist.data.attacks import registry as attacks
    from ragdist.data.defences import registry as defences

    asked = (*settings.evaluation.attacks, *filter(None, [settings.evaluation.grid.attack]))
    asks = any(one.asks for one in attacks.chosen(asked))
    asks = asks or any(one.asks for one in defences.chosen(settings.evaluation.defences))
    return bool((settings.teacher.url or settings.teacher.model) and asks)


@contextmanager
def _open_teacher(settings: Settings, folder: Path) -> Iterator[tuple[Answerer, Tokenizer]]:
    with answerers(settings, folder, heeds=False).open(settings.model.source) as answerer:
        yield answerer, tokenizer(settings)


def answerers(settings: Settings, folder: Path, *, heeds: bool = True) -> Answerers:
    """Who is asked questions: this process, or ranks on the cluster.

    Args:
        settings: all settings.
        folder: for the ranks' logs; seen by all of them.
        heeds: whether signals stop ranks between batches; else whoever asks sees to it.
    """
    from torch.cuda import is_available

    from ragdist.lm.engines import check

    check(settings.evaluation.engine, "evaluation")
    config = settings.answerers(gpu_here=is_available())
    if not config.workers:
        from ragdist.local import LocalAnswerers

        return LocalAnswerers(settings)
    from ragdist.cluster import pool
    from ragdist.cluster.answerers import RankAnswerers

    if standing := pool.standing():
        return pool.PoolAnswerers(standing, settings, folder, heeds=heeds)
    return RankAnswerers(settings.unchecked("evaluation.answerers", config), folder, heeds=heeds)


def asked(settings: Settings, folder: Path) -> Answerers:
    """Who is asked by the source of a model: an endpoint where that is an address, else whom `answerers` names."""
    from ragdist.teacher.answering import AnswerersAnywhere

    return AnswerersAnywhere(settings.teacher, Path(settings.run.folder) / "data", lambda: answerers(settings, folder))


@contextmanager
def mapper(settings: Settings) -> Iterator[Mapper]:
    """Who cuts documents and tokenizes rows."""
    if settings.run.mapper == "ray":
        from ragdist.cluster.mapper import RayMapper

        with RayMapper(settings.run.processes, settings.cluster) as over_ray:
            yield over_ray
    else:
        from ragdist.local import ProcessMapper, SerialMapper

        yield ProcessMapper(settings.run.processes) if settings.run.processes > 1 else SerialMapper()


def cast(settings: Settings, pipeline: Pipeline, folder: Path) -> DuetRoles:
    """Who implements DuetRAG's roles; `folder` is the run's."""
    return _duet_roles(settings, answerers(settings, folder), pipeline.teacher)


def _duet_roles(settings: Settings, asked: Answerers, known: Teacher | None) -> DuetRoles:
    from ragdist.cluster.train import RayTuner
    from ragdist.systems.duet import features
    from ragdist.systems.duet.opening import DuetRoles

    def open_features(folder: Path, learned: Sequence[Judgement]) -> Scorer:
        if not (folder / features.CARD).exists():
            features.FeatureScorer.fit(learned, settings.seed).save(folder)
        return features.FeatureScorer.load(folder)

    return DuetRoles(RayTuner(settings), asked, open_features, known)


@contextmanager
def service(folder: Path, settings: Settings, retriever: Retriever | None = None) -> Iterator[Service]:
    """A finished run, open to be asked.

    Args:
        folder: the run's.
        settings: the run's; `serve`, `retrieval` and `evaluation` may have changed since.
        retriever: the run's own, where it was given one.

    Raises:
        ConfigError: there is no finished run of RAFT, ATM or DuetRAG, or its documents are not there.
    """
    from torch import get_num_threads

    from ragdist.lm.continuous import ContinuousWriter
    from ragdist.lm.load import load_tokenizer
    from ragdist.lm.write import ModelWriter
    from ragdist.local import LocalAnswerers, StandingAnswerers
    from ragdist.serving import library
    from ragdist.serving.service import SingleModel
    from ragdist.systems.duet import answer
    from ragdist.systems.duet.opening import DISCOVERER, RECITER

    Parts(retriever).refuse_missing(PartsConfig(retriever=settings.parts.retriever))
    settings = settings.unchecked("parts", PartsConfig())
    is_duet = read_texts(folder / STATE, "job")["job"] == "duet"
    models = [folder / role / "model" for role in (RECITER, DISCOVERER)] if is_duet else [folder / "model"]
    tokenizer = load_tokenizer(settings.model.at(str(models[0])))  # before documents are read, perhaps for minutes
    noted, stages = library.read(folder), library.data_folder(folder, settings)
    if noted is None:
        with pipeline(settings.unchecked("run.folder", str(stages.parent))) as made:
            noted = library.note(folder, made)
    documents = library.open_library(noted, stages, settings, embedder(settings), retriever)
    serve, tokens = settings.serve, settings.evaluation.tokens_per_batch
    local = LocalAnswerers(settings.unchecked("evaluation.engine", "transformers"))
    with local.open(*map(str, models)) as opened, ExitStack() as until:
        cores = max(1, get_num_threads() // len(models))
        writers = [
            ContinuousWriter(ModelWriter(model, tokenizer, tokens), serve.concurrent, cores) for model in opened.models
        ]
        for writer in writers:
            until.callback(writer.close)
        if not is_duet:
            yield SingleModel(writers[0], documents, tokenizer, settings)
            return
        standing = StandingAnswerers(local)
        until.callback(standing.close)
        roles, (reciter, discoverer) = _duet_roles(settings, standing, teacher(settings)), writers
        trio = answer.opened(reciter, discoverer, roles, documents, tokenizer, folder, noted.dataset, settings)
        yield until.enter_context(trio)


def sides(settings: Settings, folder: Path, timeline: Timeline, board: Board) -> Any:
    """Opens both sides on a Ray cluster: two groups side by side, or one whose ranks hold both over one base."""

    @contextmanager
    def open_sides(attacker: Start, generator: Start) -> Iterator[tuple[Side, Side]]:
        from ragdist.cluster import session
        from ragdist.cluster.group import seated
        from ragdist.cluster.writers import side, sides_of_one_base
        from ragdist.lm.engines import check
        from ragdist.tracking.signals import stop_on_signal

        heard: dict[str, Any] = {"on_span": timeline.add, "on_step": board.step}
        with session.connect(settings.cluster), stop_on_signal() as stop:
            both = (("attacker", attacker), ("generator", generator))
            for name, _ in both:
                check(settings.group(name).engine, name)
            if settings.atm.layout == "shared_base":
                with sides_of_one_base(attacker, generator, settings, folder, stop.is_set, **heard) as sides:
                    yield sides
                return
            groups = (
                side(name, start.source, start.version, settings, folder, stop.is_set, **heard) for name, start in both
            )
            with seated(*groups) as (first, second):
                yield first, second

    return open_sides
