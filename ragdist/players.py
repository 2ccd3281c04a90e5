"""Who plays the roles of `roles.py`, as the settings say: this process, its children, Ray's, an endpoint.

Heavy imports wait inside the functions; nothing is loaded before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragdist.config import ModelConfig, Settings
from ragdist.plan.workload import note_codec
from ragdist.storage.stages import Store

if TYPE_CHECKING:
    from ragdist.data.pipeline import Pipeline
    from ragdist.records import Judgement, Prompt
    from ragdist.roles import Codec, Embedder, Mapper, Reader, Scorer, Side, Teacher, Writer
    from ragdist.systems.atm.live import Board
    from ragdist.systems.atm.run import Start
    from ragdist.systems.duet.run import DuetRoles
    from ragdist.tracking.timeline import Timeline


@contextmanager
def pipeline(settings: Settings) -> Iterator[Pipeline]:
    """The data pipeline of these settings, with all whom it may ask."""
    from ragdist.data.pipeline import Pipeline
    from ragdist.lm.load import load_codec

    store = Store(Path(settings.run.folder) / "data")
    codec, asked = load_codec(settings.model), teacher(settings)
    note_codec(store.folder, settings.model, codec.fingerprint)
    with mapper(settings) as mapping:
        try:
            yield Pipeline(settings, store, codec, mapping, teacher=asked, embedder=embedder(settings))
        finally:
            if asked:
                asked.close()


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
    if not (config.questions_per_chunk or config.reasoning or config.judge or summarizes):
        return None
    if config.url:
        from ragdist.teacher.endpoint import Endpoint

        return Endpoint(config, folder)
    from ragdist.teacher.local import LocalTeacher

    model = settings.model
    if config.model:
        model = model.model_copy(update={"source": config.model, "revision": ""})
    return LocalTeacher(config, folder, model, partial(_open_writer, settings, model))


def _open_writer(settings: Settings, model: ModelConfig) -> tuple[Writer, Codec]:
    from ragdist.lm.load import load_codec, load_model
    from ragdist.lm.write import ModelWriter

    codec = load_codec(model)
    return ModelWriter(load_model(model), codec, settings.evaluation.tokens_per_batch), codec


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


def opener(settings: Settings) -> Any:
    """A context that holds a model in this process, given its source."""

    @contextmanager
    def open_model(source: str) -> Iterator[tuple[Writer, Reader]]:
        from ragdist.lm.load import load_codec, load_model, release
        from ragdist.lm.read import ModelReader
        from ragdist.lm.write import ModelWriter

        config = settings.model.model_copy(update={"source": source})
        model = load_model(config)
        batch = settings.evaluation.tokens_per_batch
        try:
            yield ModelWriter(model, load_codec(config), batch), ModelReader(model, batch)
        finally:
            release(model)

    return open_model


@contextmanager
def cast(settings: Settings, pipeline: Pipeline) -> Iterator[DuetRoles]:
    """Who plays DuetRAG's roles. Models that are open together hold their base once."""
    from ragdist.cluster.train import RayTuner
    from ragdist.lm.beside import ConcurrentWriters
    from ragdist.lm.load import release
    from ragdist.lm.score import ModelScorer
    from ragdist.lm.shared import SharedBase
    from ragdist.lm.write import ModelWriter
    from ragdist.systems.duet import disputes, features
    from ragdist.systems.duet.run import DuetRoles

    bases: list[SharedBase] = []
    batch = settings.evaluation.tokens_per_batch

    @contextmanager
    def base() -> Iterator[SharedBase]:
        first = not bases
        if first:
            bases.append(SharedBase(settings.model))
        try:
            yield bases[0]
        finally:
            if first:
                release(bases.pop().model)

    @contextmanager
    def open_sides(*sources: str) -> Iterator[Writer]:
        with base() as shared:
            yield ConcurrentWriters(
                [ModelWriter(shared.answers(source), pipeline.codec, batch) for source in sources], is_open
            )

    @contextmanager
    def open_scorer(source: str) -> Iterator[Scorer]:
        render = partial(disputes.pair_tokens, codec=pipeline.codec, config=settings.prompts)
        with base() as shared:
            yield ModelScorer(shared.classifier(source), render, batch)

    def open_features(folder: Path, learned: Sequence[Judgement]) -> Scorer:
        if not (folder / features.CARD).exists():
            features.FeatureScorer.fit(learned, settings.seed).save(folder)
        return features.FeatureScorer.load(folder)

    yield DuetRoles(RayTuner(settings), opener(settings), open_sides, open_scorer, open_features, pipeline.teacher)


def is_open(prompt: Prompt) -> int:
    """1 where the prompt shows documents, 0 where it is for the reciter."""
    return int(not prompt.id.startswith("closed_book/"))


def sides(settings: Settings, folder: Path, timeline: Timeline, board: Board) -> Any:
    """Opens both groups on a Ray cluster, side by side."""

    @contextmanager
    def open_sides(attacker: Start, generator: Start) -> Iterator[tuple[Side, Side]]:
        from ragdist.cluster import session
        from ragdist.cluster.group import WorkerGroup, seated
        from ragdist.cluster.ranks import GroupSpec
        from ragdist.lm.resident import Resident
        from ragdist.tracking.signals import stop_on_signal

        with session.connect(settings.cluster), stop_on_signal() as stop:
            sides = (("attacker", settings.attacker, attacker), ("generator", settings.generator, generator))
            groups = (
                WorkerGroup(
                    GroupSpec(name, settings, side, Resident, folder, stop.is_set),
                    start.source,
                    start.version,
                    on_span=timeline.add,
                    on_step=board.step,
                )
                for name, side, start in sides
            )
            with seated(*groups) as (first, second):
                yield first, second

    return open_sides
