"""Which questions are used, and for what: splits without leakage, oracles, caps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ragdist.config import QuestionsConfig
from ragdist.data import twins
from ragdist.data.matching import contains, same_text, words
from ragdist.draws import draw
from ragdist.errors import DataError
from ragdist.records import Chunk, Hit, Question, Split
from ragdist.storage.stages import StageCounts

LINK_DEPTH = 20
"""Retrieved chunks among which the oracle of a folder's question is looked for."""
NAMED = 20
"""Questions without an oracle that are named."""
LABELS = frozenset({"yes", "no", "maybe", "true", "false"})
"""Answers that prove nothing by standing in a text."""


def split_of(name: str, test_fraction: float, seed: int) -> Split:
    """The split that belongs to this question or function by its own draw, whatever else is in the data."""
    return "test" if draw(seed, "split", name) < test_fraction else "train"


def link(question: Question, chunks_by_id: Mapping[str, Chunk], hits: Sequence[Hit]) -> Question:
    """The question with its oracle among the chunks of a folder: one chunk, or none; near misses likewise by chunk.

    It is the best hit that contains an answer (all of them where all are required), as DPR does, by the rule of
    `matching.contains`. Where the question names documents (`oracle_ids` holds their ids then), only their chunks
    count, also those that were not retrieved, and the best one of them will do if none contains the answer, as in
    yes-no questions. Yes, no and maybe prove nothing by occurring: without a named document they give no oracle.
    """
    ranked = [chunks_by_id[hit.chunk_id] for hit in hits]
    if question.oracle_ids:
        names = set(question.oracle_ids)
        named = [chunk for chunk in ranked if chunk.document_id in names]
        ranked = named + [chunk for chunk in chunks_by_id.values() if chunk.document_id in names and chunk not in named]
    answers = [answer for answer in question.answers if words(answer).strip() not in LABELS]
    enough = all if question.all_answers_required else any
    proven = (chunk for chunk in ranked if answers and enough(contains(chunk.text, answer) for answer in answers))
    best = next(proven, ranked[0] if ranked and question.oracle_ids else None)
    others = set(question.near_miss_ids)
    near = (chunk.id for chunk in chunks_by_id.values() if others and chunk.document_id in others)
    return replace(question, oracle_ids=(best.id,) if best else (), near_miss_ids=tuple(near))


def select(
    questions: Iterable[Question], config: QuestionsConfig, seed: int, *, judging: bool = False
) -> tuple[list[Question], StageCounts]:
    """Training questions, then test questions, each in the order of their own draws, so that a cap is a prefix; with
    `questions.caps=first` in that of the data.

    A question is known by its text, see `text_key`. Within a split the first one is kept, one with an oracle before one
    without; a training question that is also a test question goes, and one that asks it in other words is counted, and
    goes where `questions.near_duplicates` says so. Where the documents are part of the question (bAbI: the same words
    about another story), text and oracles name it. Counted are those left out, by why, and those that remain. A
    DataError if no training question with an oracle is left (and the data is not for `judging` alone), or one has none
    and `missing_oracle` is error.
    """
    kept, counts = _without_repeats(questions)
    if config.near_duplicates != "keep":
        kept, twin_counts = twins.sift(kept, config.near_duplicates, LABELS)
        counts |= twin_counts
    found = [question for question in kept if _has_use(question, config)]
    counts["without_oracle_dropped"] = len(kept) - len(found)
    lost = [question.text for question in kept if not question.oracle_ids]
    counts["without_oracle_named"] = [f"{text:.80}" for text in lost[:NAMED]]
    counts["without_oracle_kept"] = sum(not question.oracle_ids for question in found)
    if config.caps == "drawn":
        found.sort(key=lambda question: (draw(seed, "questions", question.id), question.id))
    selected: list[Question] = []
    for split, cap in (("train", config.train_rows), ("test", config.test_rows)):
        rows = [question for question in found if question.split == split]
        selected += rows[: cap or None]
        counts[f"{split}_over_cap"] = max(0, len(rows) - cap) if cap else 0
        counts[split] = len(rows) - counts[f"{split}_over_cap"]
    if not (counts["train"] or judging):
        raise DataError(
            f"no training question with an oracle is left of {sum(q.split == 'train' for q in kept)} "
            f"({len(kept)} questions in all); give documents of kind golden, or change corpus.datasets, "
            "corpus.questions or questions.test_fraction"
        )
    return selected, counts


def _without_repeats(questions: Iterable[Question]) -> tuple[list[Question], StageCounts]:
    rows = sorted(questions, key=lambda question: not question.oracle_ids)
    stories = _story_datasets(rows)
    by_key: dict[Split, dict[tuple[str, ...], Question]] = {"train": {}, "test": {}}
    for question in rows:
        key = (text_key(question), *(sorted(question.oracle_ids) if question.dataset in stories else ()))
        by_key[question.split].setdefault(key, question)
    train, test = by_key["train"], by_key["test"]
    counts = {"duplicates": len(rows) - len(train) - len(test), "train_in_test": len(train.keys() & test.keys())}
    return [*(question for key, question in train.items() if key not in test), *test.values()], counts


def _story_datasets(questions: Iterable[Question]) -> set[str]:
    """Datasets where the text alone is no question: in a tenth of the rows it also stands with quite other answers.

    Fewer such rows do not make one: two annotators may answer the same question differently.
    """
    answers: defaultdict[tuple[str, str], list[frozenset[str]]] = defaultdict(list)
    for question in questions:
        answers[question.dataset, text_key(question)].append(frozenset(map(words, question.answers)))
    rows, ambiguous = Counter[str](), Counter[str]()
    for (dataset, _), golds in answers.items():
        rows[dataset] += len(golds)
        ambiguous[dataset] += len(golds) * (not frozenset.intersection(*golds))
    return {dataset for dataset in rows if ambiguous[dataset] > rows[dataset] / 10}


def _has_use(question: Question, config: QuestionsConfig) -> bool:
    if question.oracle_ids:
        return True
    if config.missing_oracle == "error":
        raise DataError(
            f"question {question.id!r} has no oracle; give it a document of kind golden, "
            "or set questions.missing_oracle to drop or keep_for_absent_eval"
        )
    return config.missing_oracle == "keep_for_absent_eval" and question.split == "test"


def text_key(question: Question) -> str:
    """Equal for questions that differ in case, blanks, the marks around them, or how the same letters are stored."""
    return same_text(question.text)
