"""Models under a defence: the same questions and lists, with more prompts, of which each is asked once and kept.

A defence is a generator (`data/defences`): what those of all cases ask at a time is asked together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from ragdist import parts
from ragdist.config import PromptsConfig, Settings
from ragdist.data import prompts
from ragdist.data.defences import Ask, Asked, Defence, Read, Said, Steps
from ragdist.data.prompts import Shortened, Showable
from ragdist.data.teaching.replies import ask_each, spoken
from ragdist.draws import rng_for
from ragdist.evaluation import answers
from ragdist.evaluation.ask import PERPLEXITY, ask_written, path_of, read_perplexities
from ragdist.evaluation.cases import Case
from ragdist.evaluation.predictions import judge, made_of
from ragdist.records import ChatPrompt, Chunk, Example, Prediction, Prompt, Question, Request, Written, content_id
from ragdist.roles import Answerer, Teacher, Tokenizer

HONEST = 200
"""Documents of the corpus that a defence is given."""
MOST_TOKENS = 256
"""Of a teacher's reply."""
MOST_STEPS = 50
"""After which a defence is taken to have no end."""


def under(label: str, defence: Defence) -> str:
    """What reports call a model under a defence. Example: `base + isolation`."""
    return f"{label} + {defence.name}"


class Model(NamedTuple):
    """Who is asked, and what it was asked without a defence."""

    label: str
    source: str
    opened: Callable[[], Answerer]
    cases: Sequence[Case]
    """With messages where the model takes those."""
    plain: Sequence[Prediction]
    """Its answers, case by case; what they say is not asked again."""


@dataclass(frozen=True)
class Defences:
    """What all models are asked under defences.

    Args:
        questions: those of the cases by id, perhaps more.
        honest: documents of the corpus, as `drawn` gives them.
        tokenizer: by which lists are cut.
        teacher: who is asked for help where a defence wants it; None: nobody.
        folder: keeps the texts.
        settings: as of `ask.ask_cases`.
    """

    questions: Mapping[str, Question]
    honest: tuple[Shortened, ...]
    tokenizer: Tokenizer
    teacher: Teacher | None
    folder: Path
    settings: Settings

    def answers(self, defence: Defence, model: Model) -> list[Prediction]:
        """The model's answers under the defence to its cases with documents, in their order.

        Raises:
            PartError: the defence raised, or gave what it must not.
            TeacherError: the teacher cannot be reached.
        """
        cases = {case.id: case for case in model.cases if case.documents}
        taught = self._taught(defence, cases.values())
        asking = _Asking(self, defence, model)
        runs = {
            name: _Run(defence, self._asked(case, taught.get(case.question_id, ""))) for name, case in cases.items()
        }
        found, label = _in_step(runs, asking), under(model.label, defence)
        return [self._judged(label, case, found[name], asking.cut[name]) for name, case in cases.items()]

    def _taught(self, defence: Defence, cases: Iterable[Case]) -> dict[str, str]:
        """The teacher's replies by question."""
        asks, teacher, seed = defence.asks, self.teacher, self.settings.seed
        if asks is None or teacher is None:
            return {}

        def request(question: Question) -> Request:
            text, name = asks(question.text), f"{defence.name}/{question.id}"
            return Request(id=name, text=text, max_new_tokens=MOST_TOKENS, seed=seed)

        asked = [self.questions[name] for name in dict.fromkeys(case.question_id for case in cases)]
        replies = ask_each(asked, request, teacher, f"help for {defence.name}")
        found = {question.id: spoken(reply).text.strip() for question, reply in replies}
        teacher.close()
        return found

    def _asked(self, case: Case, reply: str) -> Asked:
        question = self.questions[case.question_id]
        form, metric = self.settings.evaluation.normalise, answers.metric_of(question.dataset)
        same = partial(answers.same, metric=metric, form=form)
        return Asked(
            question=question.text, documents=_bare(case.documents), honest=self.honest, same=same, reply=reply
        )

    def _judged(self, label: str, case: Case, said: Said, cut: int) -> Prediction:
        style, form = self.settings.prompts.answer, self.settings.evaluation.normalise
        case = replace(case, prompt=replace(case.prompt, cut_tokens=cut, cut_answer=False))
        written = Written(prompt_id=case.id, sample=0, text=said.text, tokens=0, ended=said.ended)
        found = judge(label, case, self.questions[case.question_id], written, style, form)
        return replace(found, cites_oracle=None)  # its numbers are those of lists that differ from the case's


def drawn(chunks: Iterable[Chunk], seed: int) -> tuple[Shortened, ...]:
    """Documents of the corpus, the same whatever is asked and in whatever order they come."""
    every = sorted(chunks, key=lambda chunk: chunk.id)
    return _bare(rng_for(seed, "honest", "").sample(every, min(HONEST, len(every))))


def _bare(documents: Iterable[Showable]) -> tuple[Shortened, ...]:
    return tuple(Shortened(one.title, one.text) for one in documents)


@dataclass
class _Run:
    """One case on its way through a defence."""

    defence: Defence
    asked: Asked
    steps: Steps | None = None
    taken: int = 0

    @property
    def name(self) -> str:
        """The defence's, for errors."""
        return self.defence.name

    def __call__(self, replies: list[Any] | None) -> Any:
        """What it asks next, or the answer."""
        self.steps, self.taken = self.steps or self.defence.answer(self.asked), self.taken + 1
        if self.taken > MOST_STEPS:
            raise parts.Unusable(f"no answer in {MOST_STEPS} steps")
        try:
            return self.steps.send(replies)  # type: ignore[arg-type]  # None begins
        except StopIteration as end:
            return end.value


def _in_step(runs: Mapping[str, _Run], asking: _Asking) -> dict[str, Said]:
    """The answers by case: all take a step, then all that they ask is asked."""
    found, sent = dict[str, Said](), dict[str, list[Any] | None](dict.fromkeys(runs))
    while sent:
        given = {
            name: parts.call("defence", runs[name], runs[name].asked.question, _given, replies)
            for name, replies in sent.items()
        }
        found |= {name: one for name, one in given.items() if isinstance(one, Said)}
        sent = asking({name: one for name, one in given.items() if not isinstance(one, Said)})
    return found


def _given(value: Any) -> list[Ask | Read] | Said:
    match value:
        case Said(str(), str(), bool()):
            return value
        case [*ones] if all(map(_can_be_asked, ones)):
            return ones
    raise parts.Unusable(f"{value!r:.80}, wanted lists of Ask and Read, and in the end a Said")


def _can_be_asked(one: Any) -> bool:
    match one:
        case Ask(str(), tuple(documents), str()):
            return all(isinstance(document, Shortened) for document in documents)
        case Read(Shortened()):
            return True
    return False


class _Asking:
    """Asks one model what one defence wants of it."""

    def __init__(self, about: Defences, defence: Defence, model: Model) -> None:
        settings, label = about.settings, under(model.label, defence)
        self.about, self.model, self.settings = about, model, settings
        self.journal = (
            path_of(about.folder, label),
            made_of(label, [model.source], model.cases, about.questions.values(), settings),
        )
        self.known = {
            case.prompt.content: Said(one.text, one.answer, one.ended)
            for case, one in zip(model.cases, model.plain, strict=True)
        }
        self.cut = Counter[str]()
        """Document tokens that did not fit into the prompts of a case."""

    def __call__(self, wanted: Mapping[str, Sequence[Ask | Read]]) -> dict[str, list[Any] | None]:
        """What comes of all that is asked, by case."""
        every = dict.fromkeys(one for ones in wanted.values() for one in ones)
        made = {one: self._prompt(one) for one in every if isinstance(one, Ask)}
        found: dict[Any, Any] = {**self._said(made), **self._read([one for one in every if one not in made])}
        for name, ones in wanted.items():
            self.cut[name] += sum(made[one].cut_tokens for one in ones if isinstance(one, Ask))
        return {name: [found[one] for one in ones] for name, ones in wanted.items()}

    def _prompt(self, ask: Ask) -> Prompt:
        config, room, limit = self._config(ask.instruction), self.settings.answer_tokens, self.settings.model.max_tokens
        about = (ask.question, ask.documents, self.about.tokenizer, config)
        made = prompts.prompt(*about, id=f"{ask.question:.80}", max_tokens=limit, room=room)
        if self._speaks:
            made = prompts.chat(made, *about, max_tokens=limit, room=room)
        return replace(made, id=content_id(*map(str, made.content)))

    def _config(self, instruction: str) -> PromptsConfig:
        config = self.settings.prompts
        how, _ = prompts.instructions(config)
        return config.replaced("instruction", f"{how} {instruction}") if instruction else config

    @cached_property
    def _speaks(self) -> bool:
        return any(isinstance(case.prompt, ChatPrompt) for case in self.model.cases)

    def _said(self, made: Mapping[Ask, Prompt]) -> dict[Ask, Said]:
        style, limit, seed = self.settings.prompts.answer, self.settings.answer_tokens, self.settings.seed
        missing = {prompt.id: prompt for prompt in made.values() if prompt.content not in self.known}
        label, opened = f"asking {self.model.label}, defended", self.model.opened
        written = ask_written(label, opened, [*missing.values()], *self.journal, limit, seed) if missing else {}

        def said(prompt: Prompt) -> Said:
            if prompt.id not in missing:
                return self.known[prompt.content]
            text = written[prompt.id]
            return Said(text.text, prompts.extract(text.text, style).answer, text.ended)

        return {ask: said(prompt) for ask, prompt in made.items()}

    def _read(self, wanted: Sequence[Any]) -> dict[Read, float]:
        """Perplexities; that of a single token, of which nothing is foretold, is 1."""
        path, made_by = self.journal
        encode, most = self.about.tokenizer.encode, self.settings.model.max_tokens
        tokens = {one: tuple(encode(f"{one.document.title}\n{one.document.text}".strip()).ids[:most]) for one in wanted}
        names = {one: content_id(str(ids)) for one, ids in tokens.items()}
        rows = {names[one]: Example(id=names[one], tokens=ids, prompt_tokens=1) for one, ids in tokens.items()}
        rows = {name: row for name, row in rows.items() if len(row.tokens) > 1}
        reading = (self.model.label, self.model.opened, [*rows.values()], path.with_suffix(PERPLEXITY), made_by)
        numbers = read_perplexities(*reading) if rows else {}
        return {one: numbers.get(name, 1.0) for one, name in names.items()}
