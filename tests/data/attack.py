"""A model by rules, for tests of what is built around one, and questions to forge for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ragdist.config import PromptsConfig
from ragdist.data import prompts, template_attack
from ragdist.draws import rng_for
from ragdist.records import Example, OpenQuestion, Prompt, Written
from ragdist.systems.atm.training_rows import open_question
from tests import tiny


class Rules:
    """Plays Model: writes `texts` in turn (or one of its own for each draw), reads what `score` says of an answer."""

    def __init__(
        self,
        *,
        version: int = 0,
        texts: Sequence[str] = (),
        score: Callable[[Example], list[float]] = lambda example: (
            [-1.0] * (len(example.tokens) - example.prompt_tokens)
        ),
    ) -> None:
        self.version, self.texts, self.score, self.tokenizer = version, texts, score, tiny.tokenizer()
        self.asked: list[Example] = []

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[Written]]:
        """The longest prompt first, as the real writer does."""
        for prompt in sorted(prompts, key=lambda prompt: -len(prompt.tokens)):
            yield [self._one(prompt, sample, seed) for sample in range(samples)]

    def _one(self, prompt: Prompt, sample: int, seed: int) -> Written:
        drawn = rng_for(seed, "write", f"{prompt.id}\x1f{sample}").random()
        text = self.texts[sample % len(self.texts)] if self.texts else f"title {drawn}\ntext: {drawn}"
        return Written(prompt_id=prompt.id, sample=sample, text=text, tokens=len(text), ended=True)

    def read(self, examples: Sequence[Example]) -> Iterator[list[tuple[str, list[float]]]]:
        """One microbatch an example, the last first."""
        self.asked += examples
        for example in reversed(examples):
            yield [(example.id, self.score(example))]


def opened() -> list[OpenQuestion]:
    """The tiny questions with three documents each, the oracle in the middle."""
    chunks, found = tiny.chunks(), []
    for question in tiny.questions():
        oracle = next(chunk for chunk in chunks if chunk.id in question.oracle_ids)
        others = [chunk for chunk in chunks if chunk.id not in question.oracle_ids]
        wrong = template_attack.wrong_answers(question, ("'ascii'", "None", "True", "5"), count=3, seed=0)
        documents = [others[0], oracle, others[1]]
        found.append(open_question(question, documents, (1,), prompts.target(question, PromptsConfig()), wrong))
    return found
