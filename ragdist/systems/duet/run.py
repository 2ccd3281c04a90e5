"""DuetRAG (arXiv 2405.13002): answer from memory and from documents, then let an arbiter decide.

    a_i = M_i(q)                        the reciter, no documents             `training_rows.Trio.recited`
    D   = retrieve(q)
    a_e = M_e(q, D)                     the discoverer                        `training_rows.Trio.discovered`
    a_j = M_j(q, a_i, a_e)              the arbiter                           `arbiters.py`

    L_i = - sum_t log M_i(a_t | q, a_<t)         L_e = - sum_t log M_e(a_t | q, D, a_<t)
    L_j = - [y log c(q, a) + (1 - y) log(1 - c(q, a))],  y = whether a is right      `algo.arbiter.judgement_loss`
    a_j = a_i where c(q, a_i) - c(q, a_e) > margin, else a_e                         `algo.arbiter.prefers_reciter`

M_i and M_e learn from one share of the training questions, M_j from what they say to the others, the margin is chosen
on a part of those that it does not learn from. The paper's formulas could not be read: `docs/duet.md` says which parts
are ours. Then the question that DuetRAG is about: does the pair answer better than either, when retrieval is right and
when it is wrong?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ragdist.algo.arbiter import best_margin
from ragdist.config import DUET_ROLES, Condition, GridConfig, Settings, uneven
from ragdist.config import Arbiter as Kind
from ragdist.data.matching import Form
from ragdist.data.pipeline import Pipeline
from ragdist.data.prompts import right_answer
from ragdist.errors import ConfigError
from ragdist.evaluation.ask import ask_cases
from ragdist.evaluation.cases import Case, by_question
from ragdist.evaluation.kept_answers import KeptAnswer
from ragdist.evaluation.report import Report
from ragdist.records import Chunk, Forgery, Judgement, Prediction, Question, Verdict
from ragdist.roles import Answerer, Scorer, TrainingJob
from ragdist.storage.atomic import make_folder, write_json, write_rows
from ragdist.systems import raft
from ragdist.systems.duet import disputes, evidence_model
from ragdist.systems.duet import summary as arbitration
from ragdist.systems.duet.arbiters import EvidenceArbiter, Same, Summarizer, confidences
from ragdist.systems.duet.disputes import Dispute, JudgedAnswer
from ragdist.systems.duet.evidence_model import REGIMES, Lesson
from ragdist.systems.duet.opening import (
    DISCOVERER,
    EVIDENCE,
    RECITER,
    SCORERS,
    SEEING,
    SETTLED,
    DuetRoles,
    TrainedArbiters,
)
from ragdist.systems.duet.summary import EITHER, ArbiterEffect
from ragdist.systems.duet.training_rows import Trio
from ragdist.tracking.progress import say
from ragdist.tracking.run import span

DSF = "DSF"
Said = Mapping[str, Mapping[str, Prediction]]
"""What both sides said, by condition and question; under closed_book it is the reciter's."""
Listed = Mapping[tuple[str, str], tuple[Chunk | Forgery, ...]]
"""What the discoverer is shown, by condition and question id."""


@dataclass(frozen=True, slots=True)
class DuetOutcome:
    """What a DuetRAG run made."""

    models: Mapping[str, Path]
    """Folders of reciter and discoverer, and of what the arbiters learned, by role."""
    report: Report
    worth: list[ArbiterEffect]
    """What each arbiter is good for, under each condition."""
    answers: list[KeptAnswer]
    """All that were given."""


def run(pipeline: Pipeline, cast: DuetRoles, folder: Path, settings: Settings) -> DuetOutcome:
    """Reciter, discoverer and arbiters, and how they compare with the paper's baselines.

    Args:
        pipeline: corpus and questions.
        cast: who trains, answers and scores.
        folder: the run's folder; what an earlier call finished there is resumed.
        settings: all settings.

    Raises:
        RagdistError: bad input, a stop request, or a failed training job; what is finished stays.
    """
    settings = _checked(settings)
    duet = Duet(pipeline, Trio(pipeline), cast, folder, settings)
    with span("data"):
        lessons = duet.lessons()
        tests = raft.test_questions(pipeline)
    asked = raft.before(pipeline, cast.answerers, folder, settings)
    with span("train reciter and discoverer"):
        models = dict(zip([lesson.name for lesson in lessons], cast.tuner.tune(lessons), strict=True))
    plain = {name: str(path) for name, path in models.items() if name == DSF}
    asked |= raft.evaluate(pipeline, plain, cast.answerers, folder, settings)
    shares = duet.trio.shares
    with span("reciter and discoverer answer"), cast.answerers.open(*map(str, sides_of(models))) as sides:
        given, forged = duet.held_conditions, duet.held_forgeries
        held = duet.ask("held-out", sides, [*shares.arbiter, *shares.validation], given, models, forged)
        said = duet.ask("sides", sides, tests, settings.evaluation.conditions, models)
    with span("train arbiters"):
        learned = duet.judgements(held)
        models |= duet.teach(held, learned)
    duet.settle(held, learned)
    if "evidence" in settings.duet.arbiters:
        with span("learn from evidence"):
            duet.learn_evidence(held)
    with span("judge"):
        seeing = {*settings.duet.arbiters} & {*SEEING}
        shown = duet.shown(tests, settings.evaluation.conditions) if seeing else {}
        judged = {
            kind: duet.judge(kind, tests, said, shown if kind in seeing else {}) for kind in settings.duet.arbiters
        }
    found, worth = duet.compare(asked, said, judged, tests)
    return DuetOutcome(models, duet.report(found), worth, raft.answers(pipeline, found, settings))


@dataclass(frozen=True)
class Duet:
    """The roles, the rows and the run's folder."""

    pipeline: Pipeline
    trio: Trio
    cast: DuetRoles
    folder: Path
    settings: Settings

    @property
    def arbiters(self) -> Path:
        """Where all that the arbiters learn from and learned is kept."""
        return make_folder(self.folder / "arbiter")

    @property
    def trained(self) -> TrainedArbiters:
        """The arbiters, as they can be opened."""
        return TrainedArbiters(self.cast, self.pipeline.tokenizer, self.folder, self.settings)

    @property
    def held_conditions(self) -> tuple[Condition, ...]:
        """What both sides are asked of the questions that arbiters learn from."""
        config = self.settings.duet
        evidence = config.evidence_from if "evidence" in config.arbiters else ()
        return tuple(dict.fromkeys(("closed_book", *config.learn_from, *evidence)))

    @property
    def held_forgeries(self) -> Iterable[Forgery]:
        """What misleads about those questions; none where no arbiter learns from attacked lists."""
        return self.trio.forgeries if "attacked" in self.held_conditions else ()

    def lessons(self) -> list[TrainingJob]:
        """What reciter and discoverer are tuned on, and DSF."""
        trio = self.trio
        self.pipeline.make("candidates")
        lessons = [
            self._lesson(RECITER, trio.recited.path, self.folder / RECITER, "reciter"),
            self._lesson(DISCOVERER, trio.discovered.path, self.folder / DISCOVERER, "discoverer"),
        ]
        if self.settings.duet.plain_tuning:
            lessons.append(self._lesson(DSF, trio.recited_all.path, self.folder / DSF, "reciter"))
        return lessons

    def _lesson(
        self, name: str, rows: Path, folder: Path, role: str, kind: Literal["answers", "scorer"] = "answers"
    ) -> TrainingJob:
        return TrainingJob(name, rows, folder, getattr(self.settings.duet, role), kind, f"duet.{role}")

    def ask(
        self,
        label: str,
        sides: Answerer,
        questions: Sequence[Question],
        conditions: Sequence[Condition],
        models: Mapping[str, Path],
        forgeries: Iterable[Forgery] | None = None,
    ) -> Said:
        """What both sides answer; kept in the run's folder as `label`, so that nothing is asked twice.

        `forgeries` are those of the questions; None are the test questions'.
        """
        settings = self._asking(conditions)
        cases = [for_side(case) for case in raft.cases(self.pipeline, questions, settings, forgeries)]
        sources = [str(source) for source in sides_of(models)]
        found = ask_cases(label, sources, sides, cases, questions, self.folder / "evaluation", settings)
        said: dict[str, dict[str, Prediction]] = {condition: {} for condition in conditions}
        for row in found:
            side = RECITER if row.condition == "closed_book" else DISCOVERER
            said[row.condition][row.question_id] = replace(row, model=side)
        return said

    def shown(
        self, questions: Sequence[Question], conditions: Sequence[Condition], forgeries: Iterable[Forgery] | None = None
    ) -> Listed:
        """What the discoverer is shown, by condition and question; as `ask` asks."""
        cases = raft.cases(self.pipeline, questions, self._asking(conditions), forgeries)
        return {(case.condition, case.question_id): case.documents for case in cases}

    def _asking(self, conditions: Sequence[Condition]) -> Settings:
        settings = self.settings.unchecked("evaluation.conditions", tuple(conditions))
        settings = settings.unchecked("evaluation.attacks", ()).unchecked("evaluation.grid", GridConfig())
        return settings.unchecked("evaluation.perplexity", False)

    def teach(self, held: Said, learned: Sequence[Judgement]) -> dict[str, Path]:
        """The arbiters' own training, on what the sides say to questions that neither has seen; folders by role."""
        duet, tokenizer = self.settings.duet, self.pipeline.tokenizer
        questions = self.trio.shares.arbiter
        say(f"arbiters learn from {len(learned)} answers, {sum(row.right for row in learned)} of them right")
        lessons = []
        if "alignment" in duet.arbiters and not disputes.one_label(learned):
            rated = [disputes.rated(row, tokenizer, self.settings.prompts) for row in learned]
            rows = write_rows(self.arbiters / "rated.jsonl", rated)
            lessons.append(self._lesson("alignment arbiter", rows, self.arbiters / "alignment", "scorer", "scorer"))
        if "tuned_summarizer" in duet.arbiters:
            answer = {question.id: right_answer(question) for question in questions}
            summaries = [
                disputes.summary_example(
                    one, answer[one.question_id], tokenizer, self.settings.prompts, condition, flipped=flipped
                )
                for condition in duet.learn_from
                for one in self._disputes(questions, held, condition)
                for flipped in (False, True)
            ]
            rows = write_rows(self.arbiters / "summaries.jsonl", summaries)
            lessons.append(self._lesson("summarizer", rows, self.arbiters / "summarizer", "summarizer"))
        folders = self.cast.tuner.tune(lessons) if lessons else []
        return dict(zip([lesson.name for lesson in lessons], folders, strict=True))

    def judgements(self, held: Said) -> list[Judgement]:
        """What the scorers learn from."""
        said: dict[str, dict[str, JudgedAnswer]] = {
            condition: {key: JudgedAnswer(row.answer, self._is_right(row)) for key, row in rows.items()}
            for condition, rows in held.items()
            if condition in ("closed_book", *self.settings.duet.learn_from)
        }
        reciter = said.pop("closed_book")
        config, seed = self.settings.duet, self.settings.seed
        same = partial(arbitration.same, form=self.settings.evaluation.normalise)
        return list(disputes.judgements(self.trio.shares.arbiter, reciter, said, same, config, seed))

    def settle(self, held: Said, learned: Sequence[Judgement]) -> None:
        """Chooses each scorer's margin on the validation questions whose answers differ."""
        margins: dict[str, float | None] = {}
        label = disputes.one_label(learned)
        for kind in (kind for kind in SCORERS if kind in self.settings.duet.arbiters):
            if label:
                say(f"all {len(learned)} answers are {label}: the {kind} arbiter takes the discoverer's")
                margins[kind] = None
                continue
            with self.trained.scorer(kind, learned) as scorer:
                margins[kind] = self._margin(kind, scorer, held)
        write_json(self.arbiters / SETTLED, margins)

    def _margin(self, kind: Kind, scorer: Scorer, held: Said) -> float:
        chosen = self.settings.duet.margin
        if chosen != "validation":
            return chosen
        rows = self.trio.shares.validation
        same = agreeing(rows, self.settings.evaluation.normalise)
        open_ = [
            (condition, one)
            for condition in self.settings.duet.learn_from
            for one in self._disputes(rows, held, condition)
            if not same(one)
        ]
        gaps = [reciter - discoverer for reciter, discoverer in confidences(scorer, [one for _, one in open_])]
        first = [self._is_right(held["closed_book"][one.question_id]) for _, one in open_]
        second = [self._is_right(held[condition][one.question_id]) for condition, one in open_]
        margin = best_margin(gaps, first, second)
        asked = len(rows) * len(self.settings.duet.learn_from)
        say(f"{kind}: margin {margin:.3f}, chosen on {len(open_)} answers that differ, of {asked}")
        return margin

    def learn_evidence(self, held: Said) -> None:
        """Teaches the evidence arbiter all held-out disputes, the validation questions' too, as it is cross-fitted."""
        rows = [*self.trio.shares.arbiter, *self.trio.shares.validation]
        shown = self.shown(rows, self.held_conditions, self.held_forgeries)
        same = agreeing(rows, self.settings.evaluation.normalise)
        open_ = [
            (condition, one)
            for condition in self.settings.duet.evidence_from
            for one in self._disputes(rows, held, condition, shown)
            if not same(one)
        ]
        lessons = []
        for (condition, one), found in zip(open_, self.trained.reader.numbers([one for _, one in open_]), strict=True):
            right = (self._is_right(held[name][one.question_id]) for name in ("closed_book", condition))
            lessons.append(Lesson(one.question_id, REGIMES[condition], found, *right))
        evidence_model.learn(lessons, self.arbiters / EVIDENCE, self.settings.seed)

    def judge(
        self, kind: Kind, questions: Sequence[Question], said: Said, documents: Listed
    ) -> dict[str, list[list[Verdict]]]:
        """Verdicts by condition; under one of them a summarizer is also shown the answers in the other order.

        `documents` are what `shown` gives; none for arbiters that are to see none.
        """
        conditions = [condition for condition in said if condition != "closed_book"]
        measured = "retrieved" if "retrieved" in conditions else conditions[0]
        found: dict[str, list[list[Verdict]]] = {}
        same = agreeing(questions, self.settings.evaluation.normalise)
        with self.trained.arbiter(kind, same) as arbiter:
            disputes = {one: self._disputes(questions, said, one, documents) for one in conditions}
            if isinstance(arbiter, EvidenceArbiter):  # each model is opened once for all conditions
                self.trained.reader.numbers([one for rows in disputes.values() for one in rows if not same(one)])
            for condition, shown in disputes.items():
                found[condition] = [arbiter.judge(shown)]
                if condition == measured and isinstance(arbiter, Summarizer):
                    found[condition].append(replace(arbiter, flip=True).judge(shown))
        return found

    def compare(
        self,
        asked: Mapping[str, list[Prediction]],
        said: Said,
        judged: Mapping[Kind, Mapping[str, list[list[Verdict]]]],
        tests: Sequence[Question],
    ) -> tuple[dict[str, list[Prediction]], list[ArbiterEffect]]:
        """The answers of all that the paper's table compares, and what each arbiter is good for."""
        reciter = list(said["closed_book"].values())
        found = {**asked, RECITER: reciter, DISCOVERER: []}
        forged = by_question(self.pipeline.forgeries)
        wrong = {key: tuple(dict.fromkeys(filter(None, (row.states for row in rows)))) for key, rows in forged.items()}
        worth, form = list[ArbiterEffect](), self.settings.evaluation.normalise
        for condition in (condition for condition in said if condition != "closed_book"):
            discoverer = list(said[condition].values())
            found[DISCOVERER] += discoverer
            for kind, verdicts in judged.items():
                name = kind.replace("_", " ")
                label = f"DuetRAG, {name}"
                first, *second = verdicts[condition]
                rows = arbitration.predictions(first, reciter, discoverer, tests, label, form, wrong)
                found.setdefault(label, []).extend(rows)
                if condition != "permuted":  # asked for the sake of attack success alone
                    turned = second[0] if second else ()
                    worth.append(arbitration.worth(first, reciter, discoverer, tests, name, self.settings, turned))
        return found, arbitration.compared(worth)

    def report(self, found: Mapping[str, list[Prediction]]) -> Report:
        """The paper's table, with what a perfect selector would reach."""
        conditions = dict.fromkeys(row.condition for row in found[DISCOVERER])
        bound = [
            row
            for condition in conditions
            for row in arbitration.either(
                found[RECITER], [row for row in found[DISCOVERER] if row.condition == condition]
            )
        ]
        return raft.report(self.pipeline, {**found, EITHER: bound}, self.settings)

    def _disputes(
        self,
        questions: Iterable[Question],
        said: Said,
        condition: str,
        shown: Listed = MappingProxyType({}),
    ) -> list[Dispute]:
        """What both said to those of the questions that could be asked like that."""
        first, second = said["closed_book"], said[condition]
        return [
            Dispute(
                question.id,
                question.text,
                first[question.id].answer,
                second[question.id].answer,
                shown.get((condition, question.id), ()),
                question.dataset,
            )
            for question in questions
            if question.id in second
        ]

    def _is_right(self, row: Prediction) -> bool:
        return bool(getattr(row, self.settings.duet.right_by) == 1.0)


def sides_of(models: Mapping[str, Path]) -> tuple[Path, Path]:
    """Reciter and discoverer, as they are opened together."""
    return models[RECITER], models[DISCOVERER]


def for_side(case: Case) -> Case:
    """The case with its prompt for the reciter, where it shows no documents, else for the discoverer."""
    return replace(case, prompt=replace(case.prompt, model=int(case.condition != "closed_book")))


def agreeing(questions: Iterable[Question], form: Form) -> Same:
    """Whether both answers to one of these questions are one and the same."""
    by_id = {question.id: question for question in questions}
    return lambda one: arbitration.same(one.reciter, one.discoverer, by_id[one.question_id], form)


def _checked(settings: Settings) -> Settings:
    """The settings with a closed book among the conditions: the reciter knows no other.

    Raises:
        ConfigError: there is no condition with documents, or the steps of a role cannot be divided among the workers.
    """
    for role in DUET_ROLES:
        if why := uneven(f"duet.{role}", getattr(settings.duet, role), "cluster", settings.cluster.workers):
            raise ConfigError(why)
    others = tuple(name for name in settings.evaluation.conditions if name != "closed_book")
    if not others:
        raise ConfigError(
            f"evaluation.conditions={list(settings.evaluation.conditions)} shows the discoverer no documents; "
            "add retrieved, oracle, absent or attacked"
        )
    return settings.unchecked("evaluation.conditions", ("closed_book", *others))
