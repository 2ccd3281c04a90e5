"""The data pipeline's stages that a teacher writes, each named by the chunks, the teacher and the wording.

None is named by how questions are shown later, so a change of `contexts` or of P% asks the teacher nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ragdist.config import TeacherConfig
from ragdist.data import matching
from ragdist.data.teaching import asking, judging
from ragdist.errors import DataError
from ragdist.records import Chunk, Question
from ragdist.roles import Retriever, Teacher
from ragdist.storage.stages import Counted, CountedRows, Rows, Stage, Store
from ragdist.tracking.progress import say

ASKING = {"questions_per_chunk", "chunks", "ask", "temperature", "max_new_tokens"}
ANSWERING = {"answer", "repair", "invalid", "max_new_tokens"}
JUDGING = {"judge", "verdict"}
LISTED = (
    *("refused", "without_question", "names_document", "asked_of_several", "near_own", "near_test"),
    *("unanswerable", "invalid", "several_chunks", "judged_several"),
)
"""Why questions are left out, in the order in which they are."""


class TeacherStages:
    """What a teacher is asked for."""

    def __init__(self, config: TeacherConfig, store: Store, teacher: Teacher) -> None:
        self.store, self.teacher, self._config = store, teacher, config

    def asked(self, chunks: Rows[Chunk], test_fraction: float, seed: int) -> Rows[Question]:
        """Questions about the chunks, not yet answered."""
        config = self._config
        settings = {"seed": seed, "test_fraction": test_fraction, **config.model_dump(include=ASKING)}

        def produce() -> Counted[Question]:
            splits = asking.choose(chunks, config, test_fraction=test_fraction, seed=seed)
            return asking.ask(chunks, splits, self.teacher, config, seed=seed)

        return self.store.make(self._stage("asked", {"chunks": chunks.fingerprint}, settings), Question, produce)

    def taught(
        self,
        asked: Rows[Question],
        own: Sequence[Question],
        chunks: Mapping[str, Chunk],
        retriever: Retriever,
        found_by: Mapping[str, Any],
    ) -> Rows[Question]:
        """Those of the questions that have a reasoned answer that holds, and that no other chunk answers; `found_by` is
        what the user's own questions and the retriever's hits depend on. A DataError if not one is left."""
        settings = {**self._config.model_dump(include=ANSWERING | JUDGING), "found_by": dict(found_by)}

        def produce() -> Counted[Question]:
            once, counts = asking.asked_once(asked, own)
            held = CountedRows(asking.answer(once, _oracles(chunks), self.teacher, self._config))
            unique = CountedRows(judging.unique(held, chunks, retriever, self.teacher, self._config))
            taught = 0
            for question in unique:
                taught += 1
                yield question
            counts = {**counts, "taught": taught, **unique.counts, **held.counts}
            _tell(asked, counts)
            return counts

        return self.store.make(self._stage("taught", {"asked": asked.fingerprint}, settings), Question, produce)

    def reasoned(self, selected: Rows[Question], chunks: Mapping[str, Chunk]) -> Rows[Question]:
        """The selected questions, with the teacher's reasoning where a training question has none."""
        inputs, settings = {"questions": selected.fingerprint}, self._config.model_dump(include=ANSWERING)

        def produce() -> Counted[Question]:
            counts = yield from asking.reason(selected, _oracles(chunks), self.teacher, self._config)
            if counts["invalid"] or counts["refused"]:
                say(f"reasoning: {_listed(counts, ('reasoned', 'repaired', *LISTED))}")
            return counts

        return self.store.make(self._stage("reasoned", inputs, settings), Question, produce)

    def rejected(
        self, questions: Iterable[Question], chunks: Mapping[str, Chunk], find: judging.Find
    ) -> dict[str, set[str]]:
        """See `judging.rejected`."""
        return judging.rejected(questions, chunks, find, self.teacher, self._config)

    @property
    def judged_by(self) -> dict[str, Any]:
        """What the verdicts on distractors depend on, for the name of their stage."""
        named = self._config.model_dump(include=JUDGING | {"max_new_tokens"})
        return {"teacher": self.teacher.fingerprint, "reading": 2, **named}

    def _stage(self, name: str, inputs: dict[str, str], settings: dict[str, Any]) -> Stage:
        version = 2 + matching.VERSION  # either rule, when it changes, makes other rows
        return Stage(name, inputs | {"teacher": self.teacher.fingerprint}, settings, version=version)


def _oracles(chunks: Mapping[str, Chunk]) -> asking.Sources:
    return lambda question: [chunks[chunk_id] for chunk_id in question.oracle_ids]


def _tell(asked: Rows[Question], counts: Mapping[str, Any]) -> None:
    first = asked.card["counts"]
    told = {**first, **counts, "refused": first["refused"] + counts["refused"]}
    if not told["taught"]:
        raise DataError(
            f"of {len(asked)} questions about {told['chunks']} chunks none is left: {_listed(told, LISTED)}; "
            "look at the replies in the data folder's teacher-*.jsonl, then change teacher.model, teacher.ask or "
            "teacher.answer"
        )
    say(f"{told['taught']} of {len(asked)} questions about {told['chunks']} chunks hold; {_listed(told, LISTED)}")


def _listed(counts: Mapping[str, Any], names: Iterable[str]) -> str:
    told = [f"{name.replace('_', ' ')} {counts[name]}" for name in names if counts.get(name)]
    return ", ".join(told) or "none left out"
