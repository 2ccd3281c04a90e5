"""Opens DuetRAG's arbiters as they were trained and settled: which models and files each of them is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ragdist.config import Arbiter as Kind
from ragdist.config import Settings
from ragdist.errors import ConfigError
from ragdist.records import Judgement
from ragdist.roles import Answerers, Scorer, Teacher, Tokenizer, Tuner
from ragdist.storage.atomic import read_json
from ragdist.systems.duet import agreement, disputes
from ragdist.systems.duet.agreement import AgreementArbiter
from ragdist.systems.duet.arbiters import (
    Arbiter,
    Discoverer,
    EvidenceArbiter,
    Same,
    ScorerArbiter,
    Summarizer,
    by_answerer,
    by_teacher,
)
from ragdist.systems.duet.evidence import DisputeReader, Rule, by_sequence_confidence, by_trust_margin
from ragdist.systems.duet.evidence_model import EvidenceModel

RECITER, DISCOVERER = "reciter", "discoverer"
SCORERS: tuple[Kind, ...] = ("alignment", "features")
RULES: Mapping[Kind, Rule] = {"trust_margin": by_trust_margin, "sequence_confidence": by_sequence_confidence}
READERS: tuple[Kind, ...] = ("evidence", *RULES)
"""They read both answers with both models, behind the documents."""
AGREEMENT: Kind = "agreement"
SEEING: tuple[Kind, ...] = (*READERS, AGREEMENT)
"""They are shown the documents."""
EVIDENCE = "evidence.json"
"""In the arbiters' folder: what the evidence arbiter learned, or null where there were too few disputes."""
SETTLED = "settled.json"
"""In the arbiters' folder: the margin of each scorer, or null where there was nothing to learn."""


@dataclass(frozen=True)
class DuetRoles:
    """Who plays the roles."""

    tuner: Tuner
    answerers: Answerers
    open_features: Callable[[Path, Sequence[Judgement]], Scorer]
    """The text-feature scorer in a folder; made of the judgements where it is not there yet."""
    teacher: Teacher | None = None


@dataclass(frozen=True)
class TrainedArbiters:
    """The arbiters of a run.

    Args:
        cast: who answers and scores.
        tokenizer: of all models.
        folder: the run's.
        settings: all settings.
        asked: where what they ask models is kept; None is beside all that they learned.
    """

    cast: DuetRoles
    tokenizer: Tokenizer
    folder: Path
    settings: Settings
    asked: Path | None = None

    @property
    def kept(self) -> Path:
        """Where all that they learned is."""
        return self.folder / "arbiter"

    @property
    def reader(self) -> DisputeReader:
        """Who reads both answers of a dispute with both models."""
        return DisputeReader(self.folder, self.cast.answerers, self.tokenizer, self.settings, self.asked or self.kept)

    @contextmanager
    def scorer(self, kind: Kind, learned: Sequence[Judgement] = ()) -> Iterator[Scorer]:
        """The scorer of that kind, as it was trained."""
        if kind == "features":
            yield self.cast.open_features(self.kept / "features", learned)
        else:
            render = partial(disputes.pair_tokens, tokenizer=self.tokenizer, config=self.settings.prompts)
            with self.cast.answerers.open_scorer(str(self.kept / "alignment" / "model"), render) as scorer:
                yield scorer

    @contextmanager
    def arbiter(self, kind: Kind, same: Same) -> Iterator[Arbiter]:
        """The arbiter of that kind, as it was trained and settled; `same` says whether two answers are one.

        Raises:
            ConfigError: it is the teacher, and the settings name none.
        """
        seed = self.settings.seed
        if kind in SCORERS:
            margin = read_json(self.kept / SETTLED)[kind]
            if margin is None:
                yield Discoverer(same)
                return
            with self.scorer(kind) as scorer:
                yield ScorerArbiter(scorer, margin, same)
        elif kind in READERS:
            model = EvidenceModel.load(self.kept / EVIDENCE) if kind == "evidence" else None
            rule = model.choose if model else RULES.get(kind)
            yield EvidenceArbiter(self.reader.numbers, rule, same) if rule else Discoverer(same)
        elif kind == AGREEMENT:
            source, kept = str(self.folder / DISCOVERER / "model"), (self.asked or self.kept) / "alone"
            with self.cast.answerers.open(source) as answerer:
                alone = agreement.by_answerer(answerer, self.tokenizer, kept, source, self.settings)
                yield AgreementArbiter(alone, same)
        elif kind == "teacher_summarizer":
            if self.cast.teacher is None:
                raise ConfigError("duet.arbiters has teacher_summarizer, and no teacher is named; set teacher.url")
            yield Summarizer(by_teacher(self.cast.teacher, self.settings.answer_tokens, seed), same, seed)
            self.cast.teacher.close()
        else:
            tuned = str(self.kept / "summarizer" / "model")
            source = tuned if kind == "tuned_summarizer" else self.settings.model.source
            with self.cast.answerers.open(source) as answerer:
                ask = by_answerer(answerer, self.tokenizer, (self.asked or self.kept) / "said", source, self.settings)
                yield Summarizer(ask, same, seed)
