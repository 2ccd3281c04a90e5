"""Questions of anybody's to the trio of a finished DuetRAG run: two answer, then the arbiter decides."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ragdist.config import Settings
from ragdist.data import prompts
from ragdist.errors import ConfigError
from ragdist.records import Question, Verdict, content_id
from ragdist.roles import Heard, LiveWriter, Tokenizer
from ragdist.serving.service import Answer, Finder, Pending, Query, Shown, Side, begin
from ragdist.systems.duet.disputes import Dispute
from ragdist.systems.duet.opening import DuetRoles, TrainedArbiters
from ragdist.systems.duet.run import agreeing


class TrioService:
    """Implements Service by reciter, discoverer and the arbiter of `duet.arbiter`.

    Args:
        reciter: answers from memory.
        discoverer: answers from documents, at the same time.
        arbiters: the trained ones.
        library: what is shown.
        dataset: the questions', which says how answers are compared.
        scratch: where arbiters keep what they are asked, for as long as they are asked.
    """

    def __init__(
        self,
        reciter: LiveWriter,
        discoverer: LiveWriter,
        arbiters: TrainedArbiters,
        library: Finder,
        dataset: str,
        scratch: Path,
    ) -> None:
        self.reciter, self.discoverer, self.arbiters = reciter, discoverer, arbiters
        self.library, self.dataset, self.scratch = library, dataset, scratch
        self.settings: Settings = arbiters.settings
        serve = self.settings.serve
        self.threads = ThreadPoolExecutor(serve.concurrent + serve.waiting, "trio")
        self._one_at_a_time = threading.Lock()

    @property
    def load(self) -> tuple[int, int]:
        """See `Service`."""
        busy, waiting = zip(self.reciter.load, self.discoverer.load, strict=True)
        return max(busy), max(waiting)

    def ask(self, query: Query, heard: Heard | None = None) -> Pending[Answer]:
        """See `Service`; the text is heard at once, when the arbiter has decided."""
        shown = self.library.shown(query)
        tokenizer, settings = self.arbiters.tokenizer, self.settings
        sides = [begin(self.reciter, query, (), tokenizer, settings)]
        sides += [begin(self.discoverer, query, shown, tokenizer, settings)] if shown else []

        def decide() -> Answer:
            lives = [work.result(settings.serve.timeout_s) for work, _ in sides]
            said = [prompts.extract(live.text, settings.prompts.answer).answer for live in lives]
            verdict = self._verdict(query.question, said, shown)
            if heard:
                heard(verdict.answer)
            confidences = (verdict.reciter_confidence, verdict.discoverer_confidence)
            sure = verdict.confidence
            return Answer(
                question=query.question,
                text=verdict.answer,
                answer=verdict.answer,
                documents=shown,
                confidence=sure,
                chosen=verdict.chosen,
                sides={
                    name: Side(one, confidence)
                    for name, one, confidence in zip(("reciter", "discoverer"), said, confidences, strict=False)
                },
                abstains=sure is not None and sure < settings.duet.abstain_below,
                prompt_tokens=sum(tokens for _, tokens in sides),
                new_tokens=sum(live.tokens for live in lives),
                ended=all(live.ended for live in lives),
            )

        return Pending(self.threads.submit(decide), lambda answer: answer)

    def _verdict(self, text: str, said: list[str], shown: tuple[Shown, ...]) -> Verdict:
        """The arbiter's; without documents the reciter's answer counts."""
        question = Question(
            id=content_id(text), text=text, answers=(), oracle_ids=(), split="test", dataset=self.dataset
        )
        reciter, *more = said
        if not more:
            return Verdict(
                question_id=question.id,
                answer=reciter,
                chosen="reciter",
                reciter_confidence=None,
                discoverer_confidence=None,
            )
        dispute = Dispute(question.id, text, reciter, more[0], shown, self.dataset)
        same = agreeing([question], self.settings.evaluation.normalise)
        with self._one_at_a_time, self.arbiters.arbiter(self.settings.duet.arbiter, same) as arbiter:
            (verdict,) = arbiter.judge([dispute])
            shutil.rmtree(self.scratch)
            self.scratch.mkdir()
        return verdict


@contextmanager
def opened(
    reciter: LiveWriter,
    discoverer: LiveWriter,
    roles: DuetRoles,
    library: Finder,
    tokenizer: Tokenizer,
    folder: Path,
    dataset: str,
    settings: Settings,
) -> Iterator[TrioService]:
    """The trio in a finished run's folder; arguments as for TrioService.

    Raises:
        ConfigError: the run has no such arbiter.
    """
    duet = settings.duet
    if duet.arbiter not in duet.arbiters:
        raise ConfigError(
            f"duet.arbiter={duet.arbiter} was not trained in {folder}, which has {', '.join(duet.arbiters)}; set "
            "duet.arbiter to one of these"
        )
    with TemporaryDirectory(prefix="ragdist-trio-") as made:
        scratch = Path(made) / "asked"
        scratch.mkdir()
        arbiters = replace(TrainedArbiters(roles, tokenizer, folder, settings), asked=scratch)
        service = TrioService(reciter, discoverer, arbiters, library, dataset, scratch)
        try:
            yield service
        finally:
            service.threads.shutdown(cancel_futures=True)
