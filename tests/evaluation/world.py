"""A world where the score of an answering rule is known beforehand: 120 functions, each with one default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragdist.config import loader
from ragdist.data import prompts
from ragdist.evaluation.ask import ask_cases
from ragdist.evaluation.cases import Case, by_question, make_cases
from ragdist.records import Candidates, Chunk, Forgery, Hit, Prediction, Prompt, Question, Written
from tests import tiny
from tests.data.shown import parse

COUNT = 120
Rule = Callable[[str, list[prompts.Shortened]], str]


def settings(**evaluation: Any) -> loader.Settings:
    return loader.resolve(
        {
            "model": {"max_tokens": 1024},
            "contexts": {"documents": 4},
            "retrieval": {"count": 3},
            "evaluation": {"resamples": 500, "max_new_tokens": 16, **evaluation},
        }
    )


def value(number: int) -> str:
    return str(100 + number)


def question(number: int, oracle: bool = True) -> Question:
    return Question(
        id=f"q{number:03}",
        text=f"What is the default of `size` in `m.f{number}`?",
        answers=(value(number),),
        oracle_ids=(f"c{number:03}",) if oracle else (),
        split="test",
        topic="size",
        dataset="apidocs",
    )


QUESTIONS = [question(number) for number in range(COUNT)]
CHUNKS = {
    f"c{n:03}": Chunk(id=f"c{n:03}", document_id="d", title=f"m.f{n}", text=f"f{n}(size={value(n)})")
    for n in range(COUNT)
}
CANDIDATES = {
    f"q{n:03}": Candidates(
        question_id=f"q{n:03}", chunk_ids=tuple(f"c{(n + step) % COUNT:03}" for step in (1, 7, 30, 31, 32))
    )
    for n in range(COUNT)
}
FORGERIES = [
    Forgery(
        id=f"x{n:03}.{number}",
        question_id=f"q{n:03}",
        number=number,
        title=f"m.f{n}",
        text=f"f{n}(size={-n - 1}) {'See also.' * number}".strip(),
        states=str(-n - 1),
        method="template",
    )
    for n in range(COUNT)
    for number in range(3)
]


class TitleRetriever:
    """Plays Retriever: chunks whose title the query names; every third question is missed."""

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """The named chunk in second place, between two others."""
        found = []
        for query in queries:
            number = int(query.rpartition("m.f")[2].rstrip("`?"))
            ids = [number + 50, number if number % 3 else number + 52, number + 51]
            found.append([Hit(chunk_id=f"c{i % COUNT:03}", score=-float(at)) for at, i in enumerate(ids)][:count])
        return found


def majority(asked: str, documents: list[prompts.Shortened]) -> str:
    """What most documents on the function say; `unknown` without any."""
    title = asked.rpartition(" in `")[2].rstrip("`?")
    votes = Counter(d.text.partition("=")[2].partition(")")[0] for d in documents if d.title == title)
    return votes.most_common(1)[0][0] if votes else "unknown"


def stubborn(asked: str, documents: list[prompts.Shortened]) -> str:
    """Knows every even function by heart, and looks at nothing."""
    number = int(asked.rpartition("m.f")[2].rstrip("`?"))
    return value(number) if number % 2 == 0 else "It is 7."


@dataclass
class RuleWriter:
    """Plays Answerer by a rule on what the prompt really says, batch by batch, last prompt first."""

    rule: Rule
    batch: int = 16
    fail_after: int = -1
    """Microbatches before it dies; -1 never."""
    asked: list[str] = field(default_factory=list)

    def write(
        self,
        given: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        done: Collection[str] = (),
    ) -> Iterator[list[Written]]:
        """One list a microbatch."""
        order = [prompt for prompt in given if prompt.id not in done][::-1]
        for number, start in enumerate(range(0, len(order), self.batch)):
            if number == self.fail_after:
                raise ConnectionError("the writer died")
            yield [self._answer(p, max_new_tokens) for p in order[start : start + self.batch]]

    def read(self, examples: Sequence[Any], done: Collection[str] = ()) -> Iterator[list[tuple[str, list[float]]]]:
        """Every token has probability 1/2; ten examples a microbatch."""
        for start in range(0, len(examples), 10):
            batch = examples[start : start + 10]
            yield [(e.id, [-0.6931471805599453] * (len(e.tokens) - e.prompt_tokens)) for e in batch]

    def _answer(self, given: Prompt, limit: int) -> Written:
        self.asked.append(given.id)
        said = tiny.tokenizer().decode(given.tokens).partition("user\n")[2].removesuffix("\nassistant\n")
        documents, asked = parse(said.removesuffix("\n"))
        text = self.rule(asked, documents)
        tokens = tiny.tokenizer().encode(text).ids
        kept = tiny.tokenizer().decode(tokens[:limit])
        return Written(prompt_id=given.id, sample=0, text=kept, tokens=min(limit, len(tokens)), ended=kept == text)


def cases(chosen: loader.Settings, questions: Sequence[Question] = tuple(QUESTIONS)) -> list[Case]:
    forgeries = by_question(FORGERIES)
    return list(make_cases(questions, CHUNKS, CANDIDATES, forgeries, TitleRetriever(), tiny.tokenizer(), chosen))


def evaluate(
    writer: RuleWriter, folder: Path, chosen: loader.Settings, label: str = "rule", questions: Any = tuple(QUESTIONS)
) -> list[Prediction]:
    asked = cases(chosen, questions)
    return ask_cases(label, "nowhere", writer, asked, questions, folder, chosen)
