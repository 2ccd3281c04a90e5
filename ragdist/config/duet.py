"""Settings of DuetRAG: reciter, discoverer and arbiter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ragdist.config.block import SettingsBlock
from ragdist.config.training import LoraConfig, TrainConfig

Arbiter = Literal[
    "alignment",
    "features",
    "summarizer",
    "tuned_summarizer",
    "teacher_summarizer",
    "evidence",
    "trust_margin",
    "sequence_confidence",
    "agreement",
]
Shown = Literal["oracle", "absent", "retrieved", "attacked"]


def adapter(learning_rate: float, epochs: float) -> TrainConfig:
    """Low-rank adapters, kept apart from the base that all roles share."""
    lora = LoraConfig(rank=16, merge=False)
    return TrainConfig(lora=lora, learning_rate=learning_rate, epochs=epochs, schedule="linear")


class DuetConfig(SettingsBlock):
    """Reciter (closed book), discoverer (open book) and arbiter (DuetRAG, arXiv 2405.13002)."""

    answerers_fraction: float = Field(0.6, gt=0, le=1)
    """Share of the training questions that tune reciter and discoverer, drawn by seed; the arbiter learns from the
    others, which neither of the two has seen."""
    validation_fraction: float = Field(0.25, gt=0, lt=1)
    """Share of the arbiter's questions that it does not learn from; the margin is chosen on them."""
    arbiters: tuple[Arbiter, ...] = ("alignment", "features", "summarizer", "tuned_summarizer")
    """alignment: a trained (question, answer) scorer; features: hashed words and logistic regression; summarizer: the
    base model reads both answers and writes the final one; tuned_summarizer: the same after fine-tuning;
    teacher_summarizer: the model of `teacher` does it; evidence: logistic regression on the probabilities of both
    answers with and without the documents, and on which documents hold them; trust_margin: an untrained rule on the
    same probabilities (arXiv 2606.08397); sequence_confidence: the answer whose own side finds it likelier;
    agreement: the reciter's where more independent documents, each read alone, give it than the discoverer's."""
    arbiter: Arbiter = "alignment"
    """Which of them `ragdist answer` asks."""
    margin: Annotated[float, Field(ge=0, le=1)] | Literal["validation"] = "validation"
    """The reciter's answer is taken where its confidence is higher by more than this, else the discoverer's;
    validation: the margin under which most validation questions are right."""
    right_by: Literal["em", "subspan"] = "em"
    """Metric that says whether an answer is right, when the arbiter learns and the margin is chosen."""
    learn_from: tuple[Shown, ...] = Field(("retrieved",), min_length=1)
    """What the discoverer is shown when the arbiters learn from its answers and margins are chosen; with attacked among
    it they also meet a discoverer that forgeries mislead."""
    evidence_from: tuple[Shown, ...] = Field(("retrieved", "attacked", "absent"), min_length=1)
    """The same for the evidence arbiter, which is to tell honest lists from attacked ones and from those without the
    answer."""
    abstain_below: float = Field(0.0, ge=0, le=1)
    """An arbiter abstains where its confidence in the answer that it takes is lower; 0 never does. Reports say how many
    are answered then, and how many of those are right, beside the accuracy of all."""
    disagreement_weight: float = Field(2.0, gt=0)
    """Weight of answers to questions where just one of the two is right, beside 1 for the others."""
    gold_pairs: bool = True
    """The arbiter also learns each question's right answer as right, and another question's as wrong."""
    plain_tuning: bool = True
    """Tune and ask DSF too, the paper's baseline: closed book, on all training questions."""
    reciter: TrainConfig = adapter(5e-4, 3)
    """How the reciter is tuned, and DSF; `lora.rank=0` tunes all weights."""
    discoverer: TrainConfig = adapter(5e-4, 1)
    """How the discoverer is tuned."""
    scorer: TrainConfig = adapter(2e-4, 3)
    """How the alignment arbiter is tuned."""
    summarizer: TrainConfig = adapter(5e-4, 1)
    """How the summarizer is tuned."""
